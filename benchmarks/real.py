"""SEAL on own data, typed as a user would, beside a plain baseline and its supervised ceiling; several sets and seeds.

    python benchmarks/real.py FOLDER                              # one set, or a folder that holds several
    python benchmarks/real.py FOLDER --seeds 0 -- --max_epoch 60  # options after -- go to main.py

A set is a folder with `annotations.json` and `features/`. For each set and seed, `main.py` makes proposals and
descriptors and trains. Beside it `benchmarks/topk_mil.py` is trained, once on labels and once on times of instances.
Figures are percent: average mAP under the snippet protocol, and the recall of the test proposals at tIoU 0.5 with 100
of a video. The JSON file has all of them, and the `results.json` of every run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.topk_mil import baseline_detections
from eval.evaluation import evaluate
from eval.metrics import EvaluationInput
from eval.protocols import TIOU_PROTOCOLS
from eval.recall import average_recall
from options import Options, parse_options
from readers.result_files import parse_results, ranked_segments
from readers.source import Source
from runs.inputs import open_dataset
from runs.results import RESULTS, read_to_evaluate
from utils import InputError, read_json, write_json

REPOSITORY = Path(__file__).resolve().parents[1]
Record = dict[str, Any]  # what is known of one set and seed; the JSON file has it as it is

# The columns of the table. A figure is None where the record lacks what it needs. A further one that `results.json`
# holds is one more line here, under `record["results"]`.
FIGURES: dict[str, Callable[[Record], float]] = {
    "ours, last": lambda record: record["results"]["snippet"]["average"],
    "ours, best": lambda record: record["results"]["best"]["snippet"]["average"],
    "own proposals": lambda record: record["proposals"]["average"],
    "whole videos": lambda record: record["results"]["baselines"]["whole_videos"]["snippet"]["average"],
    "top-k MIL": lambda record: record["topk_mil"]["average"],
    "supervised": lambda record: record["supervised"]["average"],
    "ours / top-k MIL": lambda record: record["results"]["snippet"]["average"] / record["topk_mil"]["average"],
    "ours / supervised": lambda record: record["results"]["snippet"]["average"] / record["supervised"]["average"],
    "recall": lambda record: record["proposals"]["recall"],
    "labels reported": lambda record: (
        100 * record["results"]["classification_labels_reported"] / record["results"]["classification_labels"]
    ),
    "seconds": lambda record: sum(record["seconds"].values()),
}


def figures_of(record: Record) -> dict[str, float | None]:
    """`FIGURES` of a record."""
    figures: dict[str, float | None] = {}
    for name, figure in FIGURES.items():
        try:
            figures[name] = figure(record)
        except (KeyError, TypeError, ZeroDivisionError):
            figures[name] = None
    return figures


@dataclass(frozen=True)
class RealSet:
    """A set of recordings.

    Attributes:
        argv: the options that every command needs to read it, and those that were passed on.
        options: the same, parsed.
        source: the annotations.
    """

    argv: list[str]
    options: Options
    source: Source

    @classmethod
    def open(cls, folder: Path, rate: float | None, passed_on: Sequence[str]) -> RealSet:
        """Read the annotations of a set; `rate` is in snippets per second, None takes `usual_rate`.

        Raises:
            InputError: the set cannot be read.
        """
        folder = folder.resolve()
        argv = ["--dataset_root", str(folder), "--dataset_name", folder.name]
        if rate is None:
            rate = usual_rate(open_dataset(parse_options(["--run_type", "proposals", *argv, *passed_on])))
        argv += ["--feature_fps", f"{rate:.6g}", "--snippet_frames", "1", *passed_on]
        options = parse_options(["--run_type", "proposals", *argv])
        return cls(argv, options, open_dataset(options))

    def evaluate(self, detections: pd.DataFrame) -> float:
        """Average mAP in percent of detections of the test videos, snippet protocol."""
        source = self.source
        truth = source.annotations.ground_truth(source.subsets["test"])
        protocol, names = TIOU_PROTOCOLS[self.options.tiou], source.annotations.class_names
        return evaluate(EvaluationInput(detections, truth, names, protocol, self.options.rate)).snippet.average


def usual_rate(source: Source) -> float:
    """Snippets per second of the features: the median over the videos whose duration is known.

    Raises:
        InputError: it is known of none.
    """
    durations, features = source.annotations.duration_of(), source.features()
    used = [video for part in ("train", "test") for video in source.videos(part) if durations[video] > 0]
    if not used:
        raise InputError(f"{source.files.annotations}: no video has a duration; give the snippets per second by --rate")
    lengths = [len(features.read(i)) for i in source.indices(used)]
    return float(np.median([length / durations[video] for length, video in zip(lengths, used, strict=True)]))


def find_sets(folders: Sequence[Path]) -> list[Path]:
    """The sets among folders: each is one, or holds some.

    Raises:
        InputError: a folder is none and holds none, or two sets have the same name.
    """
    sets: list[Path] = []
    for folder in folders:
        within = [folder] if (folder / "annotations.json").is_file() else sorted(folder.glob("*/"))
        found = [path for path in within if (path / "annotations.json").is_file()]
        if not found:
            raise InputError(f"{folder}: neither it nor a folder in it has an annotations.json")
        sets += found
    names = [path.resolve().name for path in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two sets have the name {twice[0]}; rename the folder of one")
    return sets


def run_main(argv: Sequence[str], output: Path) -> float:
    """Run main.py, with its output in a file.

    Returns:
        The seconds that it took.

    Raises:
        InputError: it fails.
    """
    began = time.perf_counter()
    with open(output, "w") as stream:
        command = [sys.executable, str(REPOSITORY / "main.py"), *argv]
        status = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
    if status:
        said = output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
        raise InputError(f"main.py {shlex.join(argv)}: exit status {status}: {said[-1]}")
    return time.perf_counter() - began


def run_seal(real: RealSet, seed: int, folder: Path, record: Record) -> None:
    """Make proposals and descriptors, train, and enter what comes of it into the record.

    Raises:
        InputError: a command fails.
    """
    argv = [*real.argv, "--seed", str(seed), "--overwrite", "--exp_dir", str(folder / "run")]
    argv += ["--proposals_root", str(folder / "proposals"), "--descriptors_root", str(folder / "descriptors")]
    record["seconds"] = {}
    for run_type in ("proposals", "descriptors", "train"):
        words = ["--run_type", run_type, *argv]
        record["seconds"][run_type] = run_main(words, folder / f"{run_type}.txt")
        if run_type == "proposals":
            record["proposals"] = proposal_figures(real, parse_options(words).proposals_root)
    record["results"] = read_json(folder / "run" / RESULTS)


def proposal_figures(real: RealSet, folder: Path) -> dict[str, float]:
    """Of the test proposals: `average`, their mAP as detections, and `recall` at tIoU 0.5 with 100 a video."""
    path = folder / f"Proposals_{real.options.dataset_name}_test.json"
    protocol, rate = TIOU_PROTOCOLS[real.options.tiou], real.options.rate
    inputs = read_to_evaluate(path, real.source, protocol, rate).inputs
    ranked = {video: ranked_segments(entries) for video, entries in parse_results(path).results.items()}
    recall = average_recall(ranked, inputs.ground_truth, (0.5,), (100,)).loc[100, 0.5]
    return {"average": evaluate(inputs).snippet.average, "recall": 100 * float(recall)}


def measure(real: RealSet, seed: int, folder: Path, *, supervised: bool) -> Record:
    """Run everything for a set and seed; what fails is under `errors`, and the others' figures are there."""
    record: Record = {}
    folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def noting_errors(what: str) -> Iterator[None]:
        try:
            yield
        except (InputError, ValueError, RuntimeError) as error:
            record.setdefault("errors", {})[what] = str(error)

    with noting_errors("SEAL"):
        run_seal(real, seed, folder, record)
    for name, with_times in {"topk_mil": False, "supervised": True}.items():
        if with_times and not supervised:
            continue
        with noting_errors(name):
            began = time.perf_counter()
            detections = baseline_detections(real.source, real.options.rate, supervised=with_times, seed=seed)
            took = time.perf_counter() - began
            record[name] = {"average": real.evaluate(detections), "seconds": took}
    return record


