"""Reads the annotations of a dataset: its videos, their subsets, labels and instances (SPEC section 1).

They are in a folder of `.npy` files, the usual form for THUMOS14 and ActivityNet in this field, or in one JSON file as
ActivityNet publishes it, which is the form for your own videos.

Axes: V videos of the dataset, C classes without background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from readers.arrays import read_array
from utils import (
    InputError,
    error_text,
    has_control_characters,
    is_plain_name,
    is_time,
    log,
    raise_input_error,
    read_json,
    short_repr,
    shorten_list,
)

_MAX_CLASSES, _MAX_LABELS = 5_000, 1 << 29  # ActivityNet has 200 classes, and three million labels (V x C)
_MAX_INSTANCES = 50_000  # of a video
_MAX_NAME_LENGTH = 200  # of a class or subset
ANNOTATION_FILES = ("videoname", "subset", "classlist", "labels_all", "labels", "segments")


@dataclass(frozen=True)
class Annotations:
    """The videos of a dataset, with their labels and instances."""

    class_names: list[str]
    videos: list[str]  # [V]
    subsets: list[str]  # [V]
    labels: np.ndarray  # [V, C] float32, 0 or 1: the video-level labels that training uses
    instances: pd.DataFrame  # one row per instance: video, class_idx, start_sec, end_sec
    empty_instances: pd.DataFrame  # those of zero or negative length, which are not part of the ground truth
    ambiguous: dict[str, np.ndarray]  # [A, 2] seconds for each video that has ambiguous segments
    durations: np.ndarray  # [V] seconds, nan if unknown

    def videos_of(self, subset: str) -> list[str]:
        """The videos of a subset, in the order of the files.

        Raises:
            InputError: it has no video.
        """
        videos = [video for video, its_subset in zip(self.videos, self.subsets, strict=True) if its_subset == subset]
        if not videos:
            raise InputError(
                f"no video has subset {subset!r}; the annotations have {sorted(set(self.subsets))} "
                "(--train_subset, --test_subset)"
            )
        return videos

    def duration_of(self) -> dict[str, float]:
        """Seconds of each video; nan if unknown."""
        return dict(zip(self.videos, self.durations.tolist(), strict=True))

    def ground_truth(self, subset: str) -> pd.DataFrame:
        """The instances of a subset's videos; empty ones are left out, with a notice."""
        videos = self.videos_of(subset)
        left_out = self.empty_instances[self.empty_instances["video"].isin(videos)]
        if len(left_out):
            log.info(
                f"notice: left out of the ground truth: {len(left_out)} "
                f"instance{'s' if len(left_out) > 1 else ''} of zero or negative length, in "
                f"{shorten_list(left_out['video'].unique().tolist())}"
            )
        return self.instances[self.instances["video"].isin(videos)].reset_index(drop=True)


def untrained_classes(annotations: Annotations, training: Sequence[str]) -> list[str]:
    """The classes that are a label of no training video."""
    counts = annotations.labels[np.isin(annotations.videos, training)].sum(axis=0)
    return [name for name, count in zip(annotations.class_names, counts, strict=True) if not count]


def uninformative_labels(annotations: Annotations, training: Sequence[str], share: float = 0.9) -> str | None:
    """Says which labels nearly all training videos have; None if there are none.

    Weak supervision learns an action from how videos that show it differ from others.

    Args:
        annotations: of the dataset.
        training: the training videos.
        share: of the training videos, from which a label is named.
    """
    labels, names = annotations.labels[np.isin(annotations.videos, training)], annotations.class_names
    common = [names[i] for i in np.flatnonzero(labels.sum(axis=0) >= share * max(1, len(labels)))]
    if not common:
        return None
    if len(names) == 1:
        return (
            f"the only class, {common[0]}, is a label of {int(labels.sum())} of {len(labels)} training videos, so "
            "nothing tells it from the rest of a video; add training videos that do not show it, without a label"
        )
    return (
        f"at least {share:.0%} of the training videos have the same labels, which then tell nothing: "
        f"{shorten_list(common)}; add videos without them, or cut the videos into shorter ones"
    )


