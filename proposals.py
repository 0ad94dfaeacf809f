"""Proposals, the candidate segments of a video: time units, tIoU and RoI pooling.

Axes: M proposals of a video, T snippets, D features, R RoI bins. A segment is a pair (start, end).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The usual rate: snippets of 16 frames, at 25 frames per second. Snippet i covers [i, i + 1) on the snippet axis.
SNIPPETS_PER_SECOND = 25 / 16

Array = TypeVar("Array", np.ndarray, Tensor)
Times = TypeVar("Times", np.ndarray, float)


@dataclass(frozen=True, eq=False)
class Proposals:
    """The proposals of a video, and what the method that made them says of each."""

    segments_snip: np.ndarray  # [M, 2] float64
    score: np.ndarray  # [M] float64; nan where unknown
    class_idx: np.ndarray  # [M] int64; -1 where unknown

    def __len__(self) -> int:
        return len(self.segments_snip)

    @property
    def are_detections(self) -> np.ndarray:
        """`[M]` bool: which have both a score and a class."""
        return ~np.isnan(self.score) & (self.class_idx >= 0)


def seconds_to_snippets(segments_sec: Sequence | np.ndarray, rate: float) -> np.ndarray:
    """Convert proposals to snippets, rounded to two decimals with Python's `round` (SPEC section 1).

    Args:
        segments_sec: `[M, 2]` seconds.
        rate: snippets per second.

    Returns:
        `[M, 2]` float64.
    """
    flat = np.asarray(segments_sec, dtype=np.float64).ravel().tolist()
    return np.array([round(time * rate, 2) for time in flat], dtype=np.float64).reshape(-1, 2)


def snippets_to_seconds(segments_snip: Times, rate: float) -> Times:
    """Convert times of any shape from snippets to seconds; `rate` is in snippets per second."""
    return segments_snip / rate


def tiou(a: Array, b: Array, *, epsilon: float = 0.0, closed: bool = False) -> Array:
    """Temporal intersection over union of segments, for numpy arrays or torch tensors.

    Args:
        a: `[..., 2]` segments, in any unit.
        b: `[..., 2]` segments in the same unit; the leading axes broadcast against those of `a`.
        epsilon: added to the union (1e-6 in the process-consistency loss, SPEC section 5).
        closed: count a segment's last unit, length = end - start + 1 (soft-NMS, SPEC section 6).

    Returns:
        `[...]` overlaps in [0, 1]; 0 where the union is empty.
    """
    one = 1.0 if closed else 0.0
    inter = (a[..., 1].clip(max=b[..., 1]) - a[..., 0].clip(min=b[..., 0]) + one).clip(min=0)
    union = (a[..., 1] - a[..., 0] + one) + (b[..., 1] - b[..., 0] + one) - inter + epsilon
    return inter / union.clip(min=1e-30)  # the bound matters only for two empty segments


def nms(segments: np.ndarray, max_tiou: float = 0.75, limit: int | None = None, *, closed: bool = False) -> np.ndarray:
    """Greedy non-maximum suppression.

    Args:
        segments: `[M, 2]`, highest score first.
        max_tiou: of two segments that are kept.
        limit: how many to keep at most; None for all.
        closed: see `tiou`.

    Returns:
        The indices of the segments kept, in order.
    """
    kept: list[int] = []
    remaining: np.ndarray = np.arange(len(segments))
    while len(remaining) and len(kept) != limit:  # a loop, since a removed segment removes no other
        best, remaining = int(remaining[0]), remaining[1:]
        kept.append(best)
        remaining = remaining[tiou(segments[remaining], segments[best], closed=closed) <= max_tiou]
    return np.array(kept, dtype=np.int64)


def pseudo_instances(listed: Proposals, labels: np.ndarray, *, ratio: float, max_tiou: float = 0.3) -> np.ndarray:
    """Choose the proposals that are taken for instances of a video's labels, by the scores of their file.

    For each label these are its best proposals, of which no two overlap much.

    Args:
        listed: the M proposals of a training video. One without a class is of the video's label, if that is the only
            one; one without a score is never chosen.
        labels: `[C]` of the video, 0 or 1.
        ratio: least score of a pseudo-instance, as a share of the label's best.
        max_tiou: of two pseudo-instances of a label.

    Returns:
        `[M]` int64, the class of a pseudo-instance, -1 for all other proposals.
    """
    instance_class = np.full(len(listed), -1, dtype=np.int64)
    classes = np.flatnonzero(labels)
    for class_idx in classes:
        is_of_class = (listed.class_idx == class_idx) | ((listed.class_idx == -1) & (len(classes) == 1))
        candidates = np.flatnonzero(is_of_class & ~np.isnan(listed.score))
        candidates = candidates[np.argsort(-listed.score[candidates], kind="stable")]
        candidates = candidates[nms(listed.segments_snip[candidates], max_tiou)]
        score = listed.score[candidates]
        instance_class[candidates[score >= np.minimum(ratio * score[:1], score[:1])]] = class_idx  # if it is negative
    return instance_class


def roi_samples(segments_snip: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute where RoI Align samples the snippet axis (SPEC section 2).

    Args:
        segments_snip: `[M, 2]` float64 proposals in snippets.
        num_bins: R.

    Returns:
        `y [S]`: the sample positions of all M·R bins, concatenated; `weight [S]`: one over the number of samples in the
        bin; `offset [M·R]`: the first sample of each bin.
    """
    start, end = segments_snip.unbind(1)
    length = end - start
    start = start - length / 4 - 0.5  # a quarter of context on each side
    height = (end + length / 4 - 0.5 - start).clamp(min=1)
    width = height / num_bins
    samples = width.ceil().long()  # n of each proposal's bins

    bin_samples = samples.repeat_interleave(num_bins)  # [M·R]
    offset = bin_samples.cumsum(0) - bin_samples
    bin_of = torch.arange(len(bin_samples)).repeat_interleave(bin_samples)  # [S]
    proposal, bin_in_proposal = bin_of // num_bins, bin_of % num_bins
    k = torch.arange(len(bin_of)) - offset[bin_of]
    n = samples[proposal].double()
    y = start[proposal] + (bin_in_proposal + (k.double() + 0.5) / n) * width[proposal]
    return y, 1 / n, offset


