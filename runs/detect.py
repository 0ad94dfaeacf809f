"""Detection: a trained model on videos that it has never seen.

    from runs.detect import detect

    for video in detect("outputs/Mine", "new_features"):
        print(video.name, video.detections.head())

`detect` takes features, or videos, of which it makes features first; `--run_type detect` also writes files and pages.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dataset import Video, listed_proposals, make_batch, make_video, row_groups
from eval.postprocess import VideoDetections
from eval.tables import detection_table
from prepare.kept_network import KeptNetwork, kept_from_lac
from proposals import roi_pool, snippets_to_seconds
from readers.feature_checks import check_range
from readers.feature_origin import AGAIN, difference, origin, require_rate
from runs.detected import DetectedVideo
from runs.detection_inputs import Extraction, Inputs, InputVideo
from runs.detection_model import DetectionModel, read_model
from runs.inference import CHECK_FEATURES, NOT_FINITE, are_finite, logits_of
from utils import InputError, log, pick_device, to_device


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
        """Detect in videos, in the batches of `--run_type test`, so that memory does not grow with their number."""
        groups = row_groups(self._readable(videos), lambda pair: len(pair[1].proposals))
        return itertools.chain.from_iterable(map(self._detect, groups))

    def _readable(self, videos: Iterable[InputVideo]) -> Iterator[tuple[InputVideo, Video]]:
        """The videos that can be used, as the network takes them; it is said why others cannot."""
        for given in videos:
            try:
                yield given, self._read(given)
            except InputError as error:
                self._fail(given.name, str(error))

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        log.info(f"error: {reason}")

    def _read(self, given: InputVideo) -> Video:
        """Read the features of a video, make its proposals, and pool them; raises InputError."""
        model, features, where = self.model, given.features, given.where
        made = origin(features, given.index)
        require_rate(made, where, model.rate, model.record.rate_options)
        if differing := difference(made, model.settings.features):
            raise InputError(f"{where}: made in another way than those of the training: {differing}; {AGAIN}")
        raw = features.read(given.index)  # [T, D]
        features.forget(given.index)
        dtype = getattr(torch, model.settings.pooled_dtype)
        check_range(raw, where, given.name, dtype)
        try:
            entries = self.proposals.propose(raw, self.device)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        listed = listed_proposals(entries, {name: i for i, name in enumerate(model.class_names)}, model.rate)
        segments = torch.from_numpy(listed.segments_snip)
        pooled = roi_pool(to_device(raw, self.device), segments, model.roi_size).to(dtype)
        labels = torch.zeros(len(model.class_names))
        return make_video(given.name, labels, listed, raw, pooled, None, self.device, trains=False)

    def _detect(self, group: Sequence[tuple[InputVideo, Video]]) -> Iterator[DetectedVideo]:
        """The detections in some videos, in one batch."""
        videos = [video for _, video in group]
        batch = make_batch(videos, range(len(videos)), dtype=getattr(torch, self.model.settings.row_dtype))
        logits = logits_of(self.model.network, batch)
        found = self.model.post_process(logits, [video.listed for video in videos], [None] * len(videos))
        for (given, video), detected, finite in zip(group, found, are_finite(logits, videos), strict=True):
            if finite:
                yield self._as_detected(given, video, detected)
            else:
                self._fail(given.name, f"{given.where}: video {given.name}: {NOT_FINITE}; {CHECK_FEATURES}")

    def _as_detected(self, given: InputVideo, video: Video, found: VideoDetections) -> DetectedVideo:
        rate, names = self.model.rate, self.model.class_names
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
        proposals = kept_from_lac(lac_ckpt, loaded.record.facts, loaded.feature_size, loaded.record.modalities or 2)
    elif loaded.proposals is not None:
        proposals = loaded.proposals
    else:
        raise InputError(
            f"{loaded.path}: the proposals of the training came from files, so there is no network that makes them for "
            "new videos: pass LAC's with --lac_ckpt, or make proposals with --run_type proposals --overwrite and train "
            "again"
        )
    if loaded.warning:
        log.info(f"warning: {loaded.path}: {loaded.warning}")
    return Detector(loaded, proposals, chosen)


def detect(
    model: Path | str,
    inputs: Path | str | Sequence[Path | str],
    *,
    device: str = "auto",
    lac_ckpt: Path | str | None = None,
    media: Path | str | None = None,
    extraction: Extraction | None = None,
) -> Iterator[DetectedVideo]:
    """Find actions in videos.

    Args:
        model: folder of a training run.
        inputs: features or videos: files or folders.
        device: `auto` (CUDA, else MPS, else the CPU) or a PyTorch device.
        lac_ckpt: see `open_detector`.
        media: folder of the videos that features were made of, see `DetectedVideo.media`.
        extraction: how features are made of videos; not needed for features.

    Yields:
        Each video, in the order of the inputs. What cannot be used is logged and left out.

    Raises:
        InputError: the model cannot be used, an input is not there, or features cannot be made at all.
    """
    detector = open_detector(Path(model), device=device, lac_ckpt=None if lac_ckpt is None else Path(lac_ckpt))
    given = Inputs(detector.model, extraction or Extraction(), None if media is None else Path(media))
    paths = [inputs] if isinstance(inputs, (str, Path)) else inputs
    given.add([Path(path) for path in paths], detector.device)
    yield from detector(given.videos.values())