def require_trained(annotations: Annotations, training: Sequence[str]) -> None:
    """Check that a descriptor can be made for every class.

    Raises:
        InputError: some classes have no training video.
    """
    if lacking := untrained_classes(annotations, training):
        raise InputError(
            f"no training video has the label {shorten_list(lacking, None)}, so it would have no descriptor; check its "
            "spelling, add a video, or remove the class from the annotations and the class list"
        )


def usual_subsets(present: Sequence[str]) -> dict[str, str]:
    """The subsets to train and test on by default, as ActivityNet or THUMOS14 names them.

    Args:
        present: the subsets in the annotations.

    Returns:
        The subset of each part, `train` and `test`.
    """
    if "training" not in present and "test" in present:
        return {"train": "validation", "test": "test"}
    return {"train": "training", "test": next((name for name in ("validation", "testing") if name in present), "test")}


def read_annotations(
    path: Path, class_list: Path | None = None, on_error: Callable[[str], None] = raise_input_error
) -> Annotations:
    """Read the annotations of a dataset. Strings may be bytes or unicode.

    Args:
        path: a folder of `.npy` files (SPEC section 1), or a JSON file
            `{"database": {video: {"subset", "duration", "annotations": [{"segment": [start, end], "label"}]}}}`, in
            which a video may have labels without segments.
        class_list: for a JSON file, a file of the class names in order, one per line; None takes all labels, sorted.
        on_error: takes errors about single videos, which are then read without the wrong part.

    Raises:
        InputError: a file is missing or damaged, the files disagree in length, a label is not in the class list, a
            segment is not two finite seconds, or a video is listed twice or has a name that cannot name a file.
    """
    if path.is_dir() and class_list is not None:
        raise InputError(f"--class_list {class_list}: not used with {path}, which has its own, classlist.npy")
    raw = _read_folder(path) if path.is_dir() else _read_database(path, class_list, on_error)
    _check_names(raw, on_error)
    labels, table = _labels_and_instances(raw, path, on_error)
    empty = table["end_sec"] <= table["start_sec"]
    return Annotations(
        raw.class_names,
        raw.videos,
        raw.subsets,
        labels,
        table[~empty].reset_index(drop=True),
        table[empty].reset_index(drop=True),
        read_ambiguous(raw.files["ambiguous"], on_error),
        raw.durations,
    )


@dataclass
class _Raw:
    """Annotations as stored, with an entry per video; only videos, subsets and class names have been checked."""

    files: dict[str, Path]  # where each field was read from, for messages
    class_names: list[str]
    videos: list[str] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    durations: np.ndarray = field(default_factory=lambda: np.empty(0))
    labels_all: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    segments: list[Any] = field(default_factory=list)


def _check_names(raw: _Raw, on_error: Callable[[str], None]) -> None:
    """Check that the names of videos and classes are unique, can name files, and are not too many."""
    for name, texts in (("videos", raw.videos), ("class_names", raw.class_names)):
        twice = [text for text, count in pd.Series(texts).value_counts().items() if count > 1]
        if twice:
            raise InputError(f"{raw.files[name]}: {twice[0]} is listed more than once")
    for video in raw.videos:
        if not is_plain_name(video):
            on_error(
                f"{raw.files['videos']}: video {short_repr(video)} cannot be a file name: rename it without "
                "slashes and control characters; not empty, . or .., and at most 200 bytes"
            )
    num_class = len(raw.class_names)
    if num_class > _MAX_CLASSES or num_class * len(raw.videos) > _MAX_LABELS:
        raise InputError(
            f"{raw.files['class_names']}: {num_class} classes for {len(raw.videos)} videos are too many; "
            "check that equal labels are spelled alike"
        )


