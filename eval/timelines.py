"""What is in a test video and what was found there, as timelines show it; `eval.pictures` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from eval.detection import match_detections
from eval.errors import KINDS, kinds_of
from eval.protocols import as_arrays

KINDS_AT = 0.5  # tIoU at which the kinds of detections are told
OTHER = "other classes"
DETECTIONS_SHOWN = 3  # times the number of instances of a class in a video, and of classes that it does not have
MOST_SHOWN = 600  # of a class in a video


@dataclass(frozen=True)
class Timeline:
    """A test video: what is in it, and what was found. Segments are `[n, 2]` in seconds."""

    title: str
    length: float
    truth: dict[str, np.ndarray]  # of each class
    found: dict[str, Found] = field(default_factory=dict)  # of each class
    proposals: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))


class Found(NamedTuple):
    """Detections of a class in a video, the best first, and the kind of each (`eval.errors.KINDS`)."""

    segments: np.ndarray  # [n, 2]
    kinds: Sequence[str]  # [n]


def timeline_truth(truth: pd.DataFrame, class_names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """The ground truth of videos: of each, `[n, 2]` seconds of each of its classes, the most frequent first."""
    own: dict[str, dict[str, np.ndarray]] = {}
    parts = [(key, part[["start_sec", "end_sec"]].to_numpy()) for key, part in truth.groupby(["video", "class_idx"])]
    for (video, class_idx), segments in sorted(parts, key=lambda part: -len(part[1])):
        own.setdefault(video, {})[class_names[class_idx]] = segments
    return own


def timeline_detections(
    detections: pd.DataFrame, truth: pd.DataFrame, class_names: Sequence[str], other: str | None = None
) -> dict[str, dict[str, Found]]:
    """What timelines show of some videos: of each, and of each class, the best detections and their kinds.

    Args:
        detections: of the videos, see `eval.files.detection_table`.
        truth: of the videos, see `eval.protocols.evaluate`.
        class_names: C names.
        other: the name under which to put the classes that a video does not have; None keeps their own.
    """
    arrays, instances = as_arrays(detections, truth, "seconds", rate=1.0)
    order = np.argsort(-arrays["score"], kind="stable")
    ranked = {name: values[order] for name, values in arrays.items()}
    at = np.array([KINDS_AT])
    kind = kinds_of(ranked, instances, match_detections(ranked, instances, at), at)[:, 0]
    table = detections.iloc[order].assign(kind=np.array(KINDS, dtype=object)[kind])
    have = truth.groupby(["video", "class_idx"]).size().to_dict()
    shown: dict[str, dict[str, Found]] = {}
    for (video, class_idx), part in table.groupby(["video", "class_idx"], sort=False):
        instances = have.get((video, class_idx), 0)
        best = part.head(min(MOST_SHOWN, DETECTIONS_SHOWN * max(1, instances)))
        name = class_names[class_idx] if instances or other is None else other
        own = shown.setdefault(video, {})
        if name not in own:  # of other classes under one name, the one whose best detection is best
            own[name] = Found(best[["start_sec", "end_sec"]].to_numpy(), best["kind"].tolist())
    return shown
