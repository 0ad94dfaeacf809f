"""What several runs get on average that differ in nothing but their seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from eval.protocols import PROTOCOLS
from utils import InputError


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
