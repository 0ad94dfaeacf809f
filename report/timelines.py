"""Timelines of test videos: ground truth, proposals, and detections in the colours of their error types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from eval.detection import match_detections
from eval.errors import KINDS, error_types
from eval.segments import to_segments
from report.pictures import BLUE, FAINT, INK, TYPE_COLOURS, new_figure, short

TYPES_AT = 0.5  # tIoU at which detections are sorted into error types
DETECTIONS_SHOWN = 3  # per instance of a class in a video; for a class that the video does not have, in all
MAX_DETECTIONS = 600  # of a class in a video
MAX_CLASSES, MAX_LANES = 4, 6  # of a timeline; a lane is a row of detections that do not overlap
EDGE: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.4}


class ClassDetections(NamedTuple):
    """Detections of one class in one video, by falling score."""

    segments: np.ndarray  # [n, 2] seconds
    types: Sequence[str]  # [n] of `eval.errors.KINDS`


@dataclass(frozen=True)
class Timeline:
    """One test video. Segments are `[n, 2]` in seconds."""

    title: str
    length: float  # seconds
    truth: Mapping[str, np.ndarray]  # class -> segments
    detections: Mapping[str, ClassDetections] = field(default_factory=dict)
    proposals: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))


# --------------------------------------------------------------------------------------- what is shown


def timeline_truth(truth: pd.DataFrame, class_names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """The ground truth of each video: class -> `[n, 2]` seconds, the class with most instances first."""
    name_of: dict[Any, str] = dict(enumerate(class_names))
    groups = [
        (str(video), name_of[class_idx], group[["start_sec", "end_sec"]].to_numpy())
        for (video, class_idx), group in truth.groupby(["video", "class_idx"])
    ]
    by_video: dict[str, dict[str, np.ndarray]] = {}
    for video, name, segments in sorted(groups, key=lambda group: -len(group[2])):
        by_video.setdefault(video, {})[name] = segments
    return by_video


def timeline_detections(
    detections: pd.DataFrame, truth: pd.DataFrame, class_names: Sequence[str]
) -> dict[str, dict[str, ClassDetections]]:
    """The best detections of each video and class, the class with the best detection first.

    Args:
        detections: of the videos, see `eval.tables.detection_table`.
        truth: of the same videos, see `eval.metrics.EvaluationInput`.
        class_names: C names.
    """
    scored, instances = to_segments(detections, truth, "seconds", rate=1.0)
    order = np.argsort(-scored.score, kind="stable")
    ranked = scored[order]
    thresholds = np.array([TYPES_AT])
    type_idx = error_types(ranked, instances, match_detections(ranked, instances, thresholds), thresholds)[:, 0]
    table = detections.iloc[order].assign(type=np.array(KINDS, dtype=object)[type_idx])
    num_instances = truth.groupby(["video", "class_idx"]).size().to_dict()
    name_of: dict[Any, str] = dict(enumerate(class_names))
    by_video: dict[str, dict[str, ClassDetections]] = {}
    for (video, class_idx), group in table.groupby(["video", "class_idx"], sort=False):
        count = DETECTIONS_SHOWN * max(1, num_instances.get((video, class_idx), 0))
        best = group.head(min(MAX_DETECTIONS, count))
        shown = ClassDetections(best[["start_sec", "end_sec"]].to_numpy(), best["type"].tolist())
        by_video.setdefault(str(video), {})[name_of[class_idx]] = shown
    return by_video


# ----------------------------------------------------------------------------------------- the drawing


def timelines(videos: Sequence[Timeline], *, simulated: bool) -> Figure:
    """A figure with a panel for each video, each on its own time axis."""
    panels = [_Panel(video) for video in videos]
    heights = [panel.height for panel in panels]
    figure = new_figure(0.17 * sum(heights) + 0.52 * len(videos) + 0.55, simulated=simulated)
    axes = figure.subplots(len(videos), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, panel in zip(axes, panels, strict=True):
        panel.draw(ax)
    axes[-1].set_xlabel("seconds")
    is_known = any(video.truth for video in videos)
    handles = [Patch(color=INK, label="ground truth")] if is_known else [Patch(color=BLUE, label="detections")]
    if any(len(video.proposals) for video in videos):
        handles.append(Patch(color=FAINT, label="number of proposals"))
    if is_known:
        handles += [Patch(color=colour, label=name) for name, colour in TYPE_COLOURS.items()]
    title = f"detections by error type at tIoU {TYPES_AT:g}" if is_known else None
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7.5, title=title, title_fontsize=7.5)
    return figure


class _Panel:
    """The timeline of a video: for each class, from the top, its ground truth and below it lanes of detections."""

    def __init__(self, video: Timeline) -> None:
        self._video = video
        absent = [name for name in video.detections if name not in video.truth]
        self._top: dict[str, float] = {}  # of each class, in units of a row of ground truth
        self._lanes: dict[str, np.ndarray] = {}  # the lane of each detection
        bottom = 0.0
        for name in [*video.truth, *absent][:MAX_CLASSES]:
            detections = video.detections.get(name)
            self._lanes[name] = np.empty(0, int) if detections is None else lanes(detections.segments, MAX_LANES)
            self._top[name] = bottom
            bottom += 1.35 + 0.58 * len({*self._lanes[name]} - {MAX_LANES})
        self.height = max(3.0, bottom - 0.35)

    def draw(self, ax: Axes) -> None:
        video = self._video
        if len(video.proposals):
            moments = np.linspace(0, video.length, 400)
            starts, ends = np.sort(video.proposals, axis=0).T
            count = np.searchsorted(starts, moments, side="right") - np.searchsorted(ends, moments, side="left")
            level = self.height * (1 - count / max(1, count.max()))
            ax.fill_between(moments, self.height, level, color=FAINT, linewidth=0, step="mid")
        truth = [_box(segment, top, 0.9) for name, top in self._top.items() for segment in video.truth.get(name, ())]
        ax.add_collection(PolyCollection(truth, facecolors=INK, **EDGE))
        ax.add_collection(PolyCollection(**self._detection_shapes(), **EDGE))
        is_absent = {name: bool(video.truth) and name not in video.truth for name in self._top}
        names = [f"{short(name)} (absent)" if is_absent[name] else short(name) for name in self._top]
        ax.set_yticks([top + 0.45 for top in self._top.values()], names)
        ax.tick_params(axis="y", length=0)
        ax.set_xlim(0, video.length)
        ax.set_ylim(self.height, 0)
        ax.set_title(short(video.title, 90), fontsize=8.5)
        ax.spines["left"].set_visible(False)

    def _detection_shapes(self) -> dict[str, Any]:
        """Vertices and colours of a `PolyCollection`; detections beyond the last lane are left out."""
        boxes, colours = [], []
        for name, top in self._top.items():
            detections = self._video.detections.get(name, ClassDetections(np.empty((0, 2)), []))
            for segment, type_name, lane in zip(*detections, self._lanes[name], strict=True):
                if lane < MAX_LANES:
                    boxes.append(_box(segment, top + 1 + 0.58 * lane, 0.5))
                    colours.append(TYPE_COLOURS[type_name] if self._video.truth else BLUE)
        return {"verts": boxes, "facecolors": colours}


def _box(segment: np.ndarray, top: float, height: float) -> list[tuple[float, float]]:
    start, end = segment
    return [(start, top), (end, top), (end, top + height), (start, top + height)]


def lanes(segments: np.ndarray, count: int) -> np.ndarray:
    """Distribute segments `[n, 2]` over lanes so that none overlap: each takes the first lane that has room.

    Returns:
        `[n]` the lane of each segment, from 0; `count` for a segment that fits into none of the `count` lanes.
    """
    taken: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    lane_of = np.full(len(segments), count, dtype=np.int64)
    for i, (start, end) in enumerate(segments.tolist()):
        for k, lane in enumerate(taken):
            if all(end <= s or e <= start for s, e in lane):
                lane.append((start, end))
                lane_of[i] = k
                break
    return lane_of
