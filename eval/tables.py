"""Detections as a table, one row each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from eval.postprocess import VideoDetections
from proposals import snippets_to_seconds


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


def rows_as_table(
    video: Any, class_idx: Any, score: Any, segment_snip: np.ndarray, segment_sec: np.ndarray, ambiguous: Any = False
) -> pd.DataFrame:
    """A table with one row a detection; segments are `[N, 2]` in snippets and in seconds."""
    columns = {"video": video, "class_idx": class_idx, "score": score}
    for unit, segment in (("snip", segment_snip), ("sec", segment_sec)):
        columns |= {f"start_{unit}": segment[:, 0], f"end_{unit}": segment[:, 1]}
    return pd.DataFrame(columns | {"ambiguous": ambiguous})


def without_ambiguous(detections: pd.DataFrame) -> pd.DataFrame:
    """The detections that are evaluated: those that overlap no ambiguous segment (SPEC section 6)."""
    return detections[~detections["ambiguous"].to_numpy(bool)]
