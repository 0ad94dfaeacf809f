"""Annotations, features and proposals from disk, as one `Video` record per video, and flat batches of them.

Axes: V videos of the dataset, B videos of a batch, N rows (the proposals of a batch, one video under another),
M proposals of a video, T snippets, D features, C classes without background.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from proposals import roi_pool, snippets_to_seconds
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


# ----------------------------------------------------------------------------------------------- videos


@dataclass(frozen=True)
class Video:
    """All that training and testing need of a video; its raw features are gone."""

    name: str
    labels: Tensor  # [C] 0 or 1
    segments_snip: np.ndarray  # [M, 2] float64 proposals
    proposals: Tensor  # [M, 2] the same as float32, on the device
    pooled: Tensor  # [M, 3, D] what the network reads, on the device
    mean: Tensor  # [D] temporal mean of the features, RGB then flow
    num_snippets: int  # T


def read_features(path: Path, videos: Sequence[str]) -> np.ndarray:
    """The object array of feature arrays, one `[T, D]` per video, in the order of `videoname.npy`.

    Raises:
        InputError: the file is damaged, or its number of videos is not that of the annotations.
    """
    features = read_array(path)
    if features.ndim != 1 or features.dtype != object:
        if features.ndim == 3 and features.dtype.kind == "f":  # numpy stacks videos of one length by itself
            stacked, features = features, np.empty(len(features), dtype=object)
            features[:] = list(stacked)
        else:
            raise InputError(
                f"{path}: expected an object array of [T, D] arrays, found {features.dtype} {features.shape}"
            )
    if len(features) != len(videos):
        raise InputError(f"{path}: holds {len(features)} videos, but videoname.npy lists {len(videos)}")
    return features


def check_features(array: Any, path: Path, video: str, feature_size: int | None) -> Tensor:
    """One video's features as float32 `[T, D]`.

    Raises:
        InputError: not a `[T, D]` array of finite numbers with T >= 1, D even and D = feature_size if given.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{path}: video {video}: expected a [T, D] array of floats, found {found}")
    if feature_size is not None and array.shape[1] != feature_size:
        raise InputError(
            f"{path}: video {video}: features are {array.shape[1]} wide, not {feature_size} like --feature_size "
            "or the first video"
        )
    if array.shape[1] < 2 or array.shape[1] % 2:
        raise InputError(f"{path}: video {video}: width {array.shape[1]}; expected RGB and flow of equal width")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is refused below
        features = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    finite = features.isfinite().all(1)
    if not finite.all():
        snippet = int((~finite).nonzero()[0])
        raise InputError(f"{path}: video {video}: snippet {snippet} is not finite in float32; extract this video again")
    return features


def check_proposals(segments_snip: np.ndarray, video: str, num_snippets: int) -> None:
    """Refuse proposals that can only be in another unit; one that ends somewhat past the video is nothing unusual.

    Raises:
        InputError: one lies more than ten lengths of the video away.
    """
    far = np.abs(segments_snip).max(1) > 10 * (num_snippets + 10)
    if far.any():
        start, end = snippets_to_seconds(segments_snip[far][0])
        raise InputError(
            f"proposals of video {video}: [{start:g}, {end:g}] s lies far outside the video, which has {num_snippets} "
            f"snippets ({snippets_to_seconds(np.array(num_snippets)):g} s); proposals must be in seconds"
        )


def load_videos(
    annotations: Annotations,
    feature_path: Path,
    proposals: dict[str, np.ndarray],
    *,
    roi_size: int,
    feature_size: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Video]:
    """Pool the proposals of every video that has an entry in `proposals`, once and for all.

    Args:
        annotations: of the dataset.
        feature_path: the object array of features.
        proposals: `[M, 2]` in snippets per video; videos not named here are not loaded.
        roi_size: R.
        feature_size: D to insist on; None takes it from the data.
        device: where the pooled proposals go.
    """
    features = read_features(feature_path, annotations.videos)
    videos = {}
    for i, name in enumerate(tqdm(annotations.videos, desc="pooling proposals", unit="video", leave=False)):
        raw, features[i] = features[i], None  # raw features are freed as soon as they are pooled
        if name not in proposals:
            continue
        raw = check_features(raw, feature_path, name, feature_size)
        feature_size = raw.shape[1]
        segments = proposals[name]
        check_proposals(segments, name, len(raw))
        pooled = roi_pool(raw, torch.from_numpy(segments), roi_size)
        videos[name] = Video(
            name=name,
            labels=torch.from_numpy(annotations.labels[i]).to(device),
            segments_snip=segments,
            proposals=torch.from_numpy(segments).float().to(device),
            pooled=pooled.to(device),
            mean=raw.mean(0).to(device),
            num_snippets=len(raw),
        )
    return videos


# ---------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Batch:
    """The proposals of some videos, flat: rows, proposals and sizes always belong together."""

    videos: list[int]  # [B] positions in the list that the batch was made of
    sizes: list[int]  # [B] proposals of each video
    rows: Tensor  # [N, 3, D]
    proposals: Tensor  # [N, 2] snippets
    labels: Tensor  # [B, C]


def make_batch(
    videos: Sequence[Video],
    chosen: Sequence[int],
    max_proposal: int | None = None,
    generator: torch.Generator | None = None,
) -> Batch:
    """Put videos one under another; one with more than `max_proposal` proposals gives a random choice of them."""
    rows, proposals = [], []
    for video in (videos[i] for i in chosen):
        if max_proposal is not None and len(video.pooled) > max_proposal:
            keep = torch.randperm(len(video.pooled), generator=generator)[:max_proposal].sort().values
            keep = keep.to(video.pooled.device)
            rows.append(video.pooled[keep])
            proposals.append(video.proposals[keep])
        else:
            rows.append(video.pooled)
            proposals.append(video.proposals)
    return Batch(
        videos=list(chosen),
        sizes=[len(part) for part in rows],
        rows=torch.cat(rows),
        proposals=torch.cat(proposals),
        labels=torch.stack([videos[i].labels for i in chosen]),
    )


def training_batches(
    videos: Sequence[Video], batch_size: int, max_proposal: int, generator: torch.Generator
) -> Iterator[Batch]:
    """One epoch of batches in a fresh random order; the last partial batch is dropped (SPEC section 5)."""
    order = torch.randperm(len(videos), generator=generator).tolist()
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield make_batch(videos, order[start : start + batch_size], max_proposal, generator)


def evaluation_batches(videos: Sequence[Video], rows_at_a_time: int = 2048) -> Iterator[Batch]:
    """All videos in order, as many at a time as make up the given number of rows."""
    chosen: list[int] = []
    count = 0
    for i, video in enumerate(videos):
        chosen.append(i)
        count += len(video.pooled)
        if count >= rows_at_a_time or i == len(videos) - 1:
            yield make_batch(videos, chosen)
            chosen, count = [], 0
