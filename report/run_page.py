"""The report on a run, or on a file of detections: mAP, classes, curves, labels, training, videos and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eval.curves import RECALL, label_confusion, mean_curve, video_precision
from eval.detection import Matched
from eval.errors import KINDS, ErrorAnalysis
from eval.results import BASELINES, PROTOCOLS, ProtocolResult, Results, extra_summary, reported_labels
from eval.segments import Detections, Segments, to_segments
from report import pictures
from report.detections_page import show_detections, videos_by_score
from report.fonts import find_fonts
from report.page import Page
from report.reading import ReportData
from report.timelines import TYPES_AT, Timeline, timeline_detections, timeline_truth, timelines
from runs.seeds import seeds_rows
from utils import __version__, shorten_list

SHOWN = 2  # best, median and worst videos


def build_report(data: ReportData) -> Page:
    """The page, with its pictures."""
    page = Page(f"SEAL report: {data.dataset}", simulated=data.simulated)
    videos = list(data.labels.index)
    with pictures.styled(find_fonts([*data.class_names, *videos])):
        _introduce(page, data)
        if data.analysis is None:
            show_detections(page, data)
            _show_labels(page, data)
            _show_training(page, data)
            _show_videos(page, data, videos_by_score(data.detections, videos))
        else:
            segments = to_segments(data.detections, data.truth, data.figures.chosen_by, data.rate, videos)
            matched = Matched(*segments, len(data.class_names), data.tiou_protocol.thresholds)
            _show_seeds(page, data)
            _show_map(page, data)
            _show_classes(page, data, matched)
            _show_curves(page, data, segments)
            _show_labels(page, data)
            _show_training(page, data)
            _show_videos(page, data, {videos[i]: value for i, value in video_precision(matched).items()})
            _show_errors(page, data, data.analysis)
        if data.options_text:
            page.section("Options")
            page.listing(data.options_text)
    return page


def _introduce(page: Page, data: ReportData) -> None:
    videos, classes = len(data.labels), data.truth["class_idx"].nunique()
    page.text(
        f"SEAL {__version__}. {data.source}. Dataset {data.dataset}, subset {data.subset}: {videos} test "
        f"videos with {len(data.truth)} instances of {classes} classes; {len(data.detections)} detections."
    )
    if data.figures.left_out:
        page.text(f"All figures are {data.figures.left_out.text}.")
    if data.results and (names := data.results.train_left_out):
        page.text(f"{len(names)} of the training videos left out, without features: {shorten_list(names)}.", soft=True)
    if without := sorted(set(data.labels.index) - set(data.detections["video"])):
        page.text(f"{len(without)} videos have no detections: {shorten_list(without)}.", soft=True)


def _show_map(page: Page, data: ReportData) -> None:
    page.section("Mean average precision")
    figures, given = data.figures, data.results
    *others, headline = data.tiou_protocol.means_of(figures.snippet.mAP)
    thresholds = [f"{t:g}" for t in figures.snippet.tiou]
    dataset = "simulated" if data.simulated else data.dataset

    def row(name: str, protocol: str, result: ProtocolResult) -> list[object]:
        *of_others, of_headline = data.tiou_protocol.means_of(result.mAP).values()
        return [name, of_headline, *result.mAP, *of_others, protocol, dataset]

    last, best = (given.epoch, given.best) if given else (None, None)
    name = f"epoch {last}, the last" if last else "these detections"
    if given and given.chosen:
        name = given.chosen.text
    if last and best and last == best.epoch:
        name += ", also the best on the test set"
    rows = [row(name, protocol, figures.of(protocol)) for protocol in PROTOCOLS]
    if best and last != best.epoch:
        name = f"epoch {best.epoch}, the best on the test set"
        rows += [row(name, protocol, best.results.of(protocol)) for protocol in PROTOCOLS]
    baselines = given.results.baselines if given else {}
    rows += [
        row(BASELINES[name], protocol, one.of(protocol)) for name, one in baselines.items() for protocol in PROTOCOLS
    ]
    if figures.left_out:
        missed = figures.left_out
        name = f"{rows[0][0]}; videos without features as missed"
        rows += [row(name, protocol, missed.as_missed.of(protocol)) for protocol in PROTOCOLS]
    published = data.tiou_protocol.published
    empty = [None] * (len(thresholds) + len(others))
    rows += [[row.method, row.mean, *empty, "snippet", f"{row.dataset}, real"] for row in published]
    page.table(["mAP, %, at tIoU", headline, *thresholds, *others, "protocol", "data"], rows, strong=[0])
    notes = [
        "The snippet protocol rounds the ground truth to whole snippets, as the published figures do; the seconds "
        "protocol rounds nothing."
    ]
    if figures.chosen_by == "seconds":
        notes.append(
            "Too many instances become nothing or one snippet when rounded, so the best epoch is chosen, and the rest "
            "of this page made, by the seconds protocol."
        )
    if published:
        notes.append(
            f"Published rows are on real {published[0].dataset}; do not compare them with figures on other data."
        )
    if best:
        notes.append(
            f"The best epoch was chosen on the test set{best.results.how_chosen}, so compare the last epoch with other "
            "methods."
        )
    page.text(" ".join(notes), soft=True)
    classification = given.results.classification if given else None
    if classification is not None and data.labels.to_numpy().any():
        mean = "n/a" if classification.mAP is None else f"{classification.mAP:.1f}"
        page.text(
            f"Video classification: mAP {mean}, accuracy {classification.accuracy:.1f}% (videos with exactly their "
            "labels)."
            + ("" if classification.recall is None else f" The detections {reported_labels(classification)}.")
        )
    extra = {**figures.extra, **(given.results.extra if given else {})}
    if extra:
        page.text(f"Further metrics: {extra_summary(extra)}.")


def _show_seeds(page: Page, data: ReportData) -> None:
    if data.seeds is None:
        return
    page.section("Seeds")
    seeds = data.seeds
    tiou = [f"{t:g}" for t in seeds.tiou]
    mark = ", simulated data" if data.simulated else ""
    page.table(
        ["mAP, %, at tIoU", "average", *tiou],
        [[name, cells[-1], *cells[:-1]] for name, cells in seeds_rows(seeds).items()],
        caption=f"Mean and standard deviation (n - 1) over {len(seeds.seeds)} runs{mark}.",
        strong=[0],
    )
    page.table(
        ["seed", "average of the last epoch", "of the best epoch"],
        zip(map(str, seeds.seeds), seeds.averages["last"], seeds.averages["best"], strict=True),
        caption=f"Each run, {data.figures.chosen_by} protocol{mark}.",
    )
    page.text(f"The rest of this page is about one run: {data.source}.")


def _show_classes(page: Page, data: ReportData, matched: Matched) -> None:
    page.section("Classes")
    precision = 100 * matched.class_precision()  # [C, K]
    present = np.flatnonzero(matched.num_instances)
    means = {data.class_names[i]: float(precision[i].mean()) for i in present}
    page.picture(
        "class_average_precision",
        pictures.class_bars(means, "average precision, %, mean over the tIoU thresholds", simulated=page.simulated),
        f"Average precision of each class, mean over the tIoU thresholds, {data.figures.chosen_by} protocol.",
    )
    order = sorted(present, key=lambda i: -precision[i].mean())
    page.table(
        ["class", "instances", *(f"{t:g}" for t in matched.thresholds), "mean"],
        [
            [data.class_names[i], int(matched.num_instances[i]), *precision[i].tolist(), float(precision[i].mean())]
            for i in order
        ],
        caption=f"Average precision, %, at each tIoU, {data.figures.chosen_by} protocol.",
    )


def _show_curves(page: Page, data: ReportData, segments: tuple[Detections, Segments]) -> None:
    page.section("Precision and recall")
    thresholds = np.sort(data.curve_tiou)
    matched = Matched(*segments, len(data.class_names), thresholds)
    curves, precision = mean_curve(matched), matched.class_precision()
    named = {f"tIoU {t:g}, mAP {100 * np.nanmean(precision[:, k]):.1f}": curves[:, k] for k, t in enumerate(thresholds)}
    page.picture(
        "precision_recall",
        pictures.precision_recall(named, RECALL, simulated=page.simulated),
        f"Interpolated precision over recall, mean over the classes, {data.figures.chosen_by} protocol. The area under "
        "a curve is the mAP.",
    )


def _show_labels(page: Page, data: ReportData) -> None:
    page.section("Video labels")
    if not data.labels.to_numpy().any():
        page.text("The test videos have no labels.")
        return
    counts = label_confusion(data.detections, data.labels)
    videos = data.labels.sum().to_numpy()
    share = np.where(videos[:, None] > 0, 100 * counts.to_numpy() / np.maximum(videos, 1)[:, None], np.nan)
    page.picture(
        "label_confusion",
        pictures.confusion(share, data.class_names, simulated=page.simulated),
        "Percentage of the videos of a class (row) that have detections of a class (column). Detections of another "
        "label of the same video are correct and not counted. Rows need not add up to 100: a video may have "
        "detections of several classes, or none of its own.",
    )
    table = counts.to_numpy().copy()
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:10]
    pairs = [(row, column) for row, column in zip(*np.unravel_index(order, table.shape), strict=True)]
    names = data.class_names
    rows = [[names[r], names[c], int(table[r, c]), float(share[r, c])] for r, c in pairs if table[r, c]]
    if rows:
        page.table(["class of the video", "reported", "videos", "%"], rows, caption="The most frequent confusions.")
    else:
        page.text("All detections are of labels of their video.")


def _show_training(page: Page, data: ReportData) -> None:
    if data.metrics is None or data.metrics.losses.empty:
        return
    maps = _map_over_epochs(data.metrics.evaluations)
    page.section("Training")
    page.picture(
        "training",
        pictures.training_curves(data.metrics.losses, maps, simulated=page.simulated),
        "Loss terms, mean over each epoch, without their weights (the suppressed MIL term includes its factor 0.5)"
        + (f"; below, mAP on the test set, {data.figures.chosen_by} protocol." if len(maps) else "."),
    )


def _map_over_epochs(evaluations: Mapping[int, Results]) -> pd.DataFrame:
    """mAP at a few thresholds and its mean, by the protocol that epochs are compared by: a row for each epoch."""
    rows = {}
    for epoch, results in evaluations.items():
        result = results.of(results.chosen_by)
        first, last = result.tiou[0], result.tiou[-1]
        values = dict(zip(result.tiou, result.mAP, strict=True))
        rows[epoch] = {f"tIoU {t:g}": values[t] for t in sorted({first, 0.3, 0.5, 0.7, last}) if t in values}
        rows[epoch][f"mean {first:g} : {last:g}"] = result.average
    return pd.DataFrame.from_dict(rows, orient="index")


def _show_videos(page: Page, data: ReportData, figures: Mapping[str, float]) -> None:
    """Timelines of the best, median and worst videos by a figure, their mAP or, without ground truth, best score."""
    page.section("Videos")
    by_score = data.analysis is None
    ranked = sorted(figures, key=lambda name: (-figures[name], name))
    grey = " Grey area: number of proposals over time." if data.proposals else ""
    if by_score:
        shown = (
            "The test videos with the highest, median and lowest best score, and the best three detections of a class."
        )
    else:
        shown = (
            "The best, median and worst test videos, each evaluated by itself. Black: ground truth. Below it: the best "
            "detections of the class, at most three for each instance, coloured by error type at tIoU "
            f"{TYPES_AT:g} (see Errors). Absent: a class that was detected but is not in the video."
        )
    page.text(shown + grey, soft=True)
    middle = max(0, (len(ranked) - SHOWN) // 2)
    groups = {"best": ranked[:SHOWN], "median": ranked[middle : middle + SHOWN], "worst": ranked[-SHOWN:]}
    drawn: set[str] = set()
    measure = "best score in" if by_score else "average mAP of"
    for group, names in groups.items():
        videos = [name for name in names if name not in drawn]
        drawn |= set(videos)
        if videos:
            figure = timelines(_timelines(data, videos, figures), simulated=page.simulated)
            page.picture(f"videos_{group}", figure, f"The {group} by {measure} the video: {', '.join(videos)}.")


def _timelines(data: ReportData, videos: Sequence[str], figures: Mapping[str, float]) -> list[Timeline]:
    detections, truth = (table[table["video"].isin(videos)] for table in (data.detections, data.truth))
    shown, instances = timeline_detections(detections, truth, data.class_names), timeline_truth(truth, data.class_names)
    lines, by_score = [], data.analysis is None
    for video in videos:
        proposals = data.proposals.get(video, np.empty((0, 2)))
        length = data.lengths.get(video, np.nan)
        if np.isnan(length):  # unknown: up to the end of the last segment
            ends = [table.loc[table["video"] == video, "end_sec"].max() for table in (detections, truth)]
            length = float(np.nanmax([*ends, proposals.max(initial=0.0)]))
        figure = f"best score {figures[video]:.3f}" if by_score else f"average mAP {100 * figures[video]:.1f}"
        lines.append(Timeline(f"{video}: {figure}", length, instances.get(video, {}), shown.get(video, {}), proposals))
    return lines


def _show_errors(page: Page, data: ReportData, analysis: ErrorAnalysis) -> None:
    page.section("Errors")
    simulated = page.simulated
    _explain_error_types(page, analysis)
    k = int(np.argmin(np.abs(np.array(analysis.tiou) - TYPES_AT)))
    page.picture(
        "error_shares",
        pictures.error_shares(analysis, k, simulated=simulated),
        f"Types of the top detections of each class at tIoU {analysis.tiou[k]:g}; 1× is as many detections as the "
        "class has instances.",
    )
    page.picture(
        "error_gains",
        pictures.error_gains(analysis, simulated=simulated),
        f"Gain in average mAP_N, which is {analysis.average_mAP_N:.1f}%, without the errors of each type.",
    )
    gains = {kind: gain.average for kind, gain in analysis.gain.items()}
    page.table(
        ["type", *(f"{t:g}" for t in analysis.tiou), "gain"],
        [[kind, *(shares[-1] for shares in analysis.shares[kind]), gains.get(kind)] for kind in KINDS],
        caption="Share of the top 10× detections, %, at each tIoU, and gain in average mAP_N, percentage points.",
    )
    page.picture(
        "error_buckets",
        pictures.error_buckets(analysis, simulated=simulated),
        "Average mAP_N, and percentage of missed instances (mean over the tIoU thresholds), by length of the instance, "
        "by its coverage (share of the video), and by the number of instances of the class in the video. An upper "
        "bound belongs to its bucket; n is the number of instances in a bucket.",
    )
    page.table(
        ["instances", "number", "average mAP_N, %", "missed, %"],
        [
            [
                f"{pictures.BUCKET_TITLES[name]}: {pictures.bucket_name(bucket, name)}",
                bucket.instances,
                bucket.average_mAP_N,
                bucket.average_missed,
            ]
            for name, buckets in analysis.buckets.items()
            for bucket in buckets
            if any(other.instances for other in buckets)
        ],
    )
    if not any(bucket.instances for bucket in analysis.buckets["coverage"]):
        page.text("Video durations are unknown; no breakdown by coverage.")


def _explain_error_types(page: Page, analysis: ErrorAnalysis) -> None:
    page.text(
        "After Alwassel et al., Diagnosing Error in Temporal Action Detectors (ECCV 2018), seconds protocol. The top "
        f"{analysis.top} G detections of each class are analysed, where G is its number of instances: "
        f"{analysis.detections} detections. At tIoU t, a detection that is matched to an instance is a true "
        "positive. The type of any other depends on u, its largest tIoU with an instance of the video. Double "
        "detection: u is at least t, same class. Wrong label: u is at least t, other class. Localisation: u is from "
        "0.1 to t, same class. Confusion: u is from 0.1 to t, other class. Background: u is below 0.1. mAP_N computes "
        "precision as if every class had the mean number of instances, "
        f"{analysis.instances_a_class:.1f}.",
        soft=True,
    )