def _labels_and_instances(raw: _Raw, path: Path, on_error: Callable[[str], None]) -> tuple[np.ndarray, pd.DataFrame]:
    """Check the labels and instances of each video; returns `Annotations.labels`, and all instances."""
    index = {name: i for i, name in enumerate(raw.class_names)}
    labels = np.zeros((len(raw.videos), len(raw.class_names)), dtype=np.float32)
    instances = []
    per_video = zip(labels, raw.videos, raw.labels_all, raw.labels, raw.segments, strict=True)
    for row, video, names_all, names, segments in per_video:
        try:
            row[_class_indices(raw, "labels_all", video, names_all, index)] = 1
            classes = _class_indices(raw, "labels", video, names, index)
            segments = _segments(raw.files["segments"], video, segments)
            if len(classes) != len(segments):
                raise InputError(f"{path}: video {video} has {len(classes)} labels but {len(segments)} segments")
        except InputError as error:
            on_error(str(error))
        else:
            instances += [(video, *instance) for instance in zip(classes, *segments.T.tolist(), strict=True)]
    table = pd.DataFrame(instances, columns=["video", "class_idx", "start_sec", "end_sec"])
    table = table.astype({"class_idx": np.int64, "start_sec": np.float64, "end_sec": np.float64})
    return labels, table


def _read_folder(folder: Path) -> _Raw:
    raw = {name: read_array(folder / f"{name}.npy") for name in ANNOTATION_FILES}
    for name, array in raw.items():
        per_video = name in ("labels_all", "labels", "segments")  # numpy stacks lists of equal length
        if not array.ndim or not len(array) or (array.ndim != 1 and not per_video):
            raise InputError(f"{folder / name}.npy: expected a list of one entry each, found shape {list(array.shape)}")
        if name != "classlist" and len(array) != len(raw["videoname"]):
            raise InputError(
                f"{folder / name}.npy: has {len(array)} entries, but videoname.npy {len(raw['videoname'])}; the files "
                "must come from one release"
            )
    texts = {
        name: [_text(f"{folder / name}.npy", value) for value in raw[name]]
        for name in ("videoname", "subset", "classlist")
    }
    files = {name: folder / f"{name}.npy" for name in ("labels_all", "labels", "segments")}
    files |= {"videos": folder / "videoname.npy", "class_names": folder / "classlist.npy"}
    return _Raw(
        files | {"ambiguous": folder / "Ambiguous_test.txt"},
        texts["classlist"],
        texts["videoname"],
        texts["subset"],
        _durations(folder / "duration.npy", len(texts["videoname"])),
        list(raw["labels_all"]),
        list(raw["labels"]),
        list(raw["segments"]),
    )


def _durations(path: Path, num_videos: int) -> np.ndarray:
    """Read the durations, `[V]` seconds. The file is optional: only checks and simulations need it."""
    if not path.is_file():
        return np.full(num_videos, np.nan)
    durations = read_array(path)
    known = durations.size == num_videos and durations.dtype.kind in "fiu"
    if not known or not all(math.isnan(value) or is_time(value) for value in durations.ravel().tolist()):
        raise InputError(
            f"{path}: expected a number of seconds for each of {num_videos} videos, found {durations.dtype} "
            f"{list(durations.shape)}"
        )
    return durations.ravel().astype(np.float64)


