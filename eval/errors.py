"""Why a mAP is what it is: error analysis after Alwassel et al., "Diagnosing Error in Temporal Action Detectors".

    H. Alwassel, F. Caba Heilbron, V. Escorcia, B. Ghanem, ECCV 2018

Looked at are the top 10 G detections of each class, where G is its number of instances; all is in seconds. At tIoU
threshold t, a detection that holds an instance is a true positive. Any other is an error; of which kind is decided by
u, its largest tIoU with any instance of its video, and by whether that instance is of its class:

    |                | same class       | other class |
    |----------------|------------------|-------------|
    | u >= t         | double detection | wrong label |
    | 0.1 <= u < t   | localisation     | confusion   |
    | u < 0.1        | background       | background  |

mAP_N is mAP with the normalised precision r N / (r N + false positives), r being the recall and N the mean number of
instances a class, so that classes and sets of instances of different size compare.

Axes: n detections, K thresholds, C classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.detection import area_under_curve, candidate_pairs, match_detections
from proposals import tiou

KINDS = ("true positive", "double detection", "wrong label", "localisation", "confusion", "background")
TRUE, DOUBLE, WRONG_LABEL, LOCALISATION, CONFUSION, BACKGROUND = range(len(KINDS))
TOP = 10  # times the number of instances of a class
LEAST = 0.1  # tIoU below which a detection has to do with no instance

# Of the ground truth: the bounds between buckets, (low, high], of an instance's length in seconds, of the share of its
# video that it covers, and of the number of instances of its class in its video.
BOUNDS = {
    "thumos14": {
        "length": (0, 3, 6, 12, 18, np.inf),
        "coverage": (0, 0.02, 0.04, 0.06, 0.08, 1),
        "instances": (0, 1, 40, 80, np.inf),
    },
    "activitynet": {
        "length": (0, 30, 60, 120, 180, np.inf),
        "coverage": (0, 0.2, 0.4, 0.6, 0.8, 1),
        "instances": (0, 1, 4, 8, np.inf),
    },
}


def analyse_errors(
    detections: Mapping[str, np.ndarray],
    ground_truth: Mapping[str, np.ndarray],
    durations: np.ndarray,
    num_class: int,
    thresholds: np.ndarray,
    bounds: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """The error analysis, as it is in `results.json`.

    Args:
        detections: see `eval.detection.detection_map`; in seconds, and so the ground truth.
        ground_truth: at least one instance.
        durations: `[instances]` seconds of each instance's video; nan where it is not known.
        num_class: C, background excluded.
        thresholds: `[K]` tIoU, rising.
        bounds: one of `BOUNDS`.

    Returns:
        Percent, but for counts. `counts` and `shares` have, for each kind, a row for each threshold and in it a number
        for each rank: how many of the detections behind rank (i - 1) G and up to i G are of the kind, and what share
        it has of all up to i G. `gain` is what mAP_N would gain if the kind were removed. Buckets have the mAP_N of
        their own instances (detections that hold others count neither way), and the share of them that is missed.
    """
    num_instances = np.bincount(ground_truth["class_idx"], minlength=num_class)  # [C]
    ranked, rank = top_detections(detections, num_instances)
    held = match_detections(ranked, ground_truth, thresholds)  # [n, K]
    kind = kinds_of(ranked, ground_truth, held, thresholds)  # [n, K]
    true, false = kind == TRUE, kind != TRUE
    rows = [np.flatnonzero(ranked["class_idx"] == class_idx) for class_idx in range(num_class)]
    typical = num_instances.sum() / np.count_nonzero(num_instances)

    def mean_precision(true: np.ndarray, false: np.ndarray, num_instances: np.ndarray) -> np.ndarray:
        """mAP_N, `[K]` percent, over the classes that have instances."""
        classes = np.flatnonzero(num_instances)
        return 100 * np.mean(
            [normalised_precision(true[rows[c]], false[rows[c]], num_instances[c], typical) for c in classes], axis=0
        )

    base = mean_precision(true, false, num_instances)
    gains = {
        name: mean_precision(true, false & (kind != i), num_instances) - base
        for i, name in enumerate(KINDS)
        if i != TRUE
    }
    counts = np.array(
        [[np.bincount(rank[own], minlength=TOP) for own in (kind == i).T] for i in range(len(KINDS))]
    )  # [6, K, 10]
    up_to = counts.cumsum(-1)
    shares = 100 * up_to / up_to.sum(0).clip(min=1)

    def bucket(low: float, high: float, inside: np.ndarray) -> dict[str, Any]:
        """The figures of the instances that are inside."""
        own = np.bincount(ground_truth["class_idx"][inside], minlength=num_class)
        mean = missed = None
        if inside.any():
            mean = mean_precision(true & inside[held], false, own)  # inside[-1] is nothing, where `true` is not
            missed = 100 * np.array([1 - inside[k[k >= 0]].sum() / inside.sum() for k in held.T])
        return {
            "over": low,
            "up_to": None if np.isinf(high) else high,
            "instances": int(inside.sum()),
            "mAP_N": _listed(mean),
            "average_mAP_N": _average(mean),
            "missed": _listed(missed),
            "average_missed": _average(missed),
        }

    values = characteristics(ground_truth, durations)
    return {
        "unit": "seconds",
        "top": TOP,
        "detections": len(rank),
        "instances_a_class": float(typical),
        "tiou": [round(float(threshold), 2) for threshold in thresholds],
        "mAP_N": _listed(base),
        "average_mAP_N": _average(base),
        "counts": dict(zip(KINDS, counts.tolist(), strict=True)),
        "shares": dict(zip(KINDS, shares.tolist(), strict=True)),
        "gain": {name: {"mAP_N": _listed(gain), "average": _average(gain)} for name, gain in gains.items()},
        "buckets": {
            name: [bucket(low, high, place == i) for i, (low, high) in enumerate(itertools.pairwise(edges))]
            for name, edges in bounds.items()
            for place in [_bucket_of(values[name], edges)]
        },
    }


def top_detections(
    detections: Mapping[str, np.ndarray], num_instances: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The top 10 G detections of each class by falling score, `[n]` each, and their ranks in units of G, 0 to 9."""
    order = np.argsort(-detections["score"], kind="stable")
    class_idx = detections["class_idx"][order]
    by_class = np.argsort(class_idx, kind="stable")
    count = np.bincount(class_idx, minlength=len(num_instances))
    place = np.empty(len(order), dtype=np.int64)  # within the class, from 0
    place[by_class] = np.arange(len(order)) - np.repeat(count.cumsum() - count, count)
    kept = place < TOP * num_instances[class_idx]
    ranked = {name: values[order[kept]] for name, values in detections.items()}
    return ranked, place[kept] // num_instances[class_idx[kept]]


