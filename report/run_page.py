"""The report on a run, or on anyone's detections: what it gets, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from eval.curves import RECALL, label_confusion, mean_curve, video_precision
from eval.detection import Matched
from eval.errors import KINDS
from eval.evaluation import PROTOCOLS, as_arrays
from eval.protocols import TiouProtocol
from report import pictures
from report.page import Page
from report.timelines import TYPES_AT, Timeline, timeline_detections, timeline_truth, timelines
from runs.seeds import seeds_rows
from utils import __version__, shorten_list

SHOWN = 2  # best, median and worst videos


@dataclass(frozen=True)
class Material:
    """What a report is made of."""

    title: str
    dataset: str
    subset: str  # of the test videos
    simulated: bool
    class_names: Sequence[str]
    labels: pd.DataFrame  # [V, C] of the test videos, 0 or 1, see `eval.curves.label_confusion`
    truth: pd.DataFrame  # see `eval.evaluation.evaluate`
    detections: pd.DataFrame  # that count, see `eval.tables.detection_table`
    figures: Mapping[str, Any]  # see `eval.evaluation.evaluate`
    analysis: Mapping[str, Any]  # see `eval.errors.analyse_errors`
    lengths: Mapping[str, float]  # seconds of each test video; nan where it is not known
    tiou_protocol: TiouProtocol
    curve_tiou: Sequence[float]  # of the precision-recall curves
    rate: float  # snippets per second
    proposals: Mapping[str, np.ndarray] = field(default_factory=dict)  # `[M, 2]` seconds of each video
    source: str = ""  # which weights, or which file
    results: Mapping[str, Any] | None = None  # those of `results.json`
    losses: pd.DataFrame | None = None  # of each epoch
    maps: pd.DataFrame | None = None  # of each evaluation
    seeds: Mapping[str, Any] | None = None  # those of `seeds.json`
    options: str = ""  # the text of `opt.txt`


def build_report(material: Material) -> Page:
    """The page, with its pictures."""
    page = Page(material.title, simulated=material.simulated)
    with pictures.styled():
        videos = list(material.labels.index)
        arrays = as_arrays(material.detections, material.truth, "snippet", material.rate, videos)
        matched = Matched(*arrays, len(material.class_names), material.tiou_protocol.thresholds)
        _say_what_it_is(page, material)
        _show_seeds(page, material)
        _show_map(page, material)
        _show_classes(page, material, matched)
        _show_curves(page, material, arrays)
        _show_labels(page, material)
        _show_training(page, material)
        _show_videos(page, material, matched)
        _show_errors(page, material)
        if material.options:
            page.section("Options")
            page.listing(material.options)
    return page


def _say_what_it_is(page: Page, material: Material) -> None:
    videos, classes = len(material.labels), material.truth["class_idx"].nunique()
    page.text(
        f"SEAL {__version__}. {material.source}. Dataset {material.dataset}, subset {material.subset}: {videos} test "
        f"videos with {len(material.truth)} instances of {classes} classes; {len(material.detections)} detections."
    )
    if without := sorted(set(material.labels.index) - set(material.detections["video"])):
        page.text(f"{len(without)} videos have no detection: {shorten_list(without)}.", soft=True)


def _show_map(page: Page, material: Material) -> None:
    page.section("Mean average precision")
    figures, given = material.figures, material.results or {}
    *others, headline = material.tiou_protocol.means_of(figures["snippet"]["mAP"])
    thresholds = [f"{t:g}" for t in figures["snippet"]["tiou"]]
    data = "simulated" if material.simulated else material.dataset

    def row(name: str, protocol: str, result: Mapping[str, Any]) -> list[object]:
        *of_others, of_headline = material.tiou_protocol.means_of(result["mAP"]).values()
        return [name, of_headline, *result["mAP"], *of_others, protocol, data]

    last, best = given.get("epoch"), given.get("best")
    if last and best and last == best["epoch"]:
        name = f"epoch {last}, the last, and the best on the test set"
    else:
        name = f"epoch {last}, the last" if last else "these detections"
    rows = [row(name, protocol, figures[protocol]) for protocol in PROTOCOLS]
    if best and last != best["epoch"]:
        rows += [row(f"epoch {best['epoch']}, the best on the test set", name, best[name]) for name in PROTOCOLS]
    published = material.tiou_protocol.published
    empty = [None] * (len(thresholds) + len(others))
    rows += [[row.method, row.mean, *empty, "snippet", f"{row.dataset}, real"] for row in published]
    page.table(["mAP, %, at tIoU", headline, *thresholds, *others, "protocol", "data"], rows, strong=[0])
    notes = [
        "The snippet protocol, ground truth rounded to whole snippets, is the one behind the published figures; the "
        "seconds protocol rounds nothing."
    ]
    if published:
        notes.append(
            f"Published rows are of real {published[0].dataset}; do not compare them with figures on other data."
        )
    if best:
        notes.append("The best epoch was chosen on the test set; compare the last.")
    page.text(" ".join(notes), soft=True)
    if given.get("classification_accuracy") is not None and material.labels.to_numpy().any():
        mean = given["classification_mAP"]
        page.text(
            f"Video classification: mAP {'not to be had' if mean is None else f'{mean:.1f}'}, "
            f"{given['classification_accuracy']:.1f}% of the videos with exactly their labels."
        )


def _show_seeds(page: Page, material: Material) -> None:
    if material.seeds is None:
        return
    page.section("Seeds")
    seeds = material.seeds
    tiou = [f"{t:g}" for t in seeds["last"]["snippet"]["tiou"]]
    mark = ", simulated data" if material.simulated else ""
    page.table(
        ["mAP, %, at tIoU", "average", *tiou],
        [[name, cells[-1], *cells[:-1]] for name, cells in seeds_rows(seeds).items()],
        caption=f"Mean and standard deviation (n - 1) over {len(seeds['seeds'])} runs{mark}.",
        strong=[0],
    )
    page.table(
        ["seed", "average of the last epoch", "of the best"],
        zip(map(str, seeds["seeds"]), seeds["averages"]["last"], seeds["averages"]["best"], strict=True),
        caption=f"Each run, snippet protocol{mark}.",
    )
    page.text(f"All that follows is of one run: {material.source}.")


def _show_classes(page: Page, material: Material, matched: Matched) -> None:
    page.section("Classes")
    precision = 100 * matched.class_precision()  # [C, K]
    present = np.flatnonzero(matched.num_instances)
    means = {material.class_names[i]: float(precision[i].mean()) for i in present}
    page.picture(
        "class_average_precision",
        pictures.class_bars(means, "average precision, %, mean over the tIoU thresholds", simulated=page.simulated),
        "Average precision of each class, mean over the tIoU thresholds, snippet protocol.",
    )
    order = sorted(present, key=lambda i: -precision[i].mean())
    page.table(
        ["class", "instances", *(f"{t:g}" for t in matched.thresholds), "mean"],
        [
            [material.class_names[i], int(matched.num_instances[i]), *precision[i].tolist(), float(precision[i].mean())]
            for i in order
        ],
        caption="Average precision, %, at each tIoU, snippet protocol.",
    )


def _show_curves(page: Page, material: Material, arrays: tuple[dict, dict]) -> None:
    page.section("Precision and recall")
    thresholds = np.sort(material.curve_tiou)
    matched = Matched(*arrays, len(material.class_names), thresholds)
    curves, precision = mean_curve(matched), matched.class_precision()
    named = {f"tIoU {t:g}, mAP {100 * np.nanmean(precision[:, k]):.1f}": curves[:, k] for k, t in enumerate(thresholds)}
    page.picture(
        "precision_recall",
        pictures.precision_recall(named, RECALL, simulated=page.simulated),
        "Interpolated precision over recall, the mean over the classes, so that the area under a curve is the mAP. "
        "Snippet protocol.",
    )


def _show_labels(page: Page, material: Material) -> None:
    page.section("Video labels")
    if not material.labels.to_numpy().any():
        page.text("The test videos have no labels.")
        return
    counts = label_confusion(material.detections, material.labels)
    videos = material.labels.sum().to_numpy()
    share = np.where(videos[:, None] > 0, 100 * counts.to_numpy() / np.maximum(videos, 1)[:, None], np.nan)
    page.picture(
        "label_confusion",
        pictures.confusion(share, material.class_names, simulated=page.simulated),
        "Of the videos of a class (row), the share in which a class (column) has detections. Other labels that the "
        "video has are right, and are not counted in its row. Rows need not add up to 100: a video may have several "
        "classes, or be reported with none of its own.",
    )
    table = counts.to_numpy().copy()
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:10]
    pairs = [(row, column) for row, column in zip(*np.unravel_index(order, table.shape), strict=True)]
    names = material.class_names
    rows = [[names[r], names[c], int(table[r, c]), float(share[r, c])] for r, c in pairs if table[r, c]]
    if rows:
        page.table(["class of the video", "reported", "videos", "%"], rows, caption="The most frequent confusions.")
    else:
        page.text("No video has detections of a class that is not one of its labels.")


def _show_training(page: Page, material: Material) -> None:
    if material.losses is None or material.losses.empty:
        return
    page.section("Training")
    page.picture(
        "training",
        pictures.training_curves(material.losses, material.maps, simulated=page.simulated),
        "Loss terms, means over each epoch (unweighted but for the suppressed term's half)"
        + (", and what the evaluations found on the test set, snippet protocol." if len(material.maps) else "."),
    )


def _show_videos(page: Page, material: Material, matched: Matched) -> None:
    page.section("Videos")
    own = {material.labels.index[i]: value for i, value in video_precision(matched).items()}
    ranked = sorted(own, key=lambda name: (-own[name], name))
    page.text(
        "Each video is evaluated as if there were no other. Black is the ground truth; below it are a class's best "
        "detections, up to three times as many as it has instances, in the colour of their error type at tIoU "
        f"{TYPES_AT:g} (see Errors). An absent class is one that was detected and is not there."
        + (" The grey hill is how many proposals lie over each moment." if material.proposals else ""),
        soft=True,
    )
    shown: set[str] = set()
    middle = max(0, (len(ranked) - SHOWN) // 2)
    groups = {"best": ranked[:SHOWN], "median": ranked[middle : middle + SHOWN], "worst": ranked[-SHOWN:]}
    for which, videos in groups.items():
        videos = [video for video in videos if video not in shown]
        shown |= set(videos)
        if videos:
            figure = timelines(_timelines(material, videos, own), simulated=page.simulated)
            page.picture(f"videos_{which}", figure, f"Of the {which} by their own mAP: {', '.join(videos)}.")


def _timelines(material: Material, videos: Sequence[str], own: Mapping[str, float]) -> list[Timeline]:
    detections, truth = (table[table["video"].isin(videos)] for table in (material.detections, material.truth))
    found = timeline_detections(detections, truth, material.class_names)
    instances = timeline_truth(truth, material.class_names)
    lines = []
    for video in videos:
        proposals = material.proposals.get(video, np.empty((0, 2)))
        length = material.lengths.get(video, np.nan)
        if np.isnan(length):  # not known: as far as anything reaches
            ends = [part.loc[part["video"] == video, "end_sec"].max() for part in (detections, truth)]
            length = float(np.nanmax([*ends, proposals.max(initial=0.0)]))
        title = f"{video}: average mAP {100 * own[video]:.1f}"
        lines.append(Timeline(title, length, instances[video], found.get(video, {}), proposals))
    return lines


def _show_errors(page: Page, material: Material) -> None:
    page.section("Errors")
    _say_what_errors_are(page, material.analysis)
    analysis, simulated = material.analysis, page.simulated
    k = int(np.argmin(np.abs(np.array(analysis["tiou"]) - TYPES_AT)))
    at = analysis["tiou"][k]
    page.picture(
        "error_shares",
        pictures.error_shares(analysis, k, simulated=simulated),
        f"What the top detections of each class are, at tIoU {at:g}; 1× is as many as the class has instances.",
    )
    page.picture(
        "error_gains",
        pictures.error_gains(analysis, simulated=simulated),
        f"What average mAP_N, which is {analysis['average_mAP_N']:.1f}%, would gain without the errors of a kind.",
    )
    page.table(
        ["kind", *(f"{t:g}" for t in analysis["tiou"]), "gain"],
        [
            [kind, *(shares[-1] for shares in analysis["shares"][kind]), analysis["gain"].get(kind, {}).get("average")]
            for kind in KINDS
        ],
        caption="Share of the top 10× detections, %, at each tIoU, and gain in average mAP_N, percentage points.",
    )
    page.picture(
        "error_buckets",
        pictures.error_buckets(analysis, simulated=simulated),
        "Average mAP_N, and the share of instances that no detection holds (mean over the tIoU thresholds), by an "
        "instance's length, by its share of its video, and by the number of instances of its class in its video. A "
        "bound belongs to the bucket below it; n instances are in a bucket.",
    )
    page.table(
        ["instances", "number", "average mAP_N, %", "missed, %"],
        [
            [
                f"{pictures.BUCKET_TITLES[name]}: {pictures.bucket_name(bucket, name)}",
                bucket["instances"],
                bucket["average_mAP_N"],
                bucket["average_missed"],
            ]
            for name, buckets in analysis["buckets"].items()
            for bucket in buckets
            if any(part["instances"] for part in buckets)
        ],
    )
    if not any(bucket["instances"] for bucket in analysis["buckets"]["coverage"]):
        page.text("It is not known how long the videos are, so nothing is told by share of the video.")


def _say_what_errors_are(page: Page, analysis: Mapping[str, Any]) -> None:
    page.text(
        "After Alwassel et al., Diagnosing Error in Temporal Action Detectors (ECCV 2018), in seconds, over the top "
        f"{analysis['top']} times as many detections of each class as it has instances: {analysis['detections']} "
        "detections. At tIoU t, a detection that holds an instance is a true positive. Of the others, u being the "
        "largest tIoU with any instance of the video: double detection, u at least t, of its class; wrong label, u at "
        "least t, of another class; localisation, u from 0.1 to t, of its class; confusion, u from 0.1 to t, of "
        "another class; background, u below 0.1. mAP_N counts precision as if each class had the mean number of "
        f"instances, {analysis['instances_a_class']:.1f}.",
        soft=True,
    )
