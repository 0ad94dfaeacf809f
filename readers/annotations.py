"""Reads the annotations of a dataset: its videos, their subsets, labels and instances (SPEC section 1).

They are in a folder of `.npy` files, the usual form for THUMOS14 and ActivityNet in this field, or in one JSON file as
ActivityNet publishes it, which is the form for your own videos.

Axes: V videos of the dataset, C classes without background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from readers.annotation_files import (
    StoredAnnotations,
    read_ambiguous,
    read_database,
    read_folder,
    read_segments,
    require_labels,
)
from readers.findings import Notices
from readers.names import is_ambiguous, readable_name
from utils import InputError, is_plain_name, log, raise_input_error, short_repr, shorten_list

_MAX_CLASSES, _MAX_LABELS = 5_000, 1 << 29  # ActivityNet has 200 classes, and three million labels (V x C)
_SAME_TIME = 1e-3  # seconds, as ActionFormer and OpenTAD have it


@dataclass(frozen=True)
class Annotations:
    """The videos of a dataset, with their labels and instances."""

    class_names: list[str]
    videos: list[str]  # [V]
    subsets: list[str]  # [V]
    labels: np.ndarray  # [V, C] float32, 0 or 1: the video-level labels that training uses
    instances: pd.DataFrame  # one row per instance: video, class_idx, start_sec, end_sec
    empty_instances: pd.DataFrame  # those of zero or negative length, which are not part of the ground truth
    doubled_instances: pd.DataFrame  # those that are listed again, at most 1 ms from the first; nor are these
    ambiguous: dict[str, np.ndarray]  # [A, 2] seconds for each video that has ambiguous segments
    durations: np.ndarray  # [V] seconds, nan if unknown
    notices: Notices = field(default_factory=dict)  # what was read otherwise than it is stored

    def videos_of(self, subset: str) -> list[str]:
        """The videos of a subset, in the order of the files; upper and lower case are the same.

        Raises:
            InputError: it has no video.
        """
        subset = self.subset_named(subset)
        videos = [video for video, its_subset in zip(self.videos, self.subsets, strict=True) if its_subset == subset]
        if not videos:
            raise InputError(
                f"no video has subset {subset!r}; the annotations have {sorted(set(self.subsets))} "
                "(choose with --train_subset and --test_subset)"
            )
        return videos

    def subset_named(self, name: str) -> str:
        """The subset that an option means: as the annotations write it, if they have it."""
        name = readable_name(name)
        return next((subset for subset in self.subsets if subset.casefold() == name.casefold()), name)

    def duration_of(self) -> dict[str, float]:
        """Seconds of each video; nan if unknown."""
        return dict(zip(self.videos, self.durations.tolist(), strict=True))

    def instances_of(self, videos: Collection[str]) -> pd.DataFrame:
        """The instances of some videos that count as ground truth."""
        return self.instances[self.instances["video"].isin(videos)].reset_index(drop=True)

    def ground_truth(self, subset: str) -> pd.DataFrame:
        """The instances of a subset's videos; empty and doubled ones are left out, with a notice."""
        videos = self.videos_of(subset)
        for what, table in (
            ("of zero or negative length", self.empty_instances),
            ("listed twice", self.doubled_instances),
        ):
            left_out = table[table["video"].isin(videos)]
            backwards = (left_out["end_sec"] < left_out["start_sec"]).any()
            if len(left_out):
                log.info(
                    f"notice: left out of the ground truth: {len(left_out)} "
                    f"instance{'s' if len(left_out) > 1 else ''} {what}, in "
                    f"{shorten_list(left_out['video'].unique().tolist())}{TIMES_ARE if backwards else ''}"
                )
        return self.instances_of(videos)


TIMES_ARE = "; times must be [start, end] in seconds, not [end, start] or [start, duration]"


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
            "spelling, add a video of it that has features, or remove the class from the annotations and the class list"
        )


_TRAINING, _VALIDATION, _TEST = ("training", "train"), ("validation", "val", "valid"), ("testing", "test")


