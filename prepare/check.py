"""Finds what is wrong with a dataset, for `--run_type check`: errors that stop a run, and warnings that do not.

Errors come from the readers themselves, so a run stops with the same words. Warnings are looked for only here.

Axes: M proposals of a video, I instances.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dataset import check_unit
from eval.recall import average_recall, recall_table
from model import NetworkSettings, build_network
from proposals import seconds_to_snippets
from readers.annotations import Annotations, are_doubled, require_trained, uninformative_labels, untrained_classes
from readers.checkpoints import load_weights
from readers.descriptor_files import expected_files, read_descriptors
from readers.features import Features, check_range
from readers.result_files import parse_results, ranked_segments, require_entries, unknown_labels
from readers.source import PARTS, Source
from utils import InputError, shorten_list

# Features and duration of a video, or its RGB and flow, may differ by a snippet, and by this share of the longer.
LENGTH_TOLERANCE = 0.02


class Findings:
    """Collects errors, as the readers word them, and warnings by kind with a line for each video."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: dict[str, list[str]] = {}

    def error(self, message: str) -> None:
        """Add an error; readers take this as `on_error`."""
        self.errors.append(message)

    def mentions(self, video: str) -> bool:
        """Whether an error names a video."""
        return any(f"video {video}:" in message for message in self.errors)

    def warn(self, kind: str, detail: str) -> None:
        """Add a warning."""
        self.warnings.setdefault(kind, []).append(detail)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add the error that ends this block early."""
        try:
            yield
        except InputError as error:
            self.error(str(error))

    def report(self) -> str:
        """All findings, as text."""
        lines = []
        for kind, details in self.warnings.items():
            lines += [f"warning: {kind} ({len(details)}):", *(f"  {detail}" for detail in details)]
        lines += [f"error: {message}" for message in self.errors]
        verdict = "a run would stop" if self.errors else "a run would accept this dataset"
        counts = f"errors: {len(self.errors)}, warnings: {sum(map(len, self.warnings.values()))}"
        return "\n".join([*lines, f"{counts}; {verdict}"])


@dataclass(frozen=True)
class CheckSettings:
    """How a run would use a dataset."""

    rate: float  # snippets per second
    batch_size: int
    pooled_dtype: torch.dtype  # of pooled proposals
    missing_proposals: str  # see `require_entries`
    checkpoint: Path | None  # weights that it would start from
    hidden_size: int | None  # of the network, see `NetworkSettings`
    standardise: bool  # likewise


def check_dataset(source: Source, settings: CheckSettings, findings: Findings) -> str:
    """Read all files of a dataset that exist, and check them.

    Args:
        source: the dataset.
        settings: how a run would use it.
        findings: takes errors and warnings.

    Returns:
        As text: a table of what there is, the recall of the proposals, the width of features and the classes.
    """
    annotations = source.annotations
    for kind, details in annotations.notices.items():
        for detail in details:
            findings.warn(kind, detail)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for part in PARTS:
        with findings.collecting():
            parts[part] = source.videos(part)
    if parts["train"]:
        with findings.collecting():
            source.require_batch(settings.batch_size)
    check_labels(annotations, parts, findings)
    features, num_snippets = check_features(source, parts, settings.pooled_dtype, findings)
    lengths = check_lengths(annotations, num_snippets, settings.rate, findings)
    rows, recalls = {}, []
    for part, videos in parts.items():
        instances = _instances_of(annotations, videos)
        check_segments("instances", instances, lengths, settings.rate, findings)
        instances = annotations.instances[annotations.instances["video"].isin(videos)]
        proposals: dict[str, np.ndarray] = {}
        path = source.files.proposals[part]
        if path.exists():
            with findings.collecting():
                names = annotations.class_names
                proposals = check_proposals(path, videos, lengths, num_snippets, settings, findings, names)
                if len(instances):
                    table = recall_table(average_recall(proposals, instances))
                    recalls += [f"\nrecall of the {part} proposals, %", table]
        labels = annotations.labels[np.isin(annotations.videos, videos)]
        rows[part] = {
            "subset": source.subsets[part] if videos else "none",
            "videos": len(videos),
            "snippets": sum(num_snippets.get(video, 0) for video in videos),
            "classes": labels.any(0).sum(),
            "instances": len(instances),
            "proposals": sum(map(len, proposals.values())),
        }
    check_learned_files(source, settings, features, parts["train"], findings)
    width = f"features {features.feature_size} wide; " if features else ""
    classes = f"\n{width}classes: {shorten_list(annotations.class_names, 30)}"
    return "\n".join([pd.DataFrame(rows).T.to_string(), *recalls, classes])


def _instances_of(annotations: Annotations, videos: Sequence[str]) -> pd.DataFrame:
    """The instances of videos, also those of zero or negative length and those listed twice."""
    tables = [annotations.instances, annotations.empty_instances, annotations.doubled_instances]
    table = pd.concat(tables, ignore_index=True)
    return table[table["video"].isin(videos)]


def check_learned_files(
    source: Source, settings: CheckSettings, features: Features | None, training: Sequence[str], findings: Findings
) -> None:
    """Check that the descriptors and the checkpoint fit the data.

    Args:
        source: the dataset.
        settings: of them the checkpoint and the network's.
        features: of the dataset, read; None if none can be used.
        training: the training videos.
        findings: takes errors.
    """
    folder, class_names = source.files.descriptors, source.annotations.class_names
    num_class = len(class_names)
    if not all(path.exists() for path in expected_files(folder)):
        with findings.collecting():  # can they be made?
            require_trained(source.annotations, training)
    elif features:
        with findings.collecting():
            read_descriptors(folder, num_class, features.feature_size, class_names, modalities=features.modalities)
    checkpoint = settings.checkpoint
    if features and checkpoint is not None and checkpoint.exists():
        with findings.collecting():
            network = NetworkSettings(features.feature_size, num_class, settings.hidden_size, settings.standardise)
            load_weights(build_network(network), checkpoint)


def check_features(
    source: Source, parts: Mapping[str, Sequence[str]], pooled_dtype: torch.dtype, findings: Findings
) -> tuple[Features | None, dict[str, int]]:
    """Read the features of all videos that are used.

    Args:
        source: the dataset.
        parts: the videos of each part.
        pooled_dtype: of pooled proposals.
        findings: takes errors and warnings.

    Returns:
        The features, whose width is then known, or None if none can be used; and T of each video whose features can be
        used.
    """
    if not source.files.features.exists():
        return None, {}
    features: Features | None = None
    with findings.collecting():
        features = source.features()
    if features is None:
        return None, {}
    used = {video for videos in parts.values() for video in videos}
    chosen = [i for i, video in enumerate(features.videos) if video in used]
    shapes: dict[int, torch.Size] = {}
    for i in tqdm(features.require(chosen, findings.error), desc="reading features", unit="video", leave=False):
        with findings.collecting():
            raw = features.read(i, any_size=True)
            check_range(raw, features.where(i), features.videos[i], pooled_dtype)
            shapes[i] = raw.shape
        features.forget(i)
    if features.width is None and shapes:  # the most frequent width is the right one, whichever video is read first
        usual = Counter(size for _, size in shapes.values()).most_common(1)[0][0]
        first = next(i for i, (_, size) in shapes.items() if size == usual)
        features.require_width(features.width_of(first, usual))
    for i, shape in shapes.items():
        with findings.collecting():
            features.check_width(i, shape)
    for i, (rgb, flow) in features.modality_lengths.items():
        if abs(rgb - flow) > max(1, LENGTH_TOLERANCE * max(rgb, flow)):
            detail = f"{features.videos[i]}: {rgb} and {flow} snippets; the first {min(rgb, flow)} are used"
            findings.warn("RGB and flow of different length", detail)
    lengths = {features.videos[i]: num_snippets for i, (num_snippets, _) in shapes.items()}
    return (features if features.width else None), lengths


def check_proposals(
    path: Path,
    videos: Sequence[str],
    lengths: Mapping[str, float],
    num_snippets: Mapping[str, int],
    settings: CheckSettings,
    findings: Findings,
    class_names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Read and check a proposal file.

    Args:
        path: of the file.
        videos: that should be in it.
        lengths: seconds of each video; nan if unknown.
        num_snippets: T of the videos whose features can be used.
        settings: how a run would use it.
        findings: takes errors and warnings.
        class_names: of the dataset.

    Returns:
        `[M, 2]` seconds of each video, best first.

    Raises:
        InputError: the file cannot be used at all.
    """
    missing = settings.missing_proposals
    content = parse_results(path, findings.error, videos=videos)
    results = content.results
    for kind, details in {**content.notices, **unknown_labels(results, class_names)}.items():
        for detail in details:
            findings.warn(kind, f"{path}: {detail}")
    of_others = bool(results) and not results.keys() & set(videos)  # which no run accepts
    if missing == "error" or of_others:
        require_entries(path, results, videos, missing, findings.error, most=None)
    for video in sorted(set(results) - set(videos)):
        findings.warn("unused proposals, of videos outside the subset", f"{path}: {video}")
    for video in videos:
        if not results.get(video) and (video in results or missing == "empty"):
            findings.warn("videos without proposals", f"{path}: {video}")
        elif video in results and video in num_snippets:
            with findings.collecting():
                segments = seconds_to_snippets([entry["segment"] for entry in results[video]], settings.rate)
                check_unit(segments, video, num_snippets[video], settings.rate)
    proposals = {video: ranked_segments(results.get(video, [])) for video in videos}
    segments = np.concatenate([np.empty((0, 2)), *proposals.values()])
    names = [video for video, rows in proposals.items() for _ in rows]
    table = pd.DataFrame({"video": names, "start_sec": segments[:, 0], "end_sec": segments[:, 1]})
    check_segments("proposals", table, lengths, settings.rate, findings)
    return proposals


