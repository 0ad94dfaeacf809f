"""The pictures of a report as matplotlib figures, independent of matplotlib's global state and settings but the font.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; they differ in lightness, for print.
Times are in seconds. Names from files are drawn as plain text, never as formulas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.errors import KINDS, Bucket, ErrorAnalysis
from report.fonts import SUPPLIED_FONT, Fonts

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
INK, GREY, FAINT = "#222222", "#7F7F7F", "#DDDDDD"
LINES = ((BLUE, "-"), (RED, "--"), (GREEN, "-."), (INK, ":"), (PINK, "-"), (ORANGE, "--"), (SKY, "-."))
TYPE_COLOURS = dict(zip(KINDS, (BLUE, SKY, PINK, ORANGE, YELLOW, GREY), strict=True))
WIDTH = 6.4  # inches; the text of a picture stays readable on a phone
DPI = 200  # of PNG files
STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called $x$
    "svg.fonttype": "path",
    "svg.hashsalt": "SEAL",  # equal pictures have equal bytes
}
MARK = "simulated data"


_fonts: ContextVar[Fonts] = ContextVar("fonts", default=SUPPLIED_FONT)


@contextmanager
def styled(fonts: Fonts) -> Iterator[None]:
    """Within the block, figures are made and drawn in the style of the report, with fonts that have their names."""
    before = _fonts.set(fonts)
    try:
        with mpl.style.context(["default", STYLE | {"font.family": [*fonts.families]}]):
            yield
    finally:
        _fonts.reset(before)


def new_figure(height: float, *, simulated: bool) -> Figure:
    """A figure of a height in inches, laid out to fit its content; marked if the data are simulated."""
    top = 1 - 0.16 / height if simulated else 1
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(rect=(0, 0, 1, top)))
    if simulated:
        figure.text(0.005, 0.998, MARK, ha="left", va="top", fontsize=7, color=RED)
    return figure


def as_files(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as an SVG and as a PNG file."""
    svg, png = BytesIO(), BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # the layout stays as it is; fitting it again would take as long as the drawing
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def as_pixels(figure: Figure) -> np.ndarray:
    """The figure as `[height, width, 3]` uint8, 90 pixels an inch."""
    figure.set_dpi(90)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def short(name: str, most: int = 26) -> str:
    """A name as it is drawn, cut to at most `most` characters."""
    return _fonts.get().drawable(name if len(name) <= most else f"{name[: most - 1]}…")


# -------------------------------------------------------------------------------------- how good it is


