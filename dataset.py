"""The data that training and testing use: one `Video` per video, loaded and pooled, and flat batches of them.

Axes: V videos of the dataset, B videos of a batch, N rows (the proposals of a batch, one video under another),
M proposals of a video, T snippets, D features, C classes without background.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from proposals import Proposals, pseudo_instances, roi_pool, seconds_to_snippets, snippets_to_seconds
from readers.annotations import Annotations
from readers.feature_checks import check_range
from readers.features import Features
from readers.findings import say_notices
from readers.free_memory import free_memory
from readers.result_files import MAKE_PROPOSALS_AGAIN, parse_results, require_entries, unknown_labels
from utils import InputError, SideStream, host_memory, log, release_memory, to_device

ROWS_AT_A_TIME = 2048  # at least, in a batch of evaluation
KEPT = {  # pooled proposals are, by --cache
    "memory": "kept in memory",
    "host": "kept in the memory of the machine and copied for each batch",
    "none": "pooled again for each batch",
}
USABLE = 0.9  # of free memory, for pooled proposals and a step; what is left is for what nobody can foresee
RAW_AT_A_TIME = 1 << 22  # numbers of features in memory at a time, at least, when they are read again; 16 MB
RAW_ON_DEVICE = 1 << 25  # for another device than the CPU, where fewer and larger operations are faster; 128 MB

Item = TypeVar("Item")


@dataclass(frozen=True)
class Unpooled:
    """The features of a video, which are read and pooled again for each batch."""

    features: Features
    index: int  # of the video in them
    roi_size: int  # R
    dtype: torch.dtype  # what pooled proposals are rounded to


@dataclass(frozen=True)
class Video:
    """A video: its labels, its proposals, and the pooled features of these."""

    name: str
    labels: Tensor  # [C] 0 or 1
    listed: Proposals  # its M proposals as their file lists them
    proposals: Tensor  # [M, 2] their segments in snippets, float32 on the device
    instance_class: np.ndarray  # [M] int64; the class of a pseudo-instance, -1 for other proposals
    mean: Tensor  # [D] temporal mean of the features, RGB then flow
    variance: Tensor | None  # [D] over time; None where nothing is trained
    num_snippets: int  # T
    pooled: Tensor | None  # [M, 3, D] the network's input, on the device or the CPU; None if it is not kept
    pool: Unpooled | None  # then it is pooled from this for each batch

    @property
    def segments_snip(self) -> np.ndarray:
        """The proposals, `[M, 2]` float64."""
        return self.listed.segments_snip


def load_videos(
    annotations: Annotations,
    features: Features,
    proposals: Mapping[str, Mapping[str, Proposals]],
    *,
    roi_size: int,
    rate: float,
    device: torch.device | str = "cpu",
    cache: str = "memory",
    pooled_dtype: torch.dtype = torch.float32,
    room: Callable[[int], int] = lambda width: 0,
) -> dict[str, list[Video]]:
    """Read and check every video that has an entry in `proposals`, and pool its proposals.

    Args:
        annotations: of the dataset.
        features: of its videos.
        proposals: of each part of the dataset, those of each of its videos. A video of several parts is read once.
        roi_size: R.
        rate: snippets per second, for messages.
        device: where batches are used.
        cache: `memory` keeps the pooled proposals there; `host` keeps them in the memory of the machine, from where
            each batch is copied; `none` pools them again for each batch; `auto` chooses, see `choose_cache`. The values
            are the same, but for the last bits of what is pooled on another device than the CPU.
        pooled_dtype: what pooled proposals are rounded to, whether they are kept or not.
        room: bytes that must stay free on the device, by the width of the features; for `auto`.

    Returns:
        The videos of each part, in the order of the annotations.

    Raises:
        InputError: a file is missing or damaged, or its content cannot be used.
    """
    device = torch.device(device)
    names = annotations.videos
    wanted = [(i, part) for i, name in enumerate(names) for part in proposals if name in proposals[part]]
    chosen = list(dict(wanted))
    features.require(chosen)
    features.read(chosen[0])  # sets `features.feature_size`
    sizes = [len(proposals[part][names[i]]) for i, part in wanted]
    shape = (sum(sizes), 3, features.feature_size)
    if cache == "auto":
        cache = choose_cache(math.prod(shape) * pooled_dtype.itemsize, room(features.feature_size), device)
    stores = _memory_for_pooled(features, sizes, cache, pooled_dtype, device)
    kept = stores[0] is not None
    videos: dict[str, list[Video]] = {part: [] for part in proposals}
    raw, last = torch.empty(0), -1
    progress = tqdm(wanted, desc="pooling proposals" if kept else "reading features", unit="video", leave=False)
    for (i, part), pooled in zip(progress, stores, strict=True):
        name, raw = names[i], raw if i == last else features.read(i)  # [T, D]
        last, listed = i, proposals[part][name]
        segments = listed.segments_snip
        check_range(raw, features.where(i), name, pooled_dtype)
        check_unit(segments, name, len(raw), rate)
        if pooled is not None:
            roi_pool(to_device(raw, pooled.device), torch.from_numpy(segments), roi_size, out=pooled)
            features.forget(i)
        pool = None if kept else Unpooled(features, i, roi_size, pooled_dtype)
        videos[part].append(
            make_video(name, torch.from_numpy(annotations.labels[i]), listed, raw, pooled, pool, device)
        )
    release_memory()
    return videos


def make_video(
    name: str,
    labels: Tensor,
    listed: Proposals,
    raw: Tensor,
    pooled: Tensor | None,
    pool: Unpooled | None,
    device: torch.device,
    *,
    trains: bool = True,
) -> Video:
    """A video with the features `raw`, `[T, D]`, on the CPU, to train with or not; see `Video` for the others."""
    return Video(
        name=name,
        labels=labels.to(device),
        listed=listed,
        proposals=torch.from_numpy(listed.segments_snip).float().to(device),
        instance_class=np.full(len(listed), -1),
        mean=raw.mean(0).to(device),
        variance=raw.var(0, correction=0).to(device) if trains else None,
        num_snippets=len(raw),
        pooled=pooled,
        pool=pool,
    )


def with_pseudo_instances(video: Video, ratio: float) -> Video:
    """The video with its pseudo-instances, see `proposals.pseudo_instances`."""
    return replace(video, instance_class=pseudo_instances(video.listed, video.labels.cpu().numpy(), ratio=ratio))


def _memory_for_pooled(
    features: Features, sizes: list[int], cache: str, dtype: torch.dtype, device: torch.device
) -> Sequence[Tensor | None]:
    """For each video `[M, 3, D]` of uninitialised memory, or None where `cache` keeps nothing; see `load_videos`."""
    if cache != "none":
        where = device if cache == "memory" else torch.device("cpu")
        return torch.empty((sum(sizes), 3, features.feature_size), dtype=dtype, device=where).split(sizes)
    if features.in_memory is not None:
        log.info(
            f"notice: {features.path} stays in memory as a whole; to have a file per video, read when it is needed: "
            "python -m prepare.split_features"
        )
    return [None] * len(sizes)


def choose_cache(size: int, room: int, device: torch.device) -> str:
    """Choose where pooled proposals are kept, and log why.

    Args:
        size: bytes that they take.
        room: bytes that training or testing takes beside them on the device.
        device: where batches are used.

    Returns:
        `memory` if both fit into `USABLE` of the free memory of the device, else `host` if they fit into that of the
        machine, else `none`.
    """
    places = {"memory": (device, size + room)}
    if device.type != "cpu":
        places["host"] = (torch.device("cpu"), size)
    cache, found = "none", []
    for name, (where, needed) in places.items():
        free = free_memory(where)
        found.append(f"{'unknown' if free is None else f'{free / 1e9:.1f} GB'} free on {where}")
        if free is None or needed <= USABLE * free:
            cache = name
            break
    log.info(
        f"pooled proposals take {size / 1e9:.2f} GB, and a step up to {room / 1e9:.2f} GB; {', '.join(found)}: "
        f"{KEPT[cache]} (--cache auto)"
    )
    return cache


# ---------------------------------------------------------------------------------------------- batches


class Instances(NamedTuple):
    """The Q pseudo-instances of a batch, those of one video after those of another."""

    rows: Tensor  # [Q] which rows of the batch they are
    classes: Tensor  # [Q]
    sizes: list[int]  # [B] the number of pseudo-instances of each video


@dataclass(frozen=True)
class Batch:
    """The proposals of some videos, flat: those of one video after those of another."""

    videos: list[int]  # [B] indices in the list that the batch was made from
    sizes: list[int]  # [B] number of proposals of each video
    rows: Tensor  # [N, 3, D]
    proposals: Tensor  # [N, 2] snippets
    instances: Instances
    labels: Tensor  # [B, C]


def make_batch(
    videos: Sequence[Video],
    chosen: Sequence[int],
    max_proposal: int | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Put the proposals of videos into one batch.

    Args:
        videos: to choose from.
        chosen: indices of the videos of the batch.
        max_proposal: of a video with more proposals, this many are chosen at random; None takes all.
        generator: of that choice.
        dtype: of the rows, whatever the pooled proposals are kept in.
    """
    device = videos[chosen[0]].proposals.device
    some = [(video, choose_proposals(video, max_proposal, generator)) for video in (videos[i] for i in chosen)]
    proposals, instance_class = [], []
    for video, keep in some:
        of_proposals = slice(None) if keep is None else to_device(keep, device)
        proposals.append(video.proposals[of_proposals])
        instance_class.append(video.instance_class if keep is None else video.instance_class[keep.numpy()])
    return Batch(
        videos=list(chosen),
        sizes=[len(part) for part in proposals],
        rows=_rows(some, dtype, device),
        proposals=torch.cat(proposals),
        instances=batch_instances(instance_class, device),
        labels=torch.stack([videos[i].labels for i in chosen]),
    )