def check_labels(annotations: Annotations, parts: Mapping[str, Sequence[str]], findings: Findings) -> None:
    """Warn of videos without labels, labels that differ from the instances, and classes without training videos.

    Args:
        annotations: of the dataset.
        parts: the videos of each part.
        findings: takes the warnings.
    """
    row_of = {video: i for i, video in enumerate(annotations.videos)}
    instances = pd.concat([annotations.instances, annotations.empty_instances])
    classes_shown = {video: set(table) for video, table in instances.groupby("video")["class_idx"]}
    names = annotations.class_names

    def as_text(classes: set[int]) -> str:
        return ", ".join(names[i] for i in sorted(classes)) or "none"

    for part, videos in parts.items():
        labels = {video: set(np.flatnonzero(annotations.labels[row_of[video]]).tolist()) for video in videos}
        expected = part == "train" or any(labels.values())
        evaluated = part == "test" and any(video in classes_shown for video in videos)
        if part == "test" and videos and not evaluated:
            findings.warn("mAP cannot be computed", f"none of the {len(videos)} test videos has an instance")
        for video, classes in labels.items():
            if evaluated and video not in classes_shown:
                findings.warn("test videos without an instance, so every detection in them counts as wrong", video)
            if expected and not classes and not findings.mentions(video):  # an error about its labels is enough
                findings.warn("videos without a label", f"{video} ({part})")
            if video in classes_shown and classes_shown[video] != classes:
                detail = f"{video}: {as_text(classes)} against {as_text(classes_shown[video])}"
                findings.warn("video-level labels differ from those of instances", detail)
    same_letters = Counter(name.casefold() for name in names)
    for name in names:
        if same_letters[name.casefold()] > 1:
            findings.warn("classes whose names differ only in upper and lower case", name)
    if (text := uninformative_labels(annotations, parts["train"])) is not None:
        findings.warn("labels that nearly all training videos have", text)
    for name in untrained_classes(annotations, parts["train"]):
        findings.warn("classes without a training video, so without a descriptor", name)


