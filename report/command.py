"""`--run_type report`: what a run, or anyone's detections, get and why, as a page; or two runs side by side."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset import read_proposals
from eval.evaluation import are_results, diagnose, evaluate
from eval.protocols import TIOU_PROTOCOLS
from proposals import snippets_to_seconds
from readers.source import Source
from report.comparison_page import Run, build_comparison
from report.page import Page
from report.run_page import Material, build_report
from runs.inputs import open_dataset
from runs.results import read_results, read_to_evaluate
from runs.seeds import FILE as SEEDS
from runs.seeds import median_seed, read_seeds, seed_folder
from utils import InputError, is_finite_number, keep_previous, log, require_writable, short_repr, whole_file, writing

MOST_OPTIONS = 20_000  # characters of `opt.txt` that are shown, the last ones
OF_THE_FOLDER = ("exp_dir", "resume", "overwrite")  # options that say nothing of what was trained


def write_report(options: Namespace) -> None:
    """`--run_type report`: on the run in `--exp_dir`, on the file `--detections`, or on the runs of `--compare`."""
    name = "comparison" if options.compare else "report_of_file" if options.detections else "report"
    require_writable(options.exp_dir, "--exp_dir")
    places = options.compare or ([] if options.detections else [options.exp_dir])
    runs = [run_in(place) for place in places]
    for run, _ in runs:
        require_dataset(options, run)
    source = open_dataset(options)
    if options.compare:
        page = compare_runs(options, source, runs)
    elif options.detections:
        material = common(options, source, f"Detections of {options.detections}")
        page = build_report(Material(**material, proposals=proposals_of(options, source, material["detections"])))
    else:
        page = report_on_run(options, source, *runs[0])
    folder, html = options.exp_dir / name, f"{name.split('_')[0]}.html"
    files = {html: page.html().encode()} | page.pngs
    write_folder(folder, files)
    log.info(f"{folder / html}, and its {len(page.pngs)} pictures beside it as PNG files")


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder that appears whole or not at all; one that is there, and has others, is kept beside it.

    Raises:
        CannotWrite: it cannot be written.
    """
    there = {path.name: path for path in folder.glob("*") if path.is_file()}
    if there and all(name in there and there[name].read_bytes() == content for name, content in files.items()):
        return
    beside = folder.with_name(f".{folder.name}.part")
    try:
        with writing(folder):
            shutil.rmtree(beside, ignore_errors=True)  # of a report that was killed
            for name, content in files.items():
                with whole_file(beside / name, "wb") as file:
                    file.write(content)
            keep_previous(folder)
            beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


# ------------------------------------------------------------------------------------------- what is read


