"""Translates the options into a run's input: which files it reads, whether they are there, and what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dataset import Batch, Video, load_videos, read_proposals, with_pseudo_instances
from descriptors import ONE_MODALITY, PseudoLabels, are_tied, cosines, pseudo_labels
from eval.metrics import LeftOut
from eval.segments import rounding
from eval.tables import proposal_table
from model import NetworkSettings
from options import Options
from prepare.kept_network import KeptNetwork, network_that_made
from proposals import Proposals
from readers.annotations import Annotations
from readers.descriptor_files import order_in_descriptors, read_descriptors
from readers.facts import WeightsRecord, require_fitting
from readers.feature_axes import Crops
from readers.feature_origin import check_origins, origin
from readers.features import Features
from readers.findings import Findings, say_notices
from readers.plausible import check_labels, check_lengths, check_rounding, check_scores, check_segments, check_truth
from readers.source import PART_NAMES, PARTS, DatasetFiles, ReadingSettings, Source
from runs.folder import RESUME
from runs.memory import pass_memory, step_memory
from utils import log, pick_device, shorten_list


def dataset_files(options: Options) -> DatasetFiles:
    """Where the files of the dataset are."""
    name, root = options.dataset_name, options.dataset_root
    per_video = root / "features"
    annotations = options.annotations or root
    if (annotations / "annotations.json").is_file():
        annotations = annotations / "annotations.json"
    elif options.annotations is None:
        annotations = root / f"{name}-Annotations"
    return DatasetFiles(
        name=name,
        features=options.features or (per_video if per_video.is_dir() else root / f"{name}-I3D-JOINTFeatures.npy"),
        annotations=annotations,
        descriptors=options.descriptors_root / name,
        proposals={part: options.proposals_root / f"Proposals_{name}_{part}.json" for part in PARTS},
        class_list=options.class_list,
    )


def reading_settings(options: Options) -> ReadingSettings:
    """How to read the files of the dataset."""
    return ReadingSettings(
        train_subset=options.train_subset,
        test_subset=options.test_subset,
        num_class=options.num_class,
        feature_size=options.feature_size,
        crop=options.crop,
        crop_axis=options.crop_axis,
        missing_features="error" if options.run_type in ("eval", "report") else options.missing_features,
        modalities=options.modalities,
        feature_fps=options.feature_fps,
        snippet_frames=options.snippet_frames,
    )


def weights_record(options: Options, source: Source, features: Features | None = None) -> WeightsRecord:
    """What weights depend on that are trained with these options; see `Source.weights_record`."""
    settings = {name: getattr(options, name) for name in ("recipe", "roi_size", "hidden_size")}
    return source.weights_record(features, **settings)


def other_files(options: Options) -> dict[Path, str]:
    """The files that a run reads beside the dataset's own, and what each is."""
    files = dict.fromkeys(options.proposals_from or (), "a result file to take proposals from")
    if options.run_type == "proposals" and options.lac_ckpt:
        files[options.lac_ckpt] = "the checkpoint of LAC that --lac_ckpt names"
    if options.run_type in ("eval", "report") and options.detections:
        files[options.detections] = "the detections to evaluate"
    resumed = options.resume and (options.exp_dir / RESUME).is_file()  # such a run has its weights in resume.pt
    if options.pretrained_ckpt is not None and not resumed:
        folder = "this is a folder; expected a file: " if options.pretrained_ckpt.is_dir() else ""
        files[options.pretrained_ckpt] = f"{folder}weights, of a training run or of the SEAL release"
    return files


def uses_demo(options: Options) -> bool:
    """Whether a run reads the demo dataset from where `make_demo` writes it."""
    elsewhere = options.dataset_root != Path("data/Demo") or options.annotations or options.features
    return options.dataset_name == "Demo" and not elsewhere


