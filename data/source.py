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
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from data.annotations import ANNOTATION_FILES, Annotations, read_annotations, usual_subsets
from data.features import Features
from data.make_demo import MARK, make_demo
from data.run_folder import RESUME
from dataset import Video, load_videos
from descriptors import FILES as DESCRIPTOR_FILES
from descriptors import PseudoLabels, pseudo_labels, read_descriptors
from options import DatasetFiles, dataset_files
from proposals import read_proposals
from utils import InputError, log, pick_device, some_of


@dataclass(frozen=True)
class Source:
    """A dataset that a run has opened: where it lies, and its annotations."""

    files: DatasetFiles
    annotations: Annotations
    subsets: dict[str, str]  # of the parts, `train` and `test`
    simulated: bool  # whether the features are, as `data/make_demo.py` notes beside them

    def videos(self, part: str) -> list[str]:
        """The videos of a part."""
        return self.annotations.videos_of(self.subsets[part])


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
            log.info(f"notice: {len(own)} training videos without a label, which show background alone: {some_of(own)}")
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


class Reads(NamedTuple):
    """What a run type reads beside the annotations."""

    features: bool
    parts: tuple[str, ...]  # those whose proposals it reads
    descriptors: bool


READS = {
    "train": Reads(True, ("train", "test"), True),
    "check": Reads(True, ("train", "test"), True),
    "test": Reads(True, ("test",), False),
    "eval": Reads(False, (), False),
    "report": Reads(False, (), False),
    "descriptors": Reads(True, (), False),
    "proposals": Reads(True, (), False),
}


def annotation_files(annotations: Path) -> list[Path]:
    """The files that `read_annotations` reads of an annotation folder or file."""
    return [annotations / f"{name}.npy" for name in ANNOTATION_FILES] if annotations.is_dir() else [annotations]


def require_files(
    reads: Reads, files: DatasetFiles, class_list: Path | None, others: dict[Path, str], *, demo: bool
) -> None:
    """Stop when files that a run reads are missing, naming all of them and where each comes from.

    Args:
        reads: what the run type reads, of `READS`.
        files: of the dataset.
        class_list: the file of `--class_list`, if given.
        others: further files that the run reads, and what each is.
        demo: whether it is the demo dataset, which is not suggested then.

    Raises:
        InputError: as said.
    """
    if files.annotations.exists():
        needed = dict.fromkeys(annotation_files(files.annotations), "annotations, see data/README.md")
    else:
        needed = {files.annotations: "annotations: this folder, or a file annotations.json; see data/README.md"}
    if class_list is not None:
        needed[class_list] = "the class names that --class_list gives"
    if reads.features and not files.features.is_dir():  # a folder is looked into when it is read
        needed[files.features] = "I3D features: this file, or a folder features; see data/README.md"
    for part in reads.parts:
        needed[files.proposals[part]] = "proposals: those of another method, or make them with --run_type proposals"
    if reads.descriptors:
        source = "class descriptors: make them with --run_type descriptors"
        needed |= {files.descriptors / name: source for name in DESCRIPTOR_FILES}
    missing = [f"  {path}: {source}" for path, source in (needed | others).items() if not path.is_file()]
    if missing:
        hint = "No data at hand? This makes its own: python main.py --run_type train --dataset_name Demo"
        lines = [f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing (from {Path.cwd()}):", *missing]
        nothing_there = not files.annotations.exists() and not demo
        raise InputError("\n".join([*lines, hint] if nothing_there else lines))


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
