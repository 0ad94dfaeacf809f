"""From the command line to a run's data: which files it reads, whether they are there, and what they hold.

Beside main.py, the modules that read the parsed options are this one, and commands.py, dashboard.py, reports.py,
results.py, resume.py and seeds.py beside it.
"""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dataset import Video, load_videos, read_proposals
from descriptors import PseudoLabels, pseudo_labels
from prepare.make_demo import make_demo
from readers.annotations import Annotations, read_annotations, usual_subsets
from readers.descriptor_files import read_descriptors
from readers.features import MARK, Features
from readers.source import READS, DatasetFiles, Source, require_files
from runs.folder import RESUME
from utils import InputError, log, pick_device, shorten_list


def open_dataset(options: Namespace) -> Source:
    """See that the files that a run reads are there, and read the annotations."""
    make_demo_on_first_use(options)
    require_input(options)
    files = dataset_files(options)
    annotations = read_annotations(files.annotations, options.class_list)
    simulated = options.dataset_name == "Demo" or (files.features.parent / MARK).exists()
    source = Source(files, annotations, subsets_of(options, annotations), simulated)
    if source.simulated:
        log.info("notice: the features are simulated; no figure here says anything about real videos")
    require_agreement(options, annotations, source.videos("train") if options.run_type == "train" else None)
    if options.run_type in ("train", "descriptors", "proposals"):
        unlabelled = set(np.array(annotations.videos)[~annotations.labels.any(1)])
        if own := [video for video in source.videos("train") if video in unlabelled]:
            log.info(
                f"notice: {len(own)} training videos without a label, which show background alone: {shorten_list(own)}"
            )
    return source


def open_features(options: Namespace, source: Source, videos: Sequence[str]) -> tuple[Features, list[int]]:
    """The features of these videos, which are there but not yet read, and the videos' places in the annotations."""
    row_of = {video: i for i, video in enumerate(source.annotations.videos)}
    chosen = [row_of[video] for video in videos]
    features = features_of(options, source.annotations)
    features.require(chosen)
    return features, chosen


def features_of(options: Namespace, annotations: Annotations) -> Features:
    """The features of a dataset, of which no video has been looked for yet."""
    return Features(dataset_files(options).features, annotations.videos, options.crop, options.feature_size)


def make_demo_on_first_use(options: Namespace) -> None:
    """Make the demo dataset when it is asked for, at its own place, and not there; its features are written last."""
    root = Path("data/Demo")
    own_place = options.dataset_root == root and options.annotations is None and options.features is None
    if options.dataset_name == "Demo" and own_place and not dataset_files(options).features.exists():
        log.info(f"making the demo dataset (simulated) in {root}")
        make_demo(root, options.proposals_root, options.descriptors_root)


def require_input(options: Namespace) -> None:
    """Stop when files that this run type reads are missing, see `require_files`."""
    others = dict.fromkeys(options.proposals_from or (), "a result file to take proposals from")
    if options.run_type in ("eval", "report") and options.detections:
        others[options.detections] = "the detections to evaluate"
    resumed = options.resume and (options.exp_dir / RESUME).is_file()  # such a run has weights of its own
    if options.pretrained_ckpt is not None and not resumed:
        a_folder = "a folder, which has its weights in files; " if options.pretrained_ckpt.is_dir() else ""
        others[options.pretrained_ckpt] = f"{a_folder}weights, of a training run or of the SEAL release"
    reads = READS[options.run_type]
    if options.proposals_from:
        reads = reads._replace(features=False)
    require_files(reads, dataset_files(options), options.class_list, others, demo=options.dataset_name == "Demo")


def subsets_of(options: Namespace, annotations: Annotations) -> dict[str, str]:
    """The subset that each part, `train` and `test`, is."""
    given = {"train": options.train_subset, "test": options.test_subset}
    return {part: given[part] or usual for part, usual in usual_subsets(annotations.subsets).items()}


def require_agreement(options: Namespace, annotations: Annotations, training: Sequence[str] | None) -> None:
    """Stop when the options contradict the annotations; `training` are the videos to train on, if that is to be done.

    Raises:
        InputError: as said.
    """
    num_class = len(annotations.class_names)
    if options.num_class not in (None, num_class):
        raise InputError(
            f"--num_class {options.num_class}: {dataset_files(options).annotations} has {num_class} classes"
        )
    if training is not None and len(training) < options.batch_size:
        raise InputError(
            f"--batch_size {options.batch_size}: there are only {len(training)} training videos; choose a smaller one"
        )


