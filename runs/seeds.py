"""`--seeds`: one training run a seed, each in a folder of its own, and what they get on average."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.evaluation import PROTOCOLS
from runs.folder import RunFolder
from utils import InputError, as_json, is_finite_number, log, read_json, write_beside_earlier, writing

FILE = "seeds.json"


def seed_folder(folder: Path, seed: int) -> Path:
    """Where the run of a seed is."""
    return folder / f"seed_{seed}"


def train_seeds(options: Namespace, train: Callable[..., dict[str, Any] | None]) -> None:
    """Train with each of `--seeds`, and print and write their mean and standard deviation.

    With `--resume`, runs go on that have begun, and the others begin.

    Args:
        options: of the runs.
        train: trains one, and returns its results, if it was evaluated. Its second argument is called when it begins.

    Raises:
        InputError: a run is in the way, or none is there to go on with.
    """
    folders = [RunFolder(seed_folder(options.exp_dir, seed)) for seed in options.seeds]
    if options.resume == "always" and not any(folder.resume.exists() for folder in folders):
        raise InputError(f"{options.exp_dir}: no run of these seeds to resume; --resume auto begins them")
    for folder in folders:
        if not options.resume:
            folder.require_free(options.overwrite, options.pretrained_ckpt)
        elif (folder.path / "metrics.jsonl").exists() and not folder.resume.exists():
            raise InputError(
                f"{folder.resume}: is gone, so the run there cannot be gone on with; choose another --exp_dir"
            )

    def clear_all() -> None:
        """Remove all that `--overwrite` replaces at once, so that nothing of it is mixed with what is trained now."""
        with ExitStack() as stack:
            for folder in folders[1:]:
                stack.enter_context(folder)
            for folder in folders[1:]:
                folder.clear()
        with writing(options.exp_dir / FILE):
            (options.exp_dir / FILE).unlink(missing_ok=True)

    results = []
    for seed, folder in zip(options.seeds, folders, strict=True):
        log.info(f"\nseed {seed}, run {len(results) + 1} of {len(folders)}: {folder.path}")
        own = {"seed": seed, "seeds": None, "exp_dir": folder.path, "resume": options.resume and "auto"}
        replaces = options.overwrite and not results
        results.append(train(Namespace(**vars(options) | own), clear_all if replaces else lambda: None))
    if None in results:
        log.info("\nno figures to average, since there was no evaluation")
        return
    summary = summarise(options.seeds, results)
    write_beside_earlier(options.exp_dir / FILE, as_json(summary), unless_same=True)
    log.info(f"\n{seeds_table(summary)}\nwritten: {options.exp_dir / FILE}")


def read_seeds(path: Path) -> dict[str, Any]:
    """Read a `seeds.json`.

    Raises:
        InputError: it is damaged.
    """
    summary = read_json(path)
    try:
        seeds = summary["seeds"]
        good = all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds) and len(seeds) == len(set(seeds)) > 0
        for which in ("last", "best"):
            averages = summary["averages"][which]
            good &= len(averages) == len(seeds) and all(map(is_finite_number, averages))
            for protocol in PROTOCOLS:
                own = summary[which][protocol]
                numbers = [*own["tiou"], *own["mean"], own["average_mean"]]
                deviations = [*own["std"], own["average_std"]]
                good &= all(map(is_finite_number, numbers)) and len(own["mean"]) == len(own["std"]) == len(own["tiou"])
                good &= len(own["tiou"]) == len(summary["last"]["snippet"]["tiou"]) > 0
                good &= all(std is None or is_finite_number(std) for std in deviations)
    except (TypeError, KeyError, AttributeError, IndexError):
        good = False
    if not good:
        raise InputError(f"{path}: not a {FILE} of this program; train with --seeds again")
    return summary


def summarise(seeds: Sequence[int], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1; None for one seed) of the last and of the best epochs, percent.

    Raises:
        InputError: they were evaluated at different thresholds.
    """
    if len({tuple(result["snippet"]["tiou"]) for result in results}) > 1:
        raise InputError("--seeds: the runs were evaluated at different tIoU thresholds, so they have no mean")

    def over_seeds(protocols: list[dict[str, Any]]) -> dict[str, Any]:
        values = np.array([[*protocol["mAP"], protocol["average"]] for protocol in protocols])  # [seeds, K + 1]
        std = values.std(0, ddof=1).tolist() if len(values) > 1 else [None] * values.shape[1]
        mean = values.mean(0).tolist()
        return {
            "tiou": protocols[0]["tiou"],
            "mean": mean[:-1],
            "std": std[:-1],
            "average_mean": mean[-1],
            "average_std": std[-1],
        }

    which = {"last": results, "best": [result["best"] for result in results]}
    return {
        "seeds": list(seeds),
        "averages": {name: [part["snippet"]["average"] for part in parts] for name, parts in which.items()},
        **{
            name: {protocol: over_seeds([part[protocol] for part in parts]) for protocol in PROTOCOLS}
            for name, parts in which.items()
        },
    }


def seeds_rows(summary: dict[str, Any], decimals: int = 1) -> dict[str, list[str]]:
    """The summary as rows of text, `mean ± std`, by epoch and protocol."""
    rows = {}
    for which, name in (("last", "last epoch"), ("best", "best epoch, chosen on the test set")):
        for protocol in PROTOCOLS:
            own = summary[which][protocol]
            pairs = zip([*own["mean"], own["average_mean"]], [*own["std"], own["average_std"]], strict=True)
            rows[f"{name}, {protocol}"] = [
                f"{mean:.{decimals}f}" + ("" if std is None else f" ± {std:.{decimals}f}") for mean, std in pairs
            ]
    return rows


def seeds_table(summary: dict[str, Any]) -> str:
    """The summary as printed."""
    columns = [*(f"{t:g}" for t in summary["last"]["snippet"]["tiou"]), "average"]
    table = pd.DataFrame.from_dict(seeds_rows(summary, 2), orient="index", columns=columns)
    *others, last = map(str, summary["seeds"])
    of = f"mean ± standard deviation of the seeds {', '.join(others)} and {last}" if others else f"of the seed {last}"
    return f"mAP @ tIoU, {of}\n{table.to_string()}"


def median_seed(summary: dict[str, Any]) -> int:
    """The seed whose last epoch is in the middle; of an even number, the lower of both."""
    order = np.argsort(summary["averages"]["last"], kind="stable")
    return summary["seeds"][order[(len(order) - 1) // 2]]
