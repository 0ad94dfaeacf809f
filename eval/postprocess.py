"""Network outputs to detections: class scores, the classes a video reports, Gaussian soft-NMS (SPEC section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from proposals import tiou
from utils import chunks

NMS_VARIANCE = 0.1
MOST_AT_ONCE = 4096  # proposals whose [M, M] decays are made at once, which is faster; of more it would take gigabytes
LOGITS = ("class_logits", "attention_logits", "completeness_logits")  # what is read of the network's outputs


class VideoDetections(NamedTuple):
    """What is found in one video; N detections, highest score first within a class."""

    video_score: np.ndarray  # [C]
    reported: np.ndarray  # [C] bool, the classes that have detections
    class_idx: np.ndarray  # [N]
    segment_snip: np.ndarray  # [N, 2]
    score: np.ndarray  # [N]
    ambiguous: np.ndarray  # [N] bool, those that overlap an ambiguous segment, and do not count
    attention: np.ndarray  # [M] of the proposals, in [0, 1]
    completeness: np.ndarray  # [M] of the proposals, in [0, 1]


def detect_batch(
    outputs: dict[str, Tensor],
    segments_snip: Sequence[np.ndarray],
    ambiguous_sec: Sequence[np.ndarray | None],
    *,
    threshold_cls: float,
    rate: float,
) -> list[VideoDetections]:
    """Detections of every video of a flat batch.

    Args:
        outputs: of the network over the rows of all videos, see `model.SEAL.forward`.
        segments_snip: `[M, 2]` proposals of each video.
        ambiguous_sec: of each video, see `detect`.
        threshold_cls: see `detect`.
        rate: snippets per second.
    """
    sizes = [len(segments) for segments in segments_snip]
    logits = [[part.numpy() for part in outputs[name].cpu().split(sizes)] for name in LOGITS]
    return [
        detect(*rows, segments, threshold_cls=threshold_cls, rate=rate, ambiguous_sec=ambiguous)
        for *rows, segments, ambiguous in zip(*logits, segments_snip, ambiguous_sec, strict=True)
    ]


def detect(
    class_logits: np.ndarray,
    attention_logits: np.ndarray,
    completeness_logits: np.ndarray,
    segments_snip: np.ndarray,
    *,
    threshold_cls: float,
    rate: float,
    ambiguous_sec: np.ndarray | None = None,
) -> VideoDetections:
    """Detections of one video.

    Args:
        class_logits: `[M, C+1]`, background last.
        attention_logits: `[M]`.
        completeness_logits: `[M]`.
        segments_snip: `[M, 2]` the proposals.
        threshold_cls: video score from which a class is reported; the best class alone when none reaches it.
        rate: snippets per second.
        ambiguous_sec: `[A, 2]` segments that detections do not count on; None for none.
    """
    probs = _softmax(class_logits.astype(np.float64))[:, :-1]  # [M, C]
    attention = _sigmoid(attention_logits.astype(np.float64))  # [M]
    completeness = _sigmoid(completeness_logits.astype(np.float64))  # [M]
    scores = probs * (attention * completeness)[:, None]  # [M, C]

    video_score = attention @ probs / (attention.sum() + 1e-6)  # [C]
    reported = video_score >= threshold_cls
    if not reported.any():
        reported[video_score.argmax()] = True

    ambiguous = overlaps_ambiguous(segments_snip, ambiguous_sec, rate)  # [M]
    decay = Decay(segments_snip)
    if len(segments_snip) <= MOST_AT_ONCE:
        decay = decay.of_all()
    classes = np.flatnonzero(reported)
    orders, kept_scores = zip(*(soft_nms(scores[:, class_idx], decay) for class_idx in classes), strict=True)
    order = np.concatenate(orders)
    return VideoDetections(
        video_score=video_score,
        reported=reported,
        class_idx=np.repeat(classes, len(segments_snip)),
        segment_snip=segments_snip[order],
        score=np.concatenate(kept_scores),
        ambiguous=ambiguous[order],
        attention=attention,
        completeness=completeness,
    )


class Decay:
    """What keeping a proposal multiplies the scores of all by, exp(-IoU^2 / 0.1): row i is that of proposal i."""

    def __init__(self, segments_snip: np.ndarray) -> None:
        self.segments_snip = segments_snip

    def __getitem__(self, i: int) -> np.ndarray:
        """The row of one proposal, `[M]`."""
        return self._of(self.segments_snip[i])

    def of_all(self) -> np.ndarray:
        """All rows, `[M, M]`."""
        return self._of(self.segments_snip[:, None])

    def _of(self, segments_snip: np.ndarray) -> np.ndarray:
        overlap = tiou(segments_snip, self.segments_snip, closed=True)
        return np.exp(-np.square(overlap) / NMS_VARIANCE)


def soft_nms(scores: np.ndarray, decay: np.ndarray | Decay) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian soft-NMS that drops nothing: each kept proposal lowers the scores of those it overlaps.

    Args:
        scores: `[M]` of one class.
        decay: `[M, M]` what keeping row i multiplies the score of column j by; or the `Decay` that makes these rows.

    Returns:
        The proposals in the order they were kept, `[M]`, the first on ties, and their scores then, `[M]`.
    """
    left = scores.copy()
    order = np.empty(len(scores), dtype=np.int64)
    kept_scores = np.empty(len(scores))
    # Sequential by definition: which proposal comes next depends on all that came before.
    for step in range(len(scores)):
        best = left.argmax()
        order[step], kept_scores[step] = best, left[best]
        left *= decay[best]
        left[best] = -np.inf  # -inf stays -inf under every further decay, since decay >= exp(-10) > 0
    return order, kept_scores


def overlaps_ambiguous(segments_snip: np.ndarray, ambiguous_sec: np.ndarray | None, rate: float) -> np.ndarray:
    """Which segments `[M, 2]` share a whole snippet with an ambiguous one: `[M]` bool.

    Integer ranges: [int(s), int(e)) of the segment, [round(s_a rate), round(e_a rate)) of the ambiguous one.
    """
    shared = np.zeros(len(segments_snip), dtype=bool)
    if ambiguous_sec is None or not len(ambiguous_sec):
        return shared
    ambiguous = np.rint(ambiguous_sec * rate)[None]  # [1, A, 2]
    for part in chunks(len(segments_snip), len(ambiguous_sec)):
        own = np.trunc(segments_snip[part])[:, None]  # [m, 1, 2]
        overlap = np.minimum(own[..., 1], ambiguous[..., 1]) > np.maximum(own[..., 0], ambiguous[..., 0])
        shared[part] = overlap.any(1)
    return shared


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # no overflow at either end
