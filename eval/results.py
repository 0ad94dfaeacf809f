"""The figures of an evaluation, typed, and as the JSON that runs keep (SPEC section 10). All are percent.

The `from_json` functions raise ValueError, TypeError or KeyError for content that is not of their form; whoever reads
a file turns these into a message that names it, see `DAMAGED`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from eval.protocols import TIOU_PROTOCOLS, TiouProtocol
from utils import is_finite_number, shorten_list

PROTOCOLS = ("snippet", "seconds")
PROPOSALS, WHOLE_VIDEOS = "proposals", "whole_videos"
BASELINES = {
    PROPOSALS: "the proposals' own scores and labels",
    WHOLE_VIDEOS: "whole videos with the reported classes",
}
DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # what `from_json` may raise


@dataclass(frozen=True)
class ProtocolResult:
    """Detection mAP under one protocol, `snippet` or `seconds`; nan, in JSON null, where no instance is known.

    Attributes:
        tiou: K thresholds, as `TiouProtocol.reported`.
        mAP: K values.
        average: their mean.
    """

    tiou: tuple[float, ...]
    mAP: tuple[float, ...]
    average: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        if math.isnan(self.average):
            return {"tiou": [*self.tiou], "mAP": None, "average": None}
        return {"tiou": [*self.tiou], "mAP": [*self.mAP], "average": self.average}

    @classmethod
    def unknown(cls, tiou: Sequence[float]) -> ProtocolResult:
        """Of videos whose instances are not known."""
        return cls(tuple(tiou), (math.nan,) * len(tiou), math.nan)

    @classmethod
    def from_json(cls, content: Any) -> ProtocolResult:
        """The inverse of `to_json`. The thresholds must be those of one of `TIOU_PROTOCOLS`."""
        thresholds = [number(value) for value in content["tiou"]]
        if thresholds not in [protocol.reported for protocol in TIOU_PROTOCOLS.values()]:
            raise ValueError(f"no protocol has the tIoU thresholds {thresholds}")
        if content["mAP"] is None and content["average"] is None:
            return cls.unknown(thresholds)
        if len(content["mAP"]) != len(thresholds):
            raise ValueError(f"{len(content['mAP'])} values at {len(thresholds)} thresholds")
        return cls(tuple(thresholds), tuple(map(percent, content["mAP"])), percent(content["average"]))


@dataclass(frozen=True)
class Classification:
    """Figures of the video-level predictions."""

    mAP: float | None  # None when no video has a label
    accuracy: float  # share of the videos whose reported classes are exactly their labels
    num_labels: int = 0  # labels of all videos; 0 also in files of earlier versions
    num_reported: int = 0  # of these, the ones whose class is reported

    @property
    def recall(self) -> float | None:
        """Share of the labels that are reported."""
        return 100 * self.num_reported / self.num_labels if self.num_labels else None


@dataclass(frozen=True)
class LeftOutResults:
    """Test videos that are not evaluated, since they have no features, and the mAP that counts them.

    Attributes:
        videos: their names.
        num_videos: how many test videos there are, with these.
        as_missed: the mAP over all of these, if nothing is detected in those without features.
    """

    videos: tuple[str, ...]
    num_videos: int
    as_missed: Results

    @property
    def text(self) -> str:
        """Over how many videos the other figures are."""
        return (
            f"over {self.num_videos - len(self.videos)} of {self.num_videos} test videos; without features: "
            f"{shorten_list(self.videos)}"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"videos": [*self.videos], "num_videos": self.num_videos, "as_missed": self.as_missed.to_json()}

    @classmethod
    def from_json(cls, content: Any) -> LeftOutResults:
        """The inverse of `to_json`."""
        videos = tuple(map(str, content["videos"]))
        count = whole_number(content["num_videos"], low=len(videos))
        return cls(videos, count, Results.from_json(content["as_missed"]))


@dataclass(frozen=True)
class Results:
    """The figures of an evaluation.

    Attributes:
        snippet: the released protocol, behind the published figures: ground truth rounded to whole snippets.
        seconds: the exact protocol, without rounding. Rounding is worth about a point of mAP, so both are reported.
        classification: None for detections of a file, which have no video scores.
        extra: further metrics by name, see `eval.metrics.METRICS`; None where one is undefined.
        baselines: mAP of simpler detections, by the names in `BASELINES`; see `eval.baselines`.
        chosen_by: the one of `PROTOCOLS` that epochs are compared by, see `eval.segments.Rounding`.
        left_out: test videos that all these figures leave out; None if there are none.
    """

    snippet: ProtocolResult
    seconds: ProtocolResult
    classification: Classification | None = None
    extra: Mapping[str, float | None] = field(default_factory=dict)
    baselines: Mapping[str, Results] = field(default_factory=dict)
    chosen_by: str = "snippet"
    left_out: LeftOutResults | None = None

    def of(self, protocol: str) -> ProtocolResult:
        """The result under one of `PROTOCOLS`."""
        return {"snippet": self.snippet, "seconds": self.seconds}[protocol]

    @property
    def by_labels(self) -> bool:
        """Whether the videos were evaluated by their labels alone, since no instances are known."""
        return math.isnan(self.snippet.average)

    @property
    def average(self) -> float:
        """The average mAP by the protocol that epochs are compared by."""
        return self.of(self.chosen_by).average

    @property
    def score(self) -> float:
        """What epochs are compared by, percent: average mAP, or by labels alone, mAP of video classification."""
        if not self.by_labels:
            return self.average
        mean = None if self.classification is None else self.classification.mAP
        return math.nan if mean is None else mean

    @property
    def how_chosen(self) -> str:
        """The protocol that epochs are compared by, to follow `chosen on the test set`; empty for the released one."""
        return "" if self.by_labels or self.chosen_by == "snippet" else f" by the {self.chosen_by} protocol"

    def is_better_than(self, other: Results) -> bool:
        """Whether the score is higher, both by the protocol that these results are compared by."""
        return self.score > replace(other, chosen_by=self.chosen_by).score

    def to_json(self) -> dict[str, Any]:
        """As plain values; figures that there are none of are left out."""
        content: dict[str, Any] = {protocol: self.of(protocol).to_json() for protocol in PROTOCOLS}
        if self.chosen_by != "snippet":
            content["chosen_by"] = self.chosen_by
        if self.classification is not None:
            content["classification_mAP"] = self.classification.mAP
            content["classification_accuracy"] = self.classification.accuracy
            if self.classification.num_labels:
                content["classification_labels"] = self.classification.num_labels
                content["classification_labels_reported"] = self.classification.num_reported
        if self.extra:
            content["extra"] = dict(self.extra)
        if self.baselines:
            content["baselines"] = {name: baseline.to_json() for name, baseline in self.baselines.items()}
        if self.left_out is not None:
            content["left_out"] = self.left_out.to_json()
        return content

    @classmethod
    def from_json(cls, content: Any) -> Results:
        """The inverse of `to_json`; other names in the content are ignored, so that files may hold more."""
        snippet, seconds = (ProtocolResult.from_json(content[protocol]) for protocol in PROTOCOLS)
        if snippet.tiou != seconds.tiou:
            raise ValueError("the protocols have different tIoU thresholds")
        accuracy, mean = content.get("classification_accuracy"), content.get("classification_mAP")
        classification = None
        if accuracy is not None:
            classification = Classification(
                mAP=None if mean is None else percent(mean),
                accuracy=percent(accuracy),
                num_labels=whole_number(content.get("classification_labels", 0)),
                num_reported=whole_number(content.get("classification_labels_reported", 0)),
            )
        extra = {name: None if value is None else number(value) for name, value in content.get("extra", {}).items()}
        found = content.get("baselines", {})
        baselines = {name: cls.from_json(found[name]) for name in BASELINES if name in found}
        if any(baseline.snippet.tiou != snippet.tiou for baseline in baselines.values()):
            raise ValueError("a baseline has different tIoU thresholds")
        chosen_by = content.get("chosen_by", "snippet")  # earlier versions had no other
        if chosen_by not in PROTOCOLS:
            raise ValueError(f"{chosen_by!r:.50} is none of the protocols {', '.join(PROTOCOLS)}")
        left_out = LeftOutResults.from_json(content["left_out"]) if "left_out" in content else None
        if left_out is not None and left_out.as_missed.snippet.tiou != snippet.tiou:
            raise ValueError("the figures over all videos have different tIoU thresholds")
        return cls(snippet, seconds, classification, extra, baselines, chosen_by, left_out)


@dataclass(frozen=True)
class EpochResults:
    """The figures of an evaluation during training, for example of the best one so far."""

    results: Results
    epoch: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return self.results.to_json() | {"epoch": self.epoch}

    @classmethod
    def from_json(cls, content: Any) -> EpochResults:
        """The inverse of `to_json`."""
        return cls(Results.from_json(content), whole_number(content["epoch"], low=1))


CHOICES = {"mAP": "mAP", "seconds mAP": "mAP of the seconds protocol", "labels": "labels alone"}


@dataclass(frozen=True)
class ChosenEpoch:
    """The epoch that was best on held-out training videos, see `runs.holdout`."""

    epoch: int
    by: str  # one of `CHOICES`, see `Results.score`
    figure: float  # the score, percent

    @classmethod
    def of(cls, best: EpochResults) -> ChosenEpoch:
        """The choice of an epoch that was best."""
        by = {"snippet": "mAP", "seconds": "seconds mAP"}[best.results.chosen_by]
        return cls(best.epoch, "labels" if best.results.by_labels else by, best.results.score)

    @property
    def text(self) -> str:
        """The choice as printed."""
        return f"epoch {self.epoch}, chosen on held-out training videos (by {CHOICES[self.by]})"

    @classmethod
    def from_json(cls, content: Any) -> ChosenEpoch:
        """The inverse of `dataclasses.asdict`."""
        if content["by"] not in CHOICES:
            raise ValueError(f"{content['by']!r:.50} is none of {', '.join(CHOICES)}")
        return cls(whole_number(content["epoch"], low=1), content["by"], percent(content["figure"]))


def number(value: Any) -> float:
    """A finite number of a JSON file."""
    if not is_finite_number(value):
        raise ValueError(f"{value!r:.50} is not a finite number")
    return float(value)


def percent(value: Any) -> float:
    """A percentage of a JSON file."""
    if not 0 <= number(value) <= 100.001:
        raise ValueError(f"{value!r:.50} is not in [0, 100]")
    return float(value)


def whole_number(value: Any, low: int = 0, high: int = 10**9) -> int:
    """A whole number of a JSON file, at least `low` and below `high`."""
    if type(value) is not int or not low <= value < high:
        raise ValueError(f"{value!r:.50} is not a whole number from {low} to {high - 1}")
    return value


# ------------------------------------------------------------------------------------------------ as text


def released_figures(results: Results, tiou_protocol: TiouProtocol) -> dict[str, float]:
    """The figures of an evaluation in the order and under the names of the release's logs; nan where undefined."""
    snippet, classification = results.snippet, results.classification
    values = dict(zip((f"{t:g}" for t in snippet.tiou), snippet.mAP, strict=True))
    values |= tiou_protocol.means_of(snippet.mAP)
    mean = None if classification is None else classification.mAP
    return {f"Detection mAP @ IoU = {name}": value for name, value in values.items()} | {
        "Classification mAP": float("nan") if mean is None else mean,
        "Classification acc": float("nan") if classification is None else classification.accuracy,
    }


