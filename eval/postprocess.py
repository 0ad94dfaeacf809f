"""Network outputs to detections: class scores, the classes that a video reports, NMS (SPEC section 6).

Axes: M proposals of a video, C classes, N detections of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from eval.nms import Nms, SoftNms
from proposals import Proposals
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
        scoring: maps logits to class scores, one of `SCORING`.
        score_fusion: share w of the proposals' own scores q; a detection of SEAL's score s gets s^(1-w) q^w. A proposal
            that has a class is then a detection of this class alone.
    """

    threshold_cls: float
    rate: float
    nms: Nms = field(default_factory=SoftNms)
    scoring: Scoring = field(default_factory=lambda: against_each_other)
    score_fusion: float = 0.0

    def __call__(
        self,
        outputs: Mapping[str, Tensor],
        proposals: Sequence[Proposals],
        ambiguous_sec: Sequence[np.ndarray | None],
    ) -> list[VideoDetections]:
        """Detections of every video of a flat batch.

        Args:
            outputs: of the network over the rows of all videos, see `model.SEAL.forward`.
            proposals: of each video.
            ambiguous_sec: `[A, 2]` of each video, see `detect`.
        """
        sizes = [len(listed) for listed in proposals]
        by_video = zip(*(outputs[name].cpu().split(sizes) for name in LOGITS), strict=True)
        return [
            self.detect(logits[0].numpy(), logits[1].numpy(), logits[2].numpy(), listed, ambiguous)
            for logits, listed, ambiguous in zip(by_video, proposals, ambiguous_sec, strict=True)
        ]

    def detect(
        self,
        class_logits: np.ndarray,
        attention_logits: np.ndarray,
        completeness_logits: np.ndarray,
        listed: Proposals,
        ambiguous_sec: np.ndarray | None = None,
    ) -> VideoDetections:
        """Detections of one video.

        Args:
            class_logits: `[M, C+1]`, background last.
            attention_logits: `[M]`.
            completeness_logits: `[M]`.
            listed: the M proposals.
            ambiguous_sec: `[A, 2]` ambiguous segments, or None; detections that overlap one are marked.
        """
        segments_snip = listed.segments_snip
        attention = _sigmoid(attention_logits.astype(np.float64))  # [M]
        completeness = _sigmoid(completeness_logits.astype(np.float64))  # [M]
        scores, video_score = self.scoring(class_logits.astype(np.float64), attention, completeness)  # [M, C], [C]
        possible = np.full(len(video_score), True)
        if self.score_fusion:
            scores = fuse_scores(scores, listed, self.score_fusion)
            possible = np.any(scores > 0, axis=0)  # classes that a proposal may be a detection of
        reported = possible & (video_score >= self.threshold_cls)
        if not reported.any():
            reported[np.where(possible, video_score, -1).argmax()] = True

        classes = np.flatnonzero(reported)
        orders, kept_scores = zip(*self.nms(segments_snip, scores[:, classes]), strict=True)
        order, score = np.concatenate(orders), np.concatenate(kept_scores)  # [N]
        class_idx = np.repeat(classes, [len(indices) for indices in orders])
        if self.score_fusion:  # proposals of other classes are no detections
            is_own = scores[order, class_idx] > 0
            order, score, class_idx = order[is_own], score[is_own], class_idx[is_own]
        return VideoDetections(
            video_score=video_score,
            reported=reported,
            class_idx=class_idx,
            segment_snip=segments_snip[order],
            score=score,
            ambiguous=overlaps_ambiguous(segments_snip, ambiguous_sec, self.rate)[order],
            attention=attention,
            completeness=completeness,
        )


def against_each_other(
    class_logits: np.ndarray, attention: np.ndarray, completeness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The paper's scores: classes compete in a softmax (SPEC section 6).

    Args:
        class_logits: `[M, C+1]`, background last.
        attention: `[M]` in [0, 1].
        completeness: `[M]` in [0, 1].

    Returns:
        `[M, C]` scores of the proposals, `[C]` of the video.
    """
    probs = _softmax(class_logits)[:, :-1]  # [M, C]
    scores = probs * (attention * completeness)[:, None]  # [M, C]
    return scores, attention @ probs / (attention.sum() + 1e-6)


def independent(
    class_logits: np.ndarray, attention: np.ndarray, completeness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of independent classes: a video with many labels scores none of them lower.

    The arguments and what is returned are those of `against_each_other`. The score of the video is the mean over its
    best eighth of proposals.
    """
    probs = _sigmoid(class_logits[:, :-1] - class_logits[:, -1:])  # [M, C]
    best = np.sort(probs, axis=0)[-max(1, len(probs) // 8) :]
    return probs * completeness[:, None], best.mean(0)


Scoring = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
SCORING: dict[str, Scoring] = {"paper": against_each_other, "own": independent}  # by --recipe


def fuse_scores(scores: np.ndarray, listed: Proposals, share: float) -> np.ndarray:
    """Scores `[M, C]` fused with those of the proposals, see `PostProcess.score_fusion`.

    Args:
        scores: `[M, C]` of the network, in [0, 1].
        listed: the M proposals. Scores that are not positive count as 1e-6, and unknown ones as 1.
        share: of the proposals' scores.

    Returns:
        `[M, C]`; 0 where a proposal is of another class.
    """
    own = np.where(np.isnan(listed.score), 1.0, listed.score.clip(min=1e-6))  # [M]
    fused = scores ** (1 - share) * own[:, None] ** share
    other = (listed.class_idx[:, None] != np.arange(scores.shape[1])) & (listed.class_idx >= 0)[:, None]
    return np.where(other, 0.0, fused)


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
