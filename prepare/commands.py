"""The run types that see to a dataset: check it, make its descriptors, make its proposals.

python main.py --run_type check
python main.py --run_type proposals
python main.py --run_type descriptors
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from descriptors import build_descriptors, pseudo_label_report, pseudo_labels
from eval.recall import average_recall, recall_table
from model import SEAL
from prepare.check import Findings, check_dataset
from prepare.snippet_proposals import make_results
from readers.annotations import read_annotations, require_trained
from readers.checkpoints import load_weights
from readers.descriptor_files import FILES as DESCRIPTOR_FILES
from readers.descriptor_files import read_descriptors, write_descriptors
from readers.features import temporal_means
from readers.result_files import merge_results, parse_results, ranked_segments, require_entries
from readers.source import DatasetFiles, annotation_files
from runs.inputs import (
    choose_device,
    dataset_files,
    features_of,
    make_demo_on_first_use,
    open_dataset,
    open_features,
    require_agreement,
    require_input,
    subsets_of,
)
from utils import __version__, check_targets, is_finite_number, log, shorten_list, write_json


def make_descriptors(options: Namespace) -> None:
    """`--run_type descriptors`: class descriptors of the training videos, and how good their pseudo-labels are."""
    source = open_dataset(options)
    folder, annotations, training = source.files.descriptors, source.annotations, source.videos("train")
    check_targets([folder / name for name in DESCRIPTOR_FILES], "--descriptors_root", options.overwrite)
    require_trained(annotations, training)
    features, chosen = open_features(options, source, training)
    means, lengths = temporal_means(features, chosen)
    labels = torch.from_numpy(annotations.labels[chosen])
    descriptors = build_descriptors(means, labels, lengths if options.descriptor_pooling == "snippet" else None)
    write_descriptors(folder, descriptors, annotations.class_names)
    log.info(f"descriptors of {len(annotations.class_names)} classes from {len(training)} videos: {folder}")
    log.info(pseudo_label_report(pseudo_labels(means, descriptors), labels, annotations.class_names))


def make_proposals(options: Namespace) -> None:
    """`--run_type proposals`: take proposals from result files, or make them; and report their recall."""
    source = open_dataset(options)
    targets = source.files.proposals
    parts = {part: source.videos(part) for part in targets}
    if options.proposals_from:
        results = merge_results(options.proposals_from)
        names, videos = ", ".join(map(str, options.proposals_from)), [*parts["train"], *parts["test"]]
        require_entries(names, results, videos, options.missing_proposals, most=None)
        results = {video: [as_proposal(entry) for entry in entries] for video, entries in results.items()}
    else:
        check_targets(targets.values(), "--proposals_root", options.overwrite)
        features, chosen = open_features(options, source, [*parts["train"], *parts["test"]])
        results = make_results(
            features,
            source.annotations,
            training=chosen[: len(parts["train"])],
            testing=chosen[len(parts["train"]) :],
            rate=options.rate,
            device=choose_device(options),
            epochs=options.proposal_epochs,
            per_video=options.proposals_per_video,
            seed=options.seed,
        )
    own = {part: {video: results.get(video, []) for video in videos} for part, videos in parts.items()}
    # A file that was among the sources and holds all that it should is reported, and left alone.
    changed = [part for part, path in targets.items() if options.overwrite or not holds(path, own[part])]
    check_targets([targets[part] for part in changed], "--proposals_root", options.overwrite)
    for part in changed:
        version = f"SEAL {__version__}, {options.dataset_name}"
        write_json(targets[part], {"version": version, "results": own[part], "external_data": {}})
    for part, entries in own.items():
        count = sum(map(len, entries.values()))
        log.info(f"\n{part} (subset {source.subsets[part]}): {len(entries)} videos, {count} proposals: {targets[part]}")
        truth = source.annotations.ground_truth(source.subsets[part])
        if truth.empty:
            log.info("no recall can be had, since the subset has no instances in the annotations")
        else:
            ranked = {video: ranked_segments(listed) for video, listed in entries.items()}
            log.info(f"recall, %\n{recall_table(average_recall(ranked, truth))}")


def holds(path: Path, results: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether a result file is there and holds just these results."""
    return path.exists() and parse_results(path).results == results


def as_proposal(entry: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an entry of another method's file: its segment, and its score and label if they are any."""
    kept = {"segment": entry["segment"]}
    if is_finite_number(entry.get("score")):
        kept["score"] = entry["score"]
    if isinstance(entry.get("label"), str):
        kept["label"] = entry["label"]
    return kept


def check(options: Namespace) -> int:
    """`--run_type check`: read all that training and testing would, and list what is wrong; 1 if they would stop."""
    make_demo_on_first_use(options)
    files, found = dataset_files(options), Findings()
    with found.collecting():
        require_input(options)
    needed = annotation_files(files.annotations) + [path for path in (options.class_list,) if path is not None]
    if all(path.is_file() for path in needed):
        with found.collecting():
            check_what_is_there(options, files, found)
    log.info(found.report())
    return 1 if found.errors else 0


def check_what_is_there(options: Namespace, files: DatasetFiles, found: Findings) -> None:
    """Check the files of a dataset that exist; an InputError that ends this early is for the caller to collect."""
    annotations = read_annotations(files.annotations, options.class_list, found.error)
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for part, subset in subsets_of(options, annotations).items():
        with found.collecting():
            parts[part] = annotations.videos_of(subset)
    with found.collecting():
        require_agreement(options, annotations, parts["train"])
    features = None
    if files.features.exists():
        with found.collecting():
            features = features_of(options, annotations)
    tables = check_dataset(
        annotations,
        parts,
        features,
        files.proposals,
        found,
        rate=options.rate,
        pooled_dtype=getattr(torch, options.pooled_dtype),
        missing=options.missing_proposals,
    )
    num_class = len(annotations.class_names)
    feature_size = features and features.feature_size
    width = f"features {feature_size} wide; " if feature_size else ""
    log.info(f"{tables}\n\n{width}classes: {shorten_list(annotations.class_names, 30)}")
    if not all((files.descriptors / name).exists() for name in DESCRIPTOR_FILES):
        with found.collecting():
            require_trained(annotations, parts["train"])
    elif feature_size:
        with found.collecting():
            read_descriptors(files.descriptors, num_class, feature_size, annotations.class_names)
    if feature_size and options.pretrained_ckpt is not None and options.pretrained_ckpt.exists():
        with found.collecting():
            load_weights(SEAL(feature_size=feature_size, num_class=num_class), options.pretrained_ckpt)
