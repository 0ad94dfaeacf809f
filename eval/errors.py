"""Why a mAP is what it is: error analysis after Alwassel et al., "Diagnosing Error in Temporal Action Detectors".

    H. Alwassel, F. Caba Heilbron, V. Escorcia, B. Ghanem, ECCV 2018

The analysis is in seconds, of the top 10 G detections of each class, G being its number of instances. At tIoU threshold
t, a detection that is matched with an instance is a true positive. Any other is an error; its type depends on u, its
largest tIoU with any instance of its video, and on whether that instance is of its class:

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
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.detection import area_under_curve, candidate_pairs, match_detections
from eval.segments import Detections, Segments
from proposals import tiou

KINDS = ("true positive", "double detection", "wrong label", "localisation", "confusion", "background")
TRUE, DOUBLE, WRONG_LABEL, LOCALISATION, CONFUSION, BACKGROUND = range(len(KINDS))
TOP = 10  # times the number of instances of a class
MIN_TIOU = 0.1  # tIoU below which a detection is background


@dataclass(frozen=True)
class Gain:
    """What mAP_N would gain without the errors of a kind: percentage points."""

    mAP_N: list[float]  # [K]
    average: float  # over the thresholds


@dataclass(frozen=True)
class Bucket:
    """The figures of the instances of which a characteristic lies in (over, up_to].

    mAP_N looks for these instances alone: detections matched with others count neither as true nor as false.
    """

    over: float
    up_to: float | None  # None: no upper bound
    instances: int
    mAP_N: list[float] | None  # [K] percent; None without instances, as in all that follow
    average_mAP_N: float | None  # over the thresholds, percent
    missed: list[float] | None  # [K] share of the instances that no detection is matched with, percent
    average_missed: float | None  # over the thresholds, percent


@dataclass(frozen=True)
class ErrorAnalysis:
    """The error analysis in seconds, as it is in `results.json`. Percent, except for counts.

    Attributes:
        unit: of time.
        top: how many times as many detections of a class as it has instances are looked at.
        detections: how many these are.
        instances_a_class: N, the mean number of instances of the classes that have any.
        tiou: `[K]` thresholds.
        mAP_N: `[K]`.
        average_mAP_N: over the thresholds.
        counts: for each of `KINDS`, `[K, 10]`: at each threshold, how many of the detections of rank above (i - 1) G
            and up to i G are of the kind.
        shares: for each of `KINDS`, `[K, 10]`: the share that the kind has of all detections of rank up to i G.
        gain: for each kind of error.
        buckets: by `length`, `coverage` and `instances`, see `characteristics`.
    """

    unit: str
    top: int
    detections: int
    instances_a_class: float
    tiou: list[float]
    mAP_N: list[float]
    average_mAP_N: float
    counts: dict[str, list[list[int]]]
    shares: dict[str, list[list[float]]]
    gain: dict[str, Gain]
    buckets: dict[str, list[Bucket]]

    def to_json(self) -> dict[str, Any]:
        """As plain values, in the layout of `results.json`."""
        return asdict(self)


def analyse_errors(
    detections: Detections,
    ground_truth: Segments,
    durations: np.ndarray,
    num_class: int,
    thresholds: np.ndarray,
    buckets: Mapping[str, Sequence[float]],
) -> ErrorAnalysis:
    """The error analysis.

    Args:
        detections: in seconds.
        ground_truth: in seconds; at least one instance.
        durations: `[instances]` seconds of each instance's video; nan where unknown.
        num_class: C, background excluded.
        thresholds: `[K]` tIoU, rising.
        buckets: the bounds between buckets, see `eval.protocols.TiouProtocol`.
    """
    top = _TopDetections(detections, ground_truth, num_class, thresholds)
    base, counts = top.mean_precision(), top.counts()
    up_to = counts.cumsum(-1)
    shares = 100 * up_to / up_to.sum(0).clip(min=1)
    gains = {name: top.mean_precision(without=i) - base for i, name in enumerate(KINDS) if i != TRUE}
    values = characteristics(ground_truth, durations)
    return ErrorAnalysis(
        unit="seconds",
        top=TOP,
        detections=len(top.rank),
        instances_a_class=top.mean_instances,
        tiou=[round(float(threshold), 2) for threshold in thresholds],
        mAP_N=base.tolist(),
        average_mAP_N=float(base.mean()),
        counts=dict(zip(KINDS, counts.tolist(), strict=True)),
        shares=dict(zip(KINDS, shares.tolist(), strict=True)),
        gain={name: Gain(gain.tolist(), float(gain.mean())) for name, gain in gains.items()},
        buckets={name: _buckets(top, values[name], edges) for name, edges in buckets.items()},
    )


class _TopDetections:
    """The top detections of each class with their kinds; see `analyse_errors` for the arguments.

    Attributes:
        rank: `[n]` of the detections within their class, in units of G, 0 to 9.
        mean_instances: N.
    """

    def __init__(self, detections: Detections, ground_truth: Segments, num_class: int, thresholds: np.ndarray) -> None:
        self._class_of_instance, self._num_class = ground_truth.class_idx, num_class
        num_instances = np.bincount(self._class_of_instance, minlength=num_class)  # [C]
        ranked, self.rank = top_detections(detections, num_instances)
        self._matched = match_detections(ranked, ground_truth, thresholds)  # [n, K]
        self._kind = error_types(ranked, ground_truth, self._matched, thresholds)  # [n, K]
        self._rows = [np.flatnonzero(ranked.class_idx == class_idx) for class_idx in range(num_class)]
        self.mean_instances = float(num_instances.sum() / np.count_nonzero(num_instances))

    def counts(self) -> np.ndarray:
        """How many detections of each kind there are, at each threshold, in each rank: `[6, K, 10]`."""
        is_kind = [(self._kind == kind).T for kind in range(len(KINDS))]  # [K, n] each
        return np.array([[np.bincount(self.rank[rows], minlength=TOP) for rows in kind] for kind in is_kind])

    def mean_precision(self, without: int | None = None, inside: np.ndarray | None = None) -> np.ndarray:
        """mAP_N, `[K]` percent.

        Args:
            without: a kind of error to leave out.
            inside: `[instances]` bool, the instances to look for; detections matched with others are left out.
        """
        inside = np.ones(len(self._class_of_instance), dtype=bool) if inside is None else inside
        num_instances = np.bincount(self._class_of_instance[inside], minlength=self._num_class)
        true = (self._kind == TRUE) & inside[self._matched]  # -1, not matched, is not true
        false = (self._kind != TRUE) & (self._kind != (TRUE if without is None else without))
        of_classes = [
            normalised_precision(true[self._rows[c]], false[self._rows[c]], num_instances[c], self.mean_instances)
            for c in np.flatnonzero(num_instances)
        ]
        return 100 * np.mean(of_classes, axis=0)

    def missed(self, inside: np.ndarray) -> np.ndarray:
        """Share of some instances, `[instances]` bool, that no detection is matched with: `[K]` percent."""
        hits = np.array([inside[matched[matched >= 0]].sum() for matched in self._matched.T])
        return 100 * (1 - hits / inside.sum())


def _buckets(top: _TopDetections, values: np.ndarray, edges: Sequence[float]) -> list[Bucket]:
    """The figures of the instances whose values, `[instances]`, lie between two edges each."""
    # Values beyond the last bound are in the last bucket, and unknown ones in none.
    place = np.where(np.isnan(values), -1, np.searchsorted(edges[1:-1], values, side="left"))
    buckets = []
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = place == i
        upper = None if np.isinf(high) else high
        if inside.any():
            mean, missed = top.mean_precision(inside=inside), top.missed(inside)
            figures = (mean.tolist(), float(mean.mean()), missed.tolist(), float(missed.mean()))
            buckets.append(Bucket(low, upper, int(inside.sum()), *figures))
        else:
            buckets.append(Bucket(low, upper, 0, None, None, None, None))
    return buckets


def top_detections(detections: Detections, num_instances: np.ndarray) -> tuple[Detections, np.ndarray]:
    """The top 10 G detections of each class by falling score, `[n]`, and their ranks in units of G, 0 to 9: `[n]`.

    Args:
        detections: in any order.
        num_instances: `[C]` G of each class.
    """
    ranked = detections.ranked()
    by_class = np.argsort(ranked.class_idx, kind="stable")
    count = np.bincount(ranked.class_idx, minlength=len(num_instances))
    place = np.empty(len(ranked), dtype=np.int64)  # within the class, from 0
    place[by_class] = np.arange(len(ranked)) - np.repeat(count.cumsum() - count, count)
    kept = place < TOP * num_instances[ranked.class_idx]
    return ranked[kept], place[kept] // num_instances[ranked.class_idx[kept]]


def error_types(ranked: Detections, ground_truth: Segments, matched: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The kind of each detection at each threshold: `[n, K]` places in `KINDS`.

    Of equally near instances one of the detection's class counts as the nearest.

    Args:
        ranked: n detections by falling score.
        ground_truth: in the unit of the detections.
        matched: `[n, K]` see `eval.detection.match_detections`.
        thresholds: `[K]`.
    """
    nearest, same = np.zeros(len(matched)), np.zeros(len(matched), dtype=bool)
    for detection, instance in candidate_pairs(ranked.video, ground_truth.video):  # all of a detection come at once
        overlap = tiou(ranked.segment[detection], ground_truth.segment[instance])
        np.maximum.at(nearest, detection, overlap)
        same_class = ranked.class_idx[detection] == ground_truth.class_idx[instance]
        same[detection[same_class & (overlap == nearest[detection])]] = True
    enough, of_class = nearest[:, None] >= thresholds, same[:, None]
    return np.select(
        [matched >= 0, (nearest < MIN_TIOU)[:, None], enough & of_class, enough, of_class],
        [TRUE, BACKGROUND, DOUBLE, WRONG_LABEL, LOCALISATION],
        CONFUSION,
    )


