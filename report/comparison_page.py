"""The page that lays runs side by side, and says which of their differences are more than noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from eval.bootstrap import LEAST_VIDEOS, LEVEL, differences, draw_videos, num_draws
from eval.detection import Matched
from eval.errors import KINDS
from eval.evaluation import PROTOCOLS, as_arrays
from eval.protocols import TiouProtocol
from report import pictures
from report.page import Page, signed

NOISE = "more than noise of the test videos"


@dataclass(frozen=True)
class Run:
    """One of the runs."""

    name: str
    detections: pd.DataFrame  # that count, see `eval.tables.detection_table`
    analysis: Mapping[str, Any]  # see `eval.errors.analyse_errors`
    source: str  # which weights
    options: Mapping[str, str] = field(default_factory=dict)  # of the run, where they are known
    seed_deviation: float | None = None  # of the snippet average over its seeds, where there are several


def build_comparison(
    runs: Sequence[Run],
    *,
    title: str,
    truth: pd.DataFrame,
    videos: Sequence[str],
    class_names: Sequence[str],
    tiou_protocol: TiouProtocol,
    rate: float,
    seed: int,
    simulated: bool,
) -> tuple[Page, str]:
    """Compare each run with the first.

    Args:
        runs: two or more, on the same videos.
        title: of the page.
        truth: see `eval.evaluation.evaluate`.
        videos: V test videos.
        class_names: C names.
        tiou_protocol: with the thresholds.
        rate: snippets per second.
        seed: of the draws of the bootstrap.
        simulated: whether the data are.

    Returns:
        The page, and the differences at each threshold as text.
    """

    def matched(run: Run, protocol: str) -> Matched:
        arrays = as_arrays(run.detections, truth, protocol, rate, videos)
        return Matched(*arrays, len(class_names), tiou_protocol.thresholds)

    page, texts = Page(title, simulated=simulated), []
    drawn = draw_videos(len(videos), seed, num_draws(len(class_names)))
    _say_what_it_is(page, runs, len(videos), len(drawn))
    with pictures.styled():
        _show_all(page, runs, [matched(run, "snippet") for run in runs])
        for i, run in enumerate(runs[1:], 1):
            page.section(f"{run.name} minus {runs[0].name}")
            for protocol in PROTOCOLS:
                both = matched(runs[0], protocol), matched(run, protocol)
                by_threshold, by_class = differences(*both, drawn, class_names)
                texts.append(f"{run.name} minus {runs[0].name}, {protocol} protocol\n{as_text(by_threshold)}")
                _show_thresholds(page, by_threshold, protocol, i)
                if protocol == "snippet":
                    _show_classes(page, by_class, i)
    return page, "\n\n".join(texts)


def as_text(table: pd.DataFrame) -> str:
    """Differences as printed."""
    shown = table.drop(columns="more_than_noise").map("{:.2f}".format)
    shown["p"] = table["p"].map("{:.3f}".format)
    shown[""] = np.where(table["more_than_noise"], NOISE, "")
    return shown.rename_axis("mAP @ tIoU").to_string()


def _say_what_it_is(page: Page, runs: Sequence[Run], num_videos: int, draws: int) -> None:
    page.text(
        f"Each run is compared with the first, {runs[0].name}, on the same {num_videos} test videos. A paired "
        "bootstrap tells whether a difference is more than the noise that the choice of test videos makes: "
        f"{draws} times as many of them are drawn with replacement, and both runs evaluated on the draw. Intervals "
        "hold the middle 95% of the draws."
    )
    known = [f"{run.name}: {run.seed_deviation:.1f}" for run in runs if run.seed_deviation is not None]
    page.text(
        "It does not see how much another seed would change either run, which may be more: "
        + (
            f"the standard deviation of average mAP over the seeds is {', '.join(known)}; that of a difference of two "
            "single runs is 1.4 times as large."
            if known
            else "train with --seeds to know."
        )
    )


def _show_all(page: Page, runs: Sequence[Run], matched: Sequence[Matched]) -> None:
    page.section("The runs")
    mark = " Simulated data." if page.simulated else ""
    thresholds = [f"{t:g}" for t in matched[0].thresholds]
    means = [100 * np.nanmean(own.class_precision(), axis=0) for own in matched]
    page.table(
        ["mAP, %, at tIoU", "average", *thresholds, "weights"],
        [[run.name, float(m.mean()), *m.tolist(), run.source] for run, m in zip(runs, means, strict=True)],
        caption=f"Snippet protocol.{mark}",
    )
    names = dict.fromkeys(name for run in runs for name in run.options)
    lines = {name: [run.options.get(name, "not known") for run in runs] for name in names}
    differing = {name: values for name, values in lines.items() if len(set(values)) > 1}
    if differing:
        page.table(
            ["option", *(run.name for run in runs)],
            [[name, *values] for name, values in differing.items()],
            caption="The options that differ.",
        )
    page.table(
        ["run", "average mAP_N, %", *KINDS[1:]],
        [
            [run.name, run.analysis["average_mAP_N"], *(gain["average"] for gain in run.analysis["gain"].values())]
            for run in runs
        ],
        caption="What average mAP_N would gain without the errors of a kind, percentage points, in seconds (see a "
        f"run's own report).{mark}",
    )


def _rows(table: pd.DataFrame) -> list[list[object]]:
    return [
        [
            str(row.Index),
            signed(row.difference),
            f"{signed(row.low)} to {signed(row.high)}",
            "yes" if row.more_than_noise else "no",
            f"{row.p:.3f}",
            row.first,
            row.second,
        ]
        for row in table.itertuples()
    ]


HEADERS = ("difference", "95% interval", NOISE, "p", "the first", "this run")


def _show_thresholds(page: Page, table: pd.DataFrame, protocol: str, i: int) -> None:
    page.heading(f"By tIoU, {protocol} protocol")
    page.picture(
        f"comparison_{i}_tiou_{protocol}",
        pictures.difference_bars(table, "difference in mAP, percentage points", simulated=page.simulated),
        f"Difference in mAP at each tIoU with its 95% interval over draws of test videos, {protocol} protocol. Other "
        "seeds are not in it.",
    )
    page.table(
        ["tIoU", *HEADERS],
        _rows(table),
        strong=[len(table) - 1],
        caption="More than noise where the interval leaves out zero. Each line is taken by itself: with many lines, "
        "the average is the one to go by.",
    )


def _show_classes(page: Page, table: pd.DataFrame, i: int) -> None:
    page.heading("By class, snippet protocol")
    table = table.sort_values("difference", ascending=False, kind="stable")
    page.picture(
        f"comparison_{i}_classes",
        pictures.difference_bars(table, "difference in average precision, percentage points", simulated=page.simulated),
        "Difference in each class's average precision, mean over the tIoU thresholds, with its 95% interval over "
        "draws of test videos. Other seeds are not in it.",
    )
    page.table(
        ["class", *HEADERS],
        _rows(table),
        caption="Since there are many classes, one is more than noise where Benjamini and Hochberg's procedure finds "
        f"it at {100 * LEVEL:g}%, which asks for more than an interval without zero, and {LEAST_VIDEOS} videos or more "
        "have it.",
    )
