"""Detections and ground truth to the reported figures, under both protocols (SPEC section 7).

`snippet` is the released protocol, behind the published figures: ground truth rounded to whole snippets. `seconds`
is exact: nothing is rounded. Rounding is worth about a point of mAP, so both are always reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eval.detection import detection_map
from eval.errors import analyse_errors
from eval.protocols import TIOU_PROTOCOLS, TiouProtocol
from utils import log

PROTOCOLS = ("snippet", "seconds")


def as_arrays(
    detections: pd.DataFrame,
    ground_truth: pd.DataFrame,
    protocol: str,
    rate: float,
    videos: Sequence[str] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Detections and ground truth as `eval.detection` takes them, in the unit of a protocol; see `evaluate`.

    A video's number is its place in `videos`; without these, that of its first appearance.
    """
    names = pd.concat([detections["video"], ground_truth["video"]], ignore_index=True)
    video = pd.factorize(names)[0] if videos is None else pd.Index(videos).get_indexer(names)
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
    detections: pd.DataFrame,
    ground_truth: pd.DataFrame,
    class_names: Sequence[str],
    tiou_protocol: TiouProtocol,
    rate: float,
) -> dict[str, Any]:
    """Detection mAP under both protocols; a notice names the classes left out because they have no ground truth.

    Args:
        detections: see `eval.tables.detection_table`.
        ground_truth: video, class_idx, start_sec, end_sec; at least one instance.
        class_names: C names, background excluded.
        tiou_protocol: with the thresholds.
        rate: snippets per second.

    Returns:
        `{"snippet": {"tiou": […], "mAP": [… percent], "average": …}, "seconds": {…}}`.
    """
    results = {}
    for protocol in PROTOCOLS:
        found, truth = as_arrays(detections, ground_truth, protocol, rate)
        precision = detection_map(found, truth, len(class_names), tiou_protocol.thresholds)  # [C, K]
        has_truth = ~np.isnan(precision[:, 0])
        mean = 100 * precision[has_truth].mean(0)
        results[protocol] = {
            "tiou": tiou_protocol.reported,
            "mAP": mean.tolist(),
            "average": float(mean.mean()),
        }
    if not has_truth.all():
        names = ", ".join(class_names[i] for i in np.flatnonzero(~has_truth))
        log.info(f"notice: left out of the mAP, since they have no ground truth in this subset: {names}")
    return results


def diagnose(
    detections: pd.DataFrame,
    ground_truth: pd.DataFrame,
    lengths: Mapping[str, float],
    num_class: int,
    tiou_protocol: TiouProtocol,
) -> dict[str, Any]:
    """The error analysis in seconds, see `eval.errors.analyse_errors`.

    Args:
        detections: see `eval.tables.detection_table`.
        ground_truth: see `evaluate`.
        lengths: seconds of each video; nan, or none, where it is not known.
        num_class: C, background excluded.
        tiou_protocol: with the thresholds and the buckets.
    """
    found, truth = as_arrays(detections, ground_truth, "seconds", rate=1.0)
    durations = ground_truth["video"].map(lengths).to_numpy(np.float64)
    thresholds, buckets = tiou_protocol.thresholds, tiou_protocol.buckets
    return analyse_errors(found, truth, durations, num_class, thresholds, buckets)


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
        if protocol["tiou"] not in [known.reported for known in TIOU_PROTOCOLS.values()]:
            return False
        if not isinstance(protocol["mAP"], list):
            return False
        if len(protocol["mAP"]) != len(protocol["tiou"]):
            return False
        percents += [*protocol["mAP"], protocol["average"]]
    return all(type(percent) is float and 0 <= percent <= 100.001 for percent in percents)


def results_table(results: dict[str, Any], tiou_protocol: TiouProtocol) -> str:
    """Both protocols side by side, percent, as text."""
    table = pd.DataFrame(
        {
            protocol: dict(zip(map("{:g}".format, results[protocol]["tiou"]), results[protocol]["mAP"], strict=True))
            | tiou_protocol.means_of(results[protocol]["mAP"])
            for protocol in PROTOCOLS
        }
    )
    return table.T.rename_axis("mAP @ tIoU").to_string(float_format="%.3f")


def figures(results: dict[str, Any], tiou_protocol: TiouProtocol) -> dict[str, float]:
    """The figures of an evaluation in the order and under the names of the release's logs, percent."""
    snippet = results["snippet"]
    values = dict(zip((f"{t:g}" for t in snippet["tiou"]), snippet["mAP"], strict=True))
    values |= tiou_protocol.means_of(snippet["mAP"])
    return {f"Detection mAP @ IoU = {name}": value for name, value in values.items()} | {
        "Classification mAP": float("nan") if results["classification_mAP"] is None else results["classification_mAP"],
        "Classification acc": results["classification_accuracy"],
    }


def summary(results: dict[str, Any], tiou_protocol: TiouProtocol) -> str:
    """An evaluation as printed."""
    return f"{results_table(results, tiou_protocol)}\n{classification_summary(results)}"


def classification_summary(results: dict[str, Any]) -> str:
    """The video classification of an evaluation as printed."""
    mean_precision = results["classification_mAP"]
    shown = "not to be had, no video has a label" if mean_precision is None else f"{mean_precision:.3f}"
    return f"video classification: mAP {shown}, accuracy {results['classification_accuracy']:.3f}"
