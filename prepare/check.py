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

from dataset import check_unit
from eval.recall import average_recall, recall_table
from proposals import seconds_to_snippets
from readers.annotations import Annotations, untrained_classes
from readers.features import Features, check_range
from readers.result_files import parse_results, ranked_segments, require_entries
from utils import InputError


class Findings:
    """Collects what is wrong: errors as the readers word them, warnings by kind with a line for each video."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: dict[str, list[str]] = {}

    def error(self, message: str) -> None:
        """Take an error; it is what readers are given as `on_error`."""
        self.errors.append(message)

    def mentions(self, video: str) -> bool:
        """Whether an error names a video."""
        return any(f"video {video}:" in message for message in self.errors)

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
    parts: dict[str, list[str]],
    features: Features | None,
    proposal_paths: dict[str, Path],
    found: Findings,
    *,
    rate: float,
    pooled_dtype: torch.dtype,
    missing: str,
) -> str:
    """Read a dataset's features and proposals, as far as they are there, and check all of it.

    Args:
        annotations: of the dataset.
        parts: the videos of `train` and `test`.
        features: of the videos; None if there are none.
        proposal_paths: of `train` and `test`.
        found: takes errors and warnings.
        rate: snippets per second.
        pooled_dtype: what pooled proposals would be kept in.
        missing: see `proposals.require_entries`.

    Returns:
        A table of what there is and the proposals' recall, as text.
    """
    check_labels(annotations, parts, found)
    num_snippets: dict[str, int] = {}
    if features is not None:
        used = {video for videos in parts.values() for video in videos}
        chosen = [i for i, video in enumerate(annotations.videos) if video in used]
        num_snippets = check_features(features, chosen, pooled_dtype, found)
    lengths = check_lengths(annotations, num_snippets, rate, found)

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
        listed = set(videos)
        own = [i for i, video in enumerate(annotations.videos) if video in listed]
        rows[part] = {
            "subset": annotations.subsets[own[0]] if len(own) else "none",
            "videos": len(videos),
            "snippets": sum(num_snippets.get(video, 0) for video in videos),
            "classes": annotations.labels[own].any(0).sum(),
            "instances": len(instances),
            "proposals": sum(map(len, proposals.values())),
        }
    return "\n".join([pd.DataFrame(rows).T.to_string(), *recalls])


def check_features(
    features: Features, chosen: Sequence[int], pooled_dtype: torch.dtype, found: Findings
) -> dict[str, int]:
    """Read the features of chosen videos: the number of snippets of each whose features can be used."""
    shapes = {}
    for i in tqdm(features.require(chosen, found.error), desc="reading features", unit="video", leave=False):
        with found.collecting():
            raw = features.read(i, any_size=True)
            check_range(raw, features.where(i), features.videos[i], pooled_dtype)
            shapes[i] = raw.shape
        features.forget(i)
    if features.feature_size is None and shapes:  # the usual width is the right one, whichever video is read first
        usual = Counter(width for _, width in shapes.values()).most_common(1)[0][0]
        features.insist_on(next(i for i, (_, width) in shapes.items() if width == usual), usual)
    for i, shape in shapes.items():
        with found.collecting():
            features.check_size(i, *shape)
    for i, lengths in features.apart.items():
        if abs(lengths[0] - lengths[1]) > max(1, 0.02 * max(lengths)):
            detail = f"{features.videos[i]}: {lengths[0]} and {lengths[1]} snippets, of which {min(lengths)} are used"
            found.warn("RGB and flow of different length", detail)
    return {features.videos[i]: num_snippets for i, (num_snippets, _) in shapes.items()}


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
    if missing == "error" or (results and not results.keys() & set(videos)):  # a file of others, which no run takes
        require_entries(path, results, videos, missing, found.error, most=None)
    for video in sorted(set(results) - set(videos)):
        found.warn("proposals that are not used, of videos that are not in the subset", f"{path}: {video}")
    for video in videos:
        if not results.get(video) and (video in results or missing == "empty"):
            found.warn("videos without proposals", f"{path}: {video}")
        elif video in results and video in num_snippets:
            with found.collecting():
                segments = seconds_to_snippets([entry["segment"] for entry in results[video]], rate)
                check_unit(segments, video, num_snippets[video], rate)
    proposals = {video: ranked_segments(results.get(video, [])) for video in videos}
    table = pd.DataFrame(np.concatenate([np.empty((0, 2)), *proposals.values()]), columns=["start_sec", "end_sec"])
    table.insert(0, "video", np.repeat(np.array([*proposals], object), [len(own) for own in proposals.values()]))
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
        expected = part == "train" or any(labels.values())
        evaluated = part == "test" and any(video in shown for video in videos)
        if part == "test" and videos and not evaluated:
            found.warn("no mAP can be had", f"none of the {len(videos)} test videos has an instance")
        for video, own in labels.items():
            if evaluated and video not in shown:
                found.warn("test videos without an instance, in which every detection counts as wrong", video)
            if expected and not own and not found.mentions(video):  # what is wrong with its labels is said there
                found.warn("videos without a label", f"{video} ({part})")
            if video in shown and shown[video] != own:
                lists = [", ".join(names[i] for i in sorted(classes)) or "none" for classes in (own, shown[video])]
                found.warn("video-level labels differ from those of instances", f"{video}: {' against '.join(lists)}")
    alike = Counter(name.casefold() for name in names)
    for name in names:
        if alike[name.casefold()] > 1:
            found.warn("classes whose names differ in upper and lower case alone", name)
    for name in untrained_classes(annotations, parts["train"]):
        found.warn("classes without a training video, of which no descriptor can be made", name)


def check_lengths(
    annotations: Annotations, num_snippets: dict[str, int], rate: float, found: Findings
) -> dict[str, float]:
    """Warn of features whose length differs from the duration by more than a snippet and more than 2%.

    Args:
        annotations: of the dataset.
        num_snippets: T of the videos whose features can be used.
        rate: snippets per second.
        found: takes the warnings.

    Returns:
        The length of each video in seconds: its duration, else that of its features, else nan.
    """
    lengths = annotations.duration_of()
    own_rates = pd.Series([n / lengths[video] for video, n in num_snippets.items() if lengths[video] > 0])
    for video, count in num_snippets.items():
        expected = lengths[video] * rate
        if abs(count - expected) > max(1, 0.02 * expected):  # never for nan
            seconds = f"{count} snippets are {count / rate:.2f} s, but the duration is {lengths[video]:.2f} s"
            found.warn("features and duration disagree", f"{video}: {seconds}")
        elif np.isnan(expected):
            lengths[video] = count / rate
    if abs(own_rates.median() / rate - 1) > 0.1:
        detail = f"most videos have about {own_rates.median():.3f}; see --feature_fps and --snippet_frames"
        found.warn(f"features do not have {rate:g} snippets a second", detail)
    return lengths


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
