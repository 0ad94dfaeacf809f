"""What lies behind a mAP: precision-recall curves, each video, and the confusion of video labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eval.detection import Matched, average_precision, interpolated

RECALL = np.linspace(0, 1, 101)  # where precision is read


def mean_curve(matched: Matched) -> np.ndarray:
    """Interpolated precision at each of `RECALL`, the mean over the classes, `[R, K]`: its area is the mAP."""
    curves = []
    for class_idx in np.flatnonzero(matched.num_instances):
        hits = matched.true_positive[matched.ranked["class_idx"] == class_idx]
        precision = interpolated(hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None])
        # The first detection with which the recall is reached; instances are counted, so that nothing is rounded.
        wanted = np.ceil(RECALL * matched.num_instances[class_idx] - 1e-9).clip(min=1)
        reached = [np.searchsorted(found, wanted) for found in hits.cumsum(0).T]  # one more than there are: never
        curves.append(np.stack([np.append(own, 0)[at] for own, at in zip(precision.T, reached, strict=True)], axis=1))
    return np.mean(curves, axis=0)


def pooled_counts(matched: Matched, k: int, num_scores: int = 101) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, false positives and missed instances of all classes together, at tIoU number k.

    Each is `[num_scores]`, of the detections whose score is at least 0, …, 1 in even steps.
    """
    count = np.searchsorted(-matched.ranked["score"], -np.linspace(0, 1, num_scores), side="right")
    true = np.append(0, matched.true_positive[:, k].cumsum())[count]
    return true, count - true, matched.num_instances.sum() - true


def video_precision(matched: Matched) -> dict[int, float]:
    """Each video's own mAP, averaged over the thresholds: what it would be if there were no other video."""
    own: dict[int, list[float]] = {}
    keys = [part["video"] * matched.num_class + part["class_idx"] for part in (matched.ranked, matched.ground_truth)]
    order = np.argsort(keys[0], kind="stable")
    pairs, count = np.unique(keys[1], return_counts=True)
    first, last = (np.searchsorted(keys[0][order], pairs, side=side) for side in ("left", "right"))
    for pair, instances, start, end in zip(pairs.tolist(), count.tolist(), first, last, strict=True):
        precision = average_precision(matched.true_positive[order[start:end]], instances)
        own.setdefault(pair // matched.num_class, []).append(float(precision.mean()))
    return {video: float(np.mean(values)) for video, values in own.items()}


def label_confusion(detections: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Which classes are reported in the videos of each class.

    A class is reported in a video that has a detection of it. What is reported in a video and is another of its labels
    is right, and counts for that label alone.

    Args:
        detections: see `eval.tables.detection_table`.
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
