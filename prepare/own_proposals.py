"""Proposals of `--recipe own`: independent classes, learned at several scales (SPEC section 11).

Small networks learn from the labels of videos which classes each snippet shows. A video's score for a class is the mean
of its highest snippets: of all of them, of half, and so on to a sixteenth. So actions are found that are short and that
fill the video, and nothing has to be known of either. The segments in which an activation stands out become proposals.

Axes: V videos, B videos of a batch, S snippets of a batch, T of one video, D features, C classes without background,
E networks, K scales, M proposals of a video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from losses import multi_scale_logits, multi_scale_loss
from prepare.activation_segments import shifted_segments
from prepare.snippet_network import SnippetEnsemble
from prepare.snippet_training import train_on_labels
from proposals import Proposals, nms
from readers.features import Features
from utils import few_threads, has_settled, log, seed_everything

CLASS_WEIGHT = 0.2  # of the video's probability of the class in the score of a proposal, beside the contrast
MAX_TIOU = 0.65  # of two proposals of a class; more would leave less of `per_video` for other actions
LEAST_SCORE = 1e-4  # scores are positive, since later steps multiply them

# The loss has settled when WINDOW steps lower it by less than the share FALL. Where it goes on falling, as it does when
# few videos are learned by heart, MOST_STEPS or MOST_EPOCHS are enough, whichever are more.
WINDOW, FALL, MOST_STEPS, MOST_EPOCHS = 100, 0.1, 400, 5


def train_network(
    features: Features,
    training: Sequence[int],
    labels: Tensor,
    *,
    device: torch.device,
    epochs: int | None = None,
    lr: float = 3e-3,
    hidden: int = 64,
    seed: int = 0,
) -> SnippetEnsemble:
    """Learn class activations of snippets from the labels of the training videos.

    Args:
        features: of the videos, see `train_on_labels`.
        training: indices of the training videos.
        labels: `[V, C]` 0 or 1, of all videos; only the rows of training videos are read.
        device: what to train on.
        epochs: how long; None trains until the loss has settled.
        lr: learning rate of Adam.
        hidden: width of the hidden layers.
        seed: of the initial weights, dropout and the order of the videos; torch itself is seeded with it.

    Returns:
        The networks, in evaluation mode.

    Raises:
        InputError: the loss is not finite.
    """
    order = seed_everything(seed)
    mean, scale = mean_and_scale(features, training)
    network = SnippetEnsemble(mean, scale, num_class=labels.shape[1], hidden=hidden).to(device)
    schedule = until_settled if epochs is None else partial(for_epochs, epochs=epochs)
    with few_threads(features.feature_size, device):
        losses = train_on_labels(network, ensemble_loss, schedule, features, training, labels, order=order, lr=lr)
    settled = has_settled(losses[: len(losses) * 2 // 3], WINDOW, FALL)  # at the full learning rate
    why = "loss settled" if settled else "loss still falling"
    if epochs is not None:
        why = f"{epochs} epochs"
    log.info(f"features' scale {scale:.4g}; {len(network.first)} snippet networks, {len(losses)} steps each ({why})")
    return network


def mean_and_scale(features: Features, training: Sequence[int]) -> tuple[np.ndarray, float]:
    """The mean of each feature over the snippets of videos, and the root mean square of their deviations.

    One scale for all, since features that hardly vary are often noise; divided by their own deviation, they would be as
    large as those that matter.

    Returns:
        `[D]` and a positive number.
    """
    count, mean, squares = 0, np.zeros(features.feature_size), 0.0
    for i in tqdm(training, desc="measuring features", unit="video", leave=False):
        rows = features.read_again(i).double().numpy()
        video_mean, weight = rows.mean(0), len(rows) / (count + len(rows))
        squares += ((rows - video_mean) ** 2).sum() + count * weight * ((video_mean - mean) ** 2).sum()
        mean += weight * (video_mean - mean)
        count += len(rows)
    return mean, float(np.sqrt(squares / (count * len(mean)))) or 1.0


def ensemble_loss(logits: Tensor, sizes: Sequence[int], labels: Tensor) -> Tensor:
    """Multiple-instance classification at several scales, classes independent of each other.

    Args:
        logits: `[S, E, C]`.
        sizes: T of each video.
        labels: `[B, C]`, 0 or 1.

    Returns:
        Binary cross-entropy, mean over videos, classes and scales; the sum over networks.
    """
    members = logits.shape[1]
    return multi_scale_loss(logits, sizes, labels[:, None].expand(-1, members, -1)) * members


def until_settled(losses: Sequence[float], steps_of_epoch: int) -> Iterator[Sequence[float]]:
    """A `Schedule`: the full learning rate until the loss has settled, then down to zero in half as many steps."""
    most = max(MOST_STEPS, MOST_EPOCHS * steps_of_epoch)
    while len(losses) < most and not has_settled(losses, WINDOW, FALL):
        yield [1.0] * min(WINDOW // 2, most - len(losses))
    yield cool_down(len(losses) // 2)


def for_epochs(losses: Sequence[float], steps_of_epoch: int, epochs: int) -> Iterator[Sequence[float]]:
    """A `Schedule`: as long as told, of which the last third at a falling learning rate."""
    falling = epochs * steps_of_epoch // 3
    yield [1.0] * (epochs * steps_of_epoch - falling) + cool_down(falling)


def cool_down(steps: int) -> list[float]:
    """Learning rates that fall evenly to zero."""
    return np.linspace(1, 0, steps, endpoint=False).tolist()


@torch.no_grad()
def propose(
    network: SnippetEnsemble,
    features: Tensor,
    *,
    known_labels: Tensor | None = None,
    per_video: int = 100,
    threshold_cls: float = 0.05,
) -> Proposals:
    """Make the proposals of a video: segments in which a class is active, see `shifted_segments`.

    Args:
        network: in evaluation mode.
        features: `[T, D]`, on the network's device.
        known_labels: `[C]` the labels of a training video, whose classes are taken whatever their probability.
        per_video: how many proposals at most.
        threshold_cls: the video probability from which a class is taken; the most probable class always is.

    Returns:
        Segments within [0, T], highest score first: the contrast of the activation inside and around the segment, and a
        share of the class's video probability. The class is that of the activation.
    """
    logits = network(features, [len(features)]).mean(1)  # [T, C]
    activations = logits.sigmoid().cpu().double().numpy()
    video_prob = multi_scale_logits(logits, [len(logits)]).mean(0)[0].sigmoid().cpu().double().numpy()  # [C]
    taken = ~(video_prob < min(threshold_cls, video_prob.max()))  # all classes if it is nan
    if known_labels is not None:
        taken |= known_labels.cpu().numpy() > 0

    parts = []
    for class_idx in np.flatnonzero(taken):
        segments, contrast = shifted_segments(activations[:, class_idx])
        best = np.argsort(-contrast, kind="stable")
        best = best[nms(segments[best], MAX_TIOU, per_video)]
        score = contrast[best] + CLASS_WEIGHT * video_prob[class_idx]
        parts.append((segments[best], score, np.full(len(best), class_idx)))
    segments, score, class_idx = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")[:per_video]
    return Proposals(segments[order], score[order].clip(min=LEAST_SCORE), class_idx[order])