def check_lengths(
    annotations: Annotations, num_snippets: Mapping[str, int], rate: float, findings: Findings
) -> dict[str, float]:
    """Warn of features whose length differs from the duration of the video.

    Args:
        annotations: of the dataset.
        num_snippets: T of the videos whose features can be used.
        rate: snippets per second.
        findings: takes the warnings.

    Returns:
        The length of each video in seconds: its duration, else that of its features, else nan.
    """
    lengths = annotations.duration_of()
    rates = pd.Series([count / lengths[video] for video, count in num_snippets.items() if lengths[video] > 0])
    for video, count in num_snippets.items():
        expected = lengths[video] * rate
        if abs(count - expected) > max(1, LENGTH_TOLERANCE * expected):  # False for nan
            seconds = f"{count} snippets are {count / rate:.2f} s, but the duration is {lengths[video]:.2f} s"
            findings.warn("features and duration disagree", f"{video}: {seconds}")
        elif np.isnan(expected):
            lengths[video] = count / rate
    if abs(rates.median() / rate - 1) > 0.1:
        detail = f"most videos have about {rates.median():.3f}; see --feature_fps and --snippet_frames"
        findings.warn(f"features do not have {rate:g} snippets a second", detail)
    return lengths


def check_segments(
    what: str, table: pd.DataFrame, lengths: Mapping[str, float], rate: float, findings: Findings
) -> None:
    """Warn of instances or proposals that are empty, duplicate, or outside the video by more than a snippet.

    Args:
        what: `instances` or `proposals`.
        table: a row for each: `video`, `start_sec`, `end_sec`, and `class_idx` of instances; its index is unique.
        lengths: seconds of each video; nan if unknown.
        rate: snippets per second.
        findings: takes the warnings.
    """
    length = table["video"].map(lengths)
    before, after = table["start_sec"] < -1 / rate, table["end_sec"] > length + 1 / rate
    kinds = {
        f"{what} of length <= 0": table["end_sec"] <= table["start_sec"],
        f"{what} outside the video": before | after,
        f"duplicate {what}": are_doubled(table) if "class_idx" in table else table.duplicated(),
    }
    counts = table["video"].value_counts()
    for kind, which in kinds.items():
        for video, rows in table[which].groupby("video", sort=False):
            assert isinstance(video, str)
            first = rows[["start_sec", "end_sec"]].iloc[0].round(3).tolist()
            context = f", which has {lengths[video]:.2f} s" if "outside" in kind else ""
            findings.warn(kind, f"{video}: {len(rows)} of {counts[video]}, the first {first} s{context}")
