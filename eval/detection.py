"""Detection mAP over tIoU thresholds, ties decided as SPEC section 7 says. numpy alone, float64 throughout.

Ties matter: with integer boundaries a tIoU often equals a threshold, and two instances often tie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from proposals import tiou


def detection_map(
    detections: Mapping[str, np.ndarray],
    ground_truth: Mapping[str, np.ndarray],
    num_class: int,
    thresholds: np.ndarray,
) -> np.ndarray:
    """Average precision of every class at every threshold.

    Args:
        detections: equally long arrays `video` (int), `class_idx` (int), `segment` `[n, 2]`, `score`.
        ground_truth: the same without `score`; segments in the unit of the detections.
        num_class: C, background excluded.
        thresholds: `[K]` tIoU, rising.

    Returns:
        `[C, K]` average precision in [0, 1]; 0 for a class with ground truth and no detection, nan for a class
        without ground truth.
    """
    return Matched(detections, ground_truth, num_class, thresholds).class_precision()


class Matched:
    """Detections by falling score, and which of them are true positives; see `detection_map`.

    Attributes:
        ranked: the detections; of equal scores, the one listed first goes first.
        true_positive: `[n, K]` bool.
        num_instances: `[C]` of the ground truth.
    """

    def __init__(
        self,
        detections: Mapping[str, np.ndarray],
        ground_truth: Mapping[str, np.ndarray],
        num_class: int,
        thresholds: np.ndarray,
    ) -> None:
        order = np.argsort(-detections["score"], kind="stable")
        self.ranked = {name: values[order] for name, values in detections.items()}
        self.ground_truth, self.num_class, self.thresholds = ground_truth, num_class, thresholds
        self.true_positive = match_detections(self.ranked, ground_truth, thresholds) >= 0
        self.num_instances = np.bincount(ground_truth["class_idx"], minlength=num_class)

    def class_precision(self) -> np.ndarray:
        """What `detection_map` returns."""
        precision = np.full((self.num_class, len(self.thresholds)), np.nan)
        for class_idx in np.flatnonzero(self.num_instances):
            hits = self.true_positive[self.ranked["class_idx"] == class_idx]
            precision[class_idx] = average_precision(hits, self.num_instances[class_idx])
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


def match_detections(
    ranked: Mapping[str, np.ndarray], ground_truth: Mapping[str, np.ndarray], thresholds: np.ndarray
) -> np.ndarray:
    """Which instance each detection holds: each in turn takes the free one it overlaps most, if enough.

    Args:
        ranked: detections by falling score, see `detection_map`.
        ground_truth: see `detection_map`.
        thresholds: `[K]`.

    Returns:
        `[n, K]` int32 index of the instance; -1 where the detection is a false positive.
    """
    near = []
    for detection, instance in candidate_pairs(ranked, ground_truth):
        overlap = tiou(ranked["segment"][detection], ground_truth["segment"][instance])
        candidate = overlap >= thresholds.min()
        near.append((detection[candidate], instance[candidate], overlap[candidate]))
    detection, instance, overlap = (np.concatenate(parts) for parts in zip(*near, strict=True))
    # A detection's wishes: the largest tIoU first; of equal ones the instance listed later.
    wish = np.lexsort((-instance, -overlap, detection))
    detection, instance, overlap = detection[wish], instance[wish], overlap[wish]

    held = np.full((len(ranked["score"]), len(thresholds)), -1, dtype=np.int32)
    for k, threshold in enumerate(thresholds):
        enough = overlap >= threshold
        holders, their_own = _serve_in_rank_order(detection[enough], instance[enough], len(ground_truth["video"]))
        held[holders, k] = their_own
    return held


def candidate_pairs(
    ranked: Mapping[str, np.ndarray], ground_truth: Mapping[str, np.ndarray], most: int = 1 << 22
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every (detection, instance) of the same video and class, as two index arrays for about `most` pairs at a time."""
    num_class = 1 + max(part["class_idx"].max(initial=0) for part in (ranked, ground_truth))
    det_key, gt_key = (part["video"] * num_class + part["class_idx"] for part in (ranked, ground_truth))
    gt_order = np.argsort(gt_key, kind="stable")
    first = np.searchsorted(gt_key, det_key, side="left", sorter=gt_order)
    count = np.searchsorted(gt_key, det_key, side="right", sorter=gt_order) - first
    for part in np.split(np.arange(len(det_key)), np.searchsorted(count.cumsum(), np.arange(most, count.sum(), most))):
        n = count[part]
        within = np.arange(n.sum()) - np.repeat(n.cumsum() - n, n)
        yield np.repeat(part, n), gt_order[np.repeat(first[part], n) + within]


def _serve_in_rank_order(
    detection: np.ndarray, instance: np.ndarray, num_instances: int
) -> tuple[np.ndarray, np.ndarray]:
    """The detections that end up holding an instance, and that instance, all videos and classes at once.

    Serving detections one after another, best score first, is the stable matching in which every instance prefers
    the better score. Deferred acceptance finds it in a few vectorised rounds: each detection asks for its next
    wish, each instance keeps the best asker, the others move on.

    Args:
        detection: `[P]` rank of the asking detection, rising; its wishes follow in order.
        instance: `[P]` the instance wished for.
        num_instances: of the whole ground truth.
    """
    asking, wish = np.unique(detection, return_index=True)
    last = np.append(wish[1:], len(detection))
    while True:
        best = np.full(num_instances, len(detection) and detection[-1] + 1)
        np.minimum.at(best, instance[wish], asking)
        refused = best[instance[wish]] != asking
        if not refused.any():
            return asking, instance[wish]
        wish = wish + refused
        still = wish < last
        asking, wish, last = asking[still], wish[still], last[still]
