"""Makes proposals from snippet features and the video-level labels of the training videos (SPEC section 11).

A small network learns from these labels which class each snippet shows, and whether it shows any action
(multiple-instance classification with background suppression). Segments in which its activations stay above a threshold
become proposals, for many thresholds. Their score is the contrast between the activation inside and around them.

Axes: V videos, B videos of a batch, S snippets of a batch, T of one video, D features, C classes without background,
M proposals of a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from losses import multiple_instance_loss
from prepare.activation_segments import nms, segments_above_thresholds
from prepare.snippet_network import SnippetNetwork
from proposals import Proposals, snippets_to_seconds
from readers.annotations import Annotations
from readers.features import Features
from utils import InputError, release_memory, seed_everything, to_device

TOPK_DIVISOR = 8  # a video's class logit is the mean over its T / 8 highest snippet logits


@dataclass(frozen=True)
class ProposalSettings:
    """Settings of the snippet network and its proposals."""

    rate: float  # snippets per second
    epochs: int = 20  # to train; see `train_snippet_network`
    per_video: int = 200  # proposals at most
    seed: int = 0  # of the network's initial weights, of dropout, and of the order of videos


def make_results(
    features: Features,
    annotations: Annotations,
    settings: ProposalSettings,
    *,
    training: Sequence[int],
    testing: Sequence[int],
    device: torch.device,
) -> dict[str, list[dict[str, Any]]]:
    """Train the snippet network and make the proposals of all videos.

    Args:
        features: of the videos.
        annotations: only class names and the video-level labels of the training videos are used.
        settings: of the network and its proposals.
        training: indices of the training videos.
        testing: indices of the test videos.
        device: to train on.

    Returns:
        The entries of a result file for each video.

    Raises:
        InputError: features cannot be used, or the loss is not finite.
    """
    chosen = [*training, *testing]
    for i in tqdm(chosen, desc="checking features", unit="video", leave=False):  # all of them before the work begins
        features.read(i)
    labels = torch.from_numpy(annotations.labels)
    network = train_snippet_network(
        features, training, labels, device=device, epochs=settings.epochs, seed=settings.seed
    )
    proposals = propose_all(network, features, training, labels=labels, per_video=settings.per_video)
    proposals |= propose_all(network, features, testing, per_video=settings.per_video)
    names = annotations.class_names
    return {annotations.videos[i]: result_entries(proposals[i], names, settings.rate) for i in chosen}


def train_snippet_network(
    features: Features,
    training: Sequence[int],
    labels: Tensor,
    *,
    device: torch.device,
    epochs: int = 20,
    batch_size: int = 10,
    lr: float = 5e-4,
    weight_decay: float = 1e-4,
    hidden: int = 128,
    dropout_ratio: float = 0.5,
    seed: int = 0,
) -> SnippetNetwork:
    """Learn class activations and attention of snippets from the labels of the training videos.

    Args:
        features: of the videos; all must have been read, and so checked. Each batch reads its videos again.
        training: indices of the training videos.
        labels: `[V, C]` 0 or 1, of all videos; only the rows of training videos are read.
        device: what to train on.
        epochs: more are not better: on simulated data, 40 gave a lower recall at high tIoU than 20.
        batch_size: videos in a batch.
        lr: learning rate of Adam.
        weight_decay: L2 penalty.
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
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, weight_decay=weight_decay)
    indices = torch.as_tensor(training)
    progress = tqdm(range(1, epochs + 1), desc="training the snippet network", unit="epoch", leave=False)
    for epoch in progress:
        batches = indices[torch.randperm(len(indices), generator=order)].split(batch_size)
        losses = [_training_step(network, optimizer, features, batch.tolist(), labels) for batch in batches]
        values = torch.stack(losses).cpu()  # the only wait for the device in an epoch
        if not values.isfinite().all():
            first = batches[int((~values.isfinite()).nonzero()[0])]
            names = ", ".join(features.videos[i] for i in first.tolist())
            raise InputError(f"snippet network, epoch {epoch}: the loss is not finite on {names}; check their features")
        progress.set_postfix(loss=f"{float(values.mean()):.3f}")
        release_memory()
    return network.eval()


def _training_step(
    network: SnippetNetwork,
    optimizer: torch.optim.Optimizer,
    features: Features,
    batch: Sequence[int],
    labels: Tensor,
) -> Tensor:
    """Train on a batch of videos; returns the loss, on the device."""
    device = next(network.parameters()).device
    videos = [features.read_again(i) for i in batch]
    rows, sizes = to_device(torch.cat(videos), device), [len(video) for video in videos]
    loss = snippet_loss(network(rows, sizes), sizes, to_device(labels[batch], device))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


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


def propose_all(
    network: SnippetNetwork,
    features: Features,
    videos: Sequence[int],
    *,
    labels: Tensor | None = None,
    **options: Any,
) -> dict[int, Proposals]:
    """Make the proposals of many videos.

    Args:
        network: in evaluation mode.
        features: of the videos, see `train_snippet_network`.
        videos: their indices.
        labels: `[V, C]` of all videos, if these are training videos.
        options: further arguments of `propose`.

    Returns:
        The proposals of each video, by its index.

    Raises:
        InputError: the network's outputs are not finite, because features are too large.
    """
    device = next(network.parameters()).device
    proposals = {}
    for i in tqdm(videos, desc="making proposals", unit="video", leave=False):
        rows = to_device(features.read_again(i), device)  # [T, D]
        proposals[i] = propose(network, rows, known_labels=None if labels is None else labels[i], **options)
        if not np.isfinite(proposals[i].score).all():
            name = features.videos[i]
            raise InputError(
                f"{features.where(i)}: video {name}: the snippet network's outputs are not finite; check "
                "the size of its features"
            )
    return proposals


def result_entries(proposals: Proposals, class_names: Sequence[str], rate: float) -> list[dict[str, Any]]:
    """Convert a video's proposals to entries of a result file; `rate` is in snippets per second."""
    segments_sec = snippets_to_seconds(proposals.segments_snip, rate).round(2).tolist()
    return [
        {"segment": segment, "score": round(score, 4), "label": class_names[class_idx]}
        for segment, score, class_idx in zip(segments_sec, proposals.score.tolist(), proposals.class_idx, strict=True)
    ]
