"""Video classification: mAP and exact-match accuracy of the video-level predictions (SPEC section 7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.postprocess import VideoDetections
from eval.results import Classification


def classification_figures(videos: Sequence[VideoDetections], labels: np.ndarray) -> Classification:
    """How well the videos are classified.

    Args:
        videos: V test videos.
        labels: `[V, C]` 0 or 1.
    """
    mean = classification_map(np.stack([video.video_score for video in videos]), labels)
    reported = np.stack([video.reported for video in videos])  # [V, C]
    return Classification(
        mAP=None if mean is None else 100 * mean,
        accuracy=100 * classification_accuracy(reported, labels),
        num_labels=int((labels > 0).sum()),
        num_reported=int((reported & (labels > 0)).sum()),
    )


def classification_map(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean over classes of the (not interpolated) average precision of ranking videos by their score.

    Args:
        scores: `[V, C]` video scores.
        labels: `[V, C]` 0 or 1. A class without a positive video is left out.

    Returns:
        In [0, 1]; None when no class has a positive video.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels > 0, order, axis=0)  # [V, C]
    precision = hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]
    positives = hits.sum(0)
    has = positives > 0
    return float(((precision * hits).sum(0)[has] / positives[has]).mean()) if has.any() else None


def classification_accuracy(reported: np.ndarray, labels: np.ndarray) -> float:
    """Share of the videos whose reported classes `[V, C]` (bool) are exactly their labels `[V, C]`."""
    return float((reported == (labels > 0)).all(1).mean())
