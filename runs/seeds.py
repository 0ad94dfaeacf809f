"""`--seeds`: the same training run with several seeds, and the mean and standard deviation of what they get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.results import PROTOCOLS, ProtocolResult, Results, number, whole_number
from runs.folder import RunFolder
from runs.results import RunResults, read_typed
from utils import InputError, as_json, log, write_beside_earlier, writing

SEEDS = "seeds.json"
EPOCHS = {"last": "last epoch", "best": "best epoch, chosen on the test set"}  # which of a run, by its name in the file


@dataclass(frozen=True)
class Spread:
    """mAP over the seeds, percent, at K thresholds; the standard deviation (n - 1) is None for one seed."""

    tiou: list[float]
    mean: list[float]
    std: list[float | None]
    average_mean: float
    average_std: float | None

    @classmethod
    def of(cls, results: Sequence[ProtocolResult]) -> Spread:
        """The spread of the results of several seeds."""
        values = np.array([[*result.mAP, result.average] for result in results])  # [seeds, K + 1]
        mean = values.mean(0).tolist()
        std = values.std(0, ddof=1).tolist() if len(values) > 1 else [None] * len(mean)
        return cls([*results[0].tiou], mean[:-1], std[:-1], mean[-1], std[-1])

    @classmethod
    def from_json(cls, content: Any) -> Spread:
        """From the values of a JSON file; raises as the functions of `eval.results` do."""
        tiou, mean = ([number(value) for value in content[name]] for name in ("tiou", "mean"))
        std = [None if value is None else number(value) for value in content["std"]]
        average_std = content["average_std"]
        if not len(tiou) == len(mean) == len(std) > 0:
            raise ValueError(f"{len(mean)} means and {len(std)} deviations at {len(tiou)} thresholds")
        return cls(
            tiou, mean, std, number(content["average_mean"]), None if average_std is None else number(average_std)
        )


@dataclass(frozen=True)
class SeedSummary:
    """What `seeds.json` holds.

    Attributes:
        seeds: of the runs.
        averages: the average mAP of each run, by the protocol that chooses epochs (`Results.average`), by `EPOCHS`.
        spreads: by `EPOCHS` and protocol.
    """

    seeds: list[int]
    averages: dict[str, list[float]]
    spreads: dict[str, dict[str, Spread]]

    @property
    def tiou(self) -> list[float]:
        """The thresholds."""
        return self.spreads["last"]["snippet"].tiou

    @property
    def median(self) -> int:
        """The seed whose last epoch is in the middle; of an even number, the lower of both."""
        order = np.argsort(self.averages["last"], kind="stable")
        return self.seeds[order[(len(order) - 1) // 2]]

    def is_of(self, runs: Sequence[RunResults]) -> bool:
        """Whether the summary is of these runs, in the order of the seeds."""
        if any(run.best is None for run in runs):
            return False
        now = _averages(runs)
        return all(np.allclose(now[which], self.averages[which]) for which in EPOCHS)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        spreads = {
            which: {protocol: asdict(spread) for protocol, spread in by_protocol.items()}
            for which, by_protocol in self.spreads.items()
        }
        return {"seeds": self.seeds, "averages": self.averages} | spreads

    @classmethod
    def from_json(cls, content: Any) -> SeedSummary:
        """The inverse of `to_json`; raises as the functions of `eval.results` do."""
        seeds = [whole_number(seed, high=2**32) for seed in content["seeds"]]
        averages = {which: [number(value) for value in content["averages"][which]] for which in EPOCHS}
        if not len(seeds) == len(set(seeds)) > 0 or any(len(values) != len(seeds) for values in averages.values()):
            raise ValueError("not one average for each seed")
        spreads = {
            which: {protocol: Spread.from_json(content[which][protocol]) for protocol in PROTOCOLS} for which in EPOCHS
        }
        if len({len(spread.tiou) for by_protocol in spreads.values() for spread in by_protocol.values()}) > 1:
            raise ValueError("different tIoU thresholds")
        return cls(seeds, averages, spreads)


def seed_folder(folder: Path, seed: int) -> Path:
    """The folder of the run with a seed."""
    return folder / f"seed_{seed}"


def train_seeds(
    seeds: Sequence[int],
    folder: Path,
    train: Callable[[int, Path, Callable[[], None]], RunResults | None],
    *,
    resume: str | None,
    overwrite: bool,
    pretrained_ckpt: Path | None,
) -> None:
    """Train with each seed, and print and write the mean and standard deviation.

    Args:
        seeds: of the runs.
        folder: `--exp_dir`, which holds a folder for each run.
        train: trains with a seed in a folder, and returns the results if the run was evaluated. Its third argument is
            to be called when all input is known to be good, before anything is written.
        resume: with `auto`, runs that were started are resumed and the others started; with `always`, one must exist.
        overwrite: replace earlier runs.
        pretrained_ckpt: weights to start from.

    Raises:
        InputError: an earlier run would be replaced, or there is none to resume.
    """
    folders = [RunFolder(seed_folder(folder, seed)) for seed in seeds]
    phases = [phase for run in folders for phase in run.phases]
    if resume == "always" and not any(phase.resume.exists() for phase in phases):
        raise InputError(f"{folder}: no run of these seeds to resume; --resume auto starts them")
    for phase in phases:
        if not resume:
            phase.require_free(overwrite, pretrained_ckpt)
        elif (phase.path / "metrics.jsonl").exists() and not phase.resume.exists():
            raise InputError(f"{phase.resume}: missing, so this run cannot be resumed; choose another --exp_dir")

    def clear_all() -> None:
        """Remove all earlier runs at once, so that none of them is mixed with new ones."""
        with ExitStack() as stack:
            for run in folders[1:]:
                stack.enter_context(run)
            for run in folders[1:]:
                run.clear()
        with writing(folder / SEEDS):
            (folder / SEEDS).unlink(missing_ok=True)

    results: list[RunResults] = []
    for i, (seed, run) in enumerate(zip(seeds, folders, strict=True)):
        log.info(f"\nseed {seed}, run {i + 1} of {len(folders)}: {run.path}")
        result = train(seed, run.path, clear_all if overwrite and i == 0 else lambda: None)
        if result is not None:
            results.append(result)
    if len(results) < len(seeds):
        log.info("\nno figures to average, since there was no evaluation")
        return
    summary = summarise(seeds, results)
    write_beside_earlier(folder / SEEDS, as_json(summary.to_json()), unless_same=True)
    log.info(f"\n{seeds_table(summary)}\nwritten: {folder / SEEDS}")
    if parts := [result.results.left_out for result in results if result.results.left_out]:
        as_missed = (float(np.mean([part.as_missed.of(protocol).average for part in parts])) for protocol in PROTOCOLS)
        log.info(f"these figures are {parts[0].text}")
        log.info(f"with those as missed, average mAP of the last epochs (snippet, seconds): {_figures(as_missed)}")


def _figures(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def read_seeds(path: Path) -> SeedSummary:
    """Read a `seeds.json`.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_typed(path, SeedSummary.from_json, SEEDS, "train with --seeds again")