def class_bars(values: Mapping[str, float], label: str, *, simulated: bool) -> Figure:
    """A bar for each class, the best first, in one to four columns."""
    names = sorted(values, key=lambda name: -values[name])
    columns = int(np.clip(np.ceil(len(names) / 55), 1 if len(names) <= 24 else 2, 4))
    each = int(np.ceil(len(names) / columns))
    size = 8.5 if columns == 1 else 7 if columns == 2 else 5.5
    figure = new_figure(0.7 + each * (0.2 if columns == 1 else 0.022 * size), simulated=simulated)
    axes = figure.subplots(1, columns, squeeze=False, sharex=True)[0]
    for ax, start in zip(axes, range(0, each * columns, each), strict=True):
        column = names[start : start + each]
        heights = [values[name] for name in column]
        ax.barh(range(len(column)), heights, color=BLUE, height=0.72)
        for y, value in enumerate(heights):
            ax.text(value, y, f" {value:.1f}", va="center", fontsize=size - 0.5)
        ax.set_yticks(range(len(column)), [short(name, 24) for name in column], fontsize=size)
        ax.set_ylim(each - 0.4, -0.6)
        ax.set_xlim(0, 1.15 * max(1.0, *values.values()) + (0 if columns == 1 else 6))
        ax.xaxis.set_major_locator(MaxNLocator(5 if columns == 1 else 2))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
    axes[columns // 2].set_xlabel(label, fontsize=8.5)  # a label of the figure would lie under the legend
    return figure


def precision_recall(curves: Mapping[str, np.ndarray], recall: np.ndarray, *, simulated: bool) -> Figure:
    """Precision over recall, `[R]` each in [0, 1]; one line for each name."""
    figure = new_figure(3.6, simulated=simulated)
    ax = figure.subplots()
    for (name, precision), (colour, dashes) in zip(curves.items(), itertools.cycle(LINES), strict=False):
        ax.plot(100 * recall, 100 * precision, color=colour, linestyle=dashes, label=name)
    ax.set(xlim=(0, 100), ylim=(0, 102), xlabel="recall, %", ylabel="precision, %, mean over the classes")
    ax.grid()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def confusion(share: np.ndarray, names: Sequence[str], *, simulated: bool) -> Figure:
    """`[C, C]` percent of the videos of a class (row) in which a class (column) is reported; nan for no video."""
    few = len(names) <= 30
    figure = new_figure(1.5 + 0.2 * len(names) if few else 6.3, simulated=simulated)
    ax = figure.subplots()
    colours = mpl.colormaps["Blues"].with_extremes(bad=FAINT)
    edges = None if few else (0.5, len(names) + 0.5, len(names) + 0.5, 0.5)  # numbers in a list count from 1
    image = ax.imshow(share, cmap=colours, vmin=0, vmax=100, interpolation="nearest", extent=edges)
    ax.set_aspect("auto" if few else "equal")
    figure.colorbar(image, ax=ax, label="% of the videos", shrink=0.9)
    ax.set(xlabel="class reported", ylabel="class of the video")
    if few:
        ax.set_xticks(range(len(names)), [short(name, 18) for name in names], rotation=90)
        ax.set_yticks(range(len(names)), [short(name, 18) for name in names])
        for row, column in zip(*np.nonzero(np.nan_to_num(share) >= 0.5), strict=True):
            value = share[row, column]
            colour = "white" if value > 55 else "black"
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        ax.set(xlabel="class reported, number in the class list", ylabel="class of the video, number in the class list")
    return figure


def training_curves(losses: pd.DataFrame, maps: pd.DataFrame, *, simulated: bool) -> Figure:
    """Each loss term over the epochs, and below them the mAP of the evaluations; both tables are indexed by epoch."""
    columns = 3
    loss_rows = max(1, math.ceil(losses.shape[1] / columns))
    rows = loss_rows + bool(len(maps))
    figure = new_figure(2.1 * loss_rows + 2.2 * bool(len(maps)), simulated=simulated)
    grid = figure.add_gridspec(rows, columns)
    for i, name in enumerate(losses):
        ax = figure.add_subplot(grid[i // columns, i % columns])
        ax.plot(losses.index, losses[name], color=BLUE, linewidth=1.1, marker="." if len(losses) == 1 else None)
        ax.set_title(str(name), fontsize=8.5)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        ax.grid()
        if i + columns >= losses.shape[1]:  # the lowest of its column
            ax.set_xlabel("epoch")
    if len(maps):
        ax = figure.add_subplot(grid[loss_rows, :])
        for name, (colour, dashes) in zip(maps, itertools.cycle(LINES), strict=False):
            ax.plot(maps.index, maps[name], color=colour, linestyle=dashes, marker="o", markersize=3, label=name)
        ax.set(xlabel="epoch", ylabel="mAP, %")
        ax.set_xlim(0, 1.02 * maps.index.max())
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        ax.grid()
        figure.legend(loc="outside lower center", ncols=5, fontsize=7.5)
    return figure


# -------------------------------------------------------------------------------------- error analysis


def error_shares(analysis: ErrorAnalysis, k: int, *, simulated: bool) -> Figure:
    """Shares of the error types among the top i G detections of each class, for i from 1 to 10, at threshold k."""
    figure = new_figure(3.5, simulated=simulated)
    ax = figure.subplots()
    below = np.zeros(analysis.top)
    rank = np.arange(1, analysis.top + 1)
    for kind, colour in TYPE_COLOURS.items():
        share = np.array(analysis.shares[kind][k])
        ax.bar(rank, share, bottom=below, color=colour, width=0.82, label=kind, edgecolor="white", linewidth=0.5)
        for x, value, middle in zip(rank, share, below + share / 2, strict=True):
            if value >= 6:
                colour_of_text = "white" if kind == KINDS[0] else "black"
                ax.text(float(x), middle, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour_of_text)
        below += share
    ax.set(xlabel="top detections of each class, in multiples of its number of instances", ylabel="share, %")
    ax.set_xticks(rank, [f"{i}×" for i in rank])
    ax.set_ylim(0, 100)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center")
    return figure


def error_gains(analysis: ErrorAnalysis, *, simulated: bool) -> Figure:
    """Gain in average mAP_N without the errors of each type."""
    figure = new_figure(2.3, simulated=simulated)
    ax = figure.subplots()
    gains = {kind: gain.average for kind, gain in analysis.gain.items()}
    ax.barh(range(len(gains)), list(gains.values()), color=[TYPE_COLOURS[kind] for kind in gains], height=0.7)
    for y, value in enumerate(gains.values()):
        ax.text(value, y, f" +{value:.1f}", va="center")
    ax.set_yticks(range(len(gains)), gains)
    ax.set_ylim(len(gains) - 0.5, -0.5)
    ax.set_xlim(0, max(1.0, 1.15 * max(gains.values())))
    ax.set_xlabel("gain in average mAP_N, percentage points")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    return figure


BUCKET_TITLES = {
    "length": "length, seconds",
    "coverage": "coverage of the video, %",
    "instances": "instances in the video",
}


def bucket_name(bucket: Bucket, name: str) -> str:
    """The label of a bucket of the error analysis."""
    low, high = bucket.over, bucket.up_to
    if name == "instances":
        return f"> {low}" if high is None else f"{high}" if low + 1 == high else f"{low + 1}–{high}"
    if name == "coverage":
        assert high is not None, "coverage is at most 1"
        return f"{100 * low:g}–{100 * high:g}"
    return f"> {low:g}" if high is None else f"{low:g}–{high:g}"


def error_buckets(analysis: ErrorAnalysis, *, simulated: bool) -> Figure:
    """Average mAP_N and percentage of missed instances by length, coverage and number of instances.

    A characteristic that is unknown for all instances is left out, as coverage is if no video has a duration.
    """
    buckets = {name: parts for name, parts in analysis.buckets.items() if sum(part.instances for part in parts)}
    figure = new_figure(4.8, simulated=simulated)
    widths = [len(parts) for parts in buckets.values()]
    axes = figure.subplots(2, len(buckets), squeeze=False, width_ratios=widths, sharey="row")
    rows = (("average_mAP_N", "average mAP_N, %", GREEN), ("average_missed", "missed instances, %", RED))
    for i, ((value, label, colour), row) in enumerate(zip(rows, axes, strict=True)):
        for ax, (name, parts) in zip(row, buckets.items(), strict=True):
            heights = [np.nan if height is None else height for height in (getattr(part, value) for part in parts)]
            ax.bar(range(len(parts)), np.nan_to_num(heights), color=colour, width=0.7)
            for x, height in enumerate(heights):
                text = "none" if np.isnan(height) else f"{height:.1f}"
                box = {"facecolor": "white", "linewidth": 0, "pad": 0.6, "alpha": 0.85}
                ax.text(x, np.nan_to_num(height) + 2.5, text, ha="center", fontsize=7, bbox=box)
            names = [f"{bucket_name(part, name)}\nn={part.instances}" for part in parts]
            ax.set_xticks(range(len(parts)), names, fontsize=6.5)
            ax.set_ylim(0, 115)
            ax.grid(axis="y")
            if i == 1:
                ax.set_xlabel(BUCKET_TITLES[name])
        row[0].set_ylabel(label)
    for ax in axes[0]:
        ax.axhline(analysis.average_mAP_N, color=INK, linewidth=1, linestyle="--", zorder=1.5)
    handle = Line2D([], [], color=INK, linewidth=1, linestyle="--", label="over all instances")
    axes[0, 0].legend(handles=[handle], loc="upper left", fontsize=7)
    return figure


# -------------------------------------------------------------------------------------------- two runs


def difference_bars(table: pd.DataFrame, label: str, *, simulated: bool) -> Figure:
    """Differences with their intervals; the table is indexed by name and comes from `eval.bootstrap.differences`."""
    columns = 1 if len(table) <= 40 else 2 if len(table) <= 110 else 3
    each = int(np.ceil(len(table) / columns))
    size = 8.5 if columns == 1 else 6
    figure = new_figure(1.0 + each * 0.0235 * size, simulated=simulated)
    axes = figure.subplots(1, columns, squeeze=False, sharex=True)[0]
    for ax, start in zip(axes, range(0, each * columns, each), strict=True):
        rows = table.iloc[start : start + each]
        values = zip(*(rows[name].tolist() for name in ("difference", "low", "high", "more_than_noise")), strict=True)
        for y, (difference, low, high, is_significant) in enumerate(values):
            colour = (BLUE if difference > 0 else RED) if is_significant else GREY
            ax.plot([low, high], [y, y], color=colour, linewidth=1.4)
            ax.plot(difference, y, "o", color=colour, markersize=3.5)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_yticks(range(len(rows)), [short(str(name), 24) for name in rows.index], fontsize=size)
        ax.set_ylim(each - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
    axes[columns // 2].set_xlabel(label, fontsize=8.5)  # a label of the figure would lie under the legend
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=3.5, label=text)
        for colour, text in (
            (BLUE, "higher, exceeds noise"),
            (RED, "lower, exceeds noise"),
            (GREY, "may be noise of the test videos"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7.5)
    return figure
