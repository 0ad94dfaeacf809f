"""Detection: a trained model on videos that it has never seen.

    from runs.detect import detect

    for video in detect("outputs/Mine", "new_features"):
        print(video.name, video.detections.head())

`detect` takes features, or videos, of which it makes features first; `--run_type detect` also writes files and pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dataset import Video, listed_proposals, make_batch, make_video
from eval.postprocess import VideoDetections
from eval.tables import detection_table
from prepare.kept_network import KeptNetwork, kept_from_lac
from proposals import roi_pool, snippets_to_seconds
from readers.feature_checks import check_range
from readers.feature_files import ENDINGS, EXPECTED, FeatureFolder
from readers.features import Features, Width
from runs.detected import DetectedVideo
from runs.detection_model import DetectionModel, read_model
from runs.inference import CHECK_FEATURES, NOT_FINITE, are_finite, logits_of
from utils import InputError, log, pick_device

NO_MEDIA = (*ENDINGS, ".json", ".csv", ".txt", ".vtt", ".srt", ".html", "")  # endings of files beside videos
ROWS_AT_A_TIME = 2048  # as in `dataset.evaluation_batches`, so that batches are those of `--run_type test`


@dataclass(frozen=True)
class InputVideo:
    """A video to detect in, by its features."""

    name: str
    features: Features
    index: int  # in `features`
    media: Path | None = None  # the video file, if it is known


@dataclass
class Detector:
    """Runs a model over features of videos.

    Attributes:
        model: the model.
        proposals: the network that makes proposals.
        device: for both.
        failed: the videos that could not be used, and why; grows as videos are read.
    """

    model: DetectionModel
    proposals: KeptNetwork
    device: torch.device
    failed: dict[str, str] = field(default_factory=dict)

    def __call__(self, videos: Iterable[InputVideo]) -> Iterator[DetectedVideo]:
        """Detect in videos, a group at a time, so that memory does not grow with their number."""
        group: list[tuple[InputVideo, Video]] = []
        rows = 0
        for given in videos:
            try:
                video = self._read(given)
            except InputError as error:
                self._fail(given.name, str(error))
                continue
            group.append((given, video))
            rows += len(video.proposals)
            if rows >= ROWS_AT_A_TIME:
                yield from self._detect(group)
                group, rows = [], 0
        if group:
            yield from self._detect(group)

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        log.info(f"error: {reason}")

    def _read(self, given: InputVideo) -> Video:
        """Read the features of a video, make its proposals, and pool them; raises InputError."""
        record, features = self.model.record, given.features
        raw = features.read(given.index)  # [T, D]
        features.forget(given.index)
        dtype = getattr(torch, self.model.settings.pooled_dtype)
        check_range(raw, features.where(given.index), given.name, dtype)
        entries = self.proposals.propose(raw, self.device)
        assert record.class_names is not None and record.rate is not None and record.roi_size is not None
        listed = listed_proposals(entries, {name: i for i, name in enumerate(record.class_names)}, record.rate)
        pooled = roi_pool(raw, torch.from_numpy(listed.segments_snip), record.roi_size).to(self.device, dtype)
        no_labels = torch.zeros(len(record.class_names))
        return make_video(given.name, no_labels, listed, raw, pooled, None, self.device)

    def _detect(self, group: Sequence[tuple[InputVideo, Video]]) -> Iterator[DetectedVideo]:
        """The detections in some videos, in one batch."""
        settings, record = self.model.settings, self.model.record
        videos = [video for _, video in group]
        logits = logits_of(
            self.model.network, make_batch(videos, range(len(videos)), dtype=getattr(torch, settings.row_dtype))
        )
        assert record.rate is not None and record.recipe is not None
        found = settings.post_process(record.rate, record.recipe)(
            logits, [v.listed for v in videos], [None] * len(videos)
        )
        for (given, video), detected, finite in zip(group, found, are_finite(logits, videos), strict=True):
            if finite:
                yield self._as_detected(given, video, detected)
            else:
                self._fail(
                    given.name,
                    f"{given.features.where(given.index)}: video {given.name}: {NOT_FINITE}; {CHECK_FEATURES}",
                )

    def _as_detected(self, given: InputVideo, video: Video, found: VideoDetections) -> DetectedVideo:
        names, rate = self.model.record.class_names, self.model.record.rate
        assert names is not None and rate is not None
        table = detection_table([given.name], [found], rate)
        table.insert(0, "label", [names[i] for i in found.class_idx])
        return DetectedVideo(
            name=given.name,
            seconds=video.num_snippets / rate,
            detections=table.sort_values("score", ascending=False, kind="stable", ignore_index=True),
            proposals=snippets_to_seconds(video.segments_snip, rate),
            attention=found.attention,
            media=given.media,
        )


def find_inputs(model: DetectionModel, inputs: Sequence[Path], media: Path | None = None) -> list[InputVideo]:
    """The videos whose features are at some places.

    Args:
        model: that they are for.
        inputs: feature files, or folders of them.
        media: folder of the videos that they were made of; their own folder when None.

    Raises:
        InputError: there is nothing at a place, or two videos have one name.
    """
    found: dict[str, InputVideo] = {}
    for path in inputs:
        if not path.exists():
            raise InputError(f"--input {path}: no such file or folder")
        folder = FeatureFolder(path if path.is_dir() else path.parent, [])
        names = folder.names() if path.is_dir() else [folder.name_of(path.stem)]
        if not names:
            raise InputError(f"--input {path}: no features in this folder; expected {EXPECTED}, or videos")
        features = features_for(model, folder.path, names)
        films = media_in(media or folder.path)
        for i, name in enumerate(names):
            given = InputVideo(name, features, i, films.get(name))
            other = found.setdefault(name, given)
            if other.features.files(other.index) != features.files(i):
                both = f"{other.features.where(other.index)} and {features.where(i)}"
                raise InputError(f"--input: two videos are named {name}: {both}; detect in one of them at a time")
    return [*found.values()]


def features_for(model: DetectionModel, folder: Path, names: Sequence[str]) -> Features:
    """The features of videos in a folder, as wide as a model takes them."""
    record, settings = model.record, model.settings
    crop, axis, modalities = settings.crop, settings.crop_axis, record.modalities
    features = Features(folder, names, crop, modalities=modalities, crop_axis=axis)
    assert record.feature_size is not None
    features.require_width(Width(record.feature_size, f"the model {model.path} takes"))
    return features


def media_in(folder: Path) -> dict[str, Path]:
    """The files in a folder that may be videos, by their names without endings."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() not in NO_MEDIA and path.is_file())
    return {path.stem: path for path in files if not path.name.startswith(".")}


