"""What lies behind a mAP: precision-recall curves, each class, each video, and the confusion of video labels.

Detections and ground truth are arrays as `eval.detection` takes them, or tables as `eval.protocols` does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from eval.detection import average_precision, match_detections

RECALL = np.linspace(0, 1, 101)  # where precision is read


class Matched:
    """Detections by falling score with the instances they hold, from which all curves follow.

    Args:
        detections: see `eval.detection.detection_map`.
        ground_truth: see there; at least one instance.
        num_class: C, background excluded.
        thresholds: `[K]` tIoU, rising.
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
        self.true_positive = match_detections(self.ranked, ground_truth, thresholds) >= 0  # [n, K]
        self.num_instances = np.bincount(ground_truth["class_idx"], minlength=num_class)  # [C]

    def of_class(self, class_idx: int) -> np.ndarray:
        """Which detections of a class are true positives, `[n, K]`."""
        return self.true_positive[self.ranked["class_idx"] == class_idx]

    def class_precision(self) -> np.ndarray:
        """Average precision, `[C, K]` in [0, 1]; nan for a class without ground truth."""
        precision = np.full((self.num_class, len(self.thresholds)), np.nan)
        for class_idx in np.flatnonzero(self.num_instances):
            precision[class_idx] = average_precision(self.of_class(class_idx), self.num_instances[class_idx])
        return precision

    def mean_curve(self) -> np.ndarray:
        """Interpolated precision at each of `RECALL`, the mean over the classes, `[R, K]`: its area is the mAP."""
        curves = []
        for class_idx in np.flatnonzero(self.num_instances):
            hits = self.of_class(class_idx)
            precision = hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]
            best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
            # The first detection with which the recall is reached; instances are counted, so that nothing is rounded.
            wanted = np.ceil(RECALL * self.num_instances[class_idx] - 1e-9).clip(min=1)
            columns = []
            for k in range(len(self.thresholds)):
                first = np.searchsorted(hits[:, k].cumsum(), wanted)
                columns.append(np.append(best_from_here[:, k], 0)[first])
            curves.append(np.stack(columns, axis=1))
        return np.mean(curves, axis=0)

    def pooled_counts(self, k: int, num_thresholds: int = 101) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """True positives, false positives and missed instances of all classes together, at tIoU number k.

        Each is `[num_thresholds]`, of the detections whose score is at least 0, 0.01 …, 1.
        """
        at_least = np.linspace(0, 1, num_thresholds)
        count = np.searchsorted(-self.ranked["score"], -at_least, side="right")
        true = np.append(0, self.true_positive[:, k].cumsum())[count]
        return true, count - true, self.num_instances.sum() - true

    def video_precision(self) -> dict[int, float]:
        """Each video's own mAP, averaged over the thresholds: what it would be if there were no other video."""
        own: dict[int, list[float]] = {}
        pair = self.ranked["video"] * self.num_class + self.ranked["class_idx"]
        order = np.argsort(pair, kind="stable")
        keys, count = np.unique(
            self.ground_truth["video"] * self.num_class + self.ground_truth["class_idx"], return_counts=True
        )
        first, last = (np.searchsorted(pair[order], keys, side=side) for side in ("left", "right"))
        for key, instances, start, end in zip(keys.tolist(), count.tolist(), first, last, strict=True):
            precision = average_precision(self.true_positive[order[start:end]], instances)
            own.setdefault(key // self.num_class, []).append(float(precision.mean()))
        return {video: float(np.mean(values)) for video, values in own.items()}


def label_confusion(detections: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Which classes are reported in the videos of each class.

    A class is reported in a video that has a detection of it. What is reported in a video and is another of its labels
    is right, and counts for that label alone.

    Args:
        detections: see `eval.files.detection_table`.
        labels: `[V, C]` of the videos, 0 or 1; the index has their names and the columns those of the classes.

    Returns:
        `[C, C]` counts: videos with the row's label in which the column is reported.
    """
    reported = np.zeros(labels.shape, dtype=np.int64)
    place = labels.index.get_indexer(detections["video"])
    reported[place, detections["class_idx"].to_numpy(np.int64)] = 1
    has = labels.to_numpy() > 0
    right = np.diag((has & (reported > 0)).sum(0))
    wrong = has.T.astype(np.int64) @ (reported * ~has)
    return pd.DataFrame(right + wrong, index=labels.columns, columns=labels.columns)
