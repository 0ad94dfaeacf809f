"""Video classification: mAP and exact-match accuracy of the video-level predictions (SPEC section 7)."""

from __future__ import annotations

import numpy as np


def classification_map(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the (not interpolated) average precision of ranking videos by their score.

    Args:
        scores: `[V, C]` video scores.
        labels: `[V, C]` 0 or 1. A class without a positive video is left out.

    Returns:
        In [0, 1]; nan when no class has a positive video.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels > 0, order, axis=0)  # [V, C]
    precision = hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]
    positives = hits.sum(0)
    has = positives > 0
    return float(((precision * hits).sum(0)[has] / positives[has]).mean()) if has.any() else float("nan")


def classification_accuracy(reported: np.ndarray, labels: np.ndarray) -> float:
    """Share of the videos whose reported classes `[V, C]` (bool) equal their labels `[V, C]` exactly."""
    return float((reported == (labels > 0)).all(1).mean())
