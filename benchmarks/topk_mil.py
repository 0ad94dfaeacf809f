"""A plain baseline for own data, to compare SEAL with: top-k multiple-instance learning on snippets, thresholded.

Two convolutions over time score every snippet for every class. They learn from the labels of the training videos: the
mean of the T / 8 best snippets of a class says whether the video has it. Detections are the segments in which a class
stays above a threshold. Trained on the times of the training videos instead, the same network is the ceiling of what it
can learn from labels. The settings are usual ones and were not tuned.

Axes: B videos of a batch, T snippets (of the longest video, where videos are padded), D features, C classes,
n detections of a video.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from eval.tables import rows_as_table
from proposals import snippets_to_seconds, tiou
from readers.annotations import Annotations
from readers.source import Source
from utils import seed_everything

HIDDEN = 128
BATCH_SIZE = 10
TOPK_DIVISOR = 8  # a video's logit is the mean of its T / 8 best snippets
THRESHOLD_CLS = 0.2  # video probability from which a class is reported; the best one always is
THRESHOLDS = np.linspace(0.1, 0.9, 17)  # shares of the largest activation of a class in the video
MAX_TIOU = 0.5  # of two detections of a class


class SnippetClassifier(nn.Module):
    """Scores the snippets of padded videos; what a video gets does not depend on the padding."""

    def __init__(self, feature_size: int, num_class: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(feature_size, HIDDEN, 3, padding=1)
        self.second = nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1)
        self.classifier = nn.Conv1d(HIDDEN, num_class, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, features: Tensor, real: Tensor) -> Tensor:
        """Class logits `[B, C, T]` of padded features `[B, D, T]`; `real` `[B, T]` is False in the padding."""
        hidden = self.dropout(F.relu(self.first(features))) * real[:, None]  # the next layer sees zeros outside a video
        return self.classifier(self.dropout(F.relu(self.second(hidden))))


def padded(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Videos `[T, D]` each as one `[B, D, T]`, and which of its snippets are real, `[B, T]` bool."""
    sizes = torch.tensor([len(video) for video in features])
    return pad_sequence([*features], batch_first=True).mT.contiguous(), torch.arange(sizes.max()) < sizes[:, None]


