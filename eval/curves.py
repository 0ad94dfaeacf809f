"""Behind the mAP: precision-recall curves, the mAP of each video, and the confusion of video labels.

Axes: V videos, C classes, K thresholds, R recall values.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eval.detection import Matched, average_precision, interpolated

RECALL = np.linspace(0, 1, 101)  # [R] at which precision is read


def mean_curve(matched: Matched) -> np.ndarray:
    """Interpolated precision at each of `RECALL`, the mean over the classes, `[R, K]`: its area is the mAP."""
    curves = []
    for class_idx in np.flatnonzero(matched.num_instances):
        hits = matched.true_positive[matched.ranked.class_idx == class_idx]
        precision = interpolated(hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None])
        # The first detection with which the recall is reached; instances are counted, so that nothing is rounded.
        wanted = np.ceil(RECALL * matched.num_instances[class_idx] - 1e-9).clip(min=1)
        padded = np.vstack([precision, np.zeros(hits.shape[1])])  # the last row is for a recall that is never reached
        counts = hits.cumsum(0)  # [n, K]
        curve = [padded[np.searchsorted(counts[:, k], wanted), k] for k in range(hits.shape[1])]
        curves.append(np.stack(curve, axis=1))  # [R, K]
    return np.mean(curves, axis=0)


def pooled_counts(matched: Matched, k: int, num_scores: int = 101) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, false positives and missed instances of all classes together, over the score.

    Args:
        matched: the detections.
        k: which of the thresholds.
        num_scores: of which score on detections count: from 0 to 1 in so many even steps.

    Returns:
        Three counts, `[num_scores]` each.
    """
    count = np.searchsorted(-matched.ranked.score, -np.linspace(0, 1, num_scores), side="right")
    true = np.append(0, matched.true_positive[:, k].cumsum())[count]
    return true, count - true, matched.num_instances.sum() - true


def video_precision(matched: Matched) -> dict[int, float]:
    """The mAP of each video with ground truth, as if there were no other video; the mean over the thresholds."""
    detection_keys, instance_keys = (
        segments.video * matched.num_class + segments.class_idx for segments in (matched.ranked, matched.ground_truth)
    )
    order = np.argsort(detection_keys, kind="stable")
    keys, counts = np.unique(instance_keys, return_counts=True)  # a key is a class in a video
    sorted_keys, places = detection_keys[order], np.asarray(keys)
    starts = np.searchsorted(sorted_keys, places, side="left").tolist()
    ends = np.searchsorted(sorted_keys, places, side="right").tolist()
    by_video: dict[int, list[float]] = {}
    for key, count, start, end in zip(keys.tolist(), counts.tolist(), starts, ends, strict=True):
        precision = average_precision(matched.true_positive[order[start:end]], count)
        by_video.setdefault(key // matched.num_class, []).append(float(precision.mean()))
    return {video: float(np.mean(values)) for video, values in by_video.items()}


def label_confusion(detections: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Which classes are reported in the videos of each class.

    A class is reported in a video that has a detection of it. A reported class that is one of the video's labels is
    right, and is counted in its own row alone.

    Args:
        detections: see `eval.tables.detection_table`.
        labels: `[V, C]` of the videos, 0 or 1; the index has their names and the columns those of the classes.

    Returns:
        `[C, C]` counts: videos with the row's label in which the column is reported.
    """
    reported = np.zeros(labels.shape, dtype=np.int64)
    place = labels.index.get_indexer(pd.Index(detections["video"]))
    reported[place, detections["class_idx"].to_numpy(np.int64)] = 1
    has = labels.to_numpy() > 0
    right = np.diag((has & (reported > 0)).sum(0))
    wrong = has.T.astype(np.int64) @ (reported * ~has)
    return pd.DataFrame(right + wrong, index=labels.columns, columns=labels.columns)
