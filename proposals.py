"""Proposals, the candidate segments of a video: time units, tIoU and RoI pooling.

Axes: M proposals of a video, T snippets, D features, R RoI bins. A segment is a pair (start, end).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from utils import Later, chunks, to_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Later("torch")

# The usual rate: snippets of 16 frames, at 25 frames per second. Snippet i covers [i, i + 1) on the snippet axis.
SNIPPETS_PER_SECOND = 25 / 16

_BINS_IN_CACHE = 1 << 20  # numbers that `roi_pool` has in memory at a time on the CPU, and near its caches; 4 MB
_BINS_ON_DEVICE = 1 << 26  # and elsewhere, where fewer and larger operations are faster; 256 MB

Array = TypeVar("Array", np.ndarray, "Tensor")
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
    inter = a[..., 1].clip(max=b[..., 1]) - a[..., 0].clip(min=b[..., 0])
    length_a, length_b = a[..., 1] - a[..., 0], b[..., 1] - b[..., 0]
    if closed:
        inter, length_a, length_b = inter + 1.0, length_a + 1.0, length_b + 1.0
    inter = inter.clip(min=0)
    union = length_a + length_b - inter
    if epsilon:
        union = union + epsilon
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


def roi_samples(segments_snip: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute where RoI Align samples the snippet axis (SPEC section 2).

    Args:
        segments_snip: `[M, 2]` float64 proposals in snippets, on the CPU.
        num_bins: R.

    Returns:
        `y [S]`: the sample positions of all M·R bins, concatenated; `weight [S]`: one over the number of samples in the
        bin; `offset [M·R]`: the first sample of each bin; `proposal [S]`: whose sample it is.
    """
    start, end = segments_snip.unbind(1)
    length = end - start
    start = start - length / 4 - 0.5  # a quarter of context on each side
    height = (end + length / 4 - 0.5 - start).clamp(min=1)
    width = height / num_bins
    samples = width.ceil().long()  # n of each proposal's bins

    bin_samples = samples.repeat_interleave(num_bins)  # [M·R]
    offset = bin_samples.cumsum(0) - bin_samples
    proposal = torch.arange(len(samples)).repeat_interleave(num_bins * samples)  # [S]
    n, place = samples[proposal], torch.arange(len(proposal)) - offset[::num_bins][proposal]
    bin_in_proposal = place // n
    k, n = (place - n * bin_in_proposal).double(), n.double()
    y = start[proposal] + (bin_in_proposal + (k + 0.5) / n) * width[proposal]
    return y, 1 / n, offset, proposal


@dataclass(frozen=True)
class _Reads:
    """What RoI Align reads of features: a bin is the weighted sum of some of their rows, two for every sample."""

    index: Tensor  # [2S] int64, the row
    weight: Tensor  # [2S]
    offset: Tensor  # [M·R] int64, where the reads of each bin begin
    begin: list[int]  # [M + 1] where those of each proposal begin, and the end

    @classmethod
    def of(cls, features: Tensor, segments_snip: Tensor, num_bins: int, first: Tensor, last: Tensor) -> _Reads:
        """Of proposals that each read the rows `first [M]` to `last [M]` of the features, and zeros beyond them.

        Computed on the CPU, in float64, which not every device has, and moved to that of the features.
        """
        y, weight, offset, proposal = roi_samples(segments_snip, num_bins)
        low, first, last = y.floor(), first[proposal, None], last[proposal, None]
        fraction = y - low
        index = low.long()[:, None] + torch.tensor([0, 1]) + first  # [S, 2]
        weight = torch.stack([1 - fraction, fraction], dim=1) * weight[:, None]  # [S, 2]
        within = torch.minimum(torch.maximum(index, first), last)
        weight = weight.where(within == index, 0).to(features.dtype)
        offset = 2 * offset
        index, weight, there = (to_device(x, features.device) for x in (within.view(-1), weight.view(-1), offset))
        return cls(index, weight, there, [*offset[::num_bins].tolist(), 2 * len(y)])

    def bins(self, features: Tensor, start: int, stop: int) -> Tensor:
        """The bins of the proposals from `start` to `stop`: `[m, R, D]`."""
        num_bins = len(self.offset) // (len(self.begin) - 1)
        reads = slice(self.begin[start], self.begin[stop])
        offset = self.offset[num_bins * start : num_bins * stop] - reads.start
        weight = self.weight[reads]
        bins = torch.nn.functional.embedding_bag(
            self.index[reads], features, offset, mode="sum", per_sample_weights=weight
        )
        return bins.view(stop - start, num_bins, -1)


