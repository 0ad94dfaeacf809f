"""Further metrics, beside detection mAP and video classification.

To add one, write a function of an `EvaluationInput` and enter it into `METRICS` under its name. It is then computed at
every evaluation, and is in `results.json` and `metrics.jsonl` (under `extra`), in TensorBoard, in the printed summary
and in reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.postprocess import VideoDetections
from eval.protocols import TiouProtocol
from eval.segments import Detections, Segments, to_segments


@dataclass(frozen=True)
class LeftOut:
    """Test videos that nothing is detected in, since they have no features.

    Attributes:
        videos: their names.
        num_videos: how many test videos there are, with these.
        ground_truth: their instances.
    """

    videos: tuple[str, ...]
    num_videos: int
    ground_truth: pd.DataFrame

    @classmethod
    def of(cls, videos: Iterable[str], others: int, ground_truth: pd.DataFrame) -> LeftOut | None:
        """These videos, beside a number of others; None if there are none."""
        names = tuple(videos)
        return cls(names, len(names) + others, ground_truth) if names else None


@dataclass(frozen=True)
class EvaluationInput:
    """What is evaluated.

    Attributes:
        detections: see `eval.tables.detection_table`; without those that overlap an ambiguous segment.
        ground_truth: video, class_idx, start_sec, end_sec; may be empty where there are `labels`.
        class_names: C names, background excluded.
        tiou_protocol: with the thresholds.
        rate: snippets per second.
        videos: what the network predicts for each of the V test videos; empty when a file of detections is evaluated.
        labels: `[V, C]` 0 or 1, of the same videos.
        left_out: further test videos, of which the others know nothing; None if there are none.
    """

    detections: pd.DataFrame
    ground_truth: pd.DataFrame
    class_names: Sequence[str]
    tiou_protocol: TiouProtocol
    rate: float
    videos: Sequence[VideoDetections] = ()
    labels: np.ndarray | None = None
    left_out: LeftOut | None = None

    def segments(self, protocol: str) -> tuple[Detections, Segments]:
        """Detections and ground truth in the unit of a protocol, see `to_segments`."""
        return to_segments(self.detections, self.ground_truth, protocol, self.rate)


METRICS: dict[str, Callable[[EvaluationInput], float]] = {}


def further_metrics(inputs: EvaluationInput) -> dict[str, float | None]:
    """The value of each of `METRICS`; None where it is nan or infinite."""
    values = {name: float(metric(inputs)) for name, metric in METRICS.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
