"""The comparison of runs: how they differ, and which differences exceed the noise of the choice of test videos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from eval.bootstrap import FEWEST_DRAWS, LEVEL, MIN_VIDEOS, differences, draw_videos, num_draws
from eval.detection import Matched
from eval.errors import KINDS
from eval.results import PROTOCOLS
from eval.segments import to_segments
from report import pictures
from report.detections_page import NO_TRUTH, compare_detections
from report.fonts import find_fonts
from report.page import Page, signed
from report.reading import ReportData
from utils import shorten_list

SIGNIFICANT = "exceeds noise of the test videos"
UNKNOWN = "unknown"
NOT_COMPARED = ("exp_dir", "resume", "overwrite")  # options that do not change what is trained


class ComparedRun(NamedTuple):
    """One of the runs."""

    name: str
    data: ReportData


def build_comparison(runs: Sequence[ComparedRun], seed: int) -> tuple[Page, str]:
    """Compare each run with the first.

    Args:
        runs: two or more. Compared are the videos that all of them have; others have no features in some.
        seed: of the draws of the bootstrap.

    Returns:
        The page, and the differences at each threshold as text.
    """
    first, in_all = runs[0].data, set.intersection(*(set(run.data.labels.index) for run in runs))
    videos, class_names = [video for video in first.labels.index if video in in_all], first.class_names
    truth = first.truth[first.truth["video"].isin(in_all)]

    @cache
    def matched(i: int, protocol: str) -> Matched:
        detections = runs[i].data.detections
        segments = to_segments(detections[detections["video"].isin(in_all)], truth, protocol, first.rate, videos)
        return Matched(*segments, len(class_names), first.tiou_protocol.thresholds)

    page = Page(f"SEAL comparison: {first.dataset}", simulated=any(run.data.simulated for run in runs))
    if first.analysis is None:
        page.section("The runs")
        page.text(NO_TRUTH)
        page.table(*compare_detections({run.name: run.data for run in runs}))
        _show_options(page, runs)
        return page, NO_TRUTH
    texts = []
    drawn = draw_videos(len(videos), seed, num_draws(len(class_names)))
    _introduce(page, runs, len(videos), len(drawn))
    with pictures.styled(find_fonts(class_names)):
        _show_runs(page, runs, [matched(i, "snippet") for i in range(len(runs))])
        for i, run in enumerate(runs[1:], 1):
            page.section(f"{run.name} minus {runs[0].name}")
            for protocol in PROTOCOLS:
                # Classes are tested with one protocol alone; the intervals of the other need no more draws than these.
                of_protocol = drawn if protocol == "snippet" else drawn[:FEWEST_DRAWS]
                both = matched(0, protocol), matched(i, protocol)
                by_threshold, by_class = differences(*both, of_protocol, class_names)
                texts.append(f"{run.name} minus {runs[0].name}, {protocol} protocol\n{as_text(by_threshold)}")
                _show_thresholds(page, by_threshold, protocol, i)
                if protocol == "snippet":
                    _show_classes(page, by_class, i)
    return page, "\n\n".join(texts)


def as_text(table: pd.DataFrame) -> str:
    """Differences as printed."""
    shown = table.drop(columns="more_than_noise").map("{:.2f}".format)
    shown["p"] = table["p"].map("{:.3f}".format)
    shown[""] = np.where(table["more_than_noise"], SIGNIFICANT, "")
    return shown.rename_axis("mAP @ tIoU").to_string()


def _introduce(page: Page, runs: Sequence[ComparedRun], num_videos: int, draws: int) -> None:
    fewer = f" ({FEWEST_DRAWS} times for the seconds protocol)" if draws > FEWEST_DRAWS else ""
    page.text(
        f"Each run is compared with the first, {runs[0].name}, on the same {num_videos} test videos. A paired "
        "bootstrap shows whether a difference exceeds the noise from the choice of test videos: the videos are drawn "
        f"{draws} times with replacement{fewer}, and both runs are evaluated on each draw. Intervals hold the middle "
        "95% of the draws."
    )
    if left_out := {video for run in runs for video in run.data.without_features}:
        page.text(f"Left out, since they have no features in some run: {shorten_list(sorted(left_out))}.")
    spreads = [(run.name, run.data.seeds.spreads["last"]["snippet"]) for run in runs if run.data.seeds]
    deviations = [f"{name}: {spread.average_std:.1f}" for name, spread in spreads if spread.average_std is not None]
    page.text(
        "The bootstrap does not measure how much a run changes with its seed, which may be more. "
        + (
            f"The standard deviation of average mAP over the seeds is {', '.join(deviations)}; that of the difference "
            "of two single runs is 1.4 times as large."
            if deviations
            else "Train with --seeds to measure it."
        )
    )


def _show_runs(page: Page, runs: Sequence[ComparedRun], matched: Sequence[Matched]) -> None:
    page.section("The runs")
    mark = " Simulated data." if page.simulated else ""
    thresholds = [f"{t:g}" for t in matched[0].thresholds]
    means = [100 * np.nanmean(one.class_precision(), axis=0) for one in matched]
    page.table(
        ["mAP, %, at tIoU", "average", *thresholds, "weights"],
        [[run.name, float(m.mean()), *m.tolist(), run.data.source] for run, m in zip(runs, means, strict=True)],
        caption=f"Snippet protocol.{mark}",
    )
    _show_options(page, runs)
    page.table(
        ["run", "average mAP_N, %", *KINDS[1:]],
        [
            [run.name, analysis.average_mAP_N, *(gain.average for gain in analysis.gain.values())]
            for run in runs
            if (analysis := run.data.analysis)
        ],
        caption="Gain in average mAP_N without the errors of each type, percentage points, seconds protocol (explained "
        f"in the report on a run).{mark}",
    )


def _show_options(page: Page, runs: Sequence[ComparedRun]) -> None:
    known = [run for run in runs if run.data.options]
    if unknown := [run.name for run in runs if not run.data.options]:
        page.text(f"The options of {', '.join(unknown)} are unknown: the folder has no options.json.", soft=True)
    names = dict.fromkeys(name for run in known for name in run.data.options if name not in NOT_COMPARED)
    rows = {name: [_option(run.data.options.get(name, UNKNOWN)) for run in known] for name in names}
    differing = {name: values for name, values in rows.items() if len(set(values)) > 1}
    if differing:
        page.table(
            ["option", *(run.name for run in known)],
            [[name, *values] for name, values in differing.items()],
            caption="The options that differ.",
        )


def _option(value: object) -> str:
    """The value of an option as one types it."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rows(table: pd.DataFrame) -> list[list[object]]:
    columns = ("difference", "low", "high", "more_than_noise", "p", "first", "second")
    values = zip(map(str, table.index), *(table[name].tolist() for name in columns), strict=True)
    return [
        [name, signed(difference), f"{signed(low)} to {signed(high)}", "yes" if noted else "no", f"{p:.3f}", *averages]
        for name, difference, low, high, noted, p, *averages in values
    ]


