"""Reads the files of annotations as they are, in any of the forms that projects publish (data/README.md lists them).

Names come out as people read them, and numbers that are stored as text as numbers; `readers/annotations.py` makes sense
of both.

Axes: V videos of the dataset, A ambiguous segments of a video.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from readers.arrays import read_array
from readers.names import MAX_NAME_LENGTH, Spellings, is_name, readable_name
from utils import InputError, error_text, is_plain_name, raise_input_error, read_json, short_repr, to_number, to_time

MAX_INSTANCES = 50_000  # of a video
ANNOTATION_FILES = ("videoname", "subset", "classlist", "labels_all", "labels", "segments")
AMBIGUOUS_FILE = "Ambiguous_test.txt"


@dataclass
class StoredAnnotations:
    """Annotations as they are stored, with an entry per video; only names and durations have been checked."""

    files: dict[str, Path]  # where each field was read from, for messages
    class_names: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    durations: np.ndarray = field(default_factory=lambda: np.empty(0))  # [V] seconds, nan if unknown
    labels_all: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    segments: list[Any] = field(default_factory=list)
    video_spellings: Spellings = field(default_factory=lambda: Spellings("videos"))
    subset_spellings: Spellings = field(default_factory=lambda: Spellings("subsets", any_case=True))
    label_spellings: Spellings = field(default_factory=lambda: Spellings("labels"))


# ---------------------------------------------------------------------------------------- a folder of arrays


def read_folder(folder: Path) -> StoredAnnotations:
    """Read the annotations in a folder of `.npy` files (SPEC section 1).

    Raises:
        InputError: a file is missing or damaged, or the files disagree in length.
    """
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
    files = {name: folder / f"{name}.npy" for name in ("labels_all", "labels", "segments")}
    files |= {"videos": folder / "videoname.npy", "class_names": folder / "classlist.npy"}
    stored = StoredAnnotations(files | {"ambiguous": folder / AMBIGUOUS_FILE})
    stored.class_names = _class_names(files["class_names"], list(raw["classlist"]), stored.label_spellings)
    stored.videos = _names(str(files["videos"]), raw["videoname"], stored.video_spellings)
    stored.subsets = _names(f"{folder / 'subset'}.npy", raw["subset"], stored.subset_spellings)
    stored.durations = _durations(folder / "duration.npy", len(stored.videos))
    stored.labels_all, stored.labels = (
        [_read_labels(listed, stored.label_spellings) for listed in raw[name]] for name in ("labels_all", "labels")
    )
    stored.segments = list(raw["segments"])
    return stored


def _read_labels(listed: Any, spellings: Spellings) -> Any:
    """The labels of a video as people read them; what is no text stays, for `require_labels` to report."""
    labels = None if isinstance(listed, np.ndarray) and listed.ndim > 1 else _as_list(listed)
    return listed if labels is None else [_read_text(label, spellings) for label in labels]


def _durations(path: Path, num_videos: int) -> np.ndarray:
    """Read the durations, `[V]` seconds. The file is optional: only checks and simulations need it."""
    if not path.is_file():
        return np.full(num_videos, np.nan)
    found = read_array(path)
    values = found.ravel().tolist()
    seconds = [value if isinstance(value, float) and math.isnan(value) else to_time(value) for value in values]
    if len(values) != num_videos or None in seconds:
        raise InputError(
            f"{path}: expected a number of seconds for each of {num_videos} videos, found {found.dtype} "
            f"{list(found.shape)}"
        )
    return np.array(seconds, dtype=np.float64)


# ------------------------------------------------------------------------------------------- one JSON file


def read_database(path: Path, class_list: Path | None, on_error: Callable[[str], None]) -> StoredAnnotations:
    """Read annotations in ActivityNet's JSON form, or in those of projects that have taken it over.

    Args:
        path: of the file.
        class_list: of the class names; None takes all labels, sorted.
        on_error: takes errors about single videos.

    Raises:
        InputError: a file is damaged, or there is no class.
    """
    content = read_json(path)
    database = content.get("database", content) if isinstance(content, dict) else None
    if database is content and not _are_entries(content):
        database = None
    if not isinstance(database, dict) or not database:
        raise InputError(f'{path}: expected {{"database": {{video: {{"subset", "duration", "annotations"}}}}}}')
    fields = ("videos", "class_names", "labels_all", "labels", "segments")
    stored = StoredAnnotations(dict.fromkeys(fields, path) | {"ambiguous": path.with_name(AMBIGUOUS_FILE)})
    durations = []
    for video, entry in database.items():
        name = stored.video_spellings.read(video)
        where = f"{path}: video {name if is_plain_name(name) else short_repr(video)}"
        subset = entry.get("subset") if isinstance(entry, dict) else None
        if not isinstance(subset, str) or not is_name(readable_name(subset)):
            on_error(f'{where}: expected {{"subset": "training" or "validation", …}}, found {short_repr(entry)}')
            continue
        stored.videos.append(name)
        stored.subsets.append(stored.subset_spellings.read(subset))
        durations.append(_duration(entry, where, on_error))
        _add_labels(stored, entry.get("annotations"), where, on_error)
    stored.durations = np.array(durations)
    if class_list is None:
        stored.class_names = sorted({name for names in stored.labels_all for name in names})
    else:
        stored.class_names = _read_class_list(class_list, stored.label_spellings)
        stored.files["class_names"] = class_list
    return stored


def _are_entries(content: Any) -> bool:
    """Whether a file lists its videos without `database` around them."""
    return isinstance(content, dict) and all(isinstance(e, dict) and "annotations" in e for e in content.values())


def _duration(entry: Mapping[str, Any], where: str, on_error: Callable[[str], None]) -> float:
    """Seconds of a video; nan if its entry does not say, or says null or NaN."""
    values = (entry.get(name) for name in ("duration", "duration_second"))
    found = next((value for value in values if value is not None and value == value), None)
    if found is not None:
        if (seconds := to_time(found)) is not None:
            return seconds
        on_error(f"{where}: duration {short_repr(found)} is not a number of seconds")
    frames, fps = to_number(entry.get("duration_frame")), to_number(entry.get("fps"))
    return frames / fps if frames and fps and found is None else math.nan


def _add_labels(stored: StoredAnnotations, listed: Any, where: str, on_error: Callable[[str], None]) -> None:
    """Add what the annotations of one video say."""
    annotations = [] if listed is None else listed
    bad = [one for one in annotations if not _has_label(one)] if isinstance(annotations, list) else [annotations]
    if bad:
        text = f"text of at most {MAX_NAME_LENGTH} characters"
        on_error(f'{where}: expected "annotations": [{{"label": {text}, …}}, …], found {short_repr(bad[0])}')
        annotations = []
    labels = [stored.label_spellings.read(one["label"]) for one in annotations]
    located = [i for i, one in enumerate(annotations) if one.get("segment") not in (None, [])]
    stored.labels_all.append(sorted(set(labels)))
    stored.labels.append([labels[i] for i in located])
    stored.segments.append([annotations[i]["segment"] for i in located])


def _has_label(one: Any) -> bool:
    label = one.get("label") if isinstance(one, dict) else None
    return isinstance(label, str) and bool(name := readable_name(label)) and is_name(name)


def _read_class_list(path: Path, spellings: Spellings) -> list[str]:
    """Read the names of a class list, one a line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list of class names, one per line ({error_text(error)})") from None
    return _class_names(path, [line for line in lines if readable_name(line)], spellings)