def open_detector(model: Path, *, device: str = "auto", lac_ckpt: Path | None = None) -> Detector:
    """Read a model for detection.

    Args:
        model: folder of a training run.
        device: see `utils.pick_device`.
        lac_ckpt: checkpoint of LAC, which makes the proposals instead of the network in the folder.

    Raises:
        InputError: the model or the checkpoint cannot be used, or there is no network that makes proposals.
    """
    chosen = pick_device(device)
    loaded = read_model(model, chosen)
    if lac_ckpt is not None:
        record = loaded.record
        assert record.feature_size and record.modalities
        proposals = kept_from_lac(lac_ckpt, record.facts, record.feature_size, record.modalities)
    elif loaded.proposals is not None:
        proposals = loaded.proposals
    else:
        raise InputError(
            f"{loaded.path}: the proposals of the training came from files, so there is no network that makes them for "
            "new videos: pass LAC's with --lac_ckpt, or make proposals with --run_type proposals and train again"
        )
    if loaded.record.simulated:
        log.info("warning: the model was trained on simulated features; what it finds says nothing about real videos")
    return Detector(loaded, proposals, chosen)


def detect(
    model: Path | str,
    inputs: Path | str | Sequence[Path | str],
    *,
    device: str = "auto",
    lac_ckpt: Path | None = None,
    media: Path | None = None,
) -> Iterator[DetectedVideo]:
    """Find actions in videos.

    Args:
        model: folder of a training run.
        inputs: features: files or folders.
        device: `auto` (CUDA, else MPS, else the CPU) or a PyTorch device.
        lac_ckpt: see `open_detector`.
        media: folder of the videos that features were made of, see `DetectedVideo.media`.

    Yields:
        Each video, in the order of the inputs. What cannot be used is logged and left out.

    Raises:
        InputError: the model cannot be used, or an input is not there.
    """
    detector = open_detector(Path(model), device=device, lac_ckpt=lac_ckpt)
    paths = [inputs] if isinstance(inputs, (str, Path)) else inputs
    yield from detector(find_inputs(detector.model, [Path(path) for path in paths], media))