def _read_database(path: Path, class_list: Path | None, on_error: Callable[[str], None]) -> _Raw:
    content = read_json(path)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict) or not database:
        raise InputError(f'{path}: expected {{"database": {{video: {{"subset", "duration", "annotations"}}}}}}')
    names = ("videos", "class_names", "labels_all", "labels", "segments")
    raw = _Raw(dict.fromkeys(names, path) | {"ambiguous": path.with_name("Ambiguous_test.txt")}, [])
    durations = []
    for video, entry in database.items():
        where = f"{path}: video {video if is_plain_name(video) else short_repr(video)}"
        if not isinstance(entry, dict) or not _is_text(entry.get("subset")):
            on_error(f'{where}: expected {{"subset": text, …}}, found {short_repr(entry)}')
            continue
        duration, annotations = entry.get("duration"), entry.get("annotations")
        annotations = [] if annotations is None else annotations
        if duration is not None and not is_time(duration):
            on_error(f"{where}: duration {short_repr(duration)} is not a number of seconds")
            duration = None
        if not isinstance(annotations, list) or not all(
            isinstance(one, dict) and _is_text(one.get("label")) and one["label"] for one in annotations
        ):
            on_error(f'{where}: expected "annotations": [{{"label": text, …}}, …], found {short_repr(annotations)}')
            annotations = []
        located = [one for one in annotations if one.get("segment") not in (None, [])]
        raw.videos.append(video)
        raw.subsets.append(entry["subset"])
        durations.append(np.nan if duration is None else float(duration))
        raw.labels_all.append(sorted({one["label"] for one in annotations}))
        raw.labels.append([one["label"] for one in located])
        raw.segments.append([one["segment"] for one in located])
    raw.durations = np.array(durations)
    if class_list is None:
        raw.class_names = sorted({name for names in raw.labels_all for name in names})
    else:
        raw.class_names = _read_class_list(class_list)
        raw.files["class_names"] = class_list
    if not raw.class_names:
        raise InputError(
            f"{raw.files['class_names']}: it names no class; if no video has a label, give the class names with "
            "--class_list FILE"
        )
    return raw


def _read_class_list(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list of class names, one per line ({error_text(error)})") from None
    return [_text(str(path), name) for name in names if name]


def _text(where: str, value: Any) -> str:
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        text = None
    if not _is_text(text):
        raise InputError(f"{where}: expected text, found {short_repr(value)}")
    return str(text)  # numpy's own string type becomes Python's


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be a name: not too long, and without control characters."""
    return isinstance(value, str) and len(value) <= _MAX_NAME_LENGTH and not has_control_characters(value)


def _class_indices(raw: _Raw, name: str, video: str, labels: Any, index: dict[str, int]) -> list[int]:
    path = raw.files[name]
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = list(labels)
    if not isinstance(labels, (list, tuple)):
        raise InputError(f"{path}: video {video}: expected a list of labels, found {short_repr(labels)}")
    if len(labels) > _MAX_INSTANCES:
        raise InputError(
            f"{path}: video {video}: {len(labels)} instances; at most {_MAX_INSTANCES} are allowed, so cut the video "
            "into shorter ones"
        )
    labels = [_text(f"{path}: video {video}", label) for label in labels]
    unknown = [label for label in labels if label not in index]
    if unknown:
        raise InputError(f"{path}: video {video}: not in {raw.files['class_names'].name}: {shorten_list(unknown)}")
    return [index[label] for label in labels]


def _segments(path: Path, video: str, segments: Any) -> np.ndarray:
    """Check the instances of a video; returns `[I, 2]` seconds."""
    if isinstance(segments, np.ndarray) and (not segments.size or segments.shape[1:] == (2,)):
        segments = segments.tolist() if segments.size else []
    if not isinstance(segments, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_time, pair)) for pair in segments
    ):
        raise InputError(f"{path}: video {video}: expected [start, end] seconds, found {short_repr(segments)}")
    return np.array(segments, dtype=np.float64).reshape(-1, 2)


def read_ambiguous(path: Path, on_error: Callable[[str], None] = raise_input_error) -> dict[str, np.ndarray]:
    """Read the segments in which detections do not count, `[A, 2]` seconds per video. The file is optional.

    Raises:
        InputError: a line is not `video start end`.
    """
    if not path.is_file():
        return {}
    segments: dict[str, list[list[float]]] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        try:
            if fields:
                video, start, end = fields
                segment = [float(start), float(end)]
                if not all(map(is_time, segment)):
                    raise ValueError
                segments.setdefault(video, []).append(segment)
        except ValueError:
            on_error(f"{path}: line {number}: expected `video start end` in seconds, found {short_repr(line)}")
    return {video: np.array(rows) for video, rows in segments.items()}