def open_dataset(
    options: Options, *, features: bool = False, proposals: Sequence[str] = (), descriptors: bool = False
) -> Source:
    """Check that the files that a run reads exist, and read the annotations.

    Args:
        options: of the run.
        features: whether it reads features.
        proposals: the parts whose proposals it reads.
        descriptors: whether it reads class descriptors.

    Raises:
        InputError: files are missing, the annotations cannot be used, or they contradict the options.
    """
    files = dataset_files(options)
    reading, others = reading_settings(options), other_files(options)
    files.require(
        features=features,
        proposals=proposals,
        descriptors=descriptors,
        modalities=reading.modalities,
        others=others,
    )
    source = Source.read(files, reading)
    say_notices(source.annotations.notices)
    if source.simulated:
        log.info("notice: the features are simulated; no figure here says anything about real videos")
    if descriptors:  # this and the next before features are read, which can take long
        order_in_descriptors(files.descriptors, source.annotations.class_names, options.rate)
    if options.run_type in ("train", "test") and options.pretrained_ckpt in others:
        require_fitting(options.pretrained_ckpt, weights_record(options, source))
    _say_left_out(source, {"test": ("test",), "descriptors": ("train",)}.get(options.run_type, PARTS))
    if options.run_type in ("train", "test") and source.subsets["train"] == source.subsets["test"]:
        log.info(
            f"notice: training and test videos are the same, subset {source.subsets['test']!r}; figures do not say how "
            "well new videos are done"
        )
    if options.run_type == "train":
        source.require_batch(options.batch_size)
    with_labels = {"train": PARTS, "test": ("test",), "descriptors": ("train",), "proposals": ("train",)}
    findings = Findings()
    of_parts = {part: source.videos(part) for part in with_labels.get(options.run_type, ())}
    check_labels(source.annotations, of_parts, findings)
    if features:
        chosen = source.indices(list(dict.fromkeys(video for part in PARTS for video in source.videos(part))))
        check_origins(source.features(), chosen, options.rate, findings)
    findings.say()
    return source


def _say_left_out(source: Source, parts: Sequence[str]) -> None:
    """Say which videos of some parts are left out, since they have no features."""
    for part in parts:
        if lacking := source.left_out(part):
            count = len(lacking) + len(source.videos(part))
            log.info(
                f"notice: {len(lacking)} of {count} {PART_NAMES[part]} videos have no features and are left out "
                f"(--missing_features skip): {shorten_list([*lacking])}"
            )
        if halves := [f"{video} ({lack})" for video, lack in lacking.items() if lack != "no features"]:
            log.info(f"notice: {len(halves)} of these have RGB or flow alone: {shorten_list(halves)}")


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
    held_out: bool = False  # whether `test` and `truth` are of held-out training videos, see `runs.holdout`
    fuses_scores: bool = False  # whether results depend on the scores and classes of proposals (--score_fusion)
    record: WeightsRecord = field(default_factory=WeightsRecord)  # what weights that are trained on it depend on
    left_out: LeftOut | None = None  # the test videos without features, if there are any
    train_left_out: tuple[str, ...] = ()  # likewise the training videos
    made_by: Mapping[str, Any] | None = None  # how the features of the training were made, see `origin`
    crops: Crops | None = None  # of the features, if they have crops
    proposal_network: KeptNetwork | None = None  # that made the proposals of the training videos, if it was kept

    @property
    def part(self) -> str:
        """What is evaluated, as logs name it."""
        return "held_out" if self.held_out else "test"

    @property
    def is_evaluated(self) -> bool:
        """Whether training evaluates: test videos need instances, for held-out ones labels will do."""
        return self.held_out or not self.truth.empty

    def pseudo_of(self, batch: Batch) -> PseudoLabels:
        """The pseudo-labels of the videos of a batch of training videos."""
        assert self.pseudo is not None, "only training data have pseudo-labels"
        return self.pseudo.select(batch.videos)

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean and the variance of the training videos' features over all snippets, `[D]` each."""
        weight = torch.tensor([float(video.num_snippets) for video in self.train], dtype=torch.float64)
        weight /= weight.sum()
        means, variances = (
            torch.stack([getattr(video, name).cpu().double() for video in self.train]) for name in ("mean", "variance")
        )
        mean = weight @ means
        return mean, weight @ (variances + (means - mean).square())

    def test_labels(self) -> np.ndarray:
        """Labels of the test videos, `[V, C]`, 0 or 1."""
        return torch.stack([video.labels for video in self.test]).cpu().numpy()

    def lengths(self, rate: float) -> dict[str, float]:
        """Seconds of each test video: its duration in the annotations, else that of its features."""
        durations = self.annotations.duration_of()
        lengths = {video.name: (durations[video.name], video.num_snippets / rate) for video in self.test}
        return {name: known if known > 0 else of_features for name, (known, of_features) in lengths.items()}

    def digest(self) -> str:
        """A hash of videos, labels, proposals, classes, pseudo-labels and ground truth.

        Features count only through their lengths and the pseudo-labels: they may be stored in another precision.
        """
        digest = hashlib.sha256(json.dumps(self.annotations.class_names).encode())
        for video in (*self.train, *self.test):
            digest.update(json.dumps([video.name, video.num_snippets, len(video.segments_snip)]).encode())
            digest.update(video.segments_snip.tobytes())
            digest.update(video.labels.cpu().numpy().tobytes())
            digest.update(self.annotations.ambiguous.get(video.name, np.empty(0)).tobytes())
            if (video.instance_class >= 0).any():
                digest.update(video.instance_class.tobytes())
        for values in self.pseudo or ():
            digest.update(values.cpu().numpy().tobytes())
        for listed in (video.listed for video in self.test if self.fuses_scores):
            digest.update(listed.score.tobytes() + listed.class_idx.tobytes())
        digest.update(self.truth.to_json().encode())
        return digest.hexdigest()