def _rows(some: Sequence[tuple[Video, Tensor | None]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The network's input for some videos, for all their proposals or for those with the indices given: `[N, 3, D]`."""
    parts = [_kept_rows(video.pooled, keep) for video, keep in some if video.pooled is not None]
    if not parts:
        return _pool_again(some, device).to(dtype)
    if parts[0].device != device:  # they are copied as they are kept, which may be half as much
        rows = host_memory((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype, device)
        return to_device(torch.cat(parts, out=rows), device).to(dtype)
    return torch.cat(parts, out=parts[0].new_empty(0, dtype=dtype))


def _kept_rows(pooled: Tensor, keep: Tensor | None) -> Tensor:
    return pooled if keep is None else pooled[to_device(keep, pooled.device)]


def _pool_again(some: Sequence[tuple[Video, Tensor | None]], device: torch.device) -> Tensor:
    """Read the features of some videos again, and pool their proposals on the device, see `_rows`."""
    segments = [v.segments_snip if keep is None else v.segments_snip[keep.numpy()] for v, keep in some]
    sources = [video.pool for video, _ in some if video.pool is not None]
    width, source, start = len(some[0][0].mean), sources[0], 0
    pooled = torch.empty(sum(map(len, segments)), 3, width, dtype=source.dtype, device=device)
    items = zip((video.num_snippets for video, _ in some), sources, segments, strict=True)
    numbers = RAW_AT_A_TIME if device.type == "cpu" else RAW_ON_DEVICE
    for group in row_groups(items, lambda item: item[0], max(1, numbers // width)):
        lengths, sources, segments = map(list, zip(*group, strict=True))
        raw = host_memory((sum(lengths), width), torch.float32, device)
        for part, source in zip(raw.split(lengths), sources, strict=True):
            source.features.read_again(source.index, out=part)
        of_group, sizes = torch.from_numpy(np.concatenate(segments)), [*map(len, segments)]
        out = pooled[start : start + len(of_group)]
        start += len(of_group)
        roi_pool(to_device(raw, device), of_group, source.roi_size, lengths=lengths, sizes=sizes, out=out)
    return pooled


def batch_instances(instance_class: Sequence[np.ndarray], device: torch.device) -> Instances:
    """The pseudo-instances of a batch from the `Video.instance_class` of its proposals, `[M]` of each video."""
    of_row = np.concatenate(instance_class)  # [N]
    chosen = np.flatnonzero(of_row >= 0)
    rows, classes = to_device(torch.from_numpy(np.stack([chosen, of_row[chosen]])), device)
    return Instances(rows, classes, [int((part >= 0).sum()) for part in instance_class])


def choose_proposals(video: Video, most: int | None, generator: torch.Generator | None) -> Tensor | None:
    """Choose `most` proposals of a video at random: their indices in order, or None for all if it has no more."""
    if most is None or len(video.proposals) <= most:
        return None
    return torch.randperm(len(video.proposals), generator=generator)[:most].sort().values


def training_batches(
    videos: Sequence[Video],
    batch_size: int,
    max_proposal: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    skip: int = 0,
) -> Iterator[Batch]:
    """Make the batches of one epoch, in a new random order; the last partial batch is dropped (SPEC section 5).

    Args:
        videos: the training videos.
        batch_size: B.
        max_proposal: see `make_batch`.
        generator: of the order, and of the choice of proposals.
        dtype: of the rows.
        skip: how many batches to leave out at the beginning; the others are the same as without it.
    """
    order = torch.randperm(len(videos), generator=generator).tolist()
    starts = range(0, len(order) - batch_size + 1, batch_size)
    chosen = [order[start : start + batch_size] for start in starts]
    for i in itertools.chain.from_iterable(chosen[:skip]):
        choose_proposals(videos[i], max_proposal, generator)
    batches = (make_batch(videos, part, max_proposal, generator, dtype) for part in chosen[skip:])
    return _prefetch_if_uncached(videos, batches)


def row_groups(
    items: Iterable[Item], rows: Callable[[Item], int], at_least: int = ROWS_AT_A_TIME
) -> Iterator[list[Item]]:
    """Put items together, in order, until they have enough rows; the last may have fewer."""
    group: list[Item] = []
    count = 0
    for item in items:
        group.append(item)
        count += rows(item)
        if count >= at_least:
            yield group
            group, count = [], 0
    if group:
        yield group


def evaluation_batches(
    videos: Sequence[Video], rows_at_a_time: int = ROWS_AT_A_TIME, dtype: torch.dtype = torch.float32
) -> Iterator[Batch]:
    """Make batches of all videos in order, each with as many videos as needed for `rows_at_a_time` rows."""
    groups = row_groups(range(len(videos)), lambda i: len(videos[i].proposals), rows_at_a_time)
    return _prefetch_if_uncached(videos, (make_batch(videos, group, dtype=dtype) for group in groups))


def _prefetch_if_uncached(videos: Sequence[Video], batches: Iterator[Batch]) -> Iterator[Batch]:
    """In the background, unless all that makes up a batch is on the device."""
    pooled, device = videos[0].pooled, videos[0].proposals.device
    return batches if pooled is not None and pooled.device == device else prefetch(batches, device)


def prefetch(batches: Iterator[Batch], device: torch.device, depth: int = 2) -> Iterator[Batch]:
    """Make batches in a background thread, up to `depth` before they are used; their order stays.

    A thread suffices: reading files, pooling and copying release the interpreter lock. On a CPU it computes with a
    quarter of PyTorch's threads: OpenMP lets threads that wait sleep if there are more of them than cores, and waking
    them, in the steps too, takes longer than the others save.
    """
    stream, threads = SideStream(device), torch.get_num_threads()
    few = max(1, threads // 4) if device.type == "cpu" else threads

    def make() -> tuple[Batch | None, Any]:
        return stream.make(lambda: next(batches, None))

    with ThreadPoolExecutor(max_workers=1, initializer=torch.set_num_threads, initargs=(few,)) as worker:
        ahead = deque(worker.submit(make) for _ in range(depth))
        try:
            while (batch := stream.take(*ahead.popleft().result())) is not None:
                ahead.append(worker.submit(make))
                yield batch
        finally:  # also when nobody takes them any more: those not begun are not made
            worker.shutdown(wait=False, cancel_futures=True)
            torch.set_num_threads(threads)  # of this thread, which are the same, and of those that begin later


def read_proposals(
    path: Path, videos: Sequence[str], rate: float, missing: str = "error", class_names: Sequence[str] = ()
) -> dict[str, Proposals]:
    """Read the proposals of videos (SPEC section 1).

    Args:
        path: a result file, see `parse_results`.
        videos: the videos to look up.
        rate: snippets per second.
        missing: what to do with a video that is not in the file: `error`, or `empty` to treat it as having none.
        class_names: C names; other labels count as unknown, with a notice.

    Returns:
        The proposals of each video in the order of the file; a video without any gets the one proposal [0, 0].

    Raises:
        InputError: the file is damaged, or lacks videos and `missing` is `error`; or it says that it was made at
            another rate or for other classes.
    """
    content = parse_results(path, videos=videos)
    content.facts.require(path, rate, class_names, MAKE_PROPOSALS_AGAIN)
    require_entries(path, content.results, videos, missing)
    results = {video: content.results.get(video, []) for video in videos}
    say_notices({**content.notices, **(unknown_labels(results, class_names) if class_names else {})}, f"{path}: ")
    index = {name: i for i, name in enumerate(class_names)}
    return {video: listed_proposals(entries, index, rate) for video, entries in results.items()}


def listed_proposals(entries: Sequence[Mapping[str, Any]], index: Mapping[Any, int], rate: float) -> Proposals:
    """The entries of a video in a result file, with their labels by their place in `index`.

    Of none, the one proposal [0, 0] is made.
    """
    entries = entries or [{"segment": [0, 0]}]
    scores, labels = ([entry.get(name) for entry in entries] for name in ("score", "label"))
    return Proposals(
        segments_snip=seconds_to_snippets([entry["segment"] for entry in entries], rate),
        score=np.array([math.nan if score is None else score for score in scores], dtype=np.float64),
        class_idx=np.array([index.get(label, -1) for label in labels], dtype=np.int64),
    )


def check_unit(segments_snip: np.ndarray, video: str, num_snippets: int, rate: float) -> None:
    """Check that proposals can be in snippets; many files have some that end slightly past the video.

    Args:
        segments_snip: `[M, 2]`.
        video: its name, for the message.
        num_snippets: T.
        rate: snippets per second.

    Raises:
        InputError: a proposal lies more than ten lengths of the video away, so the file has another unit.
    """
    far = np.abs(segments_snip).max(1) > 10 * (num_snippets + 10)
    if far.any():
        start, end = snippets_to_seconds(segments_snip[far][0], rate)
        raise InputError(
            f"proposals of video {video}: [{start:g}, {end:g}] s lies far outside the video, which has {num_snippets} "
            f"snippets ({snippets_to_seconds(num_snippets, rate):g} s); proposals must be in seconds, and "
            "--feature_fps and --snippet_frames those of the features"
        )
