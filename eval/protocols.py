"""The tIoU protocols: at which thresholds detections are evaluated, and everything that depends on the choice.

`TIOU_PROTOCOLS` is the one place that lists them. A new entry is a choice of `--tiou`, in training, testing, evaluating
and reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BUCKETS = ("length", "coverage", "instances")


class Published(NamedTuple):
    """A published result: mAP in percent, mean over the headline range, snippet protocol."""

    method: str
    mean: float
    dataset: str


@dataclass(frozen=True, eq=False)
class TiouProtocol:
    """How a dataset's detections are evaluated.

    Attributes:
        name: what `--tiou` calls it.
        thresholds: `[K]` tIoU thresholds, rising.
        means: the ranges (low, high) of thresholds whose mean mAP is reported, both ends included; the headline last.
        buckets: for the error analysis, the bounds between buckets (low, high] of an instance's `length` in seconds, of
            its `coverage`, the share of its video, and of the number of `instances` of its class in its video.
        curve_tiou: default tIoU of the precision-recall curves.
        published: results to show beside those of a run.

    Raises:
        ValueError: thresholds do not rise or are not in (0, 1], a range holds none of them, or a bucket is missing.
    """

    name: str
    thresholds: np.ndarray
    means: tuple[tuple[float, float], ...]
    buckets: Mapping[str, tuple[float, ...]]
    curve_tiou: tuple[float, ...]
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        steps = np.diff(self.thresholds, prepend=0.0)
        if not len(steps) or (steps <= 0).any() or self.thresholds[-1] > 1:
            raise ValueError(f"tIoU protocol {self.name}: thresholds {self.thresholds} do not rise within (0, 1]")
        if not self.means or not all(self._within(*ends).any() for ends in self.means):
            raise ValueError(f"tIoU protocol {self.name}: a range of {self.means} holds no threshold")
        if self.buckets.keys() != set(BUCKETS):
            raise ValueError(f"tIoU protocol {self.name}: buckets are {[*self.buckets]}, expected {list(BUCKETS)}")

    @property
    def reported(self) -> list[float]:
        """The thresholds as files and tables show them, without the last bits of `linspace`."""
        return [round(float(threshold), 2) for threshold in self.thresholds]

    @property
    def headline(self) -> str:
        """The name of the range whose mean is the headline figure."""
        return _range_name(*self.means[-1])

    def means_of(self, values: Sequence[float]) -> dict[str, float]:
        """The mean of `[K]` values at the thresholds over each range, by the name of the range; the headline last."""
        return {_range_name(*ends): float(np.array(values)[self._within(*ends)].mean()) for ends in self.means}

    def _within(self, low: float, high: float) -> np.ndarray:
        """Which thresholds are in a range: `[K]` bool."""
        reported = np.array(self.reported)
        return (reported >= low) & (reported <= high)


def _range_name(low: float, high: float) -> str:
    return f"{low:g} : {high:g}"


_ALL = (
    TiouProtocol(
        name="thumos14",
        thresholds=np.linspace(0.1, 0.7, 7),
        means=((0.1, 0.5), (0.3, 0.7), (0.1, 0.7)),
        buckets={
            "length": (0, 3, 6, 12, 18, np.inf),
            "coverage": (0, 0.02, 0.04, 0.06, 0.08, 1),
            "instances": (0, 1, 40, 80, np.inf),
        },
        curve_tiou=(0.3, 0.5, 0.7),
        published=(
            Published("P-MIL, published", 47.0, "THUMOS14"),
            Published("SEAL, published in the paper", 52.8, "THUMOS14"),
            Published("SEAL, published later", 55.2, "THUMOS14"),
        ),
    ),
    TiouProtocol(
        name="activitynet",
        thresholds=np.linspace(0.5, 0.95, 10),
        means=((0.5, 0.95),),
        buckets={
            "length": (0, 30, 60, 120, 180, np.inf),
            "coverage": (0, 0.2, 0.4, 0.6, 0.8, 1),
            "instances": (0, 1, 4, 8, np.inf),
        },
        curve_tiou=(0.5, 0.75, 0.95),
    ),
)
TIOU_PROTOCOLS = {protocol.name: protocol for protocol in _ALL}
