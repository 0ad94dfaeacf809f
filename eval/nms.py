"""Non-maximum suppression of a video's proposals, class by class (SPEC section 6).

`NMS` is the one place that lists the kinds. A new entry is a choice of `--nms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from proposals import tiou

MAX_AT_ONCE = 4096  # up to so many proposals, all `[M, M]` decays are made at once: faster, but gigabytes for more


class Nms(Protocol):
    """What post-processing needs of a non-maximum suppression."""

    def __call__(self, segments_snip: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Suppress overlapping proposals of one video, in each class by itself.

        Args:
            segments_snip: `[M, 2]` proposals in snippets.
            scores: `[M, K]` of the K classes that the video reports; not to be changed.

        Returns:
            For each class the indices `[n]` of the proposals that stay, by falling score, and their scores `[n]`.
        """


@dataclass(frozen=True)
class SoftNms:
    """Gaussian soft-NMS that drops nothing: each kept proposal multiplies others' scores by exp(-tIoU^2 / variance).

    Raises:
        ValueError: the variance is so small that a decay could be 0.
    """

    variance: float = 0.1

    def __post_init__(self) -> None:
        if not self.variance >= 0.01:
            raise ValueError(f"soft-NMS: variance {self.variance} is below 0.01")

    def __call__(self, segments_snip: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `Nms`; all M proposals stay."""
        if len(segments_snip) <= MAX_AT_ONCE:
            decays = self.decay(segments_snip[:, None], segments_snip)  # [M, M]
            return [soft_nms(column, decays.__getitem__) for column in scores.T]
        return [soft_nms(column, lambda i: self.decay(segments_snip[i], segments_snip)) for column in scores.T]

    def decay(self, kept: np.ndarray, segments_snip: np.ndarray) -> np.ndarray:
        """Factors by which kept segments `[..., 2]` lower the scores of others `[..., 2]`; leading axes broadcast."""
        return np.exp(-np.square(tiou(kept, segments_snip, closed=True)) / self.variance)


def soft_nms(scores: np.ndarray, decay_of: Callable[[int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Keep the best proposal again and again, each time lowering the scores of those that are left.

    Args:
        scores: `[M]` of one class.
        decay_of: maps the index of a kept proposal to the factors `[M]` of all scores.

    Returns:
        The proposals in the order they were kept, `[M]`, the first on ties, and their scores then, `[M]`.
    """
    remaining = scores.copy()
    order = np.empty(len(scores), dtype=np.int64)
    kept_scores = np.empty(len(scores))
    # Sequential by definition: which proposal comes next depends on all that came before.
    for step in range(len(scores)):
        best = int(remaining.argmax())
        order[step], kept_scores[step] = best, remaining[best]
        remaining *= decay_of(best)
        remaining[best] = -np.inf  # stays -inf under every further decay, since a decay is above 0
    return order, kept_scores


NMS: dict[str, Callable[[], Nms]] = {"soft": SoftNms}
