"""The videos that are given to detection: their features, or videos of which features are made first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prepare.clips import Extractor
from prepare.feature_writing import KINDS, FeatureSettings
from prepare.i3d import FEATURE_SIZE, i3d_checksum, read_networks
from prepare.video_features import make_features
from prepare.video_files import find_videos, has_video_ending
from readers.facts import WeightsRecord
from readers.feature_axes import Crops
from readers.feature_files import ENDINGS, FeatureFolder
from readers.feature_origin import difference, is_random
from readers.features import Features, Width
from runs.detection_model import DetectionModel
from utils import InputError, is_plain_name, log, short_repr, shorten_list

OF_ALL = "-I3D-JOINTFeatures"  # ends the name of a file of all videos
WIDTH_OF_I3D = len(KINDS) * FEATURE_SIZE


@dataclass(frozen=True)
class InputVideo:
    """A video to detect in, by its features."""

    name: str
    features: Features
    index: int  # in `features`
    media: Path | None = None  # the video file, if it is known

    @property
    def files(self) -> list[Path]:
        """The files of the features; raises InputError as `FeatureFolder.find`."""
        return self.features.files(self.index)

    @property
    def where(self) -> str:
        """These files, for messages."""
        return self.features.where(self.index)


@dataclass(frozen=True)
class Extraction:
    """How features are made of videos; all else is as the model says."""

    i3d_weights: Path | None = None  # folder of the published weights, or `random`
    folder: Path | None = None  # for the features; needed for videos
    workers: int | None = None  # threads for optical flow; one a core when None
    half: bool = False  # the I3D network in float16


class Inputs:
    """The videos to detect in.

    Args:
        model: that they are for.
        extraction: how features are made where videos are given.
        media: folder of the videos that given features were made of; their own folder when None.

    Attributes:
        videos: by their names, in the order in which they were added.
        failed: lines on the videos that cannot be used.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, model: DetectionModel, extraction: Extraction, media: Path | None = None) -> None:
        if media is not None and not media.is_dir():
            raise InputError(f"--videos {media}: no such folder")
        self.model, self.extraction, self.media = model, extraction, media
        self.videos: dict[str, InputVideo] = {}
        self.failed: list[str] = []

    def with_bar(self) -> Iterable[InputVideo]:
        """The videos, with a bar that shows how far their detection is."""
        return tqdm(self.videos.values(), desc="detecting", unit="video", leave=False)

    def add(self, paths: Sequence[Path], device: torch.device) -> None:
        """Add what is at some places: features, or videos, of which features are then made on a device.

        Raises:
            InputError: there is nothing at a place, two videos have one name, or features cannot be made at all.
        """
        of_videos: list[Path] = []
        found: list[tuple[Path, str]] = []  # folder of features, and name of a video
        folders: dict[Path, FeatureFolder] = {}  # each is listed once, however many of its files are given
        for path in paths:
            if not path.exists():
                raise InputError(f"--input {path}: no such file or folder")
            place = path if path.is_dir() else path.parent
            folder = folders.setdefault(place, FeatureFolder(place, []))
            alone = self.model.record.modalities == 1
            names = folder.names(alone=alone) if path.is_dir() else _name_in(folder, path, alone=alone)
            found += [(place, name) for name in names]
            if of_all := [name for name in names if name.endswith(OF_ALL)]:  # as those of the paper's datasets
                raise InputError(
                    f"--input {path}: {of_all[0]}.npy has the features of all videos of a dataset; python -m "
                    f"prepare.split_features --dataset_name {of_all[0].removesuffix(OF_ALL)} makes a file of each"
                )
            _say_left_out(path, {*names})
            if names:
                continue
            if FeatureFolder(path / "features", []).names():  # it is a dataset's own folder
                raise InputError(f"--input {path}: no features; name the folder that has them: {path / 'features'}")
            of_videos.append(path)
        self._add_features(found)
        if of_videos:
            self._add_videos(of_videos, device)

    def _add_features(self, found: Sequence[tuple[Path, str]], media: Mapping[str, Path] | None = None) -> None:
        """Add videos by the folders of their features and their names; `media` has their files, where known."""
        names_in: dict[Path, list[str]] = {}  # files of one folder share what is known of them
        for folder, name in dict.fromkeys(found):
            if is_plain_name(name):
                names_in.setdefault(folder, []).append(name)
            else:
                self._fail(f"{folder}: {short_repr(name)} cannot be the name of a video; rename its file")
        given: dict[tuple[Path, str], InputVideo] = {}
        for folder, names in names_in.items():
            features = features_for(self.model, folder, names)
            files = media_in(self.media or folder) if media is None else media
            given |= {(folder, name): InputVideo(name, features, i, files.get(name)) for i, name in enumerate(names)}
        for one in dict.fromkeys(found):  # in their order
            if one in given:
                self._add_one(given[one])

    def _add_one(self, given: InputVideo) -> None:
        """Add a video, or say why it cannot be used."""
        try:
            files = given.files
        except InputError as error:
            self._fail(str(error))
            return
        if not files:  # a folder, a broken link or a pipe, which is read for ever
            self._fail(f"{given.features.path}: {given.name}: not a file")
            return
        other = self.videos.setdefault(given.name, given)
        if other is not given and [*map(Path.resolve, other.files)] != [*map(Path.resolve, files)]:
            both = f"{other.where} and {given.where}"
            raise InputError(f"--input: two videos are named {given.name}: {both}; detect in one of them at a time")

    def _fail(self, reason: str) -> None:
        self.failed.append(reason)
        log.info(f"error: {reason}")

    def _add_videos(self, paths: Sequence[Path], device: torch.device) -> None:
        """Make the features of videos, as those of the training were made, and add them."""
        target, weights = self.extraction.folder, self.extraction.i3d_weights
        made_by, size = self.model.settings.features, self.model.feature_size
        media = {name: path for name, path in find_videos(paths).videos.items() if path.is_file()}  # no frame folders
        if size != WIDTH_OF_I3D or target is None or weights is None:
            reason = "pass --i3d_weights " + ("random" if made_by and is_random(made_by) else "FOLDER")
            if size != WIDTH_OF_I3D:
                reason = f"the model takes features {size} wide, and those of I3D are {WIDTH_OF_I3D}"
            raise InputError(f"--input {paths[0]}: to make features of videos: {reason}; or pass their features")
        networks = read_networks(weights)
        settings = settings_of(made_by, self.model.record, half=self.extraction.half)
        settings = replace(settings, weights=i3d_checksum(networks))
        if differing := difference(settings.to_json(), made_by):
            raise InputError(
                f"--i3d_weights {weights}: not the networks that made the features of the training: {differing}"
            )
        extractor = Extractor(networks, settings.crop, device, half=settings.half)
        summary = make_features(paths, target, settings, extractor, workers=self.extraction.workers)
        self.failed += summary.errors
        if names := sorted([*summary.made, *summary.there]):
            self._add_features([(target, name) for name in names], media)