def video_logits(logits: Tensor, real: Tensor) -> Tensor:
    """The mean of the best snippets of each video and class: `[B, C, T]` to `[B, C]`."""
    count = (real.sum(1) // TOPK_DIVISOR).clamp(min=1)  # [B]
    best = logits.masked_fill(~real[:, None], -torch.inf).topk(int(count.max()), dim=2).values
    unused = torch.arange(best.shape[2]) >= count[:, None]  # [B, k]
    return best.masked_fill(unused[:, None], 0).sum(2) / count[:, None]


def mil_loss(logits: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """Video logits against the labels `[B, C]`."""
    return F.binary_cross_entropy_with_logits(video_logits(logits, real), labels)


def supervised_loss(logits: Tensor, real: Tensor, active: Tensor) -> Tensor:
    """Snippet logits against what each snippet shows, `[B, C, T]`; every video weighs the same."""
    losses = F.binary_cross_entropy_with_logits(logits, active, reduction="none").mean(1)  # [B, T]
    return ((losses * real).sum(1) / real.sum(1)).mean()


def train(
    features: Sequence[Tensor], targets: Sequence[Tensor], *, supervised: bool, seed: int, epochs: int
) -> SnippetClassifier:
    """Train the network.

    Args:
        features: `[T, D]` of each training video.
        targets: of each, 0 or 1: the labels `[C]`, or if `supervised` what its snippets show, `[T, C]`.
        supervised: which of both they are.
        seed: of the initial weights, dropout and the order of the videos.
        epochs: to train.

    Returns:
        The network, in evaluation mode.
    """
    order = seed_everything(seed)
    network = SnippetClassifier(features[0].shape[1], targets[0].shape[-1])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(features), generator=order).split(BATCH_SIZE):
            rows, real = padded([features[i] for i in batch])
            logits = network(rows, real)
            if supervised:
                loss = supervised_loss(logits, real, padded([targets[i] for i in batch])[0])
            else:
                loss = mil_loss(logits, real, torch.stack([targets[i] for i in batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def detect(prob: np.ndarray, video_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The detections of a video.

    Args:
        prob: `[C, T]` of the snippets.
        video_prob: `[C]` of the video.

    Returns:
        Classes `[n]`, segments in snippets `[n, 2]`, and scores `[n]`.
    """
    parts = []
    for class_idx in np.flatnonzero(video_prob >= min(THRESHOLD_CLS, video_prob.max())):
        above = prob[class_idx] > THRESHOLDS[:, None] * prob[class_idx].max()  # [17, T]
        change = np.diff(np.pad(above, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        segments = np.unique(np.stack([np.nonzero(change == sign)[1] for sign in (1, -1)], axis=1), axis=0)
        score = contrast(prob[class_idx], segments) + 0.2 * video_prob[class_idx]
        kept = distinct(segments, score)
        parts.append((np.full(len(kept), class_idx), segments[kept], score[kept]))
    classes, segments, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return classes, segments, scores


def contrast(prob: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Mean of `prob` `[T]` inside segments `[n, 2]`, less that in a quarter of their length on either side: `[n]`."""
    total = np.append(0.0, prob.cumsum(dtype=np.float64))
    start, end = segments.T
    width = np.maximum(1, (end - start) // 4)
    left, right = np.maximum(0, start - width), np.minimum(len(prob), end + width)
    inside = total[end] - total[start]
    outside = total[right] - total[left] - inside
    return inside / (end - start) - outside / np.maximum(1, start - left + right - end)


def distinct(segments: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Non-maximum suppression: the indices of the segments kept, highest score first."""
    remaining, kept = np.argsort(-score, kind="stable"), []
    while len(remaining):
        kept.append(best := remaining[0])
        remaining = remaining[tiou(segments[remaining], segments[best]) < MAX_TIOU]
    return np.array(kept)


def active_snippets(annotations: Annotations, i: int, num_snippets: int, rate: float) -> Tensor:
    """Which classes each snippet of a video shows by its instances: `[T, C]`, 0 or 1; `rate` is snippets per second."""
    active = torch.zeros(num_snippets, len(annotations.class_names))
    rows = annotations.instances[annotations.instances["video"] == annotations.videos[i]]
    for class_idx, start, end in rows[["class_idx", "start_sec", "end_sec"]].itertuples(index=False):
        first = round(start * rate)
        active[first : max(first + 1, round(end * rate)), class_idx] = 1
    return active


def baseline_detections(
    source: Source, rate: float, *, supervised: bool = False, seed: int = 0, epochs: int = 100
) -> pd.DataFrame:
    """Train on the training videos of a dataset, and detect in its test videos.

    Args:
        source: the dataset.
        rate: snippets per second.
        supervised: learn from the times of the training videos, not from their labels.
        seed: see `train`.
        epochs: see `train`.

    Returns:
        The detections, see `eval.tables.detection_table`.

    Raises:
        InputError: features cannot be used.
    """
    annotations, reader = source.annotations, source.features()
    training, testing = (source.indices(source.videos(part)) for part in ("train", "test"))
    features = {i: reader.read(i) for i in [*training, *testing]}
    if supervised:
        targets = [active_snippets(annotations, i, len(features[i]), rate) for i in training]
    else:
        targets = [*torch.from_numpy(annotations.labels[training]).float()]
    network = train([features[i] for i in training], targets, supervised=supervised, seed=seed, epochs=epochs)
    tables = []
    for i in testing:
        with torch.no_grad():
            rows, real = padded([features[i]])
            logits = network(rows, real)
            video_prob = video_logits(logits, real)[0].sigmoid().numpy()
        classes, segments, scores = detect(logits[0].sigmoid().numpy(), video_prob)
        seconds = snippets_to_seconds(segments, rate)
        tables.append(rows_as_table(annotations.videos[i], classes, scores, segments, seconds))
    return pd.concat(tables, ignore_index=True)
