"""The annotations of a dataset: its videos, their subsets and labels, and the instances in them (SPEC section 1).

They are read from a folder of `.npy` files, as THUMOS14 and ActivityNet have them in this field, or from one
ActivityNet-style JSON file, which is what one writes for videos of one's own.

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

_MAX_CLASSES, _MAX_LABELS = 5_000, 1 << 28  # ActivityNet has 200, and videos times classes three million
_MAX_INSTANCES = 5_000  # of a video
_MAX_NAME_LENGTH = 200  # of a class or subset
ANNOTATION_FILES = ("videoname", "subset", "classlist", "labels_all", "labels", "segments")


@dataclass(frozen=True)
class Annotations:
    """What is known of the videos of a dataset."""

    class_names: list[str]
    videos: list[str]  # [V]
    subsets: list[str]  # [V]
    labels: np.ndarray  # [V, C] float32, 0 or 1: the video-level labels that training uses
    instances: pd.DataFrame  # one row per instance: video, class_idx, start_sec, end_sec
    empty_instances: pd.DataFrame  # those of zero or negative length, which are no ground truth
    ambiguous: dict[str, np.ndarray]  # [A, 2] seconds, of the videos that have any
    durations: np.ndarray  # [V] seconds, nan where it is not known

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

    def duration_of(self) -> dict[str, float]:
        """Seconds of each video; nan where it is not known."""
        return dict(zip(self.videos, self.durations.tolist(), strict=True))

    def ground_truth(self, subset: str) -> pd.DataFrame:
        """The instances of a subset's videos; a notice tells of those that are left out."""
        videos = self.videos_of(subset)
        left_out = self.empty_instances[self.empty_instances["video"].isin(videos)]
        if len(left_out):
            log.info(
                f"notice: left out of the ground truth, since of zero or negative length: {len(left_out)} "
                f"instance{'s' if len(left_out) > 1 else ''} of {shorten_list(left_out['video'].unique().tolist())}"
            )
        return self.instances[self.instances["video"].isin(videos)].reset_index(drop=True)


def untrained_classes(annotations: Annotations, training: Sequence[str]) -> list[str]:
    """The classes that no training video has."""
    chosen = set(training)
    trained = annotations.labels[[video in chosen for video in annotations.videos]].any(0)
    return [name for name, has in zip(annotations.class_names, trained, strict=True) if not has]


def require_trained(annotations: Annotations, training: Sequence[str]) -> None:
    """Stop when there is a class of which no descriptor can be made.

    Raises:
        InputError: as said.
    """
    if lacking := untrained_classes(annotations, training):
        raise InputError(
            f"no training video has the label {shorten_list(lacking, None)}, so no descriptor can be made of it; is it "
            "misspelt? Else add a video, or leave the class out of the annotations and the class list"
        )


def usual_subsets(present: Sequence[str]) -> dict[str, str]:
    """The subsets to train and test on, of those that annotations have: named as by ActivityNet or by THUMOS14."""
    if "training" not in present and "test" in present:
        return {"train": "validation", "test": "test"}
    return {"train": "training", "test": next((name for name in ("validation", "testing") if name in present), "test")}


