"""Proposals: candidate segments of a video. Time units, tIoU, reading proposal files, and RoI pooling.

Axes: M proposals of a video, T snippets, D features, R RoI bins. A segment is a pair (start, end).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils import InputError, has_control_characters, is_finite_number, is_time, log, read_json, shown, some_of, stop

# A snippet covers [i, i + 1) on the snippet axis. This is the usual rate, that of snippets of 16 frames at 25 frames a
# second; `rate`, here and elsewhere, is in snippets per second.
SNIPPETS_PER_SECOND = 25 / 16

# Entries of one video in a result file. Real ones have hundreds or some thousands; a network and a soft-NMS over more
# would take memory and time out of all proportion to the file.
MOST_OF_A_VIDEO = 50_000

Array = TypeVar("Array", np.ndarray, Tensor)


def seconds_to_snippets(segments_sec: Sequence | np.ndarray, rate: float) -> np.ndarray:
    """Proposal times in snippets, rounded to two decimals as Python's `round` does (SPEC section 1): `[M, 2]`."""
    flat = np.asarray(segments_sec, dtype=np.float64).ravel().tolist()
    return np.array([round(time * rate, 2) for time in flat], dtype=np.float64).reshape(-1, 2)


def snippets_to_seconds(segments_snip: np.ndarray, rate: float) -> np.ndarray:
    """Times in seconds of times in snippets, any shape."""
    return segments_snip / rate


def tiou(a: Array, b: Array, *, epsilon: float = 0.0, closed: bool = False) -> Array:
    """Temporal intersection over union of segments; numpy or torch, whichever comes in.

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
    return inter / union.clip(min=1e-30)  # the bound matters for two empty segments alone


class ResultFile(NamedTuple):
    """An ActivityNet-format result file: proposals, or detections."""

    results: dict[str, list[dict[str, Any]]]  # a video's entries; each has a `segment` [start, end] in seconds
    snippet_decimals: int | None  # decimals, in snippets, that its boundaries are rounded to, where it says so
    simulated: bool  # whether it says that it is of simulated data
    lengths: dict[str, float]  # seconds of the videos that it tells of


def parse_results(path: Path, on_error: Callable[[str], None] = stop) -> ResultFile:
    """Read a result file and check every segment.

    Args:
        path: `{"results": {video: [{"segment": [start, end], …}]}}`, seconds.
        on_error: takes the error of one entry, which is then left out.

    Raises:
        InputError: the file is not of that form; a segment is not two finite numbers in rising order; a score is not
            finite; a video has a name that none has, or more segments than can be meant.
    """
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise InputError(f'{path}: expected {{"results": {{video: [{{"segment": [start, end], …}}]}}}}')
    for video in [*results]:
        if has_control_characters(video):
            on_error(f"{path}: video {video!r}: the name has characters that no name has")
            del results[video]
            continue
        try:
            results[video] = _entries(results[video], f"{path}: video {video}", on_error)
        except InputError as error:
            on_error(str(error))
            results[video] = []
    external = content.get("external_data")
    decimals = external.get("snippet_decimals") if isinstance(external, dict) else None
    decimals = decimals if isinstance(decimals, int) and 0 <= decimals <= 15 else None
    lengths = external.get("video_seconds") if isinstance(external, dict) else None
    lengths = lengths if isinstance(lengths, dict) else {}
    lengths = {video: float(length) for video, length in lengths.items() if is_time(length) and length > 0}
    return ResultFile(results, decimals, "(simulated)" in str(content.get("version")), lengths)


def _entries(entries: Any, where: str, on_error: Callable[[str], None]) -> list[dict[str, Any]]:
    """The entries of a video that can be used."""
    if not isinstance(entries, list):
        raise InputError(f"{where}: expected a list of segments, found {type(entries).__name__}")
    if len(entries) > MOST_OF_A_VIDEO:
        raise InputError(f"{where}: {len(entries)} segments; a video can have {MOST_OF_A_VIDEO}, so keep the best")
    good = []
    for entry in entries:
        score = entry.get("score") if isinstance(entry, dict) else None
        if not _has_segment(entry):
            found = shown(entry.get("segment") if isinstance(entry, dict) else entry)
            on_error(f"{where}: bad segment {found}; expected [start, end] seconds, start <= end")
        elif isinstance(score, float) and not is_finite_number(score):
            on_error(f"{where}: score {score} is not a finite number")
        else:
            good.append(entry)
    return good


def _has_segment(entry: Any) -> bool:
    segment = entry.get("segment") if isinstance(entry, dict) else None
    return isinstance(segment, list) and len(segment) == 2 and all(map(is_time, segment)) and segment[0] <= segment[1]


def merge_results(paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The entries of several result files; none may hold a video of another.

    Raises:
        InputError: one does, or a file is damaged.
    """
    merged: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        results = parse_results(path).results
        if both := sorted(results.keys() & merged.keys()):
            raise InputError(f"{path}: {some_of(both)} is also in an earlier one of the files; give each video once")
        merged |= results
    return merged