# ---------------------------------------------------------------------------------------------- files


# ------------------------------------------------------------------------------------- in memory


@dataclass(frozen=True)
class Data:
    """What a run has read."""

    annotations: Annotations
    truth: pd.DataFrame  # instances of the test videos; may be empty
    test: list[Video]
    train: list[Video]  # empty when only testing
    pseudo: PseudoLabels | None  # of the training videos
    simulated: bool = False  # see `Source`

    def test_labels(self) -> np.ndarray:
        """Labels of the test videos, `[V, C]`, 0 or 1."""
        return torch.stack([video.labels for video in self.test]).cpu().numpy()

    def lengths(self, rate: float) -> dict[str, float]:
        """Seconds of each test video: its duration in the annotations, else that of its features."""
        durations = self.annotations.duration_of()
        lengths = {video.name: (durations[video.name], video.num_snippets / rate) for video in self.test}
        return {name: known if known > 0 else of_features for name, (known, of_features) in lengths.items()}

    def digest(self) -> str:
        """A text that is another for other videos, labels, proposals, classes, pseudo-labels or ground truth.

        Features count only through their lengths and the pseudo-labels: they may be stored in another precision.
        """
        digest = hashlib.sha256(json.dumps(self.annotations.class_names).encode())
        for video in (*self.train, *self.test):
            digest.update(json.dumps([video.name, video.num_snippets, len(video.segments_snip)]).encode())
            digest.update(video.segments_snip.tobytes())
            digest.update(video.labels.cpu().numpy().tobytes())
            digest.update(self.annotations.ambiguous.get(video.name, np.empty(0)).tobytes())
        for field in self.pseudo or ():
            digest.update(field.cpu().numpy().tobytes())
        digest.update(self.truth.to_json().encode())
        return digest.hexdigest()


def choose_device(options: Namespace) -> torch.device:
    """The device to run on, set up as the options say."""
    return pick_device(options.device, tf32=options.tf32, deterministic=options.deterministic)


def load_data(options: Namespace, device: torch.device) -> Data:
    """Read what training or testing needs, and pool the proposals."""
    source = open_dataset(options)
    files, annotations, subsets = source.files, source.annotations, source.subsets
    num_class = len(annotations.class_names)
    names = {part: source.videos(part) for part in READS[options.run_type].parts}
    truth = annotations.ground_truth(subsets["test"])
    if truth.empty:
        log.info(f"notice: subset {subsets['test']!r} has no instances, so no mAP can be had")

    proposals = {}
    for part, videos in names.items():
        proposals |= read_proposals(files.proposals[part], videos, options.rate, options.missing_proposals)
    loaded = load_videos(
        annotations,
        features_of(options, annotations),
        proposals,
        roi_size=options.roi_size,
        rate=options.rate,
        device=device,
        cache=options.cache,
        pooled_dtype=getattr(torch, options.pooled_dtype),
    )
    parts = {part: [loaded[name] for name in videos] for part, videos in names.items()}
    for part, videos in parts.items():
        log.info(
            f"{part} (subset {subsets[part]}): {len(videos)} videos, {sum(video.num_snippets for video in videos)} "
            f"snippets, {sum(len(video.proposals) for video in videos)} proposals"
        )
    feature_size = parts["test"][0].mean.numel()
    log.info(f"{num_class} classes, {len(truth)} test instances, features {feature_size} wide; device {device}")

    pseudo = None
    if "train" in parts:
        descriptors = read_descriptors(files.descriptors, num_class, feature_size, annotations.class_names)
        pseudo = pseudo_labels(torch.stack([video.mean for video in parts["train"]]), descriptors.to(device))
    return Data(annotations, truth, parts["test"], parts.get("train", []), pseudo, source.simulated)


def dataset_files(options: Namespace) -> DatasetFiles:
    """The files of the dataset that the options name."""
    name, root = options.dataset_name, options.dataset_root
    per_video = root / "features"
    annotations = options.annotations or root
    if (annotations / "annotations.json").is_file():
        annotations = annotations / "annotations.json"
    elif options.annotations is None:
        annotations = root / f"{name}-Annotations"
    return DatasetFiles(
        features=options.features or (per_video if per_video.is_dir() else root / f"{name}-I3D-JOINTFeatures.npy"),
        annotations=annotations,
        descriptors=options.descriptors_root / name,
        proposals={part: options.proposals_root / f"Proposals_{name}_{part}.json" for part in ("train", "test")},
    )
