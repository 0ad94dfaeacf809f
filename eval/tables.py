"""Detections as a table, one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eval.postprocess import VideoDetections, overlaps_ambiguous
from proposals import Proposals, snippets_to_seconds


def detection_table(names: Sequence[str], found: Sequence[VideoDetections], rate: float) -> pd.DataFrame:
    """The detections of several videos, in the form that `eval.metrics.EvaluationInput` takes.

    Args:
        names: of the videos.
        found: the detections of each.
        rate: snippets per second.

    Returns:
        A row per detection: `video, class_idx, score, start_snip, end_snip, start_sec, end_sec, ambiguous`.
    """
    segment_snip = np.concatenate([video.segment_snip for video in found])
    return rows_as_table(
        video=np.repeat(np.array(names, dtype=object), [len(video.score) for video in found]),
        class_idx=np.concatenate([video.class_idx for video in found]),
        score=np.concatenate([video.score for video in found]),
        segment_snip=segment_snip,
        segment_sec=snippets_to_seconds(segment_snip, rate),
        ambiguous=np.concatenate([video.ambiguous for video in found]),
    )


def proposal_table(proposals: Mapping[str, Proposals], rate: float) -> pd.DataFrame:
    """Proposals in the form of `detection_table`, with the score and class that their file gives them."""
    of_videos = proposals.values()
    segment_snip = np.concatenate([one.segments_snip for one in of_videos])
    return rows_as_table(
        video=np.repeat(np.array([*proposals], dtype=object), [len(one) for one in of_videos]),
        class_idx=np.concatenate([one.class_idx for one in of_videos]),
        score=np.concatenate([one.score for one in of_videos]),
        segment_snip=segment_snip,
        segment_sec=snippets_to_seconds(segment_snip, rate),
    )


def rows_as_table(
    video: Any, class_idx: Any, score: Any, segment_snip: np.ndarray, segment_sec: np.ndarray, ambiguous: Any = False
) -> pd.DataFrame:
    """A table with one row a detection; segments are `[N, 2]` in snippets and in seconds."""
    columns = {"video": video, "class_idx": class_idx, "score": score}
    for unit, segment in (("snip", segment_snip), ("sec", segment_sec)):
        columns |= {f"start_{unit}": segment[:, 0], f"end_{unit}": segment[:, 1]}
    return pd.DataFrame(columns | {"ambiguous": ambiguous})


def marked_ambiguous(detections: pd.DataFrame, ambiguous_sec: Mapping[str, np.ndarray], rate: float) -> pd.DataFrame:
    """The detections with those marked that overlap an ambiguous segment, see `overlaps_ambiguous`.

    Boundaries are looked at as those of proposals are, in hundredths of a snippet, so that a file of detections is
    treated as the network's are.

    Args:
        detections: see `detection_table`.
        ambiguous_sec: `[A, 2]` of the videos that have ambiguous segments.
        rate: snippets per second.
    """
    marked = np.zeros(len(detections), dtype=bool)
    segments_snip = detections[["start_snip", "end_snip"]].to_numpy(np.float64)
    for video, rows in detections.groupby("video").indices.items():
        if (segments_sec := ambiguous_sec.get(str(video))) is not None:
            marked[rows] = overlaps_ambiguous(segments_snip[rows].round(2), segments_sec, rate)
    return detections.assign(ambiguous=marked)


def without_ambiguous(detections: pd.DataFrame) -> pd.DataFrame:
    """The detections that are evaluated: those that overlap no ambiguous segment (SPEC section 6)."""
    return detections[~detections["ambiguous"].to_numpy(bool)]