def require_entries(
    path: Path | str,
    results: dict,
    videos: Sequence[str],
    missing: str,
    on_error: Callable[[str], None] = stop,
    most: int | None = 5,
) -> None:
    """See that videos are in a result file; if `missing` is `empty` they need not be, but `most` of them are named.

    Raises:
        InputError: they are not, and `missing` is `error`.
    """
    absent = [video for video in videos if video not in results]
    if results and videos and len(absent) == len(videos):
        on_error(f"{path}: none of the {len(videos)} videos has an entry; it is of others: {some_of(sorted(results))}")
        return
    names = some_of(absent, most)
    if absent and missing == "error":
        on_error(
            f"{path}: {len(absent)} of {len(videos)} videos have no entry: {names}; add them, or pass "
            "--missing_proposals empty"
        )
    elif absent:
        log.info(f"notice: {path}: {len(absent)} of {len(videos)} videos have no entry: {names}")


def ranked_segments(entries: Sequence[dict[str, Any]]) -> np.ndarray:
    """A video's segments in seconds, `[M, 2]`, best score first; as listed if an entry has no score."""
    segments = np.array([entry["segment"] for entry in entries], dtype=np.float64).reshape(-1, 2)
    scores = [entry.get("score") for entry in entries]
    if not all(map(is_finite_number, scores)):
        return segments
    return segments[np.argsort(-np.array(scores, dtype=np.float64), kind="stable")]


def read_proposals(path: Path, videos: Sequence[str], rate: float, missing: str = "error") -> dict[str, np.ndarray]:
    """Proposals of the named videos, in snippets (SPEC section 1). Labels and scores in the file are not used.

    Args:
        path: a result file, see `parse_results`.
        videos: the videos to look up.
        rate: snippets per second.
        missing: what to do with a video that is not in the file: `error`, or `empty` to take it as having none.

    Returns:
        `[M, 2]` float64 per video; a video without any gets the one proposal [0, 0].

    Raises:
        InputError: the file is damaged, or lacks videos and `missing` is `error`.
    """
    results = parse_results(path).results
    require_entries(path, results, videos, missing)
    return {
        video: seconds_to_snippets([entry["segment"] for entry in results.get(video) or [{"segment": [0, 0]}]], rate)
        for video in videos
    }


def check_unit(segments_snip: np.ndarray, video: str, num_snippets: int, rate: float) -> None:
    """Refuse proposals that can only be in another unit; one that ends somewhat past the video is nothing unusual.

    Raises:
        InputError: one lies more than ten lengths of the video away.
    """
    far = np.abs(segments_snip).max(1) > 10 * (num_snippets + 10)
    if far.any():
        start, end = snippets_to_seconds(segments_snip[far][0], rate)
        raise InputError(
            f"proposals of video {video}: [{start:g}, {end:g}] s lies far outside the video, which has {num_snippets} "
            f"snippets ({snippets_to_seconds(num_snippets, rate):g} s); proposals must be in seconds"
        )


