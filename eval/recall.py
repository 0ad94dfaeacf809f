"""How much of the ground truth proposals reach: recall by tIoU and by proposals a video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from proposals import tiou
from utils import chunks


def average_recall(
    proposals: dict[str, np.ndarray],
    ground_truth: pd.DataFrame,
    tiou_thresholds: Sequence[float] = (0.3, 0.5, 0.7),
    counts: Sequence[int | None] = (50, 100, None),
) -> pd.DataFrame:
    """Share of the instances that one of the first proposals of their video reaches, regardless of class.

    Args:
        proposals: `[M, 2]` of each video, the best first, in the unit of the ground truth.
        ground_truth: a row per instance, `video`, `start_sec`, `end_sec`.
        tiou_thresholds: tIoU from which an instance counts as reached.
        counts: how many proposals of a video may reach it; None: all.

    Returns:
        A row per count (`all` for None): the recall in [0, 1] at each threshold, their `mean`, and `proposals`, the
        mean number of proposals counted in a video.
    """
    segments = ground_truth[["start_sec", "end_sec"]].to_numpy(np.float64)
    best = np.zeros((len(counts), len(segments)))  # largest tIoU of each instance, by count
    for video, instances in ground_truth.groupby("video").indices.items():
        of_video = proposals.get(str(video), np.empty((0, 2)))
        for part in chunks(len(instances), len(of_video)):
            overlap = tiou(segments[instances[part], None], of_video[None])  # [n, M]
            for row, count in zip(best, counts, strict=True):
                row[instances[part]] = overlap[:, :count].max(axis=1, initial=0)
    sizes = np.array([len(of_video) for of_video in proposals.values()], dtype=np.int64)
    table = pd.DataFrame(
        {threshold: (best >= threshold).mean(axis=1) for threshold in tiou_thresholds},
        index=["all" if count is None else count for count in counts],
    )
    table["mean"] = table.mean(axis=1)
    used = [sizes if count is None else sizes.clip(max=count) for count in counts]
    table["proposals"] = [number.sum() / max(1, len(sizes)) for number in used]
    return table


def recall_table(table: pd.DataFrame) -> str:
    """`average_recall` as text, recall in percent."""
    percent = table.drop(columns="proposals") * 100
    percent["proposals"] = table["proposals"]
    return percent.rename_axis(index="first", columns="recall @ tIoU").to_string(float_format="%.1f")
