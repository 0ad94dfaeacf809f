"""Pages on runs whose test videos have no ground truth: detections, labels, losses and timelines, and no mAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eval.curves import label_confusion
from report import pictures
from report.page import Page
from report.reading import ReportData

NO_TRUTH = "The annotations have no instances for these test videos, so there is no mAP and no error analysis."


def show_detections(page: Page, data: ReportData) -> None:
    """How many detections each class has, and of what score and length."""
    page.section("Detections")
    page.text(NO_TRUTH)
    if len(counts := [len(segments) for segments in data.proposals.values()]):
        low, middle, high = (f"{value:g}" for value in np.percentile(counts, [0, 50, 100]))
        page.text(f"A video has {low} to {high} proposals, in the median {middle}.")
    if (labels := labels_found(data.detections, data.labels)) is not None:
        page.text(labels)
    table = data.detections.assign(length=data.detections["end_sec"] - data.detections["start_sec"])
    classes = table.groupby("class_idx").agg(
        videos=("video", "nunique"), detections=("score", "size"), score=("score", "max"), length=("length", "median")
    )
    if classes.empty:
        return
    names = [data.class_names[i] for i in classes.index.tolist()]
    best_of_video = table.groupby(["video", "class_idx"])["score"].max()
    page.picture(
        "class_detections",
        pictures.class_bars(
            dict(zip(names, classes["videos"].astype(float), strict=True)),
            "videos with detections of a class",
            simulated=page.simulated,
        ),
        "In how many test videos each class is detected.",
    )
    means = best_of_video.groupby("class_idx").mean()
    page.table(
        ["class", "videos", "detections", "best score, mean over videos", "highest score", "median length, s"],
        [
            [name, int(row.videos), int(row.detections), f"{mean:.3f}", f"{row.score:.3f}", float(row.length)]
            for name, mean, (_, row) in zip(names, means.tolist(), classes.iterrows(), strict=True)
        ],
        caption="Detections of each class. Scores have no scale that holds for other data.",
    )


def labels_found(detections: pd.DataFrame, labels: pd.DataFrame) -> str | None:
    """How many labels of the videos are detected, in words; None if the videos have none."""
    if not (total := int(labels.to_numpy().sum())):
        return None
    found = int(np.diag(label_confusion(detections, labels)).sum())
    pairs = detections[["video", "class_idx"]].drop_duplicates()
    return (
        f"Of {total} labels of the videos, {found} are detected ({100 * found / total:.1f}%); of {len(pairs)} classes "
        f"that are detected in a video, {found} are labels of it."
    )


def videos_by_score(detections: pd.DataFrame, videos: Sequence[str]) -> dict[str, float]:
    """The best score of each video that has detections, the highest first."""
    best = detections.groupby("video")["score"].max().sort_values(ascending=False, kind="stable")
    return {str(video): float(score) for video, score in best.items() if video in set(videos)}


def compare_detections(runs: Mapping[str, ReportData]) -> tuple[list[str], list[list[object]]]:
    """The headers and the rows of a table of runs: how much each detects, and the loss of its last epoch."""
    rows: list[list[object]] = []
    for name, data in runs.items():
        losses = None if data.metrics is None else data.metrics.losses.get("loss_total")
        loss = None if losses is None or losses.empty else f"{losses.iloc[-1]:.4f}"
        rows.append([name, len(data.detections), data.detections["video"].nunique(), loss, data.source])
    return ["run", "detections", "videos with detections", "loss of the last epoch", "weights"], rows