def kinds_of(
    ranked: Mapping[str, np.ndarray], ground_truth: Mapping[str, np.ndarray], held: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """What each detection is at each threshold: `[n, K]` places in `KINDS`.

    Of equally near instances one of the detection's class counts as the nearest.

    Args:
        ranked: `[n]` detections by falling score.
        ground_truth: see `eval.detection.detection_map`.
        held: `[n, K]` see `eval.detection.match_detections`.
        thresholds: `[K]`.
    """
    nearest, same = np.zeros(len(held)), np.zeros(len(held), dtype=bool)
    videos = [{"video": part["video"], "class_idx": np.zeros_like(part["video"])} for part in (ranked, ground_truth)]
    for detection, instance in candidate_pairs(*videos):  # all pairs of a detection come at once
        overlap = tiou(ranked["segment"][detection], ground_truth["segment"][instance])
        np.maximum.at(nearest, detection, overlap)
        own = ranked["class_idx"][detection] == ground_truth["class_idx"][instance]
        same[detection[own & (overlap == nearest[detection])]] = True
    enough, same = nearest[:, None] >= thresholds, same[:, None]
    return np.select(
        [held >= 0, (nearest < LEAST)[:, None], enough & same, enough, same],
        [TRUE, BACKGROUND, DOUBLE, WRONG_LABEL, LOCALISATION],
        CONFUSION,
    )


def normalised_precision(true: np.ndarray, false: np.ndarray, num_instances: int, typical: float) -> np.ndarray:
    """Average precision of one class, with precision r N / (r N + false positives).

    Args:
        true: `[n, K]` bool, by falling score.
        false: `[n, K]` bool; a detection that is neither does not count.
        num_instances: of the class, at least 1.
        typical: N.

    Returns:
        `[K]` in [0, 1].
    """
    found = true.cumsum(0) / num_instances * typical
    return area_under_curve(found / (found + false.cumsum(0)).clip(min=1e-30), true, num_instances)


def characteristics(ground_truth: Mapping[str, np.ndarray], durations: np.ndarray) -> dict[str, np.ndarray]:
    """Of each instance: its length, the share of its video that it covers, and how many of its class the video has."""
    length = ground_truth["segment"][:, 1] - ground_truth["segment"][:, 0]
    pair = np.stack([ground_truth["video"], ground_truth["class_idx"]])
    _, which, count = np.unique(pair, axis=1, return_inverse=True, return_counts=True)
    known = np.where(durations > 0, durations, np.nan)
    return {"length": length, "coverage": length / known, "instances": count[which.ravel()]}


def _bucket_of(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """The bucket of each value; what is beyond the last bound is in the last, and what is not known in none."""
    return np.where(np.isnan(values), -1, np.searchsorted(edges[1:-1], values, side="left"))


def _listed(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else values.tolist()


def _average(values: np.ndarray | None) -> float | None:
    return None if values is None else float(values.mean())