def roi_align(features: Tensor, segments_snip: Tensor, num_bins: int = 12) -> Tensor:
    """One-dimensional RoI Align with an adaptive sampling ratio over zero-padded features (SPEC section 2).

    Args:
        features: `[T, D]` of one video.
        segments_snip: `[M, 2]` float64 proposals in snippets.
        num_bins: R.

    Returns:
        `[M, R, D]` bin means.
    """
    num_snippets = len(features)
    y, weight, offset = roi_samples(segments_snip, num_bins)
    low = y.floor()
    fraction = y - low
    index = torch.stack([low, low + 1], dim=1).long()  # [S, 2]
    weight = torch.stack([1 - fraction, fraction], dim=1) * weight[:, None]  # [S, 2]
    weight = weight.where((index >= 0) & (index < num_snippets), 0)  # zero outside the video
    bins = F.embedding_bag(
        index.clamp(0, num_snippets - 1).view(-1),
        features,
        2 * offset,
        mode="sum",
        per_sample_weights=weight.view(-1).to(features.dtype),
    )
    return bins.view(len(segments_snip), num_bins, -1)  # [M, R, D]


def roi_pool(features: Tensor, segments_snip: Tensor, num_bins: int = 12, chunk: int = 256) -> Tensor:
    """Pool the features of each proposal: inside - left, inside, inside - right (SPEC section 2).

    The bins of `roi_align` are reduced by maximum: left = bins [0, q), inside = [q, 5q), right = [5q, R),
    q = R // 6. Pooling has no weights, so it is done once per video, not in every step.

    Args:
        features: `[T, D]` of one video.
        segments_snip: `[M, 2]` float64 proposals in snippets.
        num_bins: R, at least 6.
        chunk: how many proposals to pool at a time at most, which bounds the memory of bins; fewer if they are long.

    Returns:
        `[M, 3, D]`.
    """
    q = num_bins // 6
    pooled = features.new_empty(len(segments_snip), 3, features.shape[1])
    sizes = _chunk_sizes(segments_snip, num_bins, chunk)
    for out, part in zip(pooled.split(sizes), segments_snip.split(sizes), strict=True):
        bins = roi_align(features, part, num_bins)  # [m, R, D]
        left, inside, right = (b.amax(1) for b in bins.split([q, 4 * q, num_bins - 5 * q], dim=1))  # each [m, D]
        torch.stack([inside - left, inside, inside - right], dim=1, out=out)
    return pooled


def _chunk_sizes(segments_snip: Tensor, num_bins: int, chunk: int, max_samples: int = 1 << 20) -> list[int]:
    """Split proposals into consecutive chunks of at most `chunk` proposals and about `max_samples` samples."""
    lengths = segments_snip[:, 1] - segments_snip[:, 0]
    samples = num_bins * (1.5 * lengths.clamp(min=1) / num_bins).ceil()
    share = (samples / max_samples).clamp(min=1 / chunk)  # of a chunk
    chunk_of = (share.cumsum(0) - share).floor()
    return chunk_of.unique_consecutive(return_counts=True)[1].tolist()