def summarise(figures: Sequence[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1) of each figure over the seeds, or sets, that have it."""
    table = pd.DataFrame(figures, columns=[*FIGURES], dtype=float)
    mean, std = (table.agg(how).replace(np.nan, None) for how in ("mean", "std"))
    return {name: {"mean": mean[name], "std": std[name]} for name in FIGURES}


def table_of(content: dict[str, Any]) -> str:
    """The figures as a Markdown table: a row for each set, and one for their mean."""

    def cell(name: str, figure: dict[str, float | None], spread: bool) -> str:
        decimals = 2 if "/" in name else 0 if name == "seconds" else 1
        if figure["mean"] is None:
            return "–"
        shown = f"{figure['mean']:.{decimals}f}"
        return shown if not spread or figure["std"] is None else f"{shown} ± {figure['std']:.{decimals}f}"

    rows = [["set", *FIGURES], ["---"] * (1 + len(FIGURES))]
    for name, entry in content["sets"].items():
        rows.append([name, *(cell(figure, entry["figures"][figure], True) for figure in FIGURES)])
    rows.append(["mean", *(cell(figure, content["mean"][figure], False) for figure in FIGURES)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measure_sets(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all sets; the content of the JSON file, which is written after every seed."""
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    content: dict[str, Any] = {"machine": machine, "passed_on": args.passed_on, "sets": {}}
    for path in find_sets(args.folders):
        name = path.resolve().name
        entry: dict[str, Any] = {"folder": str(path), "seeds": {}, "figures": summarise([])}
        content["sets"][name] = entry
        try:
            real = RealSet.open(path, args.rate, args.passed_on)
        except InputError as error:
            entry["error"] = str(error)
            print(f"{name}: error: {error}", flush=True)
            continue
        entry["snippets_per_second"] = real.options.rate
        print(f"{name}: {real.options.rate:.6g} snippets a second", flush=True)
        for seed in args.seeds:
            record = measure(real, seed, folder / name / f"seed_{seed}", supervised=not args.no_supervised)
            entry["seeds"][str(seed)] = record | {"figures": figures_of(record)}
            for what, error in record.get("errors", {}).items():
                print(f"{name}, seed {seed}, {what}: error: {error}", flush=True)
            shown = {figure: round(value, 2) for figure, value in figures_of(record).items() if value is not None}
            print(f"{name}, seed {seed}: {shown}", flush=True)
            entry["figures"] = summarise([done["figures"] for done in entry["seeds"].values()])
            means = [{f: v["mean"] for f, v in done["figures"].items()} for done in content["sets"].values()]
            content["mean"] = summarise(means)
            write_json(args.json, content)
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the top of this file. Returns 1 if anything failed."""
    argv = sys.argv[1:] if argv is None else [*argv]
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="a set, or a folder that holds sets")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--rate", type=float, help="snippets per second (when not given, snippets by duration, median over videos)")
    add("--no_supervised", action="store_true", help="leave the supervised network out")
    add("--threads", type=int, help="of PyTorch, also in the commands")
    add("--out", type=Path, help="folder for what the commands write (a temporary one when not given)")
    add("--json", type=Path, default=Path("real.json"), help="file for the result")
    args = parser.parse_args(argv[:end], argparse.Namespace(passed_on=argv[end + 1 :]))
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            content = measure_sets(args, (args.out or Path(temporary)).resolve())
        except InputError as error:
            parser.error(str(error))
    content.setdefault("mean", summarise([]))
    write_json(args.json, content)
    print(f"\n{table_of(content)}\nwritten: {args.json}")
    entries = content["sets"].values()
    return int(any("error" in entry or any("errors" in seed for seed in entry["seeds"].values()) for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
