"""Detection mAP over tIoU thresholds, with ties decided as SPEC section 7 says. numpy alone, float64 throughout.

Ties matter: with integer boundaries a tIoU often equals a threshold, and two instances often tie.

Axes: n detections, C classes without background, K thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval.segments import Detections, Segments, order_by, video_class_keys
from proposals import tiou
from utils import ranges


def detection_map(detections: Detections, ground_truth: Segments, num_class: int, thresholds: np.ndarray) -> np.ndarray:
    """Average precision of every class at every threshold.

    Args:
        detections: in any order.
        ground_truth: in the unit of the detections.
        num_class: C.
        thresholds: `[K]` tIoU, rising.

    Returns:
        `[C, K]` average precision in [0, 1]; 0 for a class with ground truth and no detection, nan for a class
        without ground truth.
    """
    return Matched(detections, ground_truth, num_class, thresholds).class_precision()


class Matched:
    """Detections by falling score, and which of them are true positives; see `detection_map` for the arguments.

    Attributes:
        ranked: the detections by falling score.
        ground_truth: the instances.
        num_class: C.
        thresholds: `[K]`.
        true_positive: `[n, K]` bool, of the ranked detections.
        num_instances: `[C]` of the ground truth.
    """

    def __init__(self, detections: Detections, ground_truth: Segments, num_class: int, thresholds: np.ndarray) -> None:
        self.ranked = detections.ranked()
        self.ground_truth, self.num_class, self.thresholds = ground_truth, num_class, thresholds
        self.true_positive = match_detections(self.ranked, ground_truth, thresholds) >= 0
        self.num_instances = np.bincount(ground_truth.class_idx, minlength=num_class)

    def class_precision(self) -> np.ndarray:
        """Average precision `[C, K]`, see `detection_map`."""
        precision = np.full((self.num_class, len(self.thresholds)), np.nan)
        class_idx = self.ranked.class_idx.astype(np.min_scalar_type(self.num_class))  # small numbers are sorted faster
        by_class = self.true_positive[np.argsort(class_idx, kind="stable")]
        of_class = np.split(by_class, np.bincount(class_idx, minlength=self.num_class).cumsum()[:-1])
        for i in np.flatnonzero(self.num_instances):
            precision[i] = average_precision(of_class[i], self.num_instances[i])
        return precision


def average_precision(true_positive: np.ndarray, num_instances: int) -> np.ndarray:
    """Area under the interpolated precision-recall curve.

    Args:
        true_positive: `[n, K]` bool, one class's detections by falling score.
        num_instances: ground-truth instances of the class, at least 1.

    Returns:
        `[K]` in [0, 1].
    """
    rank = np.arange(1, len(true_positive) + 1)[:, None]
    return area_under_curve(true_positive.cumsum(0) / rank, true_positive, num_instances)


def area_under_curve(precision: np.ndarray, true_positive: np.ndarray, num_instances: int) -> np.ndarray:
    """The area under interpolated precision `[n, K]` over the recall that the true positives `[n, K]` give: `[K]`."""
    return (interpolated(precision) * true_positive).sum(0) / num_instances  # recall rises by 1/num_instances a hit


def interpolated(precision: np.ndarray) -> np.ndarray:
    """The best precision from each detection on, along the first axis."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def match_detections(ranked: Detections, ground_truth: Segments, thresholds: np.ndarray) -> np.ndarray:
    """Match detections with instances: each in turn takes the free instance that it overlaps most, if enough.

    Args:
        ranked: n detections by falling score.
        ground_truth: in the unit of the detections.
        thresholds: `[K]`.

    Returns:
        `[n, K]` int32 index of the instance; -1 where the detection is a false positive.
    """
    candidates = []
    for detection, instance in candidate_pairs(*video_class_keys(ranked, ground_truth)):
        overlap = tiou(ranked.segment[detection], ground_truth.segment[instance])
        near = overlap >= thresholds.min()
        candidates.append((detection[near], instance[near], overlap[near]))
    detection, instance, overlap = (np.concatenate(arrays) for arrays in zip(*candidates, strict=True))
    # Each detection's choices in order: the largest tIoU first; of equal ones the instance listed later.
    order = order_by(detection, -overlap, -instance)
    detection, instance, overlap = detection[order], instance[order], overlap[order]

    matched = np.full((len(ranked), len(thresholds)), -1, dtype=np.int32)
    for k, threshold in enumerate(thresholds):
        enough = overlap >= threshold
        rows, instances = _match_in_rank_order(detection[enough], instance[enough], len(ground_truth))
        matched[rows, k] = instances
    return matched


def candidate_pairs(
    detection_keys: np.ndarray, instance_keys: np.ndarray, max_pairs: int = 1 << 22
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every (detection, instance) with equal keys, as two index arrays for about `max_pairs` pairs at a time.

    Args:
        detection_keys: `[n]` integers, for example the videos.
        instance_keys: one for each instance.
        max_pairs: all pairs of a detection come at once, so that there may be some more.
    """
    order = np.argsort(instance_keys, kind="stable")
    keys, of_key = np.unique(detection_keys, return_inverse=True)  # keys in order are found faster
    sides = (np.searchsorted(instance_keys, keys, side=side, sorter=order) for side in ("left", "right"))
    first, end = (np.asarray(places)[of_key] for places in sides)
    count = end - first
    bounds = np.searchsorted(count.cumsum(), np.arange(max_pairs, count.sum(), max_pairs))
    for detections in np.split(np.arange(len(detection_keys)), bounds):
        n = count[detections]
        yield np.repeat(detections, n), order[ranges(first[detections], n)]


def _match_in_rank_order(
    detection: np.ndarray, instance: np.ndarray, num_instances: int
) -> tuple[np.ndarray, np.ndarray]:
    """The detections that end up with an instance, and that instance, all videos and classes at once.

    Serving detections one after another, best score first, gives the stable matching in which every instance prefers
    the higher score. This computes it in a few vectorised rounds (Gale and Shapley): each unmatched detection proposes
    to its next choice, each instance keeps the detection with the highest score, the others try their next choice.

    Args:
        detection: `[P]` rank of a detection, rising; its choices follow one another in order.
        instance: `[P]` the instance chosen.
        num_instances: of the whole ground truth.
    """
    active, choice = np.unique(detection, return_index=True)
    last = np.append(choice[1:], len(detection))
    while True:
        best = np.full(num_instances, len(detection) and detection[-1] + 1)
        np.minimum.at(best, instance[choice], active)
        refused = best[instance[choice]] != active
        if not refused.any():
            return active, instance[choice]
        choice = choice + refused
        still = choice < last
        active, choice, last = active[still], choice[still], last[still]
