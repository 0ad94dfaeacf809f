"""Segments from activations: where they stay above thresholds, and how strongly they stand out.

Axes: Q sequences of activations, T snippets, L cells, K thresholds, M segments.
"""

from __future__ import annotations

import numpy as np

# How the start and the end of a segment are moved, as shares of its length: wider, narrower, and one end at a time.
SHIFTS = np.array([
    (0, 0), (-0.15, 0.15), (0.15, -0.15), (-0.15, 0), (0, 0.15), (0.15, 0), (0, -0.15),
    (-0.3, 0.3), (0.3, -0.3), (-0.5, 0.5), (-0.5, 0), (0, 0.5),
])  # fmt: skip


def segments_above_thresholds(
    sequences: np.ndarray,
    contrast_of: np.ndarray,
    *,
    min_length: float = 3.0,
    num_thresholds: int = 9,
    factor: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the segments in which activations stay above a threshold, at many thresholds.

    The thresholds of a sequence divide its range evenly, so weak activations give segments as well as strong ones. If
    no segment is long enough, as for a flat sequence, the whole video is returned.

    Args:
        sequences: `[Q, T]` activations of the snippets.
        contrast_of: `[T]` the activation whose `outer_inner_contrast` is the score of a segment.
        min_length: in snippets; shorter segments are left out. They are the most active parts of actions, and a method
            that learns from proposals by multiple instances would prefer them to the whole actions.
        num_thresholds: for each sequence. Twice as many reach few more instances, and add wrong segments.
        factor: cells per snippet, so that boundaries can lie between snippets.

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


def shifted_segments(
    sequence: np.ndarray, *, min_length: float = 1.0, num_thresholds: int = 17, factor: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Find the segments in which an activation stays above a threshold, and others close to them.

    The thresholds divide the range from zero to the largest activation evenly. Activations are higher in the middle of
    an action and blurred at its ends, so each segment also comes wider, narrower and with one end moved (`SHIFTS`); the
    contrast says which fits best. If no segment is long enough, the whole video is returned.

    Args:
        sequence: `[T]` the activation of the snippets, none negative.
        min_length: in snippets; shorter segments are left out.
        num_thresholds: K.
        factor: cells per snippet, so that boundaries can lie between snippets.

    Returns:
        Segments in snippets, `[M, 2]` within [0, T] and no two equal, and their `outer_inner_contrast` `[M]`, whose
        margins end with the video.
    """
    fine = upsample(sequence[None], factor)  # [1, L]
    levels = fine.max() * np.linspace(0, 1, num_thresholds + 2)[1:-1]
    runs = np.unique(runs_above(fine, levels[None]), axis=0)
    moved = runs + np.diff(runs) * SHIFTS[:, None]  # [12, M, 2]
    cells = moved.round().clip(0, fine.shape[1]).reshape(-1, 2)
    cells = cells[cells[:, 1] - cells[:, 0] >= min_length * factor]
    cells = np.unique(cells, axis=0) if len(cells) else np.array([[0.0, fine.shape[1]]])
    return cells / factor, outer_inner_contrast(fine[0], cells, within=True)


def upsample(sequences: np.ndarray, factor: int) -> np.ndarray:
    """Interpolate activations `[Q, T]` of snippets linearly, with `factor` cells per snippet: `[Q, factor·T]`."""
    num_snippets = sequences.shape[1]
    position = ((np.arange(factor * num_snippets) + 0.5) / factor - 0.5).clip(0, num_snippets - 1)
    low = np.floor(position).astype(np.int64)
    fraction = position - low
    before, after = sequences[:, low], sequences[:, (low + 1).clip(max=num_snippets - 1)]
    return before + fraction * (after - before)  # this order keeps flat sequences exactly flat


def runs_above(sequences: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Find the runs in which sequences stay at or above a threshold.

    Args:
        sequences: `[Q, L]`.
        thresholds: `[Q, K]`, K for each sequence.

    Returns:
        `[M, 2]` the first cell of each run, for all sequences and thresholds, and the cell after its last.
    """
    above = sequences[:, None] >= thresholds[..., None]  # [Q, K, L]
    _, start, end = runs(above.reshape(-1, sequences.shape[1]))
    return np.stack([start, end], axis=1)


def runs(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the runs of cells that are inside.

    Args:
        inside: `[K, L]` bool.

    Returns:
        `[M]` each: the row of a run, its first cell, and the cell after its last; row by row.
    """
    width = inside.shape[1] + 1
    change = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8)).ravel()  # [K·(L+1)]
    row, start = np.divmod(np.flatnonzero(change == 1), width)
    return row, start, np.flatnonzero(change == -1) % width


def outer_inner_contrast(
    sequence: np.ndarray, cells: np.ndarray, margin: float = 0.25, *, within: bool = False
) -> np.ndarray:
    """Mean activation inside a segment minus the mean in a margin around it.

    Args:
        sequence: `[L]`.
        cells: `[M, 2]` the first cell, and the cell after the last.
        margin: width of the margin on each side, as a share of the segment's length.
        within: count only the part of the margin that is within the video, the mean of no margin being zero; else
            activations are zero outside the video.

    Returns:
        `[M]`.
    """
    total = np.append(0.0, sequence.cumsum())
    at = np.arange(len(total))
    start, end = cells.T
    wide = (end - start) * margin

    def sums(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        return np.interp(end, at, total) - np.interp(start, at, total)

    low, high = start - wide, end + wide
    if within:
        low, high = low.clip(min=0), high.clip(max=len(sequence))
    inner = sums(start, end)
    outer = sums(low, high) - inner
    return inner / (end - start) - outer / np.maximum((start - low) + (high - end), 1e-9)
