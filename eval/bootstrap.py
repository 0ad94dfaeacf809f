"""Which differences between two runs are more than noise: a paired bootstrap over test videos.

Test videos are drawn with replacement, as many as there are, again and again; each time both runs are evaluated on the
same draw. A video that is drawn twice counts twice, its detections and its instances.

Axes: V test videos, C classes, K thresholds, S draws.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from tqdm import tqdm

from eval.detection import Matched, interpolated
from utils import chunks

LEVEL = 0.05  # false discovery rate
MAX_NUMBERS = 1 << 21  # in an array of a thread
FEWEST_DRAWS = 2000  # which are enough for intervals
MIN_VIDEOS = 6  # with instances; from fewer, a bootstrap tells nothing


def num_draws(num_class: int) -> int:
    """The number of draws S: enough that a single one of C classes can be rejected by `rejected`."""
    return max(FEWEST_DRAWS, 50 * num_class)


def draw_videos(num_videos: int, seed: int, draws: int) -> np.ndarray:
    """How often each video is drawn: `[S, V]`."""
    drawn = np.random.default_rng(seed).multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=draws)
    return drawn.astype(np.int32)


def bootstrap(matched: Matched, drawn: np.ndarray) -> np.ndarray:
    """Average precision in each draw, `[S, C, K]` percent; nan where no instance of the class is drawn.

    Args:
        matched: a run, whose videos are numbered as in `drawn`.
        drawn: `[S, V]` see `draw_videos`.
    """
    precision = np.full((len(drawn), matched.num_class, len(matched.thresholds)), np.nan)
    present = np.flatnonzero(matched.num_instances)
    # A row for each video, so that those of a class are copied fast. Sums of whole numbers are exact in float32.
    most = drawn.max(initial=0) * len(matched.ranked)
    by_video = np.ascontiguousarray(drawn.T, dtype=np.float32 if most < 1 << 24 else np.float64)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:  # numpy computes outside of the interpreter lock

        def of_class(class_idx: int) -> None:
            precision[:, class_idx] = _bootstrap_class(matched, class_idx, by_video)

        done = workers.map(of_class, present)
        for _ in tqdm(done, desc="bootstrap", total=len(present), unit="class", leave=False):
            pass
    return precision


def _bootstrap_class(matched: Matched, class_idx: int, drawn: np.ndarray) -> np.ndarray:
    """Average precision of a class in each draw, `[S, K]` percent; nan where no instance is drawn; `drawn` is `[V, S]`.

    Precision changes for the better at a hit alone, so it is computed there. How many detections are listed up to a hit
    is the sum of how often the video of each is drawn.
    """
    of_class = matched.ranked.class_idx == class_idx
    video, hits = matched.ranked.video[of_class], matched.true_positive[of_class]  # [n], [n, K]
    rows = np.flatnonzero(hits.any(1))  # [H] where any threshold has a hit
    until_last = video[: rows.max(initial=-1) + 1]
    after_previous = np.append(0, rows + 1)[:-1]  # [H] the first row that each hit adds
    with_instance = matched.ground_truth.video[matched.ground_truth.class_idx == class_idx]
    areas = np.full((drawn.shape[1], hits.shape[1]), np.nan)
    for part in chunks(drawn.shape[1], len(until_last), MAX_NUMBERS):
        weight = drawn[:, part]  # [V, s]
        listed = np.add.reduceat(weight[until_last], after_previous, axis=0).astype(np.float64).cumsum(0).clip(min=1)
        instances = weight[with_instance].sum(0)
        for k, hit in enumerate(hits[rows].T):
            of_hits = weight[video[rows[hit]]].astype(np.float64)  # [h, s]
            area = (interpolated(of_hits.cumsum(0) / listed[hit]) * of_hits).sum(0)
            areas[part, k] = np.where(instances > 0, 100 * area / instances.clip(min=1), np.nan)
    return areas


def differences(
    first: Matched, second: Matched, drawn: np.ndarray, class_names: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The differences second minus first of mAP at each threshold, and of each class's mean over the thresholds.

    Args:
        first: a run.
        second: another, on the same videos and ground truth.
        drawn: `[S, V]` see `draw_videos`.
        class_names: C names.

    Returns:
        Two tables of percentage points, with the columns `first, second, difference, low, high, p, more_than_noise`.
        `low` and `high` bound the middle 95% of the draws. For a threshold, `more_than_noise` says that this interval
        leaves out zero; for a class, since there are many, that Benjamini and Hochberg's procedure rejects it at 5%.
        With fewer than `MIN_VIDEOS` videos that have instances it is always False. The noise is that of the choice of
        test videos alone.
    """
    observed = [100 * run.class_precision() for run in (first, second)]  # [C, K]
    draws = [bootstrap(run, drawn) for run in (first, second)]  # [S, C, K]
    thresholds = [f"{t:g}" for t in first.thresholds]
    mean, mean_draws = ([mean_of_known(values, axis=-2) for values in part] for part in (observed, draws))
    by_threshold = _table(
        [*thresholds, "average"],
        [np.append(values, values.mean()) for values in mean],
        [np.column_stack([values, values.mean(1)]) for values in mean_draws],
    )
    in_video = np.unique(np.stack([first.ground_truth.class_idx, first.ground_truth.video]), axis=1)
    enough = len(np.unique(in_video[1])) >= MIN_VIDEOS
    by_threshold["more_than_noise"] = ((by_threshold["low"] > 0) | (by_threshold["high"] < 0)) & enough
    present = np.flatnonzero(first.num_instances)
    by_class = _table(
        [class_names[i] for i in present],
        [values[present].mean(1) for values in observed],
        [values[:, present].mean(2) for values in draws],
    )
    tested = np.bincount(in_video[0], minlength=first.num_class)[present] >= MIN_VIDEOS
    stands_out = np.zeros(len(present), dtype=bool)
    stands_out[tested] = rejected(by_class["p"].to_numpy()[tested])
    by_class["more_than_noise"] = stands_out
    return by_threshold, by_class


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of the values that are not nan; nan where all are."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    return np.where(count > 0, np.where(known, values, 0).sum(axis) / count.clip(min=1), np.nan)


def _table(names: Sequence[str], observed: Sequence[np.ndarray], draws: Sequence[np.ndarray]) -> pd.DataFrame:
    difference = draws[1] - draws[0]  # [S, names]
    known = (~np.isnan(difference)).sum(0)
    low, high = np.nanpercentile(difference, [2.5, 97.5], axis=0)
    fewer = np.minimum((difference <= 0).sum(0), (difference >= 0).sum(0))
    columns = {"first": observed[0], "second": observed[1], "difference": observed[1] - observed[0]}
    columns |= {"low": low, "high": high, "p": np.minimum(1, 2 * (1 + fewer) / (1 + known))}
    return pd.DataFrame(columns, index=list(names))


def rejected(p: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Which of several hypotheses Benjamini and Hochberg's procedure rejects, by their p-values `[n]`: `[n]` bool."""
    order = np.argsort(p, kind="stable")
    below = np.flatnonzero(p[order] <= level * np.arange(1, len(p) + 1) / len(p))
    is_rejected = np.zeros(len(p), dtype=bool)
    is_rejected[order[: below[-1] + 1 if len(below) else 0]] = True
    return is_rejected
