"""Results of a run: `results.json`, `detections.json` and `detections.csv` (SPEC section 10)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eval.evaluation import are_results, diagnose
from eval.protocols import TIOU_PROTOCOLS
from eval.tables import counted
from readers.source import Source
from runs.detections import read_detections, write_detection_csv, write_detections
from runs.inputs import Data
from utils import InputError, __version__, as_json, log, read_json, shorten_list, write_beside_earlier


class Evaluable(NamedTuple):
    """A file of detections, and what it is evaluated on."""

    truth: pd.DataFrame  # see `eval.evaluation.evaluate`
    detections: pd.DataFrame  # see `eval.tables.detection_table`
    lengths: dict[str, float]  # seconds of each video, by the annotations, else by the file; nan where it is not known
    simulated: bool  # whether either the dataset or the file says that it is


def read_to_evaluate(path: Path, source: Source, rate: float) -> Evaluable:
    """Read a file of detections, and the ground truth; `rate` is in snippets per second.

    Raises:
        InputError: there is no ground truth, or the file cannot be used.
    """
    annotations, subset = source.annotations, source.subsets["test"]
    videos, truth = annotations.videos_of(subset), annotations.ground_truth(subset)
    if truth.empty:
        raise InputError(f"{source.files.annotations}: no instance in subset {subset!r} to evaluate on")
    detections = read_detections(path, videos, annotations.class_names, rate)
    simulated = source.simulated or detections.attrs["simulated"]
    if simulated and not source.simulated:
        log.info(f"notice: {path} says that it is of simulated data; no figure tells of real videos")
    log.info(f"{len(videos)} videos, {len(truth)} instances, {len(detections)} detections")
    if without := sorted(set(videos) - set(detections["video"])):
        log.info(f"notice: {len(without)} videos have no detection: {shorten_list(without)}")
    known = {video: length for video, length in annotations.duration_of().items() if length > 0}
    return Evaluable(truth, detections, dict.fromkeys(videos, np.nan) | detections.attrs["lengths"] | known, simulated)


def read_results(path: Path) -> dict[str, Any]:
    """Read a `results.json`.

    Returns:
        Its figures, `epoch`, `checkpoint`, `best`, which has figures and its `epoch`, and, of `--run_type eval`, the
        file of the `detections`; None for what it does not have.

    Raises:
        InputError: it is missing or damaged.
    """
    content = read_json(path)
    results = _figures_in(content)
    if results is not None:
        for name in ("checkpoint", "detections"):
            results[name] = content[name] if isinstance(content.get(name), str) else None
        results["best"] = best = _figures_in(content["best"]) if "best" in content else None
        if "best" not in content:
            return results
        epochs_are_known = best is not None and None not in (best["epoch"], results["epoch"])
        if epochs_are_known and best["snippet"]["tiou"] == results["snippet"]["tiou"]:
            return results
    raise InputError(f"{path}: not a results.json of this program; test or train again")


def _figures_in(content: Any) -> dict[str, Any] | None:
    """The figures of an evaluation: of the network, or of a file, which has no epoch and no video labels."""
    if not isinstance(content, dict):
        return None
    names = ("snippet", "seconds", "classification_mAP", "classification_accuracy", "epoch")
    figures = {name: content.get(name) for name in names}
    filled = figures | {name: blank for name, blank in BLANK.items() if figures[name] is None}
    return figures if are_results(filled) and 0 <= filled["epoch"] < 1e9 else None


BLANK = {"classification_mAP": None, "classification_accuracy": 0.0, "epoch": 0}


def write_evaluation(options: Namespace, results: dict[str, Any], detections: pd.DataFrame, data: Data) -> None:
    """Write the results of an evaluation with its error analysis, and its detections."""
    lengths = data.lengths(options.rate)
    num_class = len(data.annotations.class_names)
    analysis = diagnose(counted(detections), data.truth, lengths, num_class, TIOU_PROTOCOLS[options.tiou])
    write_results(options, results | {"simulated": data.simulated, "error_analysis": analysis})
    write_found(options, detections, data)


def write_results(options: Namespace, results: dict[str, Any]) -> None:
    """Write `results.json`; what an earlier run left is kept beside it."""
    write_beside_earlier(options.exp_dir / "results.json", as_json(results), unless_same=options.resume is not None)


def write_found(options: Namespace, detections: pd.DataFrame, data: Data) -> None:
    """Write `detections.json` and `detections.csv`; what an earlier run left is kept beside them."""
    names, unless_same = data.annotations.class_names, options.resume is not None
    version = f"SEAL {__version__}, {options.dataset_name}{' (simulated)' if data.simulated else ''}"
    lengths = data.lengths(options.rate)
    path = options.exp_dir / "detections.json"
    write_detections(path, detections, names, version, lengths, unless_same=unless_same)
    write_detection_csv(path.with_suffix(".csv"), detections, names, lengths, unless_same=unless_same)
