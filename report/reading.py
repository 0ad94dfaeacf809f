"""Reads what a report shows: results, detections, options and losses of a run, ground truth, proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eval.errors import ErrorAnalysis
from eval.evaluation import diagnose, evaluate
from eval.protocols import TiouProtocol
from eval.results import Results
from proposals import seconds_to_snippets, snippets_to_seconds
from readers.result_files import MAKE_PROPOSALS_AGAIN, parse_results
from readers.source import Source
from runs.log import Metrics, read_metrics
from runs.results import RunResults, read_results, read_to_evaluate
from runs.seeds import SEEDS, SeedSummary, read_seeds, seed_folder
from utils import InputError, is_finite_number, log, read_json, short_repr

MAX_OPTIONS_TEXT = 20_000  # bytes of `opt.txt` that are shown, from its end


@dataclass(frozen=True)
class ReportSettings:
    """What `--run_type report` needs to know of the options."""

    exp_dir: Path  # where the report is written, and the run to report on unless the next two say otherwise
    dataset_name: str
    tiou_protocol: TiouProtocol
    curve_tiou: Sequence[float]  # of the precision-recall curves
    rate: float  # snippets per second
    seed: int  # of the bootstrap
    detections: Path | None = None  # a file of detections to report on
    compare: Sequence[Path] = ()  # folders of runs to compare


@dataclass(frozen=True)
class ReportData:
    """What a report shows."""

    dataset: str
    subset: str  # of the test videos
    simulated: bool
    source: str  # which weights, or which file
    class_names: Sequence[str]
    labels: pd.DataFrame  # [V, C] of the test videos, 0 or 1, see `eval.curves.label_confusion`
    truth: pd.DataFrame  # see `eval.metrics.EvaluationInput`
    detections: pd.DataFrame  # those that are evaluated, see `eval.tables.detection_table`
    figures: Results  # of these detections
    analysis: ErrorAnalysis | None  # None without ground truth
    lengths: Mapping[str, float]  # seconds of each test video; nan if unknown
    tiou_protocol: TiouProtocol
    curve_tiou: Sequence[float]  # of the precision-recall curves
    rate: float  # snippets per second
    proposals: Mapping[str, np.ndarray] = field(default_factory=dict)  # [M, 2] seconds of each video, if known
    results: RunResults | None = None  # of a run
    metrics: Metrics | None = None  # of a training run
    seeds: SeedSummary | None = None  # if the run is one of several
    options: Mapping[str, Any] = field(default_factory=dict)  # of a run, if known
    options_text: str = ""  # the end of `opt.txt`

    @property
    def without_features(self) -> tuple[str, ...]:
        """The test videos that are left out, since they have no features."""
        return self.figures.left_out.videos if self.figures.left_out else ()


class LocatedRun(NamedTuple):
    """A run that can be reported on."""

    folder: Path
    seeds: SeedSummary | None  # if the run is one of several


# ---------------------------------------------------------------------------------------- where runs are


def locate_run(folder: Path, dataset_name: str) -> LocatedRun:
    """The run in a folder; for the folder of several seeds, the median run.

    Raises:
        InputError: the folder has no results, or they are of another dataset.
    """
    is_run = (folder / "results.json").is_file() or not (folder / SEEDS).is_file()
    run = _locate_single_run(folder) if is_run else _locate_median_run(folder)
    name = read_run_options(run.folder).get("dataset_name", dataset_name)
    if name != dataset_name:
        raise InputError(
            f"{run.folder}: the run is on --dataset_name {short_repr(name)}, not {dataset_name}; pass the run's"
        )
    return run


def _locate_single_run(folder: Path) -> LocatedRun:
    require_results(folder)
    if folder.name.startswith("seed_") and (folder.parent / SEEDS).is_file():
        seeds = read_valid_seeds(folder.parent)
        if seeds and folder.name in [seed_folder(folder.parent, seed).name for seed in seeds.seeds]:
            return LocatedRun(folder, seeds)
    return LocatedRun(folder, None)


def _locate_median_run(folder: Path) -> LocatedRun:
    seeds = read_valid_seeds(folder)
    if seeds is None:
        raise InputError(
            f"{folder / SEEDS}: does not match the runs in {folder}; finish them with --seeds and --resume, or name "
            "the folder of one run"
        )
    median = seed_folder(folder, seeds.median)
    log.info(f"{folder}: runs with seeds {', '.join(map(str, seeds.seeds))}; the median is {median}")
    require_results(median)
    return LocatedRun(median, seeds)


def read_valid_seeds(folder: Path) -> SeedSummary | None:
    """The summary of the seeds in a folder; None, with a notice, if it does not match the runs that are there."""
    path = folder / SEEDS
    try:
        seeds = read_seeds(path)
        results = [read_results(seed_folder(folder, seed) / "results.json") for seed in seeds.seeds]
    except InputError as error:
        log.info(f"notice: {path} is ignored ({error})")
        return None
    if not seeds.is_of(results):
        log.info(f"notice: {path} is ignored: the results of its runs have changed since")
        return None
    return seeds


def require_results(folder: Path) -> None:
    """Check that a folder holds the detections of a run; its results are missing if it had no ground truth.

    Raises:
        InputError: it does not.
    """
    results, detections = folder / "results.json", folder / "detections.json"
    file = read_results(results).detections if results.is_file() else None
    if file is not None:
        raise InputError(
            f"{results}: written by --run_type eval; report on its file with --detections {file}; "
            "--compare takes runs of train or test"
        )
    if not detections.is_file():
        if (folder / "metrics.jsonl").is_file():
            weights = folder / "ckpt" / "last_model.pkl"
            tested = f"--run_type test --pretrained_ckpt {weights}" if weights.is_file() else "--run_type test"
            raise InputError(
                f"{folder}: the training run is not finished, or was not evaluated; finish it with --resume, or "
                f"evaluate its weights with {tested} --exp_dir {folder}"
            )
        one = next((f", for example {path}" for path in sorted(folder.glob("seed_*"))), "")
        raise InputError(
            f"{folder}: neither results.json nor detections.json, so no run to report on; name the folder of one with "
            f"--exp_dir{one}"
        )


def read_run_options(folder: Path) -> Mapping[str, Any]:
    """The options of the last command in a run's folder, by name; empty for runs of earlier versions.

    Raises:
        InputError: `options.json` is damaged.
    """
    path = folder / "options.json"
    if not path.is_file():
        return {}
    options = read_json(path)
    if not isinstance(options, dict):
        raise InputError(f"{path}: expected a JSON object of options; remove the file to continue without it")
    return options


def require_one_rate(runs: Sequence[LocatedRun]) -> None:
    """Check that runs that are compared have one snippet rate, since their figures depend on it.

    Raises:
        InputError: they have not, by their options.
    """
    rates: dict[float, Path] = {}
    for run in runs:
        fps, frames = (read_run_options(run.folder).get(name) for name in ("feature_fps", "snippet_frames"))
        if is_finite_number(fps) and is_finite_number(frames) and frames:
            rates.setdefault(fps / frames, run.folder)
    if len(rates) > 1:
        each = ", ".join(f"{folder} at {rate:.9g}" for rate, folder in rates.items())
        raise InputError(f"--compare: runs at several rates, in snippets a second: {each}; compare those of one rate")


# ---------------------------------------------------------------------------------------- what they hold


def read_file(settings: ReportSettings, source: Source, path: Path, description: str) -> ReportData:
    """Detections and what they are evaluated on.

    Args:
        settings: of the report.
        source: the dataset.
        path: detections in ActivityNet result format.
        description: says what they are.
    """
    annotations = source.annotations
    evaluable = read_to_evaluate(path, source, settings.tiou_protocol, settings.rate, needs_truth=False)
    inputs = evaluable.inputs
    labels = pd.DataFrame(annotations.labels, index=annotations.videos, columns=list(inputs.class_names))
    return ReportData(
        dataset=settings.dataset_name,
        subset=source.subsets["test"],
        simulated=evaluable.simulated,
        source=description,
        class_names=inputs.class_names,
        labels=labels.loc[evaluable.videos],
        truth=inputs.ground_truth,
        detections=inputs.detections,
        figures=evaluate(inputs),
        analysis=None if inputs.ground_truth.empty else diagnose(inputs, evaluable.lengths),
        lengths=evaluable.lengths,
        tiou_protocol=settings.tiou_protocol,
        curve_tiou=settings.curve_tiou,
        rate=settings.rate,
    )


def read_run(settings: ReportSettings, source: Source, run: LocatedRun) -> ReportData:
    """The detections of a run, its results and its options.

    Raises:
        InputError: evaluating the detections does not give the figures in `results.json`.
    """
    recorded_in, path = run.folder / "results.json", run.folder / "detections.json"
    options = read_run_options(run.folder)
    if not recorded_in.is_file():  # its test videos had no ground truth
        data = read_file(settings, source, path, f"The run in {run.folder}")
        return replace(data, seeds=run.seeds, options=options)
    results = read_results(recorded_in)
    epoch = f", epoch {results.epoch}" if results.epoch else ""
    data = read_file(settings, source, path, f"Weights {results.checkpoint}{epoch}")
    computed, recorded = data.figures.snippet, results.results.snippet
    if computed.tiou != recorded.tiou or abs(computed.average - recorded.average) > 1e-6:
        raise InputError(
            f"{path}: average mAP {computed.average:.3f}, but {recorded_in} has "
            f"{recorded.average:.3f}; give the options of the run (--tiou, --feature_fps, --test_subset, …)"
        )
    return replace(data, results=results, seeds=run.seeds, options=options)


def with_training(data: ReportData, folder: Path) -> ReportData:
    """The data with the losses and the options text of a run."""
    path = folder / "opt.txt"
    text = path.read_bytes()[-MAX_OPTIONS_TEXT:].decode(errors="replace") if path.is_file() else ""
    return replace(data, metrics=read_metrics(folder / "metrics.jsonl"), options_text=text)


def with_proposals(data: ReportData, source: Source) -> ReportData:
    """The data with the proposals of the test videos; without, and with a notice, if they are not those detected."""
    path = source.files.proposals["test"]
    if not path.is_file():
        return data
    try:
        content = parse_results(path, videos=data.labels.index.tolist())
        content.facts.require(path, data.rate, data.class_names, MAKE_PROPOSALS_AGAIN)
        entries = content.results
    except InputError as error:
        log.info(f"notice: no proposals are drawn ({error})")
        return data
    no_proposals = [{"segment": [0, 0]}]  # a video without proposals is given this one, see `dataset.read_proposals`
    segments_snip = {
        video: seconds_to_snippets([entry["segment"] for entry in entries.get(video) or no_proposals], data.rate)
        for video in data.labels.index
    }
    for video, detections in data.detections.head(1000).groupby("video"):
        listed = set(map(tuple, segments_snip[video].tolist()))
        if not listed.issuperset(zip(detections["start_snip"].round(2), detections["end_snip"].round(2), strict=True)):
            log.info(
                f"notice: no proposals are drawn: {path} has others than those detected in video {video}; choose the "
                "folder of the right ones with --proposals_root"
            )
            return data
    proposals = {
        video: snippets_to_seconds(segments[segments[:, 1] > segments[:, 0]], data.rate)
        for video, segments in segments_snip.items()
    }
    return replace(data, proposals=proposals)
