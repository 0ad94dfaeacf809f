"""Results of a run: `results.json`, `detections.json` and `detections.csv` (SPEC section 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from eval.errors import ErrorAnalysis
from eval.evaluation import diagnose
from eval.exchanged import exchanged_text
from eval.metrics import EvaluationInput, LeftOut
from eval.protocols import TiouProtocol
from eval.results import DAMAGED, ChosenEpoch, EpochResults, Results, whole_number
from eval.segments import rounding
from eval.tables import marked_ambiguous, without_ambiguous
from readers.findings import Findings
from readers.plausible import check_rounding, check_segments, check_truth
from readers.source import Source
from runs.detections import read_detections, write_detection_csv, write_detections
from runs.inputs import Data
from utils import InputError, __version__, as_json, error_text, log, read_json, shorten_list, write_beside_earlier

RESULTS, DETECTIONS = "results.json", "detections.json"
T = TypeVar("T")


@dataclass(frozen=True)
class RunResults:
    """What `results.json` holds, of a training or test run or of the evaluation of a file.

    Attributes:
        results: the figures; of a training run, those of the last epoch.
        epoch: that the weights are of; None where unknown.
        checkpoint: the file of the weights; None for the evaluation of a file.
        best: of a training run, the epoch with the best average on the test set.
        best_checkpoint: the file of its weights.
        detections: the file that was evaluated; None for a training or test run.
        simulated: whether the data are simulated.
        error_analysis: None when read from a file, since reports make it anew.
        chosen: of a training run with `--holdout`, the choice of its last epoch.
        train_left_out: of a training run, the training videos without features, which are left out.
    """

    results: Results
    epoch: int | None = None
    checkpoint: str | None = None
    best: EpochResults | None = None
    best_checkpoint: str | None = None
    detections: str | None = None
    simulated: bool = False
    error_analysis: ErrorAnalysis | None = None
    chosen: ChosenEpoch | None = None
    train_left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        content = self.results.to_json()
        if self.detections is not None:
            content["detections"] = self.detections
        else:
            content |= {"checkpoint": self.checkpoint, "epoch": self.epoch}
        if self.best is not None:
            content["best"] = self.best.to_json() | {"checkpoint": self.best_checkpoint}
        if self.chosen is not None:
            content["holdout"] = asdict(self.chosen)
        if self.train_left_out:
            content["training_videos_left_out"] = [*self.train_left_out]
        content["simulated"] = self.simulated
        return content | ({} if self.error_analysis is None else {"error_analysis": self.error_analysis.to_json()})

    @classmethod
    def from_json(cls, content: Any) -> RunResults:
        """The inverse of `to_json`, but for the error analysis; raises as those of `eval.results` do."""
        results, best = Results.from_json(content), None
        if "best" in content:
            best = EpochResults.from_json(content["best"])
            if best.results.snippet.tiou != results.snippet.tiou or content.get("epoch") is None:
                raise ValueError("the best epoch and the last do not go together")
        epoch = content.get("epoch")
        return cls(
            results,
            epoch=None if epoch is None else whole_number(epoch),
            checkpoint=_text(content.get("checkpoint")),
            best=best,
            best_checkpoint=None if best is None else _text(content["best"].get("checkpoint")),
            detections=_text(content.get("detections")),
            simulated=content.get("simulated") is True,
            chosen=ChosenEpoch.from_json(content["holdout"]) if "holdout" in content else None,
            train_left_out=tuple(map(str, content.get("training_videos_left_out", ()))),
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def read_results(path: Path) -> RunResults:
    """Read a `results.json`.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_typed(path, RunResults.from_json, RESULTS, "test or train again")