def read_annotations(
    path: Path, class_list: Path | None = None, on_error: Callable[[str], None] = raise_input_error
) -> Annotations:
    """Read the annotations of a dataset; strings may be bytes or unicode.

    Args:
        path: a folder of `.npy` files (SPEC section 1), or a JSON file
            `{"database": {video: {"subset", "duration", "annotations": [{"segment": [start, end], "label"}]}}}`, in
            which a video may have labels without segments.
        class_list: of a JSON file, the class names and their order, one a line; all labels in it, sorted, if None.
        on_error: takes the error of one video, which is then read without what is wrong with it.

    Raises:
        InputError: a file is missing or damaged, the files disagree in length, a label is not in the class list, a
            segment is not two finite seconds, or a video is listed twice or has a name that cannot name a file.
    """
    if path.is_dir() and class_list is not None:
        raise InputError(f"--class_list {class_list}: {path} has a class list of its own, classlist.npy")
    raw = _read_folder(path) if path.is_dir() else _read_database(path, class_list, on_error)
    for name, texts in (("videos", raw.videos), ("class_names", raw.class_names)):
        twice = [text for text, count in pd.Series(texts).value_counts().items() if count > 1]
        if twice:
            raise InputError(f"{raw.files[name]}: {twice[0]} is listed more than once")
    for video in raw.videos:
        if not is_plain_name(video):
            on_error(
                f"{raw.files['videos']}: video {short_repr(video)} cannot name a file, as every video must: without "
                "slashes and control characters, not empty, . or .., and 200 bytes at most"
            )
    num_class = len(raw.class_names)
    if num_class > _MAX_CLASSES or num_class * len(raw.videos) > _MAX_LABELS:
        raise InputError(
            f"{raw.files['class_names']}: {num_class} classes for {len(raw.videos)} videos are more than "
            "can be meant; is each label another one?"
        )

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
    """Annotations as they are stored: a list entry per video, of which only the texts have been checked."""

    files: dict[str, Path]  # what a field was read from, for messages
    class_names: list[str]
    videos: list[str] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    durations: np.ndarray = field(default_factory=lambda: np.empty(0))
    labels_all: Sequence[Any] = field(default_factory=list)
    labels: Sequence[Any] = field(default_factory=list)
    segments: Sequence[Any] = field(default_factory=list)


def _read_folder(folder: Path) -> _Raw:
    raw = {name: read_array(folder / f"{name}.npy") for name in ANNOTATION_FILES}
    for name, array in raw.items():
        per_video = name in ("labels_all", "labels", "segments")  # numpy stacks lists that happen to be equally long
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
        raw["labels_all"],
        raw["labels"],
        raw["segments"],
    )


def _durations(path: Path, num_videos: int) -> np.ndarray:
    """`[V]` seconds; the file may be absent, since only checks and simulations read it."""
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
            f"{raw.files['class_names']}: there is not a single class; where no video has a label, --class_list FILE "
            "names the classes"
        )
    return raw


def _read_class_list(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list of class names, one a line ({error_text(error)})") from None
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
    """Whether a value is text as names are: no longer, and without what steers a terminal or ends a line."""
    return isinstance(value, str) and len(value) <= _MAX_NAME_LENGTH and not has_control_characters(value)


def _class_indices(raw: _Raw, name: str, video: str, labels: Any, index: dict[str, int]) -> list[int]:
    path = raw.files[name]
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = list(labels)
    if not isinstance(labels, (list, tuple)) or len(labels) > _MAX_INSTANCES:
        raise InputError(f"{path}: video {video}: expected a list of labels, found {short_repr(labels)}")
    labels = [_text(f"{path}: video {video}", label) for label in labels]
    unknown = [label for label in labels if label not in index]
    if unknown:
        raise InputError(f"{path}: video {video}: not in {raw.files['class_names'].name}: {shorten_list(unknown)}")
    return [index[label] for label in labels]


def _segments(path: Path, video: str, segments: Any) -> np.ndarray:
    """`[I, 2]` seconds."""
    if isinstance(segments, np.ndarray) and (not segments.size or segments.shape[1:] == (2,)):
        segments = segments.tolist() if segments.size else []
    if (
        not isinstance(segments, (list, tuple))
        or len(segments) > _MAX_INSTANCES
        or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_time, pair)) for pair in segments)
    ):
        raise InputError(f"{path}: video {video}: expected [start, end] seconds, found {short_repr(segments)}")
    return np.array(segments, dtype=np.float64).reshape(-1, 2)


def read_ambiguous(path: Path, on_error: Callable[[str], None] = raise_input_error) -> dict[str, np.ndarray]:
    """Segments per video in which detections do not count, `[A, 2]` seconds; the file may be absent or empty.

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