def summary(results: Results, tiou_protocol: TiouProtocol) -> str:
    """An evaluation as printed: mAP under both protocols side by side, and all other figures that there are."""
    lines = [] if results.by_labels else [_map_table(results, tiou_protocol)]
    if results.classification is not None:
        lines.append(classification_summary(results.classification))
    if results.extra:
        lines.append(extra_summary(results.extra))
    if results.baselines:
        lines += ["for comparison, average mAP (snippet, seconds):", *baselines_summary(results.baselines)]
    if results.left_out is not None:
        lines += _left_out_summary(results.left_out, tiou_protocol)
    return "\n".join(lines)


def _left_out_summary(left_out: LeftOutResults, tiou_protocol: TiouProtocol) -> list[str]:
    """Over which videos the figures are, and the mAP over all."""
    lines = [f"these figures are {left_out.text}"]
    if not left_out.as_missed.by_labels:
        lines.append("with all instances of those as missed, for comparison with figures over all test videos:")
        lines.append(_map_table(left_out.as_missed, tiou_protocol))
    return lines


def _map_table(results: Results, tiou_protocol: TiouProtocol) -> str:
    table = pd.DataFrame(
        {
            protocol: dict(zip(map("{:g}".format, results.of(protocol).tiou), results.of(protocol).mAP, strict=True))
            | tiou_protocol.means_of(results.of(protocol).mAP)
            for protocol in PROTOCOLS
        }
    )
    return table.T.rename_axis("mAP @ tIoU").to_string(float_format="%.3f")


def baselines_summary(baselines: Mapping[str, Results]) -> list[str]:
    """A line for each of `BASELINES`, with its average mAP under both protocols."""
    values = dict.fromkeys(BASELINES, "not computed, since no proposal has both")
    for name, results in baselines.items():
        values[name] = ", ".join(f"{results.of(protocol).average:.3f}" for protocol in PROTOCOLS)
    return [f"  {BASELINES[name]}: {value}" for name, value in values.items()]


def classification_summary(classification: Classification) -> str:
    """The video classification of an evaluation as printed."""
    mean = "n/a (no video has labels)" if classification.mAP is None else f"{classification.mAP:.3f}"
    text = f"video classification: mAP {mean}, accuracy {classification.accuracy:.3f}"
    return text if classification.recall is None else f"{text}; {reported_labels(classification)}"


def reported_labels(classification: Classification) -> str:
    """How many labels are reported, in words."""
    counts = f"{classification.num_reported} of {classification.num_labels}"
    return f"reported {counts} labels ({classification.recall:.1f}%)"


def extra_summary(extra: Mapping[str, float | None]) -> str:
    """Further metrics as printed."""
    return ", ".join(f"{name} {'n/a' if value is None else f'{value:.3f}'}" for name, value in extra.items())
