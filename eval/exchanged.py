"""Whether the names of classes are exchanged in detections: each class found where another one is, and the reverse."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pandas as pd

from eval.evaluation import detection_results
from eval.metrics import EvaluationInput

MIN_VIDEOS, MIN_SHARE = 2, 0.8  # of a class, in which its best detection is of the same other class
MIN_GAIN = 2.0  # times the average mAP that names exchanged back must give


def exchanged_classes(inputs: EvaluationInput) -> dict[int, int]:
    """The class that each class seems to stand for, by the best detection of each video; empty if all are right."""
    best = inputs.detections.sort_values("score", ascending=False, kind="stable").drop_duplicates("video")
    shown = inputs.ground_truth[["video", "class_idx"]].drop_duplicates()
    pairs = best[["video", "class_idx"]].merge(shown, on="video", suffixes=("_found", "_shown"))
    num_videos = Counter(pairs.drop_duplicates("video")["class_idx_found"].tolist())
    counts = Counter(zip(pairs["class_idx_found"].tolist(), pairs["class_idx_shown"].tolist(), strict=True))
    stands_for: dict[int, int] = {}
    for (found, shown_class), count in sorted(counts.items()):
        if count >= max(MIN_VIDEOS, MIN_SHARE * num_videos[found]) and counts[found, found] < count / 2:
            stands_for[found] = shown_class
    while keys := stands_for.keys() ^ set(stands_for.values()):  # what is left is a permutation of some classes
        stands_for = {
            found: shown_class for found, shown_class in stands_for.items() if not {found, shown_class} & keys
        }
    return stands_for


def exchanged_text(inputs: EvaluationInput) -> str | None:
    """Says which names seem to be exchanged, and what the average mAP is with them put right; None if none do."""
    if inputs.ground_truth.empty or not (stands_for := exchanged_classes(inputs)):
        return None
    class_idx = inputs.detections["class_idx"].map(lambda found: stands_for.get(found, found))
    now, right = (detection_results(one).average for one in (inputs, _with_classes(inputs, class_idx)))
    if right < MIN_GAIN * now or right < 1:
        return None
    names = inputs.class_names
    pairs = ", ".join(f"{names[found]} for {names[shown]}" for found, shown in list(stands_for.items())[:5])
    more = ", …" if len(stands_for) > 5 else ""
    seem = f"names of classes seem to be exchanged ({pairs}{more})"
    return f"{seem}: put right, the average mAP is {right:.1f}, not {now:.1f}"


def _with_classes(inputs: EvaluationInput, class_idx: pd.Series) -> EvaluationInput:
    return replace(inputs, detections=inputs.detections.assign(class_idx=class_idx))
