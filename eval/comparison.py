"""The page that lays runs side by side, and says which of their differences are more than noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from eval import pictures
from eval.compare import DRAWS, LEVEL, differences, draw_videos
from eval.curves import Matched
from eval.detection import TIOU_THRESHOLDS
from eval.errors import KINDS
from eval.page import Page
from eval.protocols import PROTOCOLS, as_arrays


@dataclass(frozen=True)
class Run:
    """One of the runs."""

    name: str
    detections: pd.DataFrame  # that count, see `eval.files.detection_table`
    analysis: Mapping[str, Any]  # see `eval.errors.analyse_errors`


def build_comparison(
    runs: Sequence[Run],
    *,
    title: str,
    truth: pd.DataFrame,
    videos: Sequence[str],
    class_names: Sequence[str],
    tiou: str,
    rate: float,
    seed: int,
    simulated: bool,
) -> tuple[Page, str]:
    """Compare each run with the first.

    Args:
        runs: two or more, on the same videos.
        title: of the page.
        truth: see `eval.protocols.evaluate`.
        videos: V test videos.
        class_names: C names.
        tiou: a key of `TIOU_THRESHOLDS`.
        rate: snippets per second.
        seed: of the draws of the bootstrap.
        simulated: whether the data are.

    Returns:
        The page, and the differences at each threshold as text.
    """
    page, texts = Page(title, simulated=simulated), []
    drawn = draw_videos(len(videos), seed)
    number_of = {video: i for i, video in enumerate(videos)}
    matched = {protocol: [] for protocol in PROTOCOLS}
    for run in runs:
        for protocol, own in matched.items():
            arrays = as_arrays(run.detections, truth, protocol, rate)
            for part, table in zip(arrays, (run.detections, truth), strict=True):
                part["video"] = table["video"].map(number_of).to_numpy()
            own.append(Matched(*arrays, len(class_names), TIOU_THRESHOLDS[tiou]))

    page.text(
        f"Each run is compared with the first, {runs[0].name}, on the same {len(videos)} test videos. Whether a "
        f"difference is more than noise is told by a paired bootstrap: {DRAWS} times the test videos are drawn with "
        "replacement, and both runs evaluated on the draw. Intervals hold 95% of the draws. What it cannot see is how "
        "much another seed would change either run."
    )
    with pictures.styled():
        _show_both(page, runs, matched["snippet"])
        for i, run in enumerate(runs[1:], 1):
            page.section(f"{run.name} minus {runs[0].name}")
            for protocol in PROTOCOLS:
                first, second = matched[protocol][0], matched[protocol][i]
                by_threshold, by_class = differences(first, second, drawn, class_names)
                texts.append(f"{run.name} minus {runs[0].name}, {protocol} protocol\n{as_text(by_threshold)}")
                _show_thresholds(page, by_threshold, protocol, i, simulated=simulated)
                if protocol == "snippet":
                    _show_classes(page, by_class, i, simulated=simulated)
    return page, "\n\n".join(texts)


def as_text(table: pd.DataFrame) -> str:
    """Differences as printed."""
    shown = table.drop(columns="more_than_noise").map("{:.2f}".format)
    shown["p"] = table["p"].map("{:.3f}".format)
    shown[""] = np.where(table["more_than_noise"], "more than noise", "")
    return shown.rename_axis("mAP @ tIoU").to_string()


def _rows(table: pd.DataFrame) -> list[list[object]]:
    return [
        [
            str(row.Index),
            row.first,
            row.second,
            f"{row.difference:+.1f}",
            f"{row.low:+.1f} to {row.high:+.1f}",
            f"{row.p:.3f}",
            "yes" if row.more_than_noise else "no",
        ]
        for row in table.itertuples()
    ]


HEADERS = ("first", "second", "difference", "95% interval", "p", "more than noise")


def _show_both(page: Page, runs: Sequence[Run], matched: Sequence[Matched]) -> None:
    page.section("The runs")
    thresholds = [f"{t:g}" for t in matched[0].thresholds]
    rows = []
    for run, own in zip(runs, matched, strict=True):
        mean = 100 * np.nanmean(own.class_precision(), axis=0)
        rows.append([run.name, *mean.tolist(), float(mean.mean())])
    mark = " Simulated data." if page.simulated else ""
    page.table(["mAP, %, at tIoU", *thresholds, "average"], rows, caption=f"Snippet protocol.{mark}")
    page.table(
        ["run", "average mAP_N, %", *KINDS[1:]],
        [
            [run.name, run.analysis["average_mAP_N"], *(gain["average"] for gain in run.analysis["gain"].values())]
            for run in runs
        ],
        caption="What average mAP_N would gain without the errors of a kind, percentage points, in seconds (see a "
        f"run's own report).{mark}",
    )


def _show_thresholds(page: Page, table: pd.DataFrame, protocol: str, i: int, *, simulated: bool) -> None:
    page.heading(f"By tIoU, {protocol} protocol")
    page.picture(
        f"comparison_{i}_tiou_{protocol}",
        pictures.difference_bars(table, "difference in mAP, percentage points", simulated=simulated),
        f"Difference in mAP at each tIoU with its 95% interval, {protocol} protocol.",
    )
    page.table(["tIoU", *HEADERS], _rows(table), strong=[len(table) - 1])


def _show_classes(page: Page, table: pd.DataFrame, i: int, *, simulated: bool) -> None:
    page.heading("By class, snippet protocol")
    table = table.sort_values("difference", ascending=False, kind="stable")
    page.picture(
        f"comparison_{i}_classes",
        pictures.difference_bars(table, "difference in average precision, percentage points", simulated=simulated),
        "Difference in each class's average precision, mean over the tIoU thresholds, with its 95% interval. Since "
        "there are many classes, one is said to be more than noise where Benjamini and Hochberg's procedure finds it "
        f"at {100 * LEVEL:g}%.",
    )
    page.table(["class", *HEADERS], _rows(table))
