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
        bounds: of the buckets, see `eval.protocols.TiouProtocol`.

    Returns:
        Percent, but for counts. `counts` and `shares` have, for each kind, a row for each threshold and in it a number
        for each rank: how many of the detections behind rank (i - 1) G and up to i G are of the kind, and what share
        it has of all up to i G. `gain` is what mAP_N would gain if the kind were removed. Buckets have the mAP_N of
        their own instances (detections that hold others count neither way), and the share of them that is missed.
    """
    looked_at = _Judged(detections, ground_truth, num_class, thresholds)
    base, counts = looked_at.mean_precision(), looked_at.counts()
    up_to = counts.cumsum(-1)
    shares = 100 * up_to / up_to.sum(0).clip(min=1)
    gains = {name: looked_at.mean_precision(without=i) - base for i, name in enumerate(KINDS) if i != TRUE}
    values = characteristics(ground_truth, durations)
    return {
        "unit": "seconds",
        "top": TOP,
        "detections": len(looked_at.rank),
        "instances_a_class": looked_at.typical,
        "tiou": [round(float(threshold), 2) for threshold in thresholds],
        "mAP_N": _listed(base),
        "average_mAP_N": _average(base),
        "counts": dict(zip(KINDS, counts.tolist(), strict=True)),
        "shares": dict(zip(KINDS, shares.tolist(), strict=True)),
        "gain": {name: {"mAP_N": _listed(gain), "average": _average(gain)} for name, gain in gains.items()},
        "buckets": {name: _buckets(looked_at, values[name], edges) for name, edges in bounds.items()},
    }


class _Judged:
    """The top detections with their kinds; see `analyse_errors`."""

    def __init__(
        self,
        detections: Mapping[str, np.ndarray],
        ground_truth: Mapping[str, np.ndarray],
        num_class: int,
        thresholds: np.ndarray,
    ) -> None:
        self._class_of_instance, self._num_class = ground_truth["class_idx"], num_class
        num_instances = np.bincount(self._class_of_instance, minlength=num_class)  # [C]
        ranked, self.rank = top_detections(detections, num_instances)
        self._held = match_detections(ranked, ground_truth, thresholds)  # [n, K]
        self._kind = kinds_of(ranked, ground_truth, self._held, thresholds)  # [n, K]
        self._rows = [np.flatnonzero(ranked["class_idx"] == class_idx) for class_idx in range(num_class)]
        self.typical = float(num_instances.sum() / np.count_nonzero(num_instances))  # N

    def counts(self) -> np.ndarray:
        """How many detections of each kind there are, at each threshold, in each rank: `[6, K, 10]`."""
        of_kinds = [(self._kind == kind).T for kind in range(len(KINDS))]
        return np.array([[np.bincount(self.rank[own], minlength=TOP) for own in rows] for rows in of_kinds])

    def mean_precision(self, without: int | None = None, inside: np.ndarray | None = None) -> np.ndarray:
        """mAP_N, `[K]` percent.

        Args:
            without: a kind of error that does not count.
            inside: which instances are looked for, `[instances]` bool; a detection that holds another does not count.
        """
        inside = np.ones(len(self._class_of_instance), dtype=bool) if inside is None else inside
        num_instances = np.bincount(self._class_of_instance[inside], minlength=self._num_class)
        true = (self._kind == TRUE) & inside[self._held]  # what holds none, -1, is not true
        false = (self._kind != TRUE) & (self._kind != (TRUE if without is None else without))
        of_classes = [
            normalised_precision(true[self._rows[c]], false[self._rows[c]], num_instances[c], self.typical)
            for c in np.flatnonzero(num_instances)
        ]
        return 100 * np.mean(of_classes, axis=0)

    def missed(self, inside: np.ndarray) -> np.ndarray:
        """Share of the instances that are inside that no detection holds, `[K]` percent."""
        found = np.array([inside[held[held >= 0]].sum() for held in self._held.T])
        return 100 * (1 - found / inside.sum())


def _buckets(looked_at: _Judged, values: np.ndarray, edges: Sequence[float]) -> list[dict[str, Any]]:
    """The figures of the instances whose values, `[instances]`, lie between two edges each."""
    # What is beyond the last bound is in the last bucket, and what is not known in none.
    place = np.where(np.isnan(values), -1, np.searchsorted(edges[1:-1], values, side="left"))
    buckets = []
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = place == i
        mean = looked_at.mean_precision(inside=inside) if inside.any() else None
        missed = looked_at.missed(inside) if inside.any() else None
        figures = {"over": low, "up_to": None if np.isinf(high) else high, "instances": int(inside.sum())}
        figures |= {"mAP_N": _listed(mean), "average_mAP_N": _average(mean)}
        buckets.append(figures | {"missed": _listed(missed), "average_missed": _average(missed)})
    return buckets


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


def _listed(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else values.tolist()


def _average(values: np.ndarray | None) -> float | None:
    return None if values is None else float(values.mean())
