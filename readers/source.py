"""A dataset on disk: where its files are, how to read them, and its annotations (SPEC section 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from readers.annotation_files import ANNOTATION_FILES
from readers.annotations import Annotations, read_annotations, usual_subsets
from readers.descriptor_files import expected_files
from readers.facts import Facts, WeightsRecord
from readers.feature_files import EXPECTED
from readers.features import SIMULATED_MARK, Features
from utils import InputError, __version__, is_plain_name, raise_input_error, shorten_list

PARTS = ("train", "test")
PART_NAMES = {"train": "training", "test": "test"}  # for messages


@dataclass(frozen=True)
class DatasetFiles:
    """Where the files of a dataset are."""

    name: str  # of the dataset
    features: Path  # a folder with files of each video, or one file
    annotations: Path  # a folder, or a JSON file
    descriptors: Path  # a folder
    proposals: Mapping[str, Path]  # of each of `PARTS`
    class_list: Path | None = None  # of a JSON file, see `read_annotations`

    @property
    def network(self) -> Path:
        """The network that proposals are made with, beside them; its record is beside it."""
        return self.proposals["train"].with_name(f"Proposals_{self.name}_network.pkl")

    def annotation_files(self) -> list[Path]:
        """The files that `read_annotations` reads."""
        folder = self.annotations
        files = [folder / f"{name}.npy" for name in ANNOTATION_FILES] if folder.is_dir() else [folder]
        return files if self.class_list is None else [*files, self.class_list]

    def require(
        self,
        *,
        features: bool = False,
        proposals: Sequence[str] = (),
        descriptors: bool = False,
        modalities: int | None = None,
        others: Mapping[Path, str] | None = None,
    ) -> None:
        """Check that the annotations and other files that a run reads are there.

        Args:
            features: whether it reads features.
            proposals: the parts whose proposals it reads.
            descriptors: whether it reads class descriptors.
            modalities: of the descriptors, see `expected_files`.
            others: further files that it reads, and what each is.

        Raises:
            InputError: files are missing; the message names all of them and says where to get each.
        """
        if self.annotations.exists():
            needed = dict.fromkeys(self.annotation_files(), "annotations, see data/README.md")
        else:
            needed = {self.annotations: "annotations: this folder, or a file annotations.json; see data/README.md"}
        if self.class_list is not None:
            needed[self.class_list] = "the class names that --class_list gives"
        if features and not self.features.is_dir():  # the files in a folder are checked when they are read
            needed[self.features] = "I3D features: this file, or a folder features; see data/README.md"
        for part in proposals:
            needed[self.proposals[part]] = "proposals of another method, or make them with --run_type proposals"
        if descriptors:
            source = "class descriptors: make them with --run_type descriptors"
            needed |= dict.fromkeys(expected_files(self.descriptors, modalities), source)
        needed |= others or {}
        missing = [f"  {path}: {source}" for path, source in needed.items() if not path.is_file()]
        if missing:
            lines = [f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing (from {Path.cwd()}):"]
            lines += missing
            if not self.annotations.exists() and self.name != "Demo":
                lines.append("To try the program without data: python main.py --run_type train --dataset_name Demo")
            raise InputError("\n".join(lines))


@dataclass(frozen=True)
class ReadingSettings:
    """How to read a dataset. None means: as the data says."""

    train_subset: str | None = None
    test_subset: str | None = None
    num_class: int | None = None  # C, to be confirmed by the annotations
    feature_size: int | None = None  # D, to be confirmed by the features
    crop: int | None = None  # of features with crops; None averages them
    crop_axis: int | None = None  # see `Features`
    modalities: int | None = None  # see `Features`
    missing_features: str = "error"  # what a video without features is; or `skip`, to leave it out
    feature_fps: float = 25.0  # frames per second of the video that features were made of
    snippet_frames: float = 16.0  # from one snippet to the next

    @property
    def rate(self) -> float:
        """Snippets per second."""
        return self.feature_fps / self.snippet_frames


@dataclass(frozen=True)
class Source:
    """A dataset whose annotations have been read."""

    files: DatasetFiles
    settings: ReadingSettings
    annotations: Annotations
    subsets: Mapping[str, str]  # of each of `PARTS`

    @classmethod
    def read(
        cls, files: DatasetFiles, settings: ReadingSettings, on_error: Callable[[str], None] = raise_input_error
    ) -> Source:
        """Read the annotations of a dataset.

        Args:
            files: of the dataset.
            settings: how to read them.
            on_error: takes errors after which reading can continue.

        Raises:
            InputError: see `read_annotations`; or the number of classes is not that of the settings.
        """
        annotations = read_annotations(files.annotations, files.class_list, on_error)
        num_class = len(annotations.class_names)
        if settings.num_class not in (None, num_class):
            on_error(f"--num_class {settings.num_class}: {files.annotations} has {num_class} classes; leave it out")
        usual = usual_subsets(annotations.subsets)
        subsets = {
            "train": annotations.subset_named(settings.train_subset or usual["train"]),
            "test": annotations.subset_named(settings.test_subset or usual["test"]),
        }
        return cls(files, settings, annotations, subsets)

    @property
    def simulated(self) -> bool:
        """Whether the features are simulated, see prepare/make_demo.py."""
        return self.files.name == "Demo" or (self.files.features.parent / SIMULATED_MARK).exists()

    @property
    def facts(self) -> Facts:
        """What files depend on that are made of this dataset."""
        return Facts(tuple(self.annotations.class_names), self.settings.feature_fps, self.settings.snippet_frames)

    def weights_record(
        self, features: Features | None, *, recipe: str, roi_size: int, hidden_size: int | None
    ) -> WeightsRecord:
        """What weights that are trained on this dataset depend on.

        Args:
            features: of the dataset, of which one has been read; None if not yet.
            recipe: that they are trained with.
            roi_size: R.
            hidden_size: H; None takes D.
        """
        width, modalities = (features.feature_size, features.modalities) if features else (None, None)
        return WeightsRecord(
            **vars(self.facts),
            feature_size=width,
            modalities=modalities,
            hidden_size=hidden_size or width,
            roi_size=roi_size,
            recipe=recipe,
            version=__version__,
            dataset=self.files.name,
            simulated=self.simulated or None,
        )

    def videos(self, part: str) -> list[str]:
        """The videos of a part, in the order of the annotations.

        Raises:
            InputError: its subset has no video, or none with features.
        """
        videos = self.annotations.videos_of(self.subsets[part])
        if self.without_features.keys() >= set(videos):
            raise InputError(
                f"{self.files.features}: none of the {len(videos)} videos of subset {self.subsets[part]!r} has "
                f"features: {shorten_list(videos)}; expected {EXPECTED}; " + self.features().instead()
            )
        return [video for video in videos if video not in self.without_features]

    @cached_property
    def without_features(self) -> dict[str, str]:
        """The videos that are left out, and what each lacks; empty unless `missing_features` is `skip`."""
        if self.settings.missing_features == "error" or not self.files.features.exists():
            return {}
        features = self.features()
        lacking = ((video, features.lack(i)) for i, video in enumerate(features.videos) if is_plain_name(video))
        return {video: lack for video, lack in lacking if lack is not None}

    def left_out(self, part: str) -> dict[str, str]:
        """The videos of a part that are left out, see `without_features`."""
        videos = self.annotations.videos_of(self.subsets[part]) if self.without_features else []
        return {video: self.without_features[video] for video in videos if video in self.without_features}

    def ground_truth(self, part: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The instances of the videos of a part, and those of the videos that are left out."""
        truth = self.annotations.ground_truth(self.subsets[part])
        is_left_out = truth["video"].isin(self.without_features)
        return truth[~is_left_out].reset_index(drop=True), truth[is_left_out].reset_index(drop=True)

    def require_batch(self, batch_size: int) -> None:
        """Check that the training videos fill a batch.

        Raises:
            InputError: there are fewer.
        """
        count = len(self.videos("train"))
        if count < batch_size:
            raise InputError(f"--batch_size {batch_size}: there are only {count} training videos; choose a smaller one")

    def features(self) -> Features:
        """The features of all videos, the same each time; files are read when a video is."""
        return self._features

    @cached_property
    def _features(self) -> Features:
        settings = self.settings
        return Features(
            self.files.features,
            self.annotations.videos,
            settings.crop,
            settings.feature_size,
            modalities=settings.modalities,
            crop_axis=settings.crop_axis,
        )

    def known_lengths(self, videos: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
        """Seconds of videos: where `known` has none, those of their features, if these are in files; else nan.

        Args:
            videos: of the dataset.
            known: seconds of videos; nan, or no entry, where unknown.
        """
        lengths = {video: known.get(video, math.nan) for video in videos}
        unknown = [video for video, length in lengths.items() if math.isnan(length)]
        if unknown and self.files.features.is_dir():
            for video, i in zip(unknown, self.indices(unknown), strict=True):
                with suppress(InputError):  # they are not what is read here
                    lengths[video] = self.features().length(i) / self.settings.rate
        return lengths

    def indices(self, videos: Sequence[str]) -> list[int]:
        """The places of videos in the annotations."""
        index_of = {video: i for i, video in enumerate(self.annotations.videos)}
        return [index_of[video] for video in videos]