def read_typed(path: Path, from_json: Callable[[Any], T], kind: str, remedy: str) -> T:
    """Read a JSON file that this program wrote.

    Args:
        path: of the file.
        from_json: makes the result from the content; raises `DAMAGED` if it cannot.
        kind: the usual name of such a file, for the message.
        remedy: what to do, for the message.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        content = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    try:
        return from_json(content)
    except DAMAGED as error:
        raise InputError(f"{path}: not a {kind} of this program ({error_text(error)}); {remedy}") from None


@dataclass(frozen=True)
class Evaluable:
    """A file of detections, and what it is evaluated on.

    Attributes:
        inputs: for `eval.evaluation.evaluate`.
        videos: the test videos, but for those that the file says are left out.
        lengths: seconds of each test video by the annotations, else by the file or its features; nan where unknown.
        simulated: whether the dataset or the file says so.
    """

    inputs: EvaluationInput
    videos: list[str]
    lengths: dict[str, float]
    simulated: bool


def read_to_evaluate(
    path: Path, source: Source, tiou_protocol: TiouProtocol, rate: float, *, needs_truth: bool = True
) -> Evaluable:
    """Read a file of detections, and the ground truth.

    Args:
        path: detections in ActivityNet result format.
        source: the dataset.
        tiou_protocol: to evaluate by.
        rate: snippets per second.
        needs_truth: whether there must be instances to evaluate on.

    Raises:
        InputError: there is no ground truth, where it is needed, or the file cannot be used.
    """
    annotations, subset = source.annotations, source.subsets["test"]
    videos, truth = annotations.videos_of(subset), annotations.ground_truth(subset)
    file = read_detections(path, videos, annotations.class_names, rate)
    is_left_out, without_features = truth["video"].isin(file.left_out), set(file.left_out)
    names = [video for video in videos if video in without_features]
    videos = [video for video in videos if video not in without_features]
    missed = LeftOut.of(names, len(videos), truth[is_left_out])
    truth = truth[~is_left_out].reset_index(drop=True)
    if truth.empty and needs_truth:
        raise InputError(
            f"{source.files.annotations}: no instance in subset {subset!r} to evaluate on; name a subset that has some "
            "with --test_subset, or add segments to the annotations. --run_type report shows detections without"
        )
    if file.simulated and not source.simulated:
        log.info(f"notice: {path} is of simulated data, by its own account; its figures say nothing about real videos")
    log.info(f"{len(videos)} videos, {len(truth)} instances, {len(file.detections)} detections")
    if without := sorted(set(videos) - set(file.detections["video"])):
        log.info(f"notice: {len(without)} videos have no detection: {shorten_list(without)}")
    known = {video: length for video, length in annotations.duration_of().items() if length > 0}
    lengths = source.known_lengths(videos, file.lengths | known)
    findings = Findings()
    if not truth.empty:
        check_truth(annotations, videos, lengths, rate, findings)
        rounded = rounding(truth, rate)
        check_rounding(findings, *rounded, chosen_by=rounded.chosen_by)
    check_segments("detections", file.detections, lengths, rate, findings, truth)
    findings.say()
    marked = marked_ambiguous(file.detections, annotations.ambiguous, rate)
    detections = without_ambiguous(marked)
    if left_out := len(marked) - len(detections):
        log.info(
            f"notice: {left_out} of {len(marked)} detections overlap an ambiguous segment and are not evaluated, as in "
            "testing"
        )
    inputs = EvaluationInput(detections, truth, annotations.class_names, tiou_protocol, rate, left_out=missed)
    if (exchanged := exchanged_text(inputs)) is not None:
        log.info(f"warning: {path}: {exchanged}; write the names in the order in which the classes were numbered")
    return Evaluable(inputs, videos, lengths, source.simulated or file.simulated)


def write_results(folder: Path, results: RunResults, *, unless_same: bool = False) -> None:
    """Write `results.json`; see `utils.write_beside_earlier`, also for `unless_same`."""
    write_beside_earlier(folder / RESULTS, as_json(results.to_json()), unless_same=unless_same)


def write_found(
    folder: Path, detections: pd.DataFrame, data: Data, dataset_name: str, rate: float, *, unless_same: bool = False
) -> None:
    """Write `detections.json` and `detections.csv`; see `utils.write_beside_earlier`.

    Args:
        folder: of the run.
        detections: see `eval.tables.detection_table`.
        data: that they are of.
        dataset_name: for the `version` of the file.
        rate: snippets per second.
        unless_same: leave files alone that hold just this.
    """
    names, lengths = data.annotations.class_names, data.lengths(rate)
    version = f"SEAL {__version__}, {dataset_name}{' (simulated)' if data.simulated else ''}"
    path = folder / DETECTIONS
    left_out = data.left_out.videos if data.left_out else ()
    facts = data.record.facts
    write_detections(path, detections, names, version, lengths, left_out, facts=facts, unless_same=unless_same)
    write_detection_csv(path.with_suffix(".csv"), detections, names, lengths, unless_same=unless_same)


def write_evaluation(
    folder: Path,
    results: RunResults,
    inputs: EvaluationInput,
    detections: pd.DataFrame,
    data: Data,
    dataset_name: str,
    *,
    unless_same: bool = False,
) -> None:
    """Write an evaluation of the network: its results, to which this adds the error analysis, and its detections.

    Args:
        folder: of the run.
        results: the figures.
        inputs: that they are of.
        detections: all of them, see `eval.tables.detection_table`.
        data: that they are of.
        dataset_name: see `write_found`.
        unless_same: leave files alone that hold just this.
    """
    analysis = diagnose(inputs, data.lengths(inputs.rate))
    results = replace(results, simulated=data.simulated, error_analysis=analysis, train_left_out=data.train_left_out)
    write_results(folder, results, unless_same=unless_same)
    write_found(folder, detections, data, dataset_name, inputs.rate, unless_same=unless_same)
