"""Finds what is wrong with a dataset, for `--run_type check`: errors that stop a run, and warnings that do not.

Errors come from the readers themselves, so a run stops with the same words. Warnings are those of `readers.plausible`
and `readers.feature_checks`, of which a run says a line each.

Axes: M proposals of a video, I instances.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dataset import check_unit
from eval.recall import average_recall, recall_table
from eval.segments import rounding
from model import NetworkSettings, build_network
from proposals import seconds_to_snippets
from readers.annotations import Annotations, require_trained
from readers.checkpoints import load_weights
from readers.descriptor_files import expected_files, read_descriptors
from readers.feature_checks import check_range
from readers.feature_origin import check_origins
from readers.features import Features
from readers.findings import Findings
from readers.plausible import (
    check_ambiguous,
    check_evaluated,
    check_labels,
    check_lengths,
    check_rounding,
    check_scores,
    check_segments,
    segment_table,
)
from readers.result_files import MAKE_PROPOSALS_AGAIN, parse_results, ranked_segments, require_entries, unknown_labels
from readers.source import PARTS, Source
from utils import shorten_list


@dataclass(frozen=True)
class CheckSettings:
    """How a run would use a dataset."""

    rate: float  # snippets per second
    batch_size: int
    pooled_dtype: torch.dtype  # of pooled proposals
    missing_proposals: str  # see `require_entries`
    checkpoint: Path | None  # weights that it would start from
    recipe: str
    roi_size: int  # R
    hidden_size: int | None  # H of the network; None takes D
    verbose: bool = False  # whether all lines of a problem are shown


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
    findings.notice(annotations.notices)
    parts = videos_of_parts(source, findings)
    if parts["train"]:
        with findings.collecting():
            source.require_batch(settings.batch_size)
    check_labels(annotations, parts, findings)
    check_evaluated(annotations, parts["test"], findings)
    features, num_snippets = check_features(source, parts, settings.pooled_dtype, findings)
    if features and num_snippets:
        with findings.collecting():
            check_origins(features, source.indices([*num_snippets]), settings.rate, findings)
    lengths = check_lengths(annotations, num_snippets, settings.rate, findings)
    check_ambiguous(annotations, parts["test"], lengths, settings.rate, findings)
    rows, recalls = {}, []
    for part, videos in parts.items():
        instances = _instances_of(annotations, videos)
        check_segments("instances", instances, lengths, settings.rate, findings)
        instances = annotations.instances_of(videos)
        if part == "test":
            rounded = rounding(instances, settings.rate)
            check_rounding(findings, *rounded, chosen_by=rounded.chosen_by)
        proposals: dict[str, np.ndarray] = {}
        path = source.files.proposals[part]
        if path.exists():
            with findings.collecting():
                proposals = check_proposals(path, videos, lengths, num_snippets, settings, findings, source)
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


def videos_of_parts(source: Source, findings: Findings) -> dict[str, list[str]]:
    """The videos of each part that are used; warns of those that are left out, and if both parts are the same."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for part in PARTS:
        with findings.collecting():
            parts[part] = source.videos(part)
            for video, lack in source.left_out(part).items():
                kind = "videos without features, left out (--missing_features skip)"
                findings.warn(kind, f"{video} ({part}): {lack}")
    if parts["train"] and parts["train"] == parts["test"]:
        detail = f"subset {source.subsets['test']!r}; figures do not say how well new videos are done"
        findings.warn("training and test videos are the same", detail)
    return parts


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
            read_descriptors(
                folder,
                num_class,
                features.feature_size,
                class_names,
                rate=settings.rate,
                modalities=features.modalities,
                on_notice=findings.warn,
            )
    checkpoint = settings.checkpoint
    if features and checkpoint is not None and checkpoint.exists():
        with findings.collecting():
            recipe, hidden_size = settings.recipe, settings.hidden_size
            network = NetworkSettings(features.feature_size, num_class, hidden_size, standardise=recipe == "own")
            record = source.weights_record(features, recipe=recipe, roi_size=settings.roi_size, hidden_size=hidden_size)
            load_weights(build_network(network), checkpoint, record, findings.warn)


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
        features.require_width(features.width_of(first, shapes[first]))
    for i, shape in shapes.items():
        with findings.collecting():
            features.check_width(i, shape)
    features.report(findings)
    lengths = {features.videos[i]: num_snippets for i, (num_snippets, _) in shapes.items()}
    return (features if features.width else None), lengths


def check_proposals(
    path: Path,
    videos: Sequence[str],
    lengths: Mapping[str, float],
    num_snippets: Mapping[str, int],
    settings: CheckSettings,
    findings: Findings,
    source: Source,
) -> dict[str, np.ndarray]:
    """Read and check a proposal file.

    Args:
        path: of the file.
        videos: that should be in it.
        lengths: seconds of each video; nan if unknown.
        num_snippets: T of the videos whose features can be used.
        settings: how a run would use it.
        findings: takes errors and warnings.
        source: the dataset.

    Returns:
        `[M, 2]` seconds of each video, best first.

    Raises:
        InputError: the file cannot be used at all.
    """
    missing, annotations = settings.missing_proposals, source.annotations
    content = parse_results(path, findings.error, videos=videos)
    results = content.results
    with findings.collecting():
        content.facts.require(path, settings.rate, annotations.class_names, MAKE_PROPOSALS_AGAIN)
    findings.notice({**content.notices, **unknown_labels(results, annotations.class_names)}, f"{path}: ")
    of_others = bool(results) and not results.keys() & set(videos)  # which no run accepts
    if missing == "error" or of_others:
        require_entries(path, results, videos, missing, findings.error, most=None)
    for video in sorted(results.keys() - set(videos) - source.without_features.keys()):
        findings.warn("unused proposals, of videos outside the subset", f"{path}: {video}")
    for video in videos:
        if not results.get(video) and (video in results or missing == "empty"):
            findings.warn("videos without proposals", f"{path}: {video}")
        elif video in results and video in num_snippets:
            with findings.collecting():
                segments = seconds_to_snippets([entry["segment"] for entry in results[video]], settings.rate)
                check_unit(segments, video, num_snippets[video], settings.rate)
    of_videos = {video: results.get(video, []) for video in videos}
    check_scores({video: [entry.get("score") for entry in entries] for video, entries in of_videos.items()}, findings)
    check_segments("proposals", segment_table(of_videos), lengths, settings.rate, findings, annotations.instances)
    return {video: ranked_segments(entries) for video, entries in of_videos.items()}