def choose_device(options: Options) -> torch.device:
    """The device to run on, set up as the options say."""
    return pick_device(options.device, tf32=options.tf32, deterministic=options.deterministic)


def room_beside_pooled(
    options: Options, num_class: int, proposals: Mapping[str, Mapping[str, Proposals]], width: int
) -> int:
    """Bytes that a run takes on the device beside the pooled proposals, with features this wide."""
    settings = NetworkSettings(
        width,
        num_class,
        options.hidden_size,
        standardise=options.recipe == "own",
        precision=getattr(torch, options.precision),
    )
    sizes = {part: [*map(len, of_videos.values())] for part, of_videos in proposals.items()}
    most = pass_memory(settings, sizes["test"])
    if "train" in sizes:
        step = step_memory(settings, sizes["train"], batch_size=options.batch_size, max_proposal=options.max_proposal)
        most = max(step, most)
    return most


def load_data(options: Options, device: torch.device) -> Data:
    """Read what training or testing needs, and pool the proposals."""
    training = options.run_type == "train"
    parts_read = PARTS if training else ("test",)
    source = open_dataset(options, features=True, proposals=parts_read, descriptors=training)
    files, annotations, subsets = source.files, source.annotations, source.subsets
    num_class = len(annotations.class_names)
    names_of = {part: source.videos(part) for part in parts_read}
    truth, truth_left_out = source.ground_truth("test")
    if truth.empty:
        log.info(f"notice: subset {subsets['test']!r} has no instances, so mAP is not computed")

    features = source.features()  # videos that have none are named before their proposals are missed
    features.require(source.indices([name for names in names_of.values() for name in names]))
    missing, class_names = options.missing_proposals, annotations.class_names
    proposals = {
        part: read_proposals(files.proposals[part], names, options.rate, missing, class_names)
        for part, names in names_of.items()
    }
    parts = load_videos(
        annotations,
        features,
        proposals,
        roi_size=options.roi_size,
        rate=options.rate,
        device=device,
        cache=options.cache,
        pooled_dtype=getattr(torch, options.pooled_dtype),
        room=partial(room_beside_pooled, options, num_class, proposals),
    )
    if options.recipe == "own" and training:
        ratio = options.pseudo_instance_ratio
        parts["train"] = [with_pseudo_instances(video, ratio) for video in parts["train"]]
        if not any((video.instance_class >= 0).any() for video in parts["train"]):
            log.info(
                f"notice: {files.proposals['train']}: no proposal has a score (and a class, where a video has several "
                "labels), so there are no pseudo-instances to learn from; --run_type proposals makes such proposals"
            )
    notice_implausible(annotations, parts, features, options.rate)
    for part, videos in parts.items():
        log.info(
            f"{part} (subset {subsets[part]}): {len(videos)} videos, {sum(video.num_snippets for video in videos)} "
            f"snippets, {sum(len(video.proposals) for video in videos)} proposals"
        )
    width = features.feature_size
    log.info(f"{num_class} classes, {len(truth)} test instances, features {width} wide; device {device}")

    train, fuses = parts.get("train", []), options.score_fusion > 0
    pseudo = read_pseudo_labels(files.descriptors, class_names, train, features, options.rate) if train else None
    return Data(
        annotations,
        truth,
        parts["test"],
        train,
        pseudo,
        source.simulated,
        fuses_scores=fuses,
        record=weights_record(options, source, features),
        left_out=LeftOut.of(source.left_out("test"), len(names_of["test"]), truth_left_out),
        train_left_out=tuple(source.left_out("train")) if training else (),
        crops=features.crops,
        made_by=origin(features, source.indices(names_of["train"])[0]) if training else None,
        proposal_network=network_that_made(files.proposals["train"], files.network) if training else None,
    )


