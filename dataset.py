"""Annotations, features and proposals from disk, as one `Video` record per video, and flat batches of them.

Axes: V videos of the dataset, B videos of a batch, N rows (the proposals of a batch, one video under another),
M proposals of a video, T snippets, D features, C classes without background.
"""

from __future__ import annotations

import math
import reprlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from proposals import roi_pool, snippets_to_seconds
from utils import (
    InputError,
    free_memory,
    is_finite_number,
    is_plain_name,
    log,
    map_array,
    read_array,
    release_memory,
    some_of,
    to_device,
)

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
    """All that training and testing need of a video."""

    name: str
    labels: Tensor  # [C] 0 or 1
    segments_snip: np.ndarray  # [M, 2] float64 proposals
    proposals: Tensor  # [M, 2] the same as float32, on the device
    mean: Tensor  # [D] temporal mean of the features, RGB then flow
    num_snippets: int  # T
    pooled: Tensor | None  # [M, 3, D] what the network reads, on the device; None if it is not kept, and then
    pool: Callable[[np.ndarray], Tensor] | None  # makes it, [m, 3, D] of [m, 2] segments

    def rows(self, keep: Tensor | None = None) -> Tensor:
        """What the network reads of the proposals, or of those whose indices are in `keep`: `[m, 3, D]`."""
        if self.pooled is None:
            return self.pool(self.segments_snip if keep is None else self.segments_snip[keep.numpy()])
        return self.pooled if keep is None else self.pooled[to_device(keep, self.pooled.device)]


class Features:
    """The features of all videos, in the order of `videoname.npy`, from one object array or from a file per video.

    The object array is in memory as a whole; of a folder, `<video>.npy` is mapped while it is read.

    Args:
        path: the object array, or the folder.
        videos: their names.

    Raises:
        InputError: the array is damaged, or its number of videos is not that of the annotations.
    """

    def __init__(self, path: Path, videos: Sequence[str]) -> None:
        self.path, self.videos = path, videos
        self.in_memory = None if path.is_dir() else read_features(path, videos)

    def file(self, i: int) -> Path:
        """The file that holds a video, see `feature_file`."""
        return feature_file(self.path, self.videos[i]) if self.in_memory is None else self.path

    def array(self, i: int) -> Any:
        """A video as it is stored, not checked."""
        return map_array(self.file(i)) if self.in_memory is None else self.in_memory[i]

    def keep(self, chosen: Sequence[int]) -> None:
        """Give back the memory of all videos but these.

        Raises:
            InputError: one of these has no file.
        """
        if missing := [self.videos[i] for i in chosen if not self.file(i).is_file()]:
            raise InputError(
                f"{self.path}: {len(missing)} of {len(chosen)} videos have no file: {some_of(missing)}; add them, or "
                "remove the folder if the features are in one array"
            )
        for i in set(range(len(self.videos))) - set(chosen):
            self.forget(i)

    def forget(self, i: int) -> None:
        """Give back the memory of a video that is not needed again."""
        if self.in_memory is not None:
            self.in_memory[i] = None


def feature_file(folder: Path, video: str) -> Path:
    """The file of a video in a folder of one file per video.

    Raises:
        InputError: the video's name cannot name one.
    """
    if not is_plain_name(video):
        raise InputError(f"{folder}: video {video!r} cannot name a file; use one array for all videos")
    return folder / f"{video}.npy"


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
    features = _as_tensor(array)
    finite = features.isfinite().all(1)
    if not finite.all():
        snippet = int((~finite).nonzero()[0])
        raise InputError(f"{path}: video {video}: snippet {snippet} is not finite in float32; extract this video again")
    return features