def run_in(folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """Where the results in a folder are, and the summary of the seeds if it is of several, or one of these.

    Of a folder with several seeds it is the median run.

    Raises:
        InputError: there are none.
    """
    if (folder / "results.json").is_file():
        is_one = folder.name.startswith("seed_") and (folder.parent / SEEDS).is_file()
        seeds = summary_of(folder.parent) if is_one else None
        own = seeds is not None and folder.name in [seed_folder(folder.parent, seed).name for seed in seeds["seeds"]]
        return require_results(folder), seeds if own else None
    if not (folder / SEEDS).is_file():
        return require_results(folder), None
    seeds = summary_of(folder)
    if seeds is None:
        raise InputError(f"{folder}: {SEEDS} is not of the runs there; go on with --seeds, or name the folder of one")
    median = seed_folder(folder, median_seed(seeds))
    log.info(f"{folder}: runs with the seeds {', '.join(map(str, seeds['seeds']))}, of which {median} is the median")
    return require_results(median), seeds


def summary_of(folder: Path) -> dict[str, Any] | None:
    """The summary of the seeds in a folder; None, with a notice, if it is not of the runs that are there now."""
    path = folder / SEEDS
    try:
        seeds = read_seeds(path)
        results = [read_results(seed_folder(folder, seed) / "results.json") for seed in seeds["seeds"]]
    except InputError as error:
        log.info(f"notice: {path} is left out ({error})")
        return None
    for which, noted in seeds["averages"].items():
        found = [part and part["snippet"]["average"] for part in (r if which == "last" else r["best"] for r in results)]
        if None in found or not np.allclose(found, noted):
            log.info(f"notice: {path} is left out: the runs have other results by now")
            return None
    return seeds


def require_results(folder: Path) -> Path:
    """The folder, if it holds results and detections.

    Raises:
        InputError: it does not.
    """
    results, detections = (folder / name for name in ("results.json", "detections.json"))
    file = read_results(results)["detections"] if results.is_file() else None
    if file is not None:
        raise InputError(f"{folder}: its results are of --run_type eval; report on the file with --detections {file}")
    if results.is_file() and detections.is_file():
        return folder
    if (folder / "metrics.jsonl").is_file() and not results.is_file():
        raise InputError(
            f"{folder}: its training run is not over, or was not evaluated; go on with it, or test its weights with "
            "--run_type test"
        )
    missing = detections if results.is_file() else results
    raise InputError(f"{folder}: no {missing.name}, so no training or test run to report on; name the folder of one")


def options_of(folder: Path) -> dict[str, str]:
    """The options of the run in a folder by name, as its `opt.txt` has them; of several commands those of the last."""
    path = folder / "opt.txt"
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    lines = text.rpartition("# python ")[2].splitlines()[1:]
    pairs = (line.partition(": ") for line in lines)
    return {name.split(" (")[0]: value.split("    [default")[0] for name, colon, value in pairs if colon}


def require_dataset(options: Namespace, folder: Path) -> None:
    """See that a run is on the dataset that the options name.

    Raises:
        InputError: it is on another.
    """
    name = options_of(folder).get("dataset_name", options.dataset_name)
    if name != options.dataset_name:
        raise InputError(f"{folder}: a run on --dataset_name {short_repr(name)}, not {options.dataset_name}; give that")


def common(options: Namespace, source: Source, title: str) -> dict[str, Any]:
    """What reports and comparisons have in common: those arguments of `Material`."""
    annotations, subset = source.annotations, source.subsets["test"]
    truth, detections, lengths, simulated = read_to_evaluate(options, source)
    videos, names = source.videos("test"), annotations.class_names
    tiou_protocol = TIOU_PROTOCOLS[options.tiou]
    labels = pd.DataFrame(annotations.labels, index=annotations.videos, columns=names)
    return {
        "title": f"SEAL report: {options.dataset_name}",
        "source": title,
        "dataset": options.dataset_name,
        "subset": subset,
        "simulated": simulated,
        "class_names": names,
        "labels": labels.loc[videos],
        "truth": truth,
        "detections": detections,
        "figures": evaluate(detections, truth, names, tiou_protocol, options.rate),
        "analysis": diagnose(detections, truth, lengths, len(names), tiou_protocol),
        "lengths": lengths,
        "tiou_protocol": tiou_protocol,
        "curve_tiou": options.curve_tiou,
        "rate": options.rate,
    }


def material_of_run(options: Namespace, source: Source, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What there is to say of the detections of a run, see `common`, and its `results.json`.

    Raises:
        InputError: the detections do not give the figures that are noted beside them.
    """
    results, file = read_results(folder / "results.json"), folder / "detections.json"
    epoch = f", epoch {results['epoch']}" if results["epoch"] else ""
    weights = f"Weights {results['checkpoint']}{epoch}"
    material = common(Namespace(**vars(options) | {"detections": file}), source, weights)
    again, noted = material["figures"]["snippet"], results["snippet"]
    if again["tiou"] != noted["tiou"] or abs(again["average"] - noted["average"]) > 1e-6:
        raise InputError(
            f"{file}: average mAP {again['average']:.3f}, but {folder / 'results.json'} says {noted['average']:.3f}; "
            "give the options of the run (--tiou, --feature_fps, --test_subset, …)"
        )
    return material, results


def proposals_of(options: Namespace, source: Source, detections: pd.DataFrame) -> dict[str, np.ndarray]:
    """The proposals of the test videos in seconds, `[M, 2]` each; none if there are none, or others than detections."""
    path = source.files.proposals["test"]
    if not path.is_file():
        return {}
    try:
        proposals = read_proposals(path, source.videos("test"), options.rate, "empty")
    except InputError as error:
        log.info(f"notice: no proposals are drawn ({error})")
        return {}
    for video, own in detections.head(1000).groupby("video"):
        listed = set(map(tuple, proposals[video].tolist()))
        if not listed.issuperset(zip(own["start_snip"].round(2), own["end_snip"].round(2), strict=True)):
            log.info(
                f"notice: {path} has other proposals than those detected in video {video}; they are not drawn; "
                "--proposals_root names the folder of others"
            )
            return {}
    long = {video: part[part[:, 1] > part[:, 0]] for video, part in proposals.items()}
    return {video: snippets_to_seconds(part, options.rate) for video, part in long.items()}


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
                first, last = snippet["tiou"][0], snippet["tiou"][-1]
                maps[epoch] = {f"tIoU {t:g}": at[t] for t in sorted({first, 0.3, 0.5, 0.7, last}) if t in at}
                maps[epoch][f"mean {first:g} : {last:g}"] = snippet["average"]
            else:
                terms = {name: value for name, value in record.items() if name not in ("epoch", "seconds")}
                if not all(is_finite_number(value) and abs(value) < 1e30 for value in terms.values()):
                    raise ValueError("no loss terms")
                losses[epoch] = terms
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(
                f"{path}: line {number} is damaged: {short_repr(line)}; move the file away to do without"
            ) from None
    return (pd.DataFrame.from_dict(part, orient="index").sort_index() for part in (losses, maps))


# ------------------------------------------------------------------------------------------ what is shown


def report_on_run(options: Namespace, source: Source, folder: Path, seeds: dict[str, Any] | None) -> Page:
    """The page on the run in a folder, and on the seeds that it is one of."""
    material, results = material_of_run(options, source, folder)
    losses, maps = read_metrics(folder / "metrics.jsonl")
    opt = folder / "opt.txt"
    text = opt.read_bytes()[-MOST_OPTIONS:].decode(errors="replace") if opt.is_file() else ""
    about = {"results": results, "losses": losses, "maps": maps, "seeds": seeds, "options": text}
    return build_report(Material(**material, **about, proposals=proposals_of(options, source, material["detections"])))


def compare_runs(options: Namespace, source: Source, found: Sequence[tuple[Path, dict[str, Any] | None]]) -> Page:
    """The page that compares runs, see `run_in`, with the first of them."""
    runs, materials = [], []
    for folder, seeds in found:
        material, _ = material_of_run(options, source, folder)
        own = {name: value for name, value in options_of(folder).items() if name not in OF_THE_FOLDER}
        deviation = seeds["last"]["snippet"]["average_std"] if seeds else None
        run = Run(str(folder), material["detections"], material["analysis"], material["source"], own, deviation)
        runs.append(run)
        materials.append(material)
    page, text = build_comparison(
        runs,
        title=f"SEAL comparison: {options.dataset_name}",
        truth=materials[0]["truth"],
        videos=source.videos("test"),
        class_names=materials[0]["class_names"],
        tiou_protocol=TIOU_PROTOCOLS[options.tiou],
        rate=options.rate,
        seed=options.seed,
        simulated=any(material["simulated"] for material in materials),
    )
    log.info(text)
    return page
