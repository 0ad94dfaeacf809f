"""The annotations of a dataset: its videos, their subsets and labels, and the instances in them (SPEC section 1).

Axes: V videos of the dataset, C classes without background.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils import InputError, is_finite_number, read_array, some_of

ANNOTATION_FILES = ("videoname", "subset", "classlist", "labels_all", "labels", "segments")


@dataclass(frozen=True)
class Annotations:
    """What is known of the videos of a dataset (SPEC section 1)."""

    class_names: list[str]
    videos: list[str]  # [V]
    subsets: list[str]  # [V]
    labels: np.ndarray  # [V, C] float32, 0 or 1: the video-level labels that training uses
    instances: pd.DataFrame  # one row per instance: video, class_idx, start_sec, end_sec
    ambiguous: dict[str, np.ndarray]  # [A, 2] seconds, of the videos that have any

    def videos_of(self, subset: str) -> list[str]:
        """The videos of a subset, in file order.

        Raises:
            InputError: there is none.
        """
        videos = [video for video, own in zip(self.videos, self.subsets, strict=True) if own == subset]
        if not videos:
            raise InputError(
                f"no video has subset {subset!r}; the annotations have {sorted(set(self.subsets))} "
                "(--train_subset, --test_subset)"
            )
        return videos

    def ground_truth(self, subset: str) -> pd.DataFrame:
        """The instances of a subset's videos."""
        return self.instances[self.instances["video"].isin(self.videos_of(subset))].reset_index(drop=True)


def read_annotations(folder: Path) -> Annotations:
    """Read a dataset's annotation folder; strings may be bytes or unicode.

    Raises:
        InputError: a file is missing or damaged, the files disagree in length, a label is not in the class list,
            a segment is not two finite seconds, or a video is listed twice.
    """
    raw = {name: read_array(folder / f"{name}.npy") for name in ANNOTATION_FILES}
    for name, array in raw.items():
        per_video = name in ("labels_all", "labels", "segments")  # numpy stacks lists that happen to be equally long
        if not array.size or (array.ndim != 1 and not per_video):
            raise InputError(f"{folder / name}.npy: expected a list of one entry each, found shape {list(array.shape)}")
        if name != "classlist" and len(array) != len(raw["videoname"]):
            raise InputError(
                f"{folder / name}.npy: has {len(array)} entries, but videoname.npy {len(raw['videoname'])}; the files "
                "must come from one release"
            )
    videos, subsets, class_names = (_texts(folder, name, raw[name]) for name in ("videoname", "subset", "classlist"))
    for name, texts in (("videoname", videos), ("classlist", class_names)):
        twice = [text for text, count in pd.Series(texts).value_counts().items() if count > 1]
        if twice:
            raise InputError(f"{folder / name}.npy: {twice[0]} is listed more than once")

    index = {name: i for i, name in enumerate(class_names)}
    labels = np.zeros((len(videos), len(class_names)), dtype=np.float32)
    for row, video, names in zip(labels, videos, raw["labels_all"], strict=True):
        for class_idx in _class_indices(folder / "labels_all.npy", video, names, index):
            row[class_idx] = 1

    instances = []
    for video, names, segments in zip(videos, raw["labels"], raw["segments"], strict=True):
        classes = _class_indices(folder / "labels.npy", video, names, index)
        segments = _segments(folder / "segments.npy", video, segments)
        if len(classes) != len(segments):
            raise InputError(f"{folder}: video {video} has {len(classes)} labels but {len(segments)} segments")
        instances += [(video, class_idx, start, end) for class_idx, (start, end) in zip(classes, segments, strict=True)]
    table = pd.DataFrame(instances, columns=["video", "class_idx", "start_sec", "end_sec"])
    return Annotations(class_names, videos, subsets, labels, table, _read_ambiguous(folder / "Ambiguous_test.txt"))


def _text(path: Path, value: Any) -> str:
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        text = None
    if not isinstance(text, str):
        raise InputError(f"{path}: expected text, found {reprlib.repr(value)}")
    return str(text)  # numpy's own string type becomes Python's


def _texts(folder: Path, name: str, values: np.ndarray) -> list[str]:
    return [_text(folder / f"{name}.npy", value) for value in values]


def _class_indices(path: Path, video: str, names: Any, index: dict[str, int]) -> list[int]:
    if not isinstance(names, (list, tuple, np.ndarray)):
        raise InputError(f"{path}: video {video}: expected a list of labels, found {reprlib.repr(names)}")
    names = [_text(path, name) for name in names]
    unknown = [name for name in names if name not in index]
    if unknown:
        raise InputError(f"{path}: video {video}: not in classlist.npy: {some_of(unknown)}")
    return [index[name] for name in names]


def _segments(path: Path, video: str, segments: Any) -> np.ndarray:
    if isinstance(segments, np.ndarray):
        segments = segments.tolist()
    if not isinstance(segments, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(is_finite_number(time) for time in pair)
        for pair in segments
    ):
        raise InputError(f"{path}: video {video}: expected [start, end] seconds, found {reprlib.repr(segments)}")
    return np.array(segments, dtype=np.float64).reshape(-1, 2)


def _read_ambiguous(path: Path) -> dict[str, np.ndarray]:
    """Segments per video in which detections do not count; the file may be absent or empty."""
    if not path.is_file():
        return {}
    segments: dict[str, list[list[float]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        try:
            if fields:
                video, start, end = fields
                segments.setdefault(video, []).append([float(start), float(end)])
                if not np.isfinite(segments[video][-1]).all():
                    raise ValueError
        except ValueError:
            raise InputError(f"{path}: line {number}: expected `video start end` in seconds, found {line!r}") from None
    return {video: np.array(rows) for video, rows in segments.items()}
