"""Detections as a table, and as files: ActivityNet result format in and out, and a CSV file with all there is to say.

`rate`, here and elsewhere, is in snippets per second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from eval.postprocess import VideoDetections
from proposals import snippets_to_seconds


def detection_table(names: Sequence[str], found: Sequence[VideoDetections], rate: float) -> pd.DataFrame:
    """The detections of several videos as the table that everything in `eval` takes, one row a detection."""
    names = np.repeat(np.array(names, dtype=object), [len(video.score) for video in found])
    class_idx, score, segments, ambiguous = (
        np.concatenate([getattr(video, field) for video in found])
        for field in ("class_idx", "score", "segment_snip", "ambiguous")
    )
    return rows_as_table(names, class_idx, score, segments, snippets_to_seconds(segments, rate), ambiguous)


def rows_as_table(
    video: Any, class_idx: Any, score: Any, segment_snip: np.ndarray, segment_sec: np.ndarray, ambiguous: Any = False
) -> pd.DataFrame:
    """A table with one row a detection; segments are `[N, 2]` in snippets and in seconds."""
    columns = {"video": video, "class_idx": class_idx, "score": score}
    for unit, segment in (("snip", segment_snip), ("sec", segment_sec)):
        columns |= {f"start_{unit}": segment[:, 0], f"end_{unit}": segment[:, 1]}
    return pd.DataFrame(columns | {"ambiguous": ambiguous})


def counted(detections: pd.DataFrame) -> pd.DataFrame:
    """The detections that count: those that overlap no ambiguous segment (SPEC section 6)."""
    return detections[~detections["ambiguous"].to_numpy(bool)]
