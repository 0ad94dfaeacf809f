"""What `--run_type check` finds: errors, at which a run would stop, and warnings, at which it would not.

Errors are collected from the readers themselves, so a run stops with the words that are listed here. Warnings are
looked for here alone.

Axes: M proposals of a video, I instances.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from data.annotations import Annotations
from data.features import Features, check_range, check_width
from eval.recall import average_recall, recall_table
from proposals import check_unit, parse_results, ranked_segments, require_entries
from utils import InputError


class Findings:
    """Collects what is wrong: errors as the readers word them, warnings by kind with a line for each video."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: dict[str, list[str]] = {}

    def error(self, message: str) -> None:
        """Take an error; it is what readers are given as `on_error`."""
        self.errors.append(message)

    def warn(self, kind: str, detail: str) -> None:
        """Take a warning."""
        self.warnings.setdefault(kind, []).append(detail)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Take the error that ends this block early."""
        try:
            yield
        except InputError as error:
            self.error(str(error))

    def report(self) -> str:
        """All of it, as text."""
        lines = []
        for kind, details in self.warnings.items():
            lines += [f"warning: {kind} ({len(details)}):", *(f"  {detail}" for detail in details)]
        lines += [f"error: {message}" for message in self.errors]
        end = "a run would stop" if self.errors else "nothing that would stop a run"
        counts = f"errors: {len(self.errors)}, warnings: {sum(map(len, self.warnings.values()))}"
        return "\n".join([*lines, f"{counts}; {end}"])


def check_dataset(
    annotations: Annotations,
    subsets: dict[str, str],
    feature_path: Path,
    proposal_paths: dict[str, Path],
    found: Findings,
    *,
    rate: float,
    crop: int | None,
    feature_size: int | None,
    pooled_dtype: torch.dtype,
    missing: str,
) -> tuple[str, int | None]:
    """Read a dataset's features and proposals, as far as they are there, and check all of it.

    Args:
        annotations: of the dataset.
        subsets: those of `train` and `test`.
        feature_path: a file or folder.
        proposal_paths: of `train` and `test`.
        found: takes errors and warnings.
        rate: snippets per second.
        crop: see `Features`.
        feature_size: D to insist on, or None.
        pooled_dtype: what pooled proposals would be kept in.
        missing: see `proposals.require_entries`.

    Returns:
        A table of what there is and the proposals' recall, as text; and D, or None if no features can be read.

    Raises:
        InputError: a subset has no video.
    """
    parts = {part: annotations.videos_of(subset) for part, subset in subsets.items()}
    check_labels(annotations, parts, found)
    num_snippets: dict[str, int] = {}
    if feature_path.exists():
        with found.collecting():
            features = Features(feature_path, annotations.videos, crop)
            chosen = [i for i, subset in enumerate(annotations.subsets) if subset in subsets.values()]
            feature_size = check_features(features, chosen, num_snippets, feature_size, pooled_dtype, found)
    lengths = dict(zip(annotations.videos, annotations.durations, strict=True))  # seconds
    for video, count in num_snippets.items():
        check_length(video, count, lengths[video], rate, found)
        if np.isnan(lengths[video]):
            lengths[video] = count / rate

    rows, recalls = {}, []
    for part, videos in parts.items():
        instances = annotations.instances[annotations.instances["video"].isin(videos)]
        empty = annotations.empty_instances[annotations.empty_instances["video"].isin(videos)]
        check_segments("instances", pd.concat([instances, empty]), lengths, rate, found)
        proposals: dict[str, np.ndarray] = {}
        if proposal_paths[part].exists():
            with found.collecting():
                proposals = check_proposals(proposal_paths[part], videos, missing, lengths, num_snippets, rate, found)
                if len(instances):
                    recalls.append(f"\nrecall of the {part} proposals, %")
                    recalls.append(recall_table(average_recall(proposals, instances)))
        rows[part] = {
            "subset": subsets[part],
            "videos": len(videos),
            "snippets": sum(num_snippets.get(video, 0) for video in videos),
            "classes": annotations.labels[np.array(annotations.subsets) == subsets[part]].any(0).sum(),
            "instances": len(instances),
            "proposals": sum(map(len, proposals.values())),
        }
    return "\n".join([pd.DataFrame(rows).T.to_string(), *recalls]), feature_size


def check_features(
    features: Features,
    chosen: Sequence[int],
    num_snippets: dict[str, int],
    feature_size: int | None,
    pooled_dtype: torch.dtype,
    found: Findings,
) -> int | None:
    """Read the features of chosen videos; fills in the T of each that can be used, and returns their D."""
    features.require(chosen, found.error)
    widths = {}
    for i in tqdm(chosen, desc="reading features", unit="video", leave=False):
        if features.files(i):
            with found.collecting():
                raw = features.read(i)
                check_range(raw, features.file(i), features.videos[i], pooled_dtype)
                num_snippets[features.videos[i]], widths[i] = raw.shape
            features.forget(i)
    if widths and feature_size is None:
        feature_size = Counter(widths.values()).most_common(1)[0][0]
    for i, width in widths.items():
        with found.collecting():
            check_width((num_snippets[features.videos[i]], width), features.file(i), features.videos[i], feature_size)
    return feature_size if widths else None


def check_proposals(
    path: Path,
    videos: Sequence[str],
    missing: str,
    lengths: dict[str, float],
    num_snippets: dict[str, int],
    rate: float,
    found: Findings,
) -> dict[str, np.ndarray]:
    """Read and check a proposal file: `[M, 2]` seconds of each video, best first."""
    results = parse_results(path, found.error).results
    require_entries(path, results, videos, missing, found.error)
    for video in sorted(set(results) - set(videos)):
        found.warn("proposals that are not used, of videos that are not in the subset", f"{path}: {video}")
    proposals = {video: ranked_segments(results.get(video, [])) for video in videos}
    for video, segments in proposals.items():
        if video in results and not len(segments):
            found.warn("videos without proposals", f"{path}: {video}")
        if video in num_snippets:
            with found.collecting():
                check_unit(segments * rate, video, num_snippets[video], rate)
    table = pd.DataFrame(np.concatenate([*proposals.values()]), columns=["start_sec", "end_sec"])
    table.insert(0, "video", np.repeat([*proposals], [len(segments) for segments in proposals.values()]))
    check_segments("proposals", table, lengths, rate, found)
    return proposals


def check_labels(annotations: Annotations, parts: dict[str, list[str]], found: Findings) -> None:
    """Warn of videos without labels, of labels that differ from the instances, and of classes nothing trains.

    Args:
        annotations: of the dataset.
        parts: the videos of `train` and `test`.
        found: takes the warnings.
    """
    row_of = {video: i for i, video in enumerate(annotations.videos)}
    instances = pd.concat([annotations.instances, annotations.empty_instances])
    shown = {video: set(own) for video, own in instances.groupby("video")["class_idx"]}
    names = annotations.class_names
    for part, videos in parts.items():
        labels = {video: set(np.flatnonzero(annotations.labels[row_of[video]]).tolist()) for video in videos}
        if part == "test" and not any(labels.values()):
            found.warn("no mAP can be had", f"none of the {len(videos)} test videos has a label or an instance")
            continue
        for video, own in labels.items():
            if not own:
                found.warn("videos without a label", f"{video} ({part})")
            if video in shown and shown[video] != own:
                lists = [", ".join(names[i] for i in sorted(classes)) or "none" for classes in (own, shown[video])]
                found.warn("labels_all differs from labels", f"{video}: {lists[0]} against {lists[1]}")
    trained = annotations.labels[[row_of[video] for video in parts["train"]]].any(0)
    for name, has in zip(names, trained, strict=True):
        if not has:
            found.warn("classes without a training video, of which no descriptor can be made", name)


def check_length(video: str, num_snippets: int, duration: float, rate: float, found: Findings) -> None:
    """Warn of features whose length differs from the duration by more than a snippet and more than 2%.

    Args:
        video: its name.
        num_snippets: T of its features.
        duration: seconds, or nan.
        rate: snippets per second.
        found: takes the warning.
    """
    expected = duration * rate
    if abs(num_snippets - expected) > max(1, 0.02 * expected):  # never for nan
        found.warn(
            "features and duration disagree",
            f"{video}: {num_snippets} snippets are {num_snippets / rate:.2f} s, but the duration is {duration:.2f} s",
        )


def check_segments(what: str, table: pd.DataFrame, lengths: dict[str, float], rate: float, found: Findings) -> None:
    """Warn of instances or proposals that are empty, doubled, or outside the video by more than a snippet.

    Args:
        what: `instances` or `proposals`.
        table: a row for each, `video`, `start_sec`, `end_sec`, and whatever else sets them apart.
        lengths: of the videos, seconds; nan if it is not known.
        rate: snippets per second.
        found: takes the warnings.
    """
    length = table["video"].map(lengths)
    before, after = table["start_sec"] < -1 / rate, table["end_sec"] > length + 1 / rate
    kinds = {
        f"{what} of length <= 0": table["end_sec"] <= table["start_sec"],
        f"{what} outside the video": before | after,
        f"{what} doubled": table.duplicated(),
    }
    counts = table["video"].value_counts()
    for kind, which in kinds.items():
        for video, own in table[which].groupby("video", sort=False):
            first = own[["start_sec", "end_sec"]].iloc[0].round(3).tolist()
            context = f", which has {lengths[video]:.2f} s" if "outside" in kind else ""
            found.warn(kind, f"{video}: {len(own)} of {counts[video]}, the first {first} s{context}")
