"""Proposals of `--recipe paper`: attention and classes with a background (SPEC section 11).

A small network learns from the labels of videos which class each snippet shows, and whether it shows any action
(multiple-instance classification with background suppression). Segments in which its activations stay above a threshold
become proposals, for many thresholds. Their score is the contrast between the activation inside and around them.

Axes: V videos, B videos of a batch, S snippets of a batch, T of one video, D features, C classes without background,
M proposals of a video.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from losses import multiple_instance_loss
from prepare.activation_segments import segments_above_thresholds
from prepare.snippet_network import SnippetNetwork
from prepare.snippet_training import train_on_labels
from proposals import Proposals, nms
from readers.features import Features
from utils import seed_everything

TOPK_DIVISOR = 8  # a video's class logit is the mean over its T / 8 highest snippet logits


def train_network(
    features: Features,
    training: Sequence[int],
    labels: Tensor,
    *,
    device: torch.device,
    epochs: int = 20,
    batch_size: int = 10,
    lr: float = 5e-4,
    hidden: int = 128,
    dropout_ratio: float = 0.5,
    seed: int = 0,
) -> SnippetNetwork:
    """Learn class activations and attention of snippets from the labels of the training videos.

    Args:
        features: of the videos, see `train_on_labels`.
        training: indices of the training videos.
        labels: `[V, C]` 0 or 1, of all videos; only the rows of training videos are read.
        device: what to train on.
        epochs: more are not better: on simulated data, 40 gave a lower recall at high tIoU than 20.
        batch_size: videos in a batch.
        lr: learning rate of Adam.
        hidden: width of all layers after the first.
        dropout_ratio: of the hidden features.
        seed: of the initial weights, dropout and the order of the videos; torch itself is seeded with it.

    Returns:
        The network, in evaluation mode.

    Raises:
        InputError: the loss is not finite.
    """
    order = seed_everything(seed)
    network = SnippetNetwork(
        feature_size=features.feature_size,
        num_class=labels.shape[1],
        hidden=hidden,
        dropout_ratio=dropout_ratio,
    ).to(device)

    def schedule(_: Sequence[float], steps_of_epoch: int) -> list[list[float]]:
        return [[1.0] * steps_of_epoch] * epochs

    train_on_labels(
        network, snippet_loss, schedule, features, training, labels, order=order, lr=lr, batch_size=batch_size
    )
    return network


def snippet_loss(outputs: dict[str, Tensor], sizes: Sequence[int], labels: Tensor) -> Tensor:
    """Multiple-instance classification of snippets, with and without attention, as SEAL does with proposals.

    The video as a whole has background as a label, and the attended part has not. So attention has to find the action
    (SPEC section 5).

    Args:
        outputs: of `SnippetNetwork`.
        sizes: T of each video.
        labels: `[B, C]`.
    """
    x, a = outputs["class_logits"], outputs["attention_logits"].sigmoid()
    whole = multiple_instance_loss(x, sizes, labels, background=1, topk_divisor=TOPK_DIVISOR)
    attended = multiple_instance_loss(a[:, None] * x, sizes, labels, background=0, topk_divisor=TOPK_DIVISOR)
    return whole + attended


@torch.no_grad()
def propose(
    network: SnippetNetwork,
    features: Tensor,
    *,
    known_labels: Tensor | None = None,
    per_video: int = 200,
    threshold_cls: float = 0.15,
    min_length: float = 3.0,
) -> Proposals:
    """Make the proposals of a video: segments in which a class, the attention or both are active.

    Args:
        network: in evaluation mode.
        features: `[T, D]`, on the network's device.
        known_labels: `[C]` the labels of a training video. If they are None or all zero, the classes are those with a
            video probability of at least `threshold_cls`, or else the most probable one.
        per_video: how many proposals at most.
        threshold_cls: for the video probability. Since background has a share of it, a perfect network gives 1/2 to the
            class of a video with one class, and 1/3 to each of two.
        min_length: of a proposal in snippets, see `segments_above_thresholds`.

    Returns:
        Segments within [0, T], highest score first: the contrast of the activation inside and around the segment. The
        class is that of the activation.
    """
    outputs = network(features, [len(features)])
    class_prob = outputs["class_logits"].softmax(1).cpu().double().numpy()  # [T, C+1]
    attention_prob = outputs["attention_logits"].sigmoid().cpu().double().numpy()  # [T]
    if known_labels is not None and known_labels.any():
        reported = known_labels.cpu().numpy() > 0
    else:
        strongest = outputs["class_logits"].topk(max(1, len(features) // TOPK_DIVISOR), dim=0).values.mean(0)
        video_prob = strongest.softmax(0)[:-1].cpu().numpy()  # [C]
        reported = ~(video_prob < min(threshold_cls, video_prob.max()))  # all classes if it is nan

    parts = []
    for class_idx in np.flatnonzero(reported):
        prob = class_prob[:, class_idx]
        both = prob * attention_prob
        segments, score = segments_above_thresholds(np.stack([prob, attention_prob, both]), both, min_length=min_length)
        parts.append((segments, score, np.full(len(score), class_idx)))
    segments, score, class_idx = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    order = order[nms(segments[order], limit=per_video)]
    return Proposals(segments[order], score[order], class_idx[order])