def summarise(seeds: Sequence[int], runs: Sequence[RunResults]) -> SeedSummary:
    """Mean and standard deviation of the last and of the best epochs of training runs.

    Raises:
        InputError: they were evaluated at different thresholds.
    """
    if len({run.results.snippet.tiou for run in runs}) > 1:
        raise InputError("--seeds: the runs were evaluated at different tIoU thresholds, so they have no mean")
    spreads = {
        which: {protocol: Spread.of([part.of(protocol) for part in parts]) for protocol in PROTOCOLS}
        for which, parts in _by_epoch(runs).items()
    }
    return SeedSummary(list(seeds), _averages(runs), spreads)


def _by_epoch(runs: Sequence[RunResults]) -> dict[str, list[Results]]:
    best = [run.best.results for run in runs if run.best is not None]
    return {"last": [run.results for run in runs], "best": best}


def _averages(runs: Sequence[RunResults]) -> dict[str, list[float]]:
    return {which: [part.average for part in parts] for which, parts in _by_epoch(runs).items()}


def seeds_rows(summary: SeedSummary, decimals: int = 1) -> dict[str, list[str]]:
    """The summary as rows of text, `mean ± std`, by epoch and protocol."""
    rows = {}
    for which, name in EPOCHS.items():
        for protocol, spread in summary.spreads[which].items():
            pairs = zip([*spread.mean, spread.average_mean], [*spread.std, spread.average_std], strict=True)
            rows[f"{name}, {protocol}"] = [
                f"{mean:.{decimals}f}" + ("" if std is None else f" ± {std:.{decimals}f}") for mean, std in pairs
            ]
    return rows


def seeds_table(summary: SeedSummary) -> str:
    """The summary as printed."""
    columns = [*(f"{t:g}" for t in summary.tiou), "average"]
    table = pd.DataFrame.from_dict(seeds_rows(summary, 2), orient="index", columns=columns)
    *others, last = map(str, summary.seeds)
    of = f"mean ± standard deviation of the seeds {', '.join(others)} and {last}" if others else f"of the seed {last}"
    return f"mAP @ tIoU, {of}\n{table.to_string()}"
