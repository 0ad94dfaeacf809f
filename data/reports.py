"""`--run_type report`: what a run, or anyone's detections, get and why, as a page; or two runs side by side."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.results import read_results, read_to_evaluate
from data.run_folder import RunFolder
from data.seeds import FILE as SEEDS
from data.seeds import read_seeds, seed_folder
from data.source import Source, open_dataset
from eval.comparison import Run, build_comparison
from eval.page import Page
from eval.protocols import are_results, averages, diagnose, evaluate
from eval.report import Material, build_report
from eval.seeds import median_seed
from proposals import read_proposals, snippets_to_seconds
from utils import InputError, is_finite_number, log, shown, whole_file, write_beside_earlier

MOST_OPTIONS = 20_000  # characters of `opt.txt` that are shown, the last ones


def write_report(options: Namespace) -> None:
    """`--run_type report`: on the run in `--exp_dir`, on the file `--detections`, or on the runs of `--compare`."""
    source = open_dataset(options)
    if options.compare:
        name, page = "comparison", compare_runs(options, source)
    elif options.detections:
        name, page = "report", report_on_file(options, source)
    else:
        name, page = "report", report_on_run(options, source)
    with RunFolder(options.exp_dir / "report") as folder:
        for file_name, content in page.pngs.items():
            with whole_file(folder.path / file_name, "wb") as file:
                file.write(content)
        path = folder.path / f"{name}.html"
        write_beside_earlier(path, page.html(), unless_same=True)
    log.info(f"{path}, and its {len(page.pngs)} pictures beside it as PNG files")


def report_on_file(options: Namespace, source: Source) -> Page:
    """The page on the file `--detections`."""
    return build_report(Material(**common(options, source, f"Detections of {options.detections}")))


def report_on_run(options: Namespace, source: Source) -> Page:
    """The page on the run in `--exp_dir`, or on the median of the runs with several seeds there."""
    folder, seeds = run_in(options.exp_dir)
    results = read_results(folder / "results.json")
    own = Namespace(**vars(options) | {"detections": folder / "detections.json"})
    epoch = f", epoch {results['epoch']}" if results.get("epoch") else ""
    material = common(own, source, f"Weights {shown_path(results.get('checkpoint'))}{epoch}")
    require_same(folder, results, material)
    if seeds is not None and folder != options.exp_dir:
        material["source"] += f", which of the {len(seeds['seeds'])} seeds is the median run"
    losses, maps = read_metrics(folder / "metrics.jsonl")
    opt = folder / "opt.txt"
    text = opt.read_bytes()[-MOST_OPTIONS:].decode(errors="replace") if opt.is_file() else ""
    return build_report(Material(**material, results=results, losses=losses, maps=maps, seeds=seeds, options=text))


def run_in(folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """Where the results in a folder are, and the summary of the seeds if it is of several, or one of these.

    Raises:
        InputError: there are none.
    """
    for place in (folder, folder.parent):
        if (place / SEEDS).is_file():
            seeds = read_seeds(place / SEEDS)
            folders = [seed_folder(place, seed) for seed in seeds["seeds"]]
            if place == folder and not (folder / "results.json").exists():
                return require_results(seed_folder(folder, median_seed(seeds))), seeds
            if folder.resolve() in [path.resolve() for path in folders]:
                return require_results(folder), seeds
    return require_results(folder), None


def require_results(folder: Path) -> Path:
    """The folder, if it holds results and detections.

    Raises:
        InputError: it does not.
    """
    for name in ("results.json", "detections.json"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: no {name}, so no finished training or test run; let one end there, or name its folder with "
                "--exp_dir, or a file with --detections"
            )
    return folder


def common(options: Namespace, source: Source, title: str) -> dict[str, Any]:
    """What the reports on a run and on a file have in common: the arguments of `Material`."""
    annotations, subset = source.annotations, source.subsets["test"]
    truth, detections = read_to_evaluate(options, source)
    videos, names = source.videos("test"), annotations.class_names
    lengths = annotations.duration_of()
    rows = [annotations.videos.index(video) for video in videos]
    return {
        "title": f"SEAL report: {options.dataset_name}",
        "source": title,
        "dataset": options.dataset_name,
        "subset": subset,
        "simulated": source.simulated or detections.attrs["simulated"],
        "class_names": names,
        "labels": pd.DataFrame(annotations.labels[rows], index=videos, columns=names),
        "truth": truth,
        "detections": detections,
        "analysis": diagnose(detections, truth, lengths, len(names), options.tiou),
        "lengths": lengths,
        "tiou": options.tiou,
        "curve_tiou": options.curve_tiou,
        "rate": options.rate,
        "proposals": proposals_of(options, source, videos, detections),
    }


def proposals_of(
    options: Namespace, source: Source, videos: Sequence[str], detections: pd.DataFrame
) -> dict[str, np.ndarray]:
    """The proposals of the test videos in seconds, `[M, 2]` each; none if there are none, or others than detections."""
    path = source.files.proposals["test"]
    if not path.is_file():
        return {}
    proposals = read_proposals(path, videos, options.rate, "empty")
    for video, own in detections.head(1000).groupby("video"):
        listed = set(map(tuple, proposals[video].tolist()))
        if not listed.issuperset(zip(own["start_snip"].round(2), own["end_snip"].round(2), strict=True)):
            log.info(f"notice: {path} has other proposals than those detected in video {video}; they are not drawn")
            return {}
    return {
        video: snippets_to_seconds(part[part[:, 1] > part[:, 0]], options.rate) for video, part in proposals.items()
    }


def require_same(folder: Path, results: dict[str, Any], material: dict[str, Any]) -> None:
    """See that the detections give the figures that are noted beside them; else the options are not those of the run.

    Raises:
        InputError: they do not.
    """
    names = material["detections"], material["truth"], material["class_names"], material["tiou"], material["rate"]
    again, noted = evaluate(*names)["snippet"], results["snippet"]
    if again["tiou"] != noted["tiou"] or abs(again["average"] - noted["average"]) > 1e-6:
        raise InputError(
            f"{folder / 'detections.json'}: average mAP {again['average']:.3f}, but {folder / 'results.json'} says "
            f"{noted['average']:.3f}; give the options of the run (--dataset_name, --tiou, --feature_fps, …)"
        )


def shown_path(value: Any) -> str:
    """A path from a file, for the page."""
    return value if isinstance(value, str) else "of a file" if value is None else shown(value)


def read_metrics(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a `metrics.jsonl`: the loss terms of each epoch, and some figures of each evaluation, by epoch.

    A last line that was cut off is left out; without the file both are empty.

    Raises:
        InputError: a line is damaged.
    """
    losses, maps = {}, {}
    lines = path.read_bytes().decode(errors="replace").split("\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            epoch = record["epoch"]
            if type(epoch) is not int or not 0 < epoch < 1e9:
                raise ValueError("no epoch")
            if "evaluation" in record:
                if not are_results(record["evaluation"] | {"epoch": epoch}):
                    raise ValueError("no evaluation")
                snippet = record["evaluation"]["snippet"]
                at = dict(zip(snippet["tiou"], snippet["mAP"], strict=True))
                maps[epoch] = {f"tIoU {t:g}": at[t] for t in (0.1, 0.3, 0.5, 0.7, 0.95) if t in at}
                maps[epoch] |= {f"mean {name}": value for name, value in [*averages(snippet).items()][-1:]}
            else:
                terms = {name: value for name, value in record.items() if name not in ("epoch", "seconds")}
                if not all(is_finite_number(value) and abs(value) < 1e30 for value in terms.values()):
                    raise ValueError("no loss terms")
                losses[epoch] = terms
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(
                f"{path}: line {number} is damaged: {shown(line)}; move the file away to do without"
            ) from None
    return (pd.DataFrame.from_dict(part, orient="index").sort_index() for part in (losses, maps))


def compare_runs(options: Namespace, source: Source) -> Page:
    """The page that compares the runs of `--compare` with the first of them."""
    runs = []
    for place in options.compare:
        folder, _ = run_in(place)
        results = read_results(folder / "results.json")
        material = common(Namespace(**vars(options) | {"detections": folder / "detections.json"}), source, "")
        require_same(folder, results, material)
        runs.append(Run(str(folder), material["detections"], material["analysis"]))
    page, text = build_comparison(
        runs,
        title=f"SEAL comparison: {options.dataset_name}",
        truth=material["truth"],
        videos=source.videos("test"),
        class_names=material["class_names"],
        tiou=options.tiou,
        rate=options.rate,
        seed=options.seed,
        simulated=material["simulated"],
    )
    log.info(text)
    return page
