"""Detections and ground truth to the reported figures, under both protocols (SPEC section 7).

`snippet` is the released protocol, behind the published figures: ground truth rounded to whole snippets. `seconds`
is exact: nothing is rounded. Rounding is worth about a point of mAP, so both are always reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.detection import TIOU_THRESHOLDS, detection_map
from eval.postprocess import VideoDetections
from proposals import parse_results, snippets_to_seconds
from utils import InputError, has_control_characters, is_finite_number, log, shown, some_of, write_json_beside_earlier

PROTOCOLS = ("snippet", "seconds")


def detection_table(names: Sequence[str], found: Sequence[VideoDetections], rate: float) -> pd.DataFrame:
    """The detections of several videos as the table that everything here takes, one row a detection.

    `rate`, here and below, is in snippets per second.
    """
    segments = np.concatenate([video.segment_snip for video in found])
    names = np.repeat(np.array(names, dtype=object), [len(video.score) for video in found])
    class_idx, score = (np.concatenate([getattr(video, field) for video in found]) for field in ("class_idx", "score"))
    return _table(names, class_idx, score, segments, snippets_to_seconds(segments, rate))


def _table(video: Any, class_idx: Any, score: Any, segment_snip: np.ndarray, segment_sec: np.ndarray) -> pd.DataFrame:
    columns = {"video": video, "class_idx": class_idx, "score": score}
    for unit, segment in (("snip", segment_snip), ("sec", segment_sec)):
        columns |= {f"start_{unit}": segment[:, 0], f"end_{unit}": segment[:, 1]}
    return pd.DataFrame(columns)


def as_arrays(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, protocol: str, rate: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Detections and ground truth as `eval.detection` takes them, in the unit of a protocol; see `evaluate`."""
    video, _ = pd.factorize(pd.concat([detections["video"], ground_truth["video"]], ignore_index=True))
    unit = {"snippet": "snip", "seconds": "sec"}[protocol]
    truth_segment = ground_truth[["start_sec", "end_sec"]].to_numpy(np.float64)
    found = {
        "video": video[: len(detections)],
        "class_idx": detections["class_idx"].to_numpy(np.int64),
        "score": detections["score"].to_numpy(np.float64),
        "segment": detections[[f"start_{unit}", f"end_{unit}"]].to_numpy(np.float64),
    }
    truth = {
        "video": video[len(detections) :],
        "class_idx": ground_truth["class_idx"].to_numpy(np.int64),
        "segment": np.rint(truth_segment * rate) if protocol == "snippet" else truth_segment,
    }
    return found, truth


def evaluate(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, class_names: Sequence[str], tiou: str, rate: float
) -> dict[str, Any]:
    """Detection mAP under both protocols; a notice names the classes left out because they have no ground truth.

    Args:
        detections: see `detection_table`.
        ground_truth: video, class_idx, start_sec, end_sec; at least one instance.
        class_names: C names, background excluded.
        tiou: a key of `TIOU_THRESHOLDS`.
        rate: snippets per second.

    Returns:
        `{"snippet": {"tiou": […], "mAP": [… percent], "average": …}, "seconds": {…}}`.
    """
    thresholds = TIOU_THRESHOLDS[tiou]
    results = {}
    for protocol in PROTOCOLS:
        found, truth = as_arrays(detections, ground_truth, protocol, rate)
        precision = detection_map(found, truth, len(class_names), thresholds)  # [C, K]
        has_truth = ~np.isnan(precision[:, 0])
        mean = 100 * precision[has_truth].mean(0)
        results[protocol] = {
            "tiou": _rounded(thresholds),
            "mAP": mean.tolist(),
            "average": float(mean.mean()),
        }
    if not has_truth.all():
        names = ", ".join(class_names[i] for i in np.flatnonzero(~has_truth))
        log.info(f"notice: left out of the mAP, since they have no ground truth in this subset: {names}")
    return results


def are_results(value: Any) -> bool:
    """Whether a value from a file has the form of results: of `evaluate`, of `video_figures`, and the `epoch`."""
    names = {"snippet", "seconds", "classification_mAP", "classification_accuracy", "epoch"}
    if not isinstance(value, dict) or value.keys() != names or type(value["epoch"]) is not int:
        return False
    percents = [value["classification_accuracy"]]
    if value["classification_mAP"] is not None:
        percents.append(value["classification_mAP"])
    for protocol in (value["snippet"], value["seconds"]):
        if not isinstance(protocol, dict) or protocol.keys() != {"tiou", "mAP", "average"}:
            return False
        if protocol["tiou"] not in map(_rounded, TIOU_THRESHOLDS.values()) or not isinstance(protocol["mAP"], list):
            return False
        if len(protocol["mAP"]) != len(protocol["tiou"]):
            return False
        percents += [*protocol["mAP"], protocol["average"]]
    return all(type(percent) is float and 0 <= percent <= 100.001 for percent in percents)


def _rounded(thresholds: np.ndarray) -> list[float]:
    """Thresholds as they are reported, without the last bits of `linspace`."""
    return [round(float(threshold), 2) for threshold in thresholds]