def normalised_precision(true: np.ndarray, false: np.ndarray, num_instances: int, mean_instances: float) -> np.ndarray:
    """Average precision of one class, with precision r N / (r N + false positives).

    Args:
        true: `[n, K]` bool, by falling score.
        false: `[n, K]` bool; a detection that is neither is left out.
        num_instances: of the class, at least 1.
        mean_instances: N.

    Returns:
        `[K]` in [0, 1].
    """
    hits = true.cumsum(0) / num_instances * mean_instances
    return area_under_curve(hits / (hits + false.cumsum(0)).clip(min=1e-30), true, num_instances)


def characteristics(ground_truth: Segments, durations: np.ndarray) -> dict[str, np.ndarray]:
    """What instances are put into buckets by, `[instances]` each.

    Args:
        ground_truth: in seconds.
        durations: `[instances]` seconds of each instance's video; nan where unknown.

    Returns:
        `length` in seconds; `coverage`, the share of the video; `instances`, how many of its class its video has.
    """
    length = ground_truth.segment[:, 1] - ground_truth.segment[:, 0]
    pair = np.stack([ground_truth.video, ground_truth.class_idx])
    _, which, count = np.unique(pair, axis=1, return_inverse=True, return_counts=True)
    known = np.where(durations > 0, durations, np.nan)
    return {"length": length, "coverage": length / known, "instances": count[which.ravel()]}