def read_pseudo_labels(
    folder: Path, class_names: Sequence[str], videos: Sequence[Video], features: Features, rate: float
) -> PseudoLabels:
    """The pseudo-labels of training videos, from the descriptors in a folder; notices say where they are weak."""
    num_class, width, modalities = len(class_names), features.feature_size, features.modalities
    descriptors = read_descriptors(folder, num_class, width, class_names, rate=rate, modalities=modalities)
    if modalities == 1:
        log.info(ONE_MODALITY)
    means = torch.stack([video.mean for video in videos])
    descriptors = descriptors.to(means.device)
    if tied := [videos[i].name for i in are_tied(cosines(means, descriptors)).nonzero().flatten().tolist()]:
        log.info(
            f"notice: {len(tied)} training videos have no pseudo-label, since two classes resemble them alike: "
            f"{shorten_list(tied)}"
        )
    return pseudo_labels(means, descriptors)


def notice_implausible(
    annotations: Annotations, parts: Mapping[str, Sequence[Video]], features: Features, rate: float
) -> None:
    """Say in a line for each kind what `check` warns of in data that have been read, and what changes figures.

    Args:
        annotations: of the dataset.
        parts: the videos that are used.
        features: that they were read from.
        rate: snippets per second.
    """
    findings = Findings()
    features.report(findings)
    used = [video for videos in parts.values() for video in videos]
    lengths = check_lengths(annotations, {video.name: video.num_snippets for video in used}, rate, findings)
    tested = [video.name for video in parts["test"]]
    truth = annotations.instances_of(tested)
    if len(truth):
        check_truth(annotations, tested, lengths, rate, findings)
        rounded = rounding(truth, rate)
        check_rounding(findings, *rounded, chosen_by=rounded.chosen_by)
    for videos in parts.values():
        check_scores({video.name: video.listed.score.tolist() for video in videos}, findings)
        table = proposal_table({video.name: video.listed for video in videos}, rate)
        columns = ["video", "class_idx", "start_sec", "end_sec"]
        stands_for_none = (table["start_sec"] == 0) & (table["end_sec"] == 0)  # see `dataset.read_proposals`
        for name in table["video"][stands_for_none].unique():
            findings.warn("videos without proposals", name, "they are given an empty one, [0, 0]")
        check_segments(
            "proposals", table.loc[~stands_for_none, columns], lengths, rate, findings, annotations.instances
        )
    findings.say()