HEADERS = ("difference", "95% interval", SIGNIFICANT, "p", "first run", "this run")


def _show_thresholds(page: Page, table: pd.DataFrame, protocol: str, i: int) -> None:
    page.heading(f"By tIoU, {protocol} protocol")
    page.picture(
        f"comparison_{i}_tiou_{protocol}",
        pictures.difference_bars(table, "difference in mAP, percentage points", simulated=page.simulated),
        f"Difference in mAP at each tIoU with its 95% interval over draws of test videos, {protocol} protocol. "
        "Variation between seeds is not included.",
    )
    page.table(
        ["tIoU", *HEADERS],
        _rows(table),
        strong=[len(table) - 1],
        caption="A difference exceeds the noise if its interval excludes zero. Each row is tested on its own; with "
        "several rows, rely on the average.",
    )


def _show_classes(page: Page, table: pd.DataFrame, i: int) -> None:
    page.heading("By class, snippet protocol")
    table = table.sort_values("difference", ascending=False, kind="stable")
    page.picture(
        f"comparison_{i}_classes",
        pictures.difference_bars(table, "difference in average precision, percentage points", simulated=page.simulated),
        "Difference in each class's average precision, mean over the tIoU thresholds, with its 95% interval over "
        "draws of test videos. Variation between seeds is not included.",
    )
    page.table(
        ["class", *HEADERS],
        _rows(table),
        caption="A difference exceeds the noise if the class has at least "
        f"{MIN_VIDEOS} videos and the Benjamini-Hochberg procedure at {100 * LEVEL:g}% rejects equality. With many "
        "classes this is stricter than an interval that excludes zero.",
    )
