"""A dataset of THUMOS14's size to measure on: over real annotations and proposals where they are at hand, or invented.

Features are random, since no speed depends on what they are.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from proposals import SNIPPETS_PER_SECOND, snippets_to_seconds
from readers.annotations import read_annotations
from readers.arrays import read_array
from readers.descriptor_files import FILES as DESCRIPTOR_FILES
from readers.result_files import parse_results
from utils import write_json

NAME = "Bench"
SUBSETS = {"train": "validation", "test": "test"}
SIZES = {"train": (200, 33_895), "test": (212, 31_587)}  # videos and proposals
NUM_CLASS = 20


@dataclass(frozen=True)
class Clip:
    """A video to be made."""

    name: str
    subset: str
    num_snippets: int
    segments_sec: np.ndarray  # [M, 2] proposals
    class_idx: int
    instances_sec: np.ndarray  # [G, 2] of that class


def invented_clips(seed: int = 0) -> list[Clip]:
    """As many videos, proposals and snippets as THUMOS14 has, as unevenly spread."""
    rng = np.random.default_rng(seed)
    clips = []
    for part, (num_videos, num_proposals) in SIZES.items():
        share = rng.lognormal(0, 0.8, num_videos)
        counts = np.diff(np.rint(np.append(0, share.cumsum()) / share.sum() * num_proposals).astype(int)).clip(1)
        for i, count in enumerate(counts):
            num_snippets = max(20, round(1.93 * count * rng.lognormal(0, 0.3)))
            start = rng.uniform(0, num_snippets, count).round()
            segments = np.column_stack([start, start + rng.lognormal(2, 0.7, count).round() + 1])
            segments = snippets_to_seconds(segments, SNIPPETS_PER_SECOND)
            instances = segments[: 1 + count // 10] + 0.3
            clips.append(
                Clip(f"{part}_{i:04d}", SUBSETS[part], num_snippets, segments, int(rng.integers(NUM_CLASS)), instances)
            )
    return clips


def real_clips(annotation_folder: Path, proposals_root: Path) -> list[Clip]:
    """The videos of an annotation folder of THUMOS14, with their proposals; of each one class, for simplicity."""
    annotations = read_annotations(annotation_folder)
    durations = dict(zip(annotations.videos, read_array(annotation_folder / "duration.npy").ravel(), strict=True))
    instances = dict(list(annotations.instances.groupby("video")))
    name = annotation_folder.name.removesuffix("-Annotations")
    clips = []
    for part, subset in SUBSETS.items():
        results = parse_results(proposals_root / f"Proposals_{name}_{part}.json").results
        for video in annotations.videos_of(subset):
            own = instances.get(video, annotations.instances[:0])
            class_idx = int(own["class_idx"].iloc[0]) if len(own) else 0
            own = own[own["class_idx"] == class_idx]
            segments = np.array([entry["segment"] for entry in results.get(video, [])] or [[0, 0]], dtype=float)
            num_snippets = max(1, round(float(durations[video]) * SNIPPETS_PER_SECOND))
            own_sec = own[["start_sec", "end_sec"]].to_numpy()
            clips.append(Clip(video, subset, num_snippets, segments, class_idx, own_sec))
    return clips


def some_of_each(clips: list[Clip], divisor: int) -> list[Clip]:
    """Every n-th training and every n-th test video."""
    return [clip for subset in SUBSETS.values() for clip in [c for c in clips if c.subset == subset][::divisor]]


def repeated(clips: list[Clip], times: int) -> list[Clip]:
    """The training videos that many times over, under new names; the test videos once."""
    train, test = ([clip for clip in clips if clip.subset == subset] for subset in SUBSETS.values())
    return [replace(clip, name=f"{clip.name}_{i}") for i in range(times) for clip in train] + test


def write_dataset(home: Path, clips: list[Clip], feature_size: int) -> None:
    """Write a complete dataset under a folder, in main.py's layout, with a feature file per video."""
    shutil.rmtree(home, ignore_errors=True)
    root = home / "data" / NAME
    folder, features, descriptors = root / f"{NAME}-Annotations", root / "features", home / "descriptors" / NAME
    for path in (folder, features, descriptors):
        path.mkdir(parents=True)
    classes = [f"class {i}" for i in range(NUM_CLASS)]

    def save(name: str, items: list) -> None:
        array = np.empty(len(items), dtype=object)
        array[:] = items
        np.save(folder / f"{name}.npy", array)

    np.save(folder / "classlist.npy", np.array(classes))
    np.save(folder / "videoname.npy", np.array([clip.name for clip in clips]))
    np.save(folder / "subset.npy", np.array([clip.subset for clip in clips]))
    save("labels_all", [[classes[clip.class_idx]] for clip in clips])
    save("labels", [[classes[clip.class_idx]] * len(clip.instances_sec) for clip in clips])
    save("segments", [clip.instances_sec.tolist() for clip in clips])
    for part, subset in SUBSETS.items():
        own = {c.name: [{"segment": s} for s in c.segments_sec.tolist()] for c in clips if c.subset == subset}
        write_json(home / "proposals4Thumos14" / f"Proposals_{NAME}_{part}.json", {"results": own})

    rng = np.random.default_rng(0)
    for name in DESCRIPTOR_FILES[2]:
        np.save(descriptors / name, rng.random((NUM_CLASS, feature_size // 2), dtype=np.float32))
    pool = rng.random((4096, feature_size), dtype=np.float32)  # drawn once: drawing gigabytes would take minutes
    for i, clip in enumerate(tqdm(clips, desc="writing features", unit="video", leave=False)):
        rows = np.arange(clip.num_snippets) + 101 * i
        np.save(features / f"{clip.name}.npy", np.take(pool, rows, axis=0, mode="wrap"))
