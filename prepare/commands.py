"""The run types that prepare a dataset: make features of its videos, check it, make its descriptors, its proposals.

python main.py --run_type features --videos videos --i3d_weights models
python main.py --run_type check
python main.py --run_type proposals
python main.py --run_type descriptors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from descriptors import are_tied, build_descriptors, cosines, pseudo_label_report, pseudo_labels
from eval.recall import average_recall, recall_table
from prepare.check import CheckSettings, check_dataset
from prepare.clips import Extractor
from prepare.feature_writing import FeatureSettings
from prepare.i3d import i3d_checksum, read_networks
from prepare.kept_network import keep_network, kept_from, network_files, remove_network
from prepare.snippet_proposals import ProposalSettings, make_results
from prepare.video_features import FeatureSummary, make_features
from readers.annotations import require_trained
from readers.descriptor_files import expected_files, write_descriptors
from readers.facts import Facts
from readers.features import Features, temporal_means
from readers.findings import Findings, say_notices
from readers.plausible import check_segments, segment_table
from readers.result_files import (
    MAX_PER_VIDEO,
    merge_results,
    parse_results,
    ranked,
    ranked_segments,
    require_entries,
    unknown_labels,
)
from readers.source import PARTS, DatasetFiles, ReadingSettings, Source
from utils import InputError, __version__, check_targets, log, shorten_list, write_json

Entries = list[dict[str, Any]]  # of a video in a result file


@dataclass(frozen=True)
class FeatureJob:
    """What `--run_type features` does."""

    videos: Path  # a folder of videos or of frames, or one of both
    target: Path  # the folder of the features
    weights: Path  # the folder of the published weights, or `random`
    settings: FeatureSettings  # of the features; the weights in them are not used
    shard: tuple[int, int] = (1, 1)  # see `make_features`
    workers: int | None = None  # likewise
    overwrite: bool = False  # likewise


def make_video_features(job: FeatureJob, device: torch.device) -> FeatureSummary:
    """`--run_type features`: make I3D features of videos, with the networks on a device.

    Raises:
        InputError: weights cannot be used; and see `make_features`.
    """
    networks = read_networks(job.weights)
    settings = replace(job.settings, weights=i3d_checksum(networks))
    return make_features(
        [job.videos],
        job.target,
        settings,
        Extractor(networks, settings.crop, device, half=settings.half),
        shard=job.shard,
        workers=job.workers,
        overwrite=job.overwrite,
    )


def make_descriptors(source: Source, *, pooling: str, overwrite: bool) -> None:
    """`--run_type descriptors`: write class descriptors of the training videos, and log how good they are.

    Args:
        source: the dataset.
        pooling: `video` gives all videos of a class the same weight, `snippet` all snippets.
        overwrite: whether existing descriptors may be replaced.

    Raises:
        InputError: features cannot be used, a class has no training video, or descriptors exist already.
    """
    folder, annotations, training = source.files.descriptors, source.annotations, source.videos("train")
    check_targets(expected_files(folder, source.settings.modalities), "--descriptors_root", overwrite)
    require_trained(annotations, training)
    features, chosen = source.features(), source.indices(training)
    features.require(chosen)
    means, lengths = temporal_means(features, chosen)
    labels = torch.from_numpy(annotations.labels[chosen])
    weights = lengths if pooling == "snippet" else None
    descriptors = build_descriptors(means, labels, weights, features.modalities)
    _say_of(features)
    write_descriptors(folder, descriptors, source.facts)
    log.info(f"descriptors of {len(annotations.class_names)} classes from {len(training)} videos: {folder}")
    pseudo, tied = pseudo_labels(means, descriptors), are_tied(cosines(means, descriptors))
    log.info(pseudo_label_report(pseudo, labels, annotations.class_names, tied=tied, modalities=features.modalities))


def make_proposals(source: Source, settings: ProposalSettings, device: torch.device, *, overwrite: bool) -> None:
    """`--run_type proposals`: make proposals from features and video-level labels, or by LAC's network.

    Their recall is logged, and the network kept beside them, see `prepare.kept_network`.

    Args:
        source: the dataset.
        settings: of the snippet network and its proposals.
        device: for the snippet network.
        overwrite: whether existing proposal files and their network may be replaced.

    Raises:
        InputError: features or LAC's network cannot be used, or these files exist already.
    """
    files = source.files
    check_targets([*network_files(files.network), *files.proposals.values()], "--proposals_root", overwrite)
    training, testing = (source.indices(source.videos(part)) for part in PARTS)
    features = source.features()
    features.require([*training, *testing])
    made = make_results(features, source.annotations, settings, training=training, testing=testing, device=device)
    _say_of(features)
    _write_proposals(source, made.results, rate=settings.rate, overwrite=overwrite)
    keep_network(files.network, kept_from(source, features, settings, made), files.proposals)
    log.info(f"\nthe network that made them, for detection in other videos: {files.network}")


def _say_of(features: Features) -> None:
    """Say what was noticed of the features that were read."""
    findings = Findings()
    features.report(findings)
    findings.say()


def take_proposals(source: Source, paths: Sequence[Path], *, rate: float, missing: str, overwrite: bool) -> None:
    """`--run_type proposals --proposals_from`: take proposals from result files, and log their recall.

    Args:
        source: the dataset.
        paths: of the result files.
        rate: snippets per second.
        missing: see `require_entries`.
        overwrite: whether existing proposal files may be replaced.

    Raises:
        InputError: a result file cannot be used, or other proposals exist already.
    """
    videos = [video for part in PARTS for video in source.videos(part)]
    results = merge_results(paths, rate, videos)
    say_notices(unknown_labels(results, source.annotations.class_names))
    require_entries(", ".join(map(str, paths)), results, videos, missing, most=None)
    results = {video: [as_proposal(entry) for entry in entries] for video, entries in results.items()}
    if cut := [video for video, entries in results.items() if len(entries) > MAX_PER_VIDEO]:
        results |= {video: ranked(results[video])[:MAX_PER_VIDEO] for video in cut}
        log.info(
            f"notice: of {len(cut)} videos with more than {MAX_PER_VIDEO} entries, the best are kept: "
            f"{shorten_list(cut)}"
        )
    results_of = {part: {video: results.get(video, []) for video in source.videos(part)} for part in PARTS}
    _write_proposals(source, results_of, rate=rate, overwrite=overwrite)


def _write_proposals(
    source: Source, results_of: Mapping[str, Mapping[str, Entries]], *, rate: float, overwrite: bool
) -> None:
    """Write the proposal file of each part; log how many proposals they have, their recall, and odd times in both."""
    targets, findings = source.files.proposals, Findings()
    annotations, durations = source.annotations, source.annotations.duration_of()
    for entries in results_of.values():
        lengths = source.known_lengths([*entries], durations)
        check_segments("instances", annotations.instances_of(entries), lengths, rate, findings)
        check_segments("proposals", segment_table(entries), lengths, rate, findings, annotations.instances)
    findings.say()
    # A target may be one of the files that the proposals come from. It is left alone if it would stay the same.
    changed = [part for part, path in targets.items() if overwrite or not _holds(path, results_of[part], source.facts)]
    if changed:  # the network that is there has not made what is written now
        network = network_files(source.files.network)
        check_targets([*network, *(targets[part] for part in changed)], "--proposals_root", overwrite)
        remove_network(source.files.network)
    for part in changed:
        version = f"SEAL {__version__}, {source.files.name}"
        external = source.facts.to_json()
        write_json(targets[part], {"version": version, "results": results_of[part], "external_data": external})
    for part, entries in results_of.items():
        count = sum(map(len, entries.values()))
        log.info(f"\n{part} (subset {source.subsets[part]}): {len(entries)} videos, {count} proposals: {targets[part]}")
        truth, _ = source.ground_truth(part)
        if truth.empty:
            log.info("recall not computed: the annotations have no instances for this subset")
        else:
            ranked = {video: ranked_segments(listed) for video, listed in entries.items()}
            log.info(f"recall, %\n{recall_table(average_recall(ranked, truth))}")


def _holds(path: Path, results: Mapping[str, Entries], facts: Facts) -> bool:
    """Whether a result file exists and holds exactly these results, and does not say that they depend on others."""
    with suppress(InputError):  # a damaged file holds others
        content = parse_results(path)
        return content.results == results and content.facts in (Facts(), facts)
    return False


def as_proposal(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of another method's file, reduced to its segment and, where it has them, its score and label."""
    return {name: entry[name] for name in ("segment", "score", "label") if entry.get(name) is not None}


def check(files: DatasetFiles, reading: ReadingSettings, settings: CheckSettings, others: Mapping[Path, str]) -> int:
    """`--run_type check`: read all that training and testing read, and list what is wrong.

    Args:
        files: of the dataset.
        reading: how to read them.
        settings: how a run would use the data.
        others: further files that a run would read, and what each is.

    Returns:
        The exit status: 1 if there are errors, else 0.
    """
    findings, missing = Findings(), Findings()
    with missing.collecting():
        files.require(features=True, proposals=PARTS, descriptors=True, modalities=reading.modalities, others=others)
    if all(path.is_file() for path in files.annotation_files()):
        with findings.collecting():
            source = Source.read(files, reading, findings.error)
            log.info(check_dataset(source, settings, findings))
    # Proposals and descriptors are made of annotations and features, in which errors are mended first.
    of_data, errors = files.annotations.exists() and files.features.exists(), (missing.errors, findings.errors)
    findings.errors = [*errors[of_data], *errors[not of_data]]
    log.info(findings.report(verbose=settings.verbose))
    return 1 if findings.errors else 0
