"""What is in a test video and what was found there, as timelines show it; `report.pictures` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from eval.detection import match_detections
from eval.errors import KINDS, kinds_of
from eval.evaluation import as_arrays
from report.pictures import FAINT, INK, KIND_COLOURS, new_figure, short

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
        detections: of the videos, see `eval.tables.detection_table`.
        truth: of the videos, see `eval.evaluation.evaluate`.
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


MOST_CLASSES, MOST_LANES = 4, 6  # of a timeline


def timelines(videos: Sequence[Timeline], note: str, *, simulated: bool) -> Figure:
    """Ground truth, proposals and detections of videos on their own time axes; `note` stands over the legend."""
    panels = []
    for video in videos:
        names = [*video.truth, *(name for name in video.found if name not in video.truth)][:MOST_CLASSES]
        lanes = {name: len({*_packed(found, MOST_LANES)} - {MOST_LANES}) for name, found in video.found.items()}
        panels.append(_Panel(video, names, [lanes.get(name, 0) for name in names]))
    figure = new_figure(0.17 * sum(panel.height for panel in panels) + 0.52 * len(videos) + 0.55, simulated=simulated)
    heights = [panel.height for panel in panels]
    axes = figure.subplots(len(videos), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, video, panel in zip(axes, videos, panels, strict=True):
        panel.draw(ax)
        ax.add_collection(PolyCollection(**panel.shapes(video.found), **EDGE))
    axes[-1].set_xlabel("seconds")
    figure.legend(**_legend(videos), loc="outside lower center", title=note, title_fontsize=7.5)
    return figure


class LiveTimelines:
    """Timelines of a few videos that are drawn again and again, for which only detections are drawn anew.

    Detections of classes that a video does not have are to be given under the name `OTHER`.
    """

    def __init__(self, videos: Sequence[Timeline], note: str, *, simulated: bool) -> None:
        names = [[*video.truth][:MOST_CLASSES] for video in videos]
        panels = [_Panel(video, [*own, OTHER], [3] * len(own) + [2]) for video, own in zip(videos, names, strict=True)]
        heights = [panel.height for panel in panels]
        figure = new_figure(0.11 * sum(heights) + 0.45 * len(videos) + 0.5, simulated=simulated)
        axes = figure.subplots(len(videos), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, panel in zip(axes, panels, strict=True):
            panel.draw(ax)
        axes[-1].set_xlabel("seconds")
        figure.legend(**_legend(videos), loc="outside lower center", title=note, title_fontsize=7.5)
        figure.set_dpi(90)
        self._canvas = FigureCanvasAgg(figure)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(figure.bbox)
        self._panels = [
            (panel, ax.add_collection(PolyCollection([], **EDGE))) for ax, panel in zip(axes, panels, strict=True)
        ]

    def image(self, found: Sequence[dict[str, Found]]) -> np.ndarray:
        """The picture with the detections of each video: `[height, width, 3]`, uint8."""
        self._canvas.restore_region(self._background)
        for own, (panel, collection) in zip(found, self._panels, strict=True):
            collection.set(**panel.shapes(own))
            collection.axes.draw_artist(collection)
        return np.asarray(self._canvas.buffer_rgba())[..., :3]


EDGE = {"edgecolors": "white", "linewidths": 0.4}


def _legend(videos: Sequence[Timeline]) -> dict[str, Any]:
    handles = [Patch(color=INK, label="ground truth")]
    if any(len(video.proposals) for video in videos):
        handles.append(Patch(color=FAINT, label="number of proposals"))
    handles += [Patch(color=colour, label=kind) for kind, colour in KIND_COLOURS.items()]
    return {"handles": handles, "ncols": 4, "fontsize": 7.5}


class _Panel:
    """The timeline of a video: from the top, of each class its ground truth and so many lanes of detections."""

    def __init__(self, video: Timeline, names: Sequence[str], lanes: Sequence[int]) -> None:
        self._video = video
        self._lanes, self._tops, self.height = dict(zip(names, lanes, strict=True)), {}, 0.0
        for name, count in self._lanes.items():
            self._tops[name] = self.height
            self.height += 1.35 + 0.58 * count
        self.height = max(3.0, self.height - 0.35)

    def draw(self, ax: Axes) -> None:
        """All but the detections."""
        video = self._video
        if len(video.proposals):
            moments = np.linspace(0, video.length, 400)
            starts, ends = np.sort(video.proposals, axis=0).T
            over = np.searchsorted(starts, moments, side="right") - np.searchsorted(ends, moments, side="left")
            level = self.height * (1 - over / max(1, over.max()))
            ax.fill_between(moments, self.height, level, color=FAINT, linewidth=0, step="mid")
        truth = [_box(segment, self._tops[name], 0.9) for name in self._lanes for segment in video.truth.get(name, ())]
        ax.add_collection(PolyCollection(truth, facecolors=INK, **EDGE))
        names = [
            short(name) if name in video.truth or name == OTHER else f"{short(name)} (absent)" for name in self._tops
        ]
        ax.set_yticks([top + 0.45 for top in self._tops.values()], names)
        ax.tick_params(axis="y", length=0)
        ax.set_xlim(0, video.length)
        ax.set_ylim(self.height, 0)
        ax.set_title(short(video.title, 90), fontsize=8.5)
        ax.spines["left"].set_visible(False)

    def shapes(self, found: Mapping[str, Found]) -> dict[str, Any]:
        """The detections that have room, as vertices and colours of a `PolyCollection`."""
        shapes, colours = [], []
        for name, lanes in self._lanes.items():
            own = found.get(name, Found(np.empty((0, 2)), []))
            for segment, kind, lane in zip(*own, _packed(own, lanes), strict=True):
                if lane < lanes:
                    shapes.append(_box(segment, self._tops[name] + 1 + 0.58 * lane, 0.5))
                    colours.append(KIND_COLOURS[kind])
        return {"verts": shapes, "facecolors": colours}


def _box(segment: np.ndarray, top: float, height: float) -> list[tuple[float, float]]:
    start, end = segment
    return [(start, top), (end, top), (end, top + height), (start, top + height)]


def _packed(found: Found, most: int) -> np.ndarray:
    """The lane of each detection, `[n]`: the first of so many in which it overlaps none before it; `most` for none."""
    lanes: list[list[tuple[float, float]]] = [[] for _ in range(most)]
    place = np.full(len(found.segments), most, dtype=np.int64)
    for i, (start, end) in enumerate(found.segments.tolist()):
        for k, lane in enumerate(lanes):
            if all(end <= s or e <= start for s, e in lane):
                lane.append((start, end))
                place[i] = k
                break
    return place
