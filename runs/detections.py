"""Detections of a run on disk: ActivityNet's result format in and out, and a CSV file with all columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.tables import rows_as_table, without_ambiguous
from readers.facts import Facts
from readers.findings import say_notices
from readers.names import is_ambiguous
from readers.plausible import with_likely
from readers.result_files import MAX_PER_VIDEO, parse_results
from utils import InputError, as_json, log, short_repr, shorten_list, without_collection, write_beside_earlier


def write_detections(
    path: Path,
    detections: pd.DataFrame,
    class_names: Sequence[str],
    version: str,
    lengths: Mapping[str, float] | None = None,
    left_out: Sequence[str] = (),
    *,
    facts: Facts | None = None,
    unless_same: bool = False,
) -> None:
    """Write the detections that are evaluated in ActivityNet result format, in seconds; see `write_beside_earlier`.

    Boundaries are those of proposals, whole hundredths of a snippet. `snippet_decimals` says so, and lets
    `read_detections` restore them to the bit: `eval` of this file gives the digits that `test` gave. Videos that are
    left out are named, so that it also leaves them out. `facts` is what the
    detections depend on.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    table = without_ambiguous(detections)
    columns = (table[name].tolist() for name in ("video", "class_idx", "score", "start_sec", "end_sec"))
    for video, class_idx, score, start, end in zip(*columns, strict=True):
        entry = {"label": class_names[class_idx], "score": score, "segment": [start, end]}
        results.setdefault(video, []).append(entry)
    external = {"snippet_decimals": 2, **(facts or Facts()).to_json(), "video_seconds": dict(lengths or {})}
    external |= {"videos_left_out": [*left_out]} if left_out else {}
    content = {"version": version, "results": results, "external_data": external}
    write_beside_earlier(path, as_json(content), unless_same=unless_same)


def write_detection_csv(
    path: Path,
    detections: pd.DataFrame,
    class_names: Sequence[str],
    lengths: Mapping[str, float],
    *,
    unless_same: bool = False,
) -> None:
    """Write all detections, including those that are not evaluated; see `utils.write_beside_earlier`.

    The columns are `video, label, score, start_sec, end_sec, start_snip, end_snip`, `ambiguous` (1 where it overlaps an
    ambiguous segment and is left out of the result file and the mAP), and `outside_sec` (how much of it lies beyond the
    ends of its video). Nothing is clipped or moved; notices say how many detections of both kinds there are.

    Args:
        path: of the file.
        detections: see `detection_table`.
        class_names: C names.
        lengths: seconds of each video.
        unless_same: leave a file alone that holds just this.
    """
    table = detections.copy()
    table["label"] = [class_names[i] for i in table["class_idx"].tolist()]
    table["ambiguous"] = table["ambiguous"].astype(int)
    end = table["video"].map(lengths)
    outside = (-table["start_sec"]).clip(lower=0) + (table["end_sec"] - end).clip(lower=0)
    length = table["end_sec"] - table["start_sec"]
    table["outside_sec"] = outside.clip(upper=length).round(6) + 0.0  # a negative zero becomes zero
    order = ["video", "label", "score", "start_sec", "end_sec", "start_snip", "end_snip", "ambiguous", "outside_sec"]
    write_beside_earlier(path, table[order].to_csv(index=False, lineterminator="\n"), unless_same=unless_same)
    if left_out := int(table["ambiguous"].sum()):
        log.info(
            f"notice: {left_out} of {len(table)} detections overlap an ambiguous segment and are not "
            f"evaluated; {path} marks them"
        )
    if beyond := int((table["outside_sec"] > 0).sum()):
        log.info(
            f"notice: {beyond} of {len(table)} detections reach beyond the ends of their video, like "
            f"their proposals; they are left unchanged, and {path} marks them"
        )


@dataclass(frozen=True)
class DetectionFile:
    """A file of detections in ActivityNet result format.

    Attributes:
        detections: see `eval.tables.detection_table`.
        simulated: whether the file says that it is of simulated data.
        lengths: seconds of the videos whose length it tells.
        left_out: videos that it says are left out, since they have no features.
    """

    detections: pd.DataFrame
    simulated: bool
    lengths: dict[str, float]
    left_out: tuple[str, ...]


@without_collection()
def read_detections(path: Path, videos: Sequence[str], class_names: Sequence[str], rate: float) -> DetectionFile:
    """Read detections in ActivityNet result format, ours or anyone's.

    Args:
        path: `{"results": {video: [{"label", "score", "segment": [s, e] seconds}]}}`.
        videos: the videos that may appear.
        class_names: the labels that may appear.
        rate: snippets per second.

    Raises:
        InputError: the file is damaged; a video or label is unknown; a score is not a finite number.
    """
    content = parse_results(path, most=MAX_PER_VIDEO * len(class_names), videos=videos)
    content.facts.require(path, rate, class_names, "make them again with --run_type test")
    say_notices(content.notices, f"{path}: ")
    labels: dict[str, str] = {}  # label -> a video that has it
    rows: list[tuple[str, str]] = []  # video and label
    scores: list[float] = []
    segments: list[list[float]] = []
    left_out: Counter[str] = Counter()
    for video, entries in content.results.items():
        for entry in entries:
            label, score = entry.get("label"), entry.get("score")
            if label is None:
                raise InputError(f"{path}: video {video}: label None is not a class name; found {short_repr(entry)}")
            if score is None:
                raise InputError(f"{path}: video {video}: score None is not a finite number")
            if is_ambiguous(label):
                left_out[video] += 1
                continue
            labels.setdefault(label, video)
            rows.append((video, label))
            scores.append(float(score))
            segments.append([float(time) for time in entry["segment"]])
    if left_out:
        kind = "videos with detections labelled Ambiguous, which are left out"
        say_notices({kind: [f"{video}: {count}" for video, count in left_out.items()]}, f"{path}: ")
    if unknown := sorted(set(content.results) - set(videos)):
        names = [with_likely(name, videos) for name in unknown[:6]]
        raise InputError(
            f"{path}: unknown videos, {len(unknown)} that are not in the evaluated subset: {shorten_list(names)}; "
            "check --dataset_name and --test_subset, or remove them from the file"
        )
    if unknown := sorted(set(labels) - set(class_names)):
        names = [with_likely(name, class_names) for name in unknown[:6]]
        raise InputError(
            f"{path}: unknown classes, {len(unknown)} that are not in the dataset's class list: {shorten_list(names)}; "
            f"the first is in video {labels[unknown[0]]}. Check --dataset_name, or name them in the annotations or "
            "with --class_list"
        )

    index = {name: i for i, name in enumerate(class_names)}
    class_idx = np.array([index[label] for _, label in rows], dtype=np.int64)
    sec = np.array(segments, dtype=np.float64).reshape(-1, 2)
    snip = sec * rate
    if content.snippet_decimals is not None:
        snip = snip.round(content.snippet_decimals)
    table = rows_as_table([video for video, _ in rows], class_idx, np.array(scores, dtype=np.float64), snip, sec)
    return DetectionFile(table, content.simulated, content.lengths, content.left_out)