def averages(result: dict[str, Any]) -> dict[str, float]:
    """The means over tIoU ranges that are reported of one protocol's result: THUMOS14 has three, ActivityNet one."""
    tiou, values = np.array(result["tiou"]), np.array(result["mAP"])
    ranges = [(0.1, 0.5), (0.3, 0.7), (0.1, 0.7)] if tiou[0] < 0.5 else [(tiou[0], tiou[-1])]
    return {f"{low:g} : {high:g}": float(values[(tiou >= low) & (tiou <= high)].mean()) for low, high in ranges}


def results_table(results: dict[str, Any]) -> str:
    """Both protocols side by side, percent, as text."""
    table = pd.DataFrame(
        {
            protocol: dict(zip(map("{:g}".format, results[protocol]["tiou"]), results[protocol]["mAP"], strict=True))
            | averages(results[protocol])
            for protocol in PROTOCOLS
        }
    )
    return table.T.rename_axis("mAP @ tIoU").to_string(float_format="%.3f")


def figures(results: dict[str, Any]) -> dict[str, float]:
    """The figures of an evaluation in the order and under the names of the release's logs, percent."""
    snippet = results["snippet"]
    at_tiou = dict(zip((f"{t:g}" for t in snippet["tiou"]), snippet["mAP"], strict=True))
    return {f"Detection mAP @ IoU = {name}": value for name, value in (at_tiou | averages(snippet)).items()} | {
        "Classification mAP": float("nan") if results["classification_mAP"] is None else results["classification_mAP"],
        "Classification acc": results["classification_accuracy"],
    }


def summary(results: dict[str, Any]) -> str:
    """An evaluation as printed."""
    return f"{results_table(results)}\n{classification_summary(results)}"


def classification_summary(results: dict[str, Any]) -> str:
    """The video classification of an evaluation as printed."""
    mean_precision = results["classification_mAP"]
    shown = "not to be had, no video has a label" if mean_precision is None else f"{mean_precision:.3f}"
    return f"video classification: mAP {shown}, accuracy {results['classification_accuracy']:.3f}"


# -------------------------------------------------------------------------------------- detections on disk


def write_detections(
    path: Path, detections: pd.DataFrame, class_names: Sequence[str], version: str, *, unless_same: bool = False
) -> None:
    """Write detections in ActivityNet result format, in seconds; see `write_json_beside_earlier`.

    Boundaries are proposals' and so whole hundredths of a snippet; `snippet_decimals` says so, and lets
    `read_detections` restore them to the bit: `eval` of this file then gives the digits that `test` gave.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for row in detections.itertuples(index=False):
        entry = {"label": class_names[row.class_idx], "score": row.score, "segment": [row.start_sec, row.end_sec]}
        results.setdefault(row.video, []).append(entry)
    content = {"version": version, "results": results, "external_data": {"snippet_decimals": 2}}
    write_json_beside_earlier(path, content, unless_same=unless_same)


def read_detections(path: Path, videos: Sequence[str], class_names: Sequence[str], rate: float) -> pd.DataFrame:
    """Read detections in ActivityNet result format, ours or anyone's.

    Args:
        path: `{"results": {video: [{"label", "score", "segment": [s, e] seconds}]}}`.
        videos: the videos that may appear.
        class_names: the labels that may appear.
        rate: snippets per second.

    Raises:
        InputError: the file is damaged; a video or label is unknown; a score is not a finite number.
    """
    content = parse_results(path)
    labels = {}  # label -> a video that has it
    rows = []
    for video, entries in content.results.items():
        for entry in entries:
            label, score = entry.get("label"), entry.get("score")
            if not isinstance(label, str) or has_control_characters(label):
                raise InputError(f"{path}: video {video}: label {shown(label)} is not a class name")
            if not is_finite_number(score):
                raise InputError(f"{path}: video {video}: score {shown(score)} is not a finite number")
            labels.setdefault(label, video)
            rows.append((video, label, float(score), *map(float, entry["segment"])))
    if unknown := sorted(set(content.results) - set(videos)):
        raise InputError(
            f"{path}: unknown videos, {len(unknown)} that are not in the evaluated subset: {some_of(unknown)}; "
            "check --dataset_name and --test_subset"
        )
    if unknown := sorted(set(labels) - set(class_names)):
        raise InputError(
            f"{path}: unknown classes, {len(unknown)} that are not in the dataset's class list: {some_of(unknown)}; "
            f"the first is met in video {labels[unknown[0]]}"
        )

    index = {name: i for i, name in enumerate(class_names)}
    video, label, score, start, end = zip(*rows, strict=True) if rows else ((),) * 5
    class_idx = np.array([index[name] for name in label], dtype=np.int64)
    sec = np.column_stack([start, end]).astype(np.float64).reshape(-1, 2)
    snip = sec * rate
    if content.snippet_decimals is not None:
        snip = snip.round(content.snippet_decimals)
    return _table(video, class_idx, np.array(score, dtype=np.float64), snip, sec)