def usual_subsets(present: Sequence[str]) -> dict[str, str]:
    """The subsets to train and test on by default, as ActivityNet, THUMOS14 and others name them, in any case.

    Args:
        present: the subsets in the annotations.

    Returns:
        The subset of each part, `train` and `test`.
    """
    subsets = {subset.casefold(): subset for subset in present}

    def first(*names: str) -> str | None:
        return next((subsets[name] for name in names if name in subsets), None)

    training, validation, test = first(*_TRAINING), first(*_VALIDATION), first(*_TEST)
    if training is None and validation and test:  # as in THUMOS14
        return {"train": validation, "test": test}
    return {"train": training or "training", "test": validation or test or "test"}


def read_annotations(
    path: Path, class_list: Path | None = None, on_error: Callable[[str], None] = raise_input_error
) -> Annotations:
    """Read the annotations of a dataset, in any of the forms in data/README.md. Strings may be bytes or unicode.

    Names are compared as people read them, see `readers.names`, and subsets in any case. The label `Ambiguous`
    is no class: its segments are those in which detections do not count.

    Args:
        path: a folder of `.npy` files (SPEC section 1), or a JSON file
            `{"database": {video: {"subset", "duration", "annotations": [{"segment": [start, end], "label"}]}}}`, in
            which a video may have labels without segments, and times may be text.
        class_list: for a JSON file, a file of the class names in order, one per line; None takes all labels, sorted.
        on_error: takes errors about single videos, which are then read without the wrong part.

    Raises:
        InputError: a file is missing or damaged, the files disagree in length, a label is not in the class list, a
            segment is not two finite seconds, or a video is listed twice or has a name that cannot name a file.
    """
    if path.is_dir() and class_list is not None:
        raise InputError(f"--class_list {class_list}: not used with {path}, which has its own, classlist.npy")
    stored = read_folder(path) if path.is_dir() else read_database(path, class_list, on_error)
    _check_names(stored, on_error)
    labels, table, ambiguous, notices = _labels_and_instances(stored, path, on_error)
    for video, segments in read_ambiguous(stored.files["ambiguous"], stored.videos, on_error).items():
        ambiguous[video] = np.concatenate([ambiguous.get(video, segments[:0]), segments])
    empty = table["end_sec"] <= table["start_sec"]
    doubled = are_doubled(table) & ~empty
    usual = stored.subset_spellings.usual()
    without_length = stored.durations <= 0  # False for nan
    if without_length.any():
        names = np.array(stored.videos, dtype=object)[without_length].tolist()
        notices["videos with a duration of 0 or less, which is taken as unknown"] = names
    return Annotations(
        stored.class_names,
        stored.videos,
        [usual[subset] for subset in stored.subsets],
        labels,
        table[~empty & ~doubled].reset_index(drop=True),
        table[empty].reset_index(drop=True),
        table[doubled].reset_index(drop=True),
        ambiguous,
        np.where(without_length, np.nan, stored.durations),
        stored.label_spellings.notices() | stored.subset_spellings.notices() | notices,
    )


def _check_names(stored: StoredAnnotations, on_error: Callable[[str], None]) -> None:
    """Settle the class names; check that names are unique, can name files, and are not too many."""
    if (twice := _repeated(stored.videos)) is not None:
        spelled = stored.video_spellings.shown(twice)
        raise InputError(
            f"{stored.files['videos']}: {twice} is listed more than once, as {spelled}; rename or remove one"
        )
    class_file = stored.files["class_names"]
    if (twice := _repeated(stored.class_names)) is not None:
        raise InputError(f"{class_file}: {twice} is listed more than once; remove all but one")
    stored.class_names = [name for name in stored.class_names if not is_ambiguous(name)]
    if not stored.class_names:
        remedy = "name one at least"
        if class_file == stored.files["labels"]:
            remedy = "if no video has a label, give the class names with --class_list FILE"
        raise InputError(f"{class_file}: it names no class; {remedy}")
    for video in stored.videos:
        if not is_plain_name(video):
            on_error(
                f"{stored.files['videos']}: video {short_repr(video)} cannot be a file name: rename it without "
                "slashes and control characters; not empty, . or .., and at most 200 bytes"
            )
    num_class = len(stored.class_names)
    if num_class > _MAX_CLASSES or num_class * len(stored.videos) > _MAX_LABELS:
        raise InputError(
            f"{class_file}: {num_class} classes for {len(stored.videos)} videos are too many; "
            "check that equal labels are spelled alike"
        )