def _as_tensor(array: np.ndarray) -> Tensor:
    """A float32 copy; what float32 cannot hold becomes inf."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def check_range(features: Tensor, path: Path, video: str, pooled_dtype: torch.dtype) -> None:
    """Refuse features whose differences float16 cannot hold, if that is what is asked for.

    Raises:
        InputError: as said.
    """
    limit = torch.finfo(torch.float16).max / 2
    if pooled_dtype == torch.float16 and (largest := float(features.abs().max())) > limit:
        raise InputError(
            f"{path}: video {video}: features reach {largest:g}, and --pooled_dtype float16 can hold differences of "
            f"up to {limit:g}; choose float32"
        )


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
    cache: str = "memory",
    pooled_dtype: torch.dtype = torch.float32,
) -> dict[str, Video]:
    """Read and check every video that has an entry in `proposals`, and pool its proposals once and for all.

    Args:
        annotations: of the dataset.
        feature_path: the object array of features, or the folder of one file per video.
        proposals: `[M, 2]` in snippets per video; videos not named here are not loaded.
        roi_size: R.
        feature_size: D to insist on; None takes it from the data.
        device: where the pooled proposals go.
        cache: `memory` keeps the pooled proposals; `none` pools them again for each batch; `auto` keeps them if they
            fit, see `fits_in_memory`. The numbers are the same.
        pooled_dtype: what pooled proposals are rounded to, kept or not.

    Raises:
        InputError: a file is missing or damaged, or holds what cannot be used.
    """
    device = torch.device(device)
    features = Features(feature_path, annotations.videos)
    chosen = [i for i, name in enumerate(annotations.videos) if name in proposals]
    features.keep(chosen)

    def checked(i: int) -> Tensor:
        return check_features(features.array(i), features.file(i), annotations.videos[i], feature_size)

    feature_size = checked(chosen[0]).shape[1]
    sizes = [len(proposals[annotations.videos[i]]) for i in chosen]
    shape = (sum(sizes), 3, feature_size)
    kept = cache == "memory" or (cache == "auto" and fits_in_memory(shape, pooled_dtype, device))
    if not kept and features.in_memory is not None:
        log.info(
            f"notice: {feature_path} stays in memory as a whole; data/split_features.py makes a file per video, which "
            "does not"
        )
    stores = torch.empty(shape, dtype=pooled_dtype, device=device).split(sizes) if kept else [None] * len(sizes)
    videos = {}
    progress = tqdm(chosen, desc="pooling proposals" if kept else "reading features", unit="video", leave=False)
    for i, pooled in zip(progress, stores, strict=True):
        name, raw = annotations.videos[i], checked(i)
        segments = proposals[name]
        check_range(raw, features.file(i), name, pooled_dtype)
        check_proposals(segments, name, len(raw))
        if kept:
            pooled.copy_(roi_pool(raw, torch.from_numpy(segments), roi_size))
            features.forget(i)
            if len(videos) % 16 == 0:  # often enough to keep the peak low, and too seldom to cost time
                release_memory()
        videos[name] = Video(
            name=name,
            labels=torch.from_numpy(annotations.labels[i]).to(device),
            segments_snip=segments,
            proposals=torch.from_numpy(segments).float().to(device),
            mean=raw.mean(0).to(device),
            num_snippets=len(raw),
            pooled=pooled,
            pool=None if kept else partial(_pool, features, i, roi_size, pooled_dtype),
        )
    release_memory()
    return videos


def _pool(features: Features, i: int, roi_size: int, dtype: torch.dtype, segments_snip: np.ndarray) -> Tensor:
    return roi_pool(_as_tensor(features.array(i)), torch.from_numpy(segments_snip), roi_size).to(dtype)


def fits_in_memory(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a tensor takes at most 70% of the memory that is free, which leaves room to train; says so."""
    size, free = math.prod(shape) * dtype.itemsize, free_memory(device)
    fits = free is None or size <= 0.7 * free
    log.info(
        f"pooled proposals: {size / 1e9:.2f} GB of {str(dtype).removeprefix('torch.')}, "
        f"{'unknown' if free is None else f'{free / 1e9:.1f} GB'} free on {device}: "
        f"{'kept in memory' if fits else 'pooled again for each batch'} (--cache auto)"
    )
    return fits


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
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Put videos one under another; one with more than `max_proposal` proposals gives a random choice of them.

    `dtype` is that of the rows, however the pooled proposals are kept.
    """
    rows, proposals = [], []
    for video in (videos[i] for i in chosen):
        keep = None
        if max_proposal is not None and len(video.proposals) > max_proposal:
            keep = torch.randperm(len(video.proposals), generator=generator)[:max_proposal].sort().values
        rows.append(video.rows(keep))
        device = video.proposals.device
        proposals.append(video.proposals if keep is None else video.proposals[to_device(keep, device)])
    return Batch(
        videos=list(chosen),
        sizes=[len(part) for part in rows],
        rows=to_device(torch.cat(rows, out=rows[0].new_empty(0, dtype=dtype)), device),
        proposals=torch.cat(proposals),
        labels=torch.stack([videos[i].labels for i in chosen]),
    )


def training_batches(
    videos: Sequence[Video],
    batch_size: int,
    max_proposal: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Batch]:
    """One epoch of batches in a fresh random order; the last partial batch is dropped (SPEC section 5)."""
    order = torch.randperm(len(videos), generator=generator).tolist()
    starts = range(0, len(order) - batch_size + 1, batch_size)
    chosen = (order[start : start + batch_size] for start in starts)
    return _ahead_if_pooled_now(videos, (make_batch(videos, part, max_proposal, generator, dtype) for part in chosen))


def evaluation_batches(
    videos: Sequence[Video], rows_at_a_time: int = 2048, dtype: torch.dtype = torch.float32
) -> Iterator[Batch]:
    """All videos in order, as many at a time as make up the given number of rows."""
    groups, count = [], rows_at_a_time
    for i, video in enumerate(videos):
        if count >= rows_at_a_time:
            groups.append([])
            count = 0
        groups[-1].append(i)
        count += len(video.proposals)
    return _ahead_if_pooled_now(videos, (make_batch(videos, group, dtype=dtype) for group in groups))


def _ahead_if_pooled_now(videos: Sequence[Video], batches: Iterator[Batch]) -> Iterator[Batch]:
    return batches if videos[0].pooled is not None else made_ahead(batches)


def made_ahead(batches: Iterator[Batch], depth: int = 2) -> Iterator[Batch]:
    """The same batches in the same order, made by a thread of their own up to `depth` ahead of their use.

    A thread is enough, since reading files and pooling leave the interpreter free.
    """
    with ThreadPoolExecutor(max_workers=1) as worker:
        ahead = deque(worker.submit(next, batches, None) for _ in range(depth))
        while (batch := ahead.popleft().result()) is not None:
            ahead.append(worker.submit(next, batches, None))
            yield batch