def _name_in(folder: FeatureFolder, path: Path, *, alone: bool) -> list[str]:
    """The name of the video that a file of features in a folder is of; empty if the file is something else."""
    return [folder.name_of(path.stem, alone=alone)] if path.suffix in ENDINGS else []


def settings_of(made_by: Mapping[str, Any] | None, record: WeightsRecord, *, half: bool) -> FeatureSettings:
    """How features of new videos are made: as those of the training, so far as these say it.

    Args:
        made_by: the settings of those of the training; None if unknown.
        record: of the model.
        half: make them in float16.
    """
    assert record.feature_fps is not None and record.snippet_frames is not None
    if made_by is None:
        log.info(
            "notice: the features of the training do not say what made them; those of these videos are made of the "
            "centre of each frame, which is usual"
        )
    return FeatureSettings(
        feature_fps=record.feature_fps,
        snippet_frames=int(record.snippet_frames),
        crop=made_by["crop"] if made_by else "center",
        half=half,
    )


def features_for(model: DetectionModel, folder: Path, names: Sequence[str]) -> Features:
    """The features of videos in a folder, as wide as a model takes them."""
    record, settings = model.record, model.settings
    crop, axis, modalities = settings.crop, settings.crop_axis, record.modalities
    likely = None if settings.crops is None else Crops(*settings.crops)
    features = Features(folder, names, crop, modalities=modalities, crop_axis=axis, likely_crops=likely)
    features.require_width(Width(model.feature_size, f"the model {model.path} takes"))
    return features


def _say_left_out(folder: Path, names: Collection[str]) -> None:
    """Say which videos in a folder of features are left out, since they have none."""
    without = [file for name, file in media_in(folder).items() if name not in names] if folder.is_dir() else []
    if names and without:
        log.info(
            f"notice: {folder} has features, so {len(without)} videos in it that have none are left out: "
            f"{shorten_list([file.name for file in without])}; to make theirs, name these files with --input"
        )


def media_in(folder: Path) -> dict[str, Path]:
    """The files of videos in a folder, by their names without endings."""
    files = (path for path in sorted(folder.iterdir()) if has_video_ending(path) and path.is_file())
    return {path.stem: path for path in files}
