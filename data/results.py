"""Results of a run: `results.json`, `detections.json` and `detections.csv` (SPEC section 10)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from data.source import Data, Source
from eval.files import counted, read_detections, write_detection_csv, write_detections
from eval.protocols import are_results, diagnose
from utils import InputError, __version__, as_json, log, read_json, some_of, write_beside_earlier


def read_to_evaluate(options: Namespace, source: Source) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ground truth, and the detections of the file `--detections`, see `eval.protocols.evaluate`.

    Raises:
        InputError: there is no ground truth, or the file cannot be used.
    """
    annotations, subset = source.annotations, source.subsets["test"]
    videos, truth = annotations.videos_of(subset), annotations.ground_truth(subset)
    if truth.empty:
        raise InputError(f"{source.files.annotations}: no instance in subset {subset!r} to evaluate on")
    detections = read_detections(options.detections, videos, annotations.class_names, options.rate)
    log.info(f"{len(videos)} videos, {len(truth)} instances, {len(detections)} detections")
    if without := sorted(set(videos) - set(detections["video"])):
        log.info(f"notice: {len(without)} videos have no detection: {some_of(without)}")
    return truth, detections


def read_results(path: Path) -> dict[str, Any]:
    """Read a `results.json`.

    Raises:
        InputError: it is missing or damaged.
    """
    results = read_json(path)
    if not isinstance(results, dict) or not _are_figures(results) or not _are_figures(results.get("best", results)):
        raise InputError(f"{path}: not a results.json of this program; test or train again")
    return results


def _are_figures(results: Any) -> bool:
    """Whether it holds the figures of an evaluation: of the network, or of a file, which has no video labels."""
    if not isinstance(results, dict):
        return False
    blank = {"classification_mAP": None, "classification_accuracy": 0.0}
    names = ("snippet", "seconds", *blank)
    epoch = results.get("epoch")
    return are_results({**blank, **{name: results[name] for name in names if name in results}, "epoch": epoch or 0})


def write_evaluation(options: Namespace, results: dict[str, Any], detections: pd.DataFrame, data: Data) -> None:
    """Write the results of an evaluation with its error analysis, and its detections."""
    lengths = data.lengths(options.rate)
    num_class = len(data.annotations.class_names)
    analysis = diagnose(counted(detections), data.truth, lengths, num_class, options.tiou)
    write_results(options, results | {"simulated": data.simulated, "error_analysis": analysis})
    write_found(options, detections, data)


def write_results(options: Namespace, results: dict[str, Any]) -> None:
    """Write `results.json`; what an earlier run left is kept beside it."""
    write_beside_earlier(options.exp_dir / "results.json", as_json(results), unless_same=options.resume is not None)


def write_found(options: Namespace, detections: pd.DataFrame, data: Data) -> None:
    """Write `detections.json` and `detections.csv`; what an earlier run left is kept beside them."""
    names, unless_same = data.annotations.class_names, options.resume is not None
    version = f"SEAL {__version__}, {options.dataset_name}{' (simulated)' if data.simulated else ''}"
    write_detections(options.exp_dir / "detections.json", detections, names, version, unless_same=unless_same)
    path, lengths = options.exp_dir / "detections.csv", data.lengths(options.rate)
    write_detection_csv(path, detections, names, lengths, unless_same=unless_same)