def roi_samples(segments_snip: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where RoI Align reads the snippets of each proposal (SPEC section 2).

    Args:
        segments_snip: `[M, 2]` float64 proposals in snippets.
        num_bins: R.

    Returns:
        `y`, the sample positions on the snippet axis of all M·R bins one after another `[S]`; `weight`, one over
        the number of samples in the bin, `[S]`; `offset`, the first sample of each bin `[M·R]`.
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
    """What the network reads of each proposal: inside - left, inside, inside - right (SPEC section 2).

    The bins of `roi_align` are reduced by maximum: left = bins [0, q), inside = [q, 5q), right = [5q, R),
    q = R // 6. Nothing here depends on weights, so it is done once per video, not in every step.

    Args:
        features: `[T, D]` of one video.
        segments_snip: `[M, 2]` float64 proposals in snippets.
        num_bins: R, at least 6.
        chunk: proposals pooled at most at a time, which bounds the memory of the bins; fewer, where they are long.

    Returns:
        `[M, 3, D]`.
    """
    q = num_bins // 6
    pooled = features.new_empty(len(segments_snip), 3, features.shape[1])
    sizes = _parts(segments_snip, num_bins, chunk)
    for out, part in zip(pooled.split(sizes), segments_snip.split(sizes), strict=True):
        bins = roi_align(features, part, num_bins)  # [m, R, D]
        left, inside, right = (b.amax(1) for b in bins.split([q, 4 * q, num_bins - 5 * q], dim=1))  # each [m, D]
        torch.stack([inside - left, inside, inside - right], dim=1, out=out)
    return pooled


def _parts(segments_snip: Tensor, num_bins: int, chunk: int, most_samples: int = 1 << 20) -> list[int]:
    """How many proposals to pool at a time, so that they are no more than `chunk` and have few enough samples."""
    lengths = segments_snip[:, 1] - segments_snip[:, 0]
    samples = num_bins * (1.5 * lengths.clamp(min=1) / num_bins).ceil()
    share = (samples / most_samples).clamp(min=1 / chunk)  # of what can be pooled at a time
    part = (share.cumsum(0) - share).floor()
    return part.unique_consecutive(return_counts=True)[1].tolist()


# --------------------------------------------------------------------------- proposals from activations


def standing_out(
    sequences: np.ndarray,
    contrast_of: np.ndarray,
    *,
    min_length: float = 3.0,
    num_thresholds: int = 9,
    factor: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of a video in which activations stay above a threshold, at many thresholds.

    The thresholds of a sequence divide its own range evenly, so that a weak activation has stretches as well as a
    strong one. A flat sequence, or one whose stretches are all too short, gives the whole video.

    Args:
        sequences: `[Q, T]` activations of the snippets.
        contrast_of: `[T]` the activation whose `outer_inner_contrast` is a stretch's score.
        min_length: snippets; shorter stretches are left out. They are the most active parts of actions, and what
            learns from proposals by multiple instances would take them for the whole.
        num_thresholds: of each sequence. Twice as many reach few instances more, and add wrong stretches.
        factor: cells a snippet, so boundaries lie between snippets too.

    Returns:
        Segments in snippets, `[M, 2]` within [0, T] and no two equal, and their scores `[M]`.
    """
    fine = upsample(np.vstack([sequences, contrast_of]), factor)  # [Q+1, L]
    low, high = fine[:-1].min(1, keepdims=True), fine[:-1].max(1, keepdims=True)
    levels = np.linspace(0, 1, num_thresholds + 2)[1:-1]
    cells = runs_above(fine[:-1], low + (high - low) * levels)  # [M, 2]
    cells = cells[cells[:, 1] - cells[:, 0] >= min_length * factor]
    cells = np.unique(cells, axis=0) if len(cells) else np.array([[0, fine.shape[1]]])
    return cells / factor, outer_inner_contrast(fine[-1], cells)


def upsample(sequences: np.ndarray, factor: int) -> np.ndarray:
    """Activations `[Q, T]` of snippets, read by linear interpolation at `factor` cells a snippet: `[Q, factor·T]`."""
    num_snippets = sequences.shape[1]
    position = ((np.arange(factor * num_snippets) + 0.5) / factor - 0.5).clip(0, num_snippets - 1)
    low = np.floor(position).astype(np.int64)
    fraction = position - low
    before, after = sequences[:, low], sequences[:, (low + 1).clip(max=num_snippets - 1)]
    return before + fraction * (after - before)  # in this order, what is flat stays flat to the bit


def runs_above(sequences: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Where sequences stay at or above a threshold.

    Args:
        sequences: `[Q, L]`.
        thresholds: `[Q, K]` of each sequence.

    Returns:
        `[M, 2]` the first cell of each such stretch, of any sequence and threshold, and the cell behind its last.
    """
    above = sequences[:, None] >= thresholds[..., None]  # [Q, K, L]
    change = np.diff(np.pad(above, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=2).ravel()
    return np.stack([np.flatnonzero(change == 1), np.flatnonzero(change == -1)], axis=1) % (sequences.shape[1] + 1)


def outer_inner_contrast(sequence: np.ndarray, cells: np.ndarray, margin: float = 0.25) -> np.ndarray:
    """Mean activation inside a segment less the mean right around it; what lies outside the video counts as zero.

    Args:
        sequence: `[L]`.
        cells: `[M, 2]` first cell and the cell behind the last.
        margin: how far around is around, on either side, as a share of the segment's length.

    Returns:
        `[M]`.
    """
    total = np.append(0.0, sequence.cumsum())
    at = np.arange(len(total))
    start, end = cells.T
    wide = (end - start) * margin

    def sums(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        return np.interp(end, at, total) - np.interp(start, at, total)

    inner = sums(start, end)
    outer = sums(start - wide, end + wide) - inner
    return inner / (end - start) - outer / np.maximum(2 * wide, 1e-9)


def distinct(segments: np.ndarray, max_tiou: float = 0.75, limit: int | None = None) -> np.ndarray:
    """Which segments `[M, 2]`, the best first, are left when each removes the later ones that are too close to it.

    Returns:
        Indices, rising; the first `limit` of them.
    """
    kept, left = [], np.arange(len(segments))
    while len(left) and len(kept) != limit:  # one by one, since what was removed removes nothing
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[tiou(segments[left], segments[best]) <= max_tiou]
    return np.array(kept, dtype=np.int64)