def _repeated(names: Sequence[str]) -> str | None:
    """The name that is repeated most often; None if all differ."""
    ((name, count),) = Counter(names).most_common(1) or [("", 0)]
    return name if count > 1 else None


def _labels_and_instances(
    stored: StoredAnnotations, path: Path, on_error: Callable[[str], None]
) -> tuple[np.ndarray, pd.DataFrame, dict[str, np.ndarray], dict[str, list[str]]]:
    """Check the labels and instances of each video.

    Returns:
        `Annotations.labels`, all instances, the segments labelled `Ambiguous` of each video, and notices about these.
    """
    index = {name: i for i, name in enumerate(stored.class_names)}
    labels = np.zeros((len(stored.videos), len(stored.class_names)), dtype=np.float32)
    instances: list[tuple[str, int, float, float]] = []
    ambiguous: dict[str, np.ndarray] = {}
    without_segment = []
    per_video = zip(labels, stored.videos, stored.labels_all, stored.labels, stored.segments, strict=True)
    for row, video, listed_all, listed, listed_segments in per_video:
        try:
            names_all = require_labels(stored.files["labels_all"], video, listed_all)
            row[_class_indices(stored, "labels_all", video, names_all, index)] = 1
            names = require_labels(stored.files["labels"], video, listed)
            classes = _class_indices(stored, "labels", video, names, index)
            segments = read_segments(stored.files["segments"], video, listed_segments)
            if len(names) != len(segments):
                raise InputError(f"{path}: video {video} has {len(names)} labels but {len(segments)} segments")
        except InputError as error:
            on_error(str(error))
            continue
        are_actions = np.array([not is_ambiguous(name) for name in names], dtype=bool)
        instances += [(video, *one) for one in zip(classes, *segments[are_actions].T.tolist(), strict=True)]
        if not are_actions.all():
            ambiguous[video] = segments[~are_actions]
        elif any(map(is_ambiguous, names_all)):
            without_segment.append(video)
    table = pd.DataFrame(instances, columns=["video", "class_idx", "start_sec", "end_sec"])
    table = table.astype({"class_idx": np.int64, "start_sec": np.float64, "end_sec": np.float64})
    notices = {
        "videos with segments labelled Ambiguous, in which detections do not count": [
            f"{video}: {len(rows)}" for video, rows in ambiguous.items()
        ],
        "videos with the label Ambiguous and no segment of it, which is ignored": without_segment,
    }
    return labels, table, ambiguous, {kind: details for kind, details in notices.items() if details}


def _class_indices(
    stored: StoredAnnotations, field_name: str, video: str, names: Sequence[str], index: Mapping[str, int]
) -> list[int]:
    """The classes of labels, without those that are ambiguous."""
    unknown = [name for name in names if name not in index and not is_ambiguous(name)]
    if unknown:
        path, class_file = stored.files[field_name], stored.files["class_names"]
        raise InputError(f"{path}: video {video}: not in {class_file.name}: {shorten_list(unknown)}; add it there")
    return [index[name] for name in names if name in index]


def are_doubled(table: pd.DataFrame) -> pd.Series:
    """Which instances are within 1 ms of an earlier one of the same video and class that is not doubled itself."""
    doubled = pd.Series(False, index=table.index)
    ordered = table.sort_values(["video", "class_idx", "start_sec"])
    after = ordered["start_sec"].diff() <= _SAME_TIME
    for name in ("video", "class_idx"):
        after &= ordered[name] == ordered[name].shift()
    near = (after | after.shift(-1, fill_value=False)).sort_index()  # those that start when another does
    first: dict[tuple[str, int, int, int], tuple[float, float]] = {}  # by video, class, and milliseconds
    for row, video, class_idx, start, end in table[near].itertuples(name=None):
        i, j = int(start // _SAME_TIME), int(end // _SAME_TIME)
        around = (first.get((video, class_idx, i + di, j + dj)) for di in (-1, 0, 1) for dj in (-1, 0, 1))
        if any(abs(start - s) <= _SAME_TIME and abs(end - e) <= _SAME_TIME for s, e in filter(None, around)):
            doubled[row] = True
        else:
            first[video, class_idx, i, j] = start, end
    return doubled
