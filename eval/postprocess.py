"""Network outputs to detections: class scores, the classes that a video reports, NMS (SPEC section 6).

Axes: M proposals of a video, C classes, N detections of a video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from eval.nms import Nms, SoftNms
from utils import chunks

LOGITS = ("class_logits", "attention_logits", "completeness_logits")  # the network outputs that are used


class VideoDetections(NamedTuple):
    """The detections of one video, by falling score within a class."""

    video_score: np.ndarray  # [C]
    reported: np.ndarray  # [C] bool, the classes that have detections
    class_idx: np.ndarray  # [N]
    segment_snip: np.ndarray  # [N, 2]
    score: np.ndarray  # [N]
    ambiguous: np.ndarray  # [N] bool, those that overlap an ambiguous segment; they are not evaluated
    attention: np.ndarray  # [M] of the proposals, in [0, 1]
    completeness: np.ndarray  # [M] of the proposals, in [0, 1]


@dataclass(frozen=True)
class PostProcess:
    """Maps network outputs and proposals to detections.

    Attributes:
        threshold_cls: video score from which a class is reported; if none reaches it, the best class alone is.
        rate: snippets per second.
        nms: suppresses overlapping proposals.
    """

    threshold_cls: float
    rate: float
    nms: Nms = field(default_factory=SoftNms)

    def __call__(
        self,
        outputs: Mapping[str, Tensor],
        segments_snip: Sequence[np.ndarray],
        ambiguous_sec: Sequence[np.ndarray | None],
    ) -> list[VideoDetections]:
        """Detections of every video of a flat batch.

        Args:
            outputs: of the network over the rows of all videos, see `model.SEAL.forward`.
            segments_snip: `[M, 2]` proposals of each video.
            ambiguous_sec: `[A, 2]` of each video, see `detect`.
        """
        sizes = [len(segments) for segments in segments_snip]
        by_video = zip(*(outputs[name].cpu().split(sizes) for name in LOGITS), strict=True)
        return [
            self.detect(logits[0].numpy(), logits[1].numpy(), logits[2].numpy(), segments, ambiguous)
            for logits, segments, ambiguous in zip(by_video, segments_snip, ambiguous_sec, strict=True)
        ]

    def detect(
        self,
        class_logits: np.ndarray,
        attention_logits: np.ndarray,
        completeness_logits: np.ndarray,
        segments_snip: np.ndarray,
        ambiguous_sec: np.ndarray | None = None,
    ) -> VideoDetections:
        """Detections of one video.

        Args:
            class_logits: `[M, C+1]`, background last.
            attention_logits: `[M]`.
            completeness_logits: `[M]`.
            segments_snip: `[M, 2]` the proposals.
            ambiguous_sec: `[A, 2]` ambiguous segments, or None; detections that overlap one are marked.
        """
        probs = _softmax(class_logits.astype(np.float64))[:, :-1]  # [M, C]
        attention = _sigmoid(attention_logits.astype(np.float64))  # [M]
        completeness = _sigmoid(completeness_logits.astype(np.float64))  # [M]
        scores = probs * (attention * completeness)[:, None]  # [M, C]

        video_score = attention @ probs / (attention.sum() + 1e-6)  # [C]
        reported = video_score >= self.threshold_cls
        if not reported.any():
            reported[video_score.argmax()] = True

        classes = np.flatnonzero(reported)
        orders, kept_scores = zip(*self.nms(segments_snip, scores[:, classes]), strict=True)
        order = np.concatenate(orders)  # [N]
        return VideoDetections(
            video_score=video_score,
            reported=reported,
            class_idx=np.repeat(classes, [len(indices) for indices in orders]),
            segment_snip=segments_snip[order],
            score=np.concatenate(kept_scores),
            ambiguous=overlaps_ambiguous(segments_snip, ambiguous_sec, self.rate)[order],
            attention=attention,
            completeness=completeness,
        )


def overlaps_ambiguous(segments_snip: np.ndarray, ambiguous_sec: np.ndarray | None, rate: float) -> np.ndarray:
    """Which segments `[M, 2]` share a whole snippet with an ambiguous one: `[M]` bool.

    Integer ranges: [int(s), int(e)) of the segment, [round(s_a rate), round(e_a rate)) of the ambiguous one.

    Args:
        segments_snip: in snippets.
        ambiguous_sec: `[A, 2]` in seconds, or None.
        rate: snippets per second.
    """
    shared = np.zeros(len(segments_snip), dtype=bool)
    if ambiguous_sec is None or not len(ambiguous_sec):
        return shared
    ambiguous = np.rint(ambiguous_sec * rate)[None]  # [1, A, 2]
    for chunk in chunks(len(segments_snip), len(ambiguous_sec)):
        whole = np.trunc(segments_snip[chunk])[:, None]  # [m, 1, 2]
        overlap = np.minimum(whole[..., 1], ambiguous[..., 1]) > np.maximum(whole[..., 0], ambiguous[..., 0])
        shared[chunk] = overlap.any(1)
    return shared


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # does not overflow
