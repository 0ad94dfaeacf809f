"""Segments of many videos, as the metrics take them: detections, and instances of the ground truth.

Axes: n segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

# Shares of the instances that the snippet protocol may round to nothing, and to one snippet or nothing, and still say
# which epoch is best. THUMOS14's test subset, on which the released protocol chooses, has 0.5% and 7%.
MAX_NOTHING, MAX_SHORT = 0.01, 0.2
AnySegments = TypeVar("AnySegments", bound="Segments")


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments with their videos and classes, for example the ground truth; `segments[index]` picks rows as numpy does.

    Attributes:
        video: `[n]` number of the video.
        class_idx: `[n]`.
        segment: `[n, 2]` start and end, in snippets or seconds.
    """

    video: np.ndarray
    class_idx: np.ndarray
    segment: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self: AnySegments, index: np.ndarray | slice) -> AnySegments:
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass(frozen=True, eq=False)
class Detections(Segments):
    """Segments with a score.

    Attributes:
        score: `[n]`.
    """

    score: np.ndarray

    def ranked(self) -> Detections:
        """The detections by falling score; of equal scores, the one listed first goes first."""
        return self[order_by(-self.score, np.arange(len(self)))]


def order_by(key: np.ndarray, *ties: np.ndarray) -> np.ndarray:
    """The order `[n]` that sorts by a key; where it is equal, by further ones, of which the first decides first.

    A sort that is not stable is several times as fast; few are equal in the key, and these are sorted again.
    """
    order = np.argsort(key)
    equal = ~(key[order[:-1]] < key[order[1:]])  # [n - 1] to the next
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows = order[tied]
    order[tied] = rows[np.lexsort([values[rows] for values in (*reversed(ties), key)])]
    return order


def video_class_keys(first: Segments, second: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Integers that are equal exactly for segments of the same video and class: `[n]` for each of both."""
    num_class = 1 + max(segments.class_idx.max(initial=0) for segments in (first, second))
    return first.video * num_class + first.class_idx, second.video * num_class + second.class_idx


def to_segments(
    detections: pd.DataFrame,
    ground_truth: pd.DataFrame,
    protocol: str,
    rate: float,
    videos: Sequence[str] | None = None,
) -> tuple[Detections, Segments]:
    """Detections and ground truth in the unit of a protocol.

    Args:
        detections: see `eval.tables.detection_table`.
        ground_truth: a row per instance, `video, class_idx, start_sec, end_sec`.
        protocol: `snippet`, with the ground truth rounded to whole snippets, or `seconds`.
        rate: snippets per second.
        videos: the names that the numbers of videos stand for; without them, videos are numbered as they appear.
    """
    names = pd.concat([detections["video"], ground_truth["video"]], ignore_index=True)
    video = pd.factorize(names)[0] if videos is None else pd.Index(videos).get_indexer(names)
    unit = {"snippet": "snip", "seconds": "sec"}[protocol]
    truth_sec = ground_truth[["start_sec", "end_sec"]].to_numpy(np.float64)
    scored = Detections(
        video=video[: len(detections)],
        class_idx=detections["class_idx"].to_numpy(np.int64),
        segment=detections[[f"start_{unit}", f"end_{unit}"]].to_numpy(np.float64),
        score=detections["score"].to_numpy(np.float64),
    )
    instances = Segments(
        video=video[len(detections) :],
        class_idx=ground_truth["class_idx"].to_numpy(np.int64),
        segment=whole_snippets(truth_sec, rate) if protocol == "snippet" else truth_sec,
    )
    return scored, instances


def whole_snippets(segments_sec: np.ndarray, rate: float) -> np.ndarray:
    """Instances `[n, 2]` as the snippet protocol has them: rounded to whole snippets, a half to the even one."""
    return np.rint(segments_sec * rate)


class Rounding(NamedTuple):
    """What the snippet protocol's rounding does to short instances."""

    nothing: int  # how many become nothing, which no detection can match
    one: int  # how many become one snippet
    total: int  # number of instances

    @property
    def chosen_by(self) -> str:
        """The protocol that epochs are compared by: `snippet`, as in the release, unless it loses too many."""
        too_short = self.nothing + self.one > MAX_SHORT * self.total
        return "seconds" if too_short or self.nothing > MAX_NOTHING * self.total else "snippet"


def rounding(ground_truth: pd.DataFrame, rate: float) -> Rounding:
    """How many instances the snippet protocol rounds to nothing, and to one snippet; see `to_segments`."""
    length = np.diff(whole_snippets(ground_truth[["start_sec", "end_sec"]].to_numpy(np.float64), rate))
    return Rounding(int((length == 0).sum()), int((length == 1).sum()), len(length))