def roi_align(features: Tensor, segments_snip: Tensor, num_bins: int = 12) -> Tensor:
    """One-dimensional RoI Align with an adaptive sampling ratio over zero-padded features (SPEC section 2).

    Args:
        features: `[T, D]` of one video.
        segments_snip: `[M, 2]` float64 proposals in snippets, on the CPU.
        num_bins: R.

    Returns:
        `[M, R, D]` bin means.
    """
    first = torch.zeros(len(segments_snip), dtype=torch.long)
    reads = _Reads.of(features, segments_snip, num_bins, first, first + len(features) - 1)
    return reads.bins(features, 0, len(segments_snip))


def roi_pool(
    features: Tensor,
    segments_snip: Tensor,
    num_bins: int = 12,
    *,
    lengths: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    out: Tensor | None = None,
    most: int | None = None,
) -> Tensor:
    """Pool the features of each proposal: inside - left, inside, inside - right (SPEC section 2).

    The bins of `roi_align` are reduced by maximum: left = bins [0, q), inside = [q, 5q), right = [5q, R),
    q = R // 6. Pooling has no weights, so it is done once per video where there is memory for the result, and not in
    every step. The number of operations on the device of the features depends neither on the number of proposals, up
    to `most`, nor on that of videos.

    Args:
        features: `[T, D]` of one video, or those of several, one under another; on any device.
        segments_snip: `[M, 2]` float64 proposals in snippets, on the CPU; those of one video after those of another.
        num_bins: R, at least 6.
        lengths: T of each video; None for one video.
        sizes: M of each video.
        out: `[M, 3, D]` to write to, of any floating-point type, on the device of the features.
        most: numbers in the bins that are in memory at a time, about; those of a proposal at least.

    Returns:
        `[M, 3, D]`.
    """
    q, count = num_bins // 6, torch.tensor([len(segments_snip)] if sizes is None else sizes)
    length = torch.tensor([len(features)] if lengths is None else lengths)
    end = length.cumsum(0)
    first, last = (end - length).repeat_interleave(count), (end - 1).repeat_interleave(count)  # [M] each
    pooled = features.new_empty(len(segments_snip), 3, features.shape[1]) if out is None else out
    most = most or (_BINS_IN_CACHE if features.device.type == "cpu" else _BINS_ON_DEVICE)
    parts = _parts(segments_snip, num_bins)
    for rows, *of_part in zip(*(x.split(parts) for x in (pooled, segments_snip, first, last)), strict=True):
        reads = _Reads.of(features, of_part[0], num_bins, *of_part[1:])
        for chunk in chunks(len(rows), num_bins * features.shape[1], most):
            some = rows[chunk]
            bins = reads.bins(features, chunk.start, chunk.start + len(some))  # [m, R, D]
            left, inside, right = (b.amax(1) for b in bins.split([q, 4 * q, num_bins - 5 * q], dim=1))  # each [m, D]
            torch.stack([inside - left, inside, inside - right], dim=1, out=some)
    return pooled


def _parts(segments_snip: Tensor, num_bins: int, max_samples: int = 1 << 20) -> list[int]:
    """Split proposals into consecutive parts of about `max_samples` samples, which bounds the memory of `_Reads`."""
    lengths = segments_snip[:, 1] - segments_snip[:, 0]
    samples = num_bins * (1.5 * lengths.clamp(min=1) / num_bins).ceil()
    part_of = ((samples.cumsum(0) - samples) / max_samples).floor()
    return part_of.unique_consecutive(return_counts=True)[1].tolist()