# -------------------------------------------------------------------------------------------- single values


def _read_text(value: Any, spellings: Spellings) -> Any:
    """Text from a file as people read it; other values as they are."""
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            value = value.decode("utf-8")
    return spellings.read(str(value)) if isinstance(value, str) else value  # numpy's own strings become Python's


def _names(where: str, values: Iterable[Any], spellings: Spellings) -> list[str]:
    names = [_read_text(value, spellings) for value in values]
    for name in names:
        if not is_name(name):
            raise InputError(f"{where}: expected text, found {short_repr(name)}")
    return names


def _class_names(path: Path, values: Sequence[Any], spellings: Spellings) -> list[str]:
    """The names of a class list; spellings that look the same count once, but what is repeated stays, as an error."""
    names = _names(str(path), values, spellings)
    return names if len(set(values)) < len(values) else [*dict.fromkeys(names)]


def require_labels(path: Path, video: str, labels: Any) -> list[str]:
    """Check the labels of a video.

    Raises:
        InputError: they are not a list of names, or too many.
    """
    if not isinstance(labels, list):
        raise InputError(f"{path}: video {video}: expected a list of labels, found {short_repr(labels)}")
    if len(labels) > MAX_INSTANCES:
        raise InputError(
            f"{path}: video {video}: {len(labels)} instances; at most {MAX_INSTANCES} are allowed, so cut the video "
            "into shorter ones"
        )
    for label in labels:
        if not is_name(label):
            raise InputError(f"{path}: video {video}: expected text, found {short_repr(label)}")
    return labels


def read_segments(path: Path, video: str, segments: Any) -> np.ndarray:
    """The instances of a video, `[I, 2]` seconds.

    Raises:
        InputError: they are not pairs of finite times.
    """
    listed = _as_list(segments)
    pairs = [_as_list(pair) for pair in listed or []]
    times = [[to_time(time) for time in pair or [None]] for pair in pairs]
    if listed is None or not all(len(pair) == 2 and None not in pair for pair in times):
        raise InputError(f"{path}: video {video}: expected [start, end] seconds, found {short_repr(segments)}")
    return np.array(times, dtype=np.float64).reshape(-1, 2)


def _as_list(value: Any) -> list[Any] | None:
    """The items of a list or of an array; None for anything else. An array without values has none."""
    if isinstance(value, np.ndarray) and value.ndim:
        return value.tolist() if value.size else []
    return list(value) if isinstance(value, (list, tuple)) else None


def read_ambiguous(
    path: Path, videos: Iterable[str] = (), on_error: Callable[[str], None] = raise_input_error
) -> dict[str, np.ndarray]:
    """Read the segments in which detections do not count, `[A, 2]` seconds per video. The file is optional.

    Args:
        path: of the file.
        videos: of the dataset; only their names may have blanks.
        on_error: takes errors about single lines.

    Raises:
        InputError: a line is not `video start end`.
    """
    if not path.is_file():
        return {}
    known = set(videos)
    segments: dict[str, list[list[float]]] = {}
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        *words, start, end = ("", "", *line.split())
        name, times = readable_name(" ".join(words)), [to_time(start), to_time(end)]
        if None not in times and name and (name in known or " " not in name):
            segments.setdefault(name, []).append([time for time in times if time is not None])
        elif line.strip():
            on_error(f"{path}: line {number}: expected `video start end` in seconds, found {short_repr(line)}")
    return {video: np.array(rows) for video, rows in segments.items()}
