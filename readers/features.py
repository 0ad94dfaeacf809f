"""The features of a dataset's videos, and the check of each when it is read (SPEC section 1).

Either one object array holds all videos, or a folder holds for each video one of

    <video>.npy                              [T, D]: RGB, then flow
    <video>-rgb.npz and <video>-flow.npz     `feature` [crops, T, D/2] each, as the usual I3D extractors write it
    rgb/<video>.npy and flow/<video>.npy     [T, D/2] each

or the same with `v_` before the video's name, as in many releases of ActivityNet features. Features of one modality
may have any width; where they are asked for, one of the two files is enough.

Axes: T snippets of a video, D features, RGB then flow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from readers.arrays import map_array, read_archive, read_array
from utils import InputError, is_plain_name, log, raise_input_error, release_memory, shorten_list

MAX_FEATURE_SIZE = 8192  # the network has three times the square of that in weights
SIMULATED_MARK = "SIMULATED.txt"  # a file beside simulated features; reports say so wherever they show figures

# The files of a video, with braces for its name; if there are two, they hold RGB and flow.
LAYOUTS = (("{}.npy",), ("{}-rgb.npz", "{}-flow.npz"), ("rgb/{}.npy", "flow/{}.npy"))


class Width(NamedTuple):
    """The width that all features must have."""

    size: int  # D
    source: str  # what says so, for messages


class Features:
    """The features of all videos, in the order of the annotations.

    The object array is read into memory as a whole. The `.npy` files of a folder are mapped while they are read.

    Args:
        path: the object array, or the folder.
        videos: their names.
        crop: which crop of `[crops, T, D/2]` features to take; None averages them.
        feature_size: D that all videos must have; None takes that of the video that is read first.
        modalities: 2 if features are RGB and flow, 1 if they are one kind; None takes 2 unless D is odd.

    Attributes:
        width: the required width; None until it is known.
        modality_lengths: T of RGB and of flow, for the videos read so far in which the two differ.

    Raises:
        InputError: the array is damaged, or its number of videos is not that of the annotations.
    """

    def __init__(
        self,
        path: Path,
        videos: Sequence[str],
        crop: int | None = None,
        feature_size: int | None = None,
        *,
        modalities: int | None = None,
    ) -> None:
        self.path, self.videos, self.crop = path, videos, crop
        self.in_memory = None if path.is_dir() else read_object_array(path, videos)
        self._modalities = modalities
        self.width: Width | None = None
        if feature_size is not None:
            self.require_width(Width(feature_size, "--feature_size is"))
        self.modality_lengths: dict[int, tuple[int, int]] = {}
        self._names = set(videos)
        self._files: dict[int, list[Path]] = {}  # found so far: on network file systems, looking for files is slow
        self._num_reads = 0

    @property
    def feature_size(self) -> int:
        """D. At least one video must have been read, or `feature_size` given."""
        assert self.width is not None, "no features have been read"
        return self.width.size

    @property
    def modalities(self) -> int:
        """How many modalities the features have, 1 or 2; known when the width is."""
        return self._modalities or (1 if self.feature_size % 2 else 2)

    def require_width(self, width: Width) -> None:
        """Require a width of all videos; a notice says so if it makes the features one modality."""
        self.width = width
        if self._modalities is None and self.modalities == 1:
            log.info(f"notice: features are {width.size} wide, an odd number: taken as one modality (--modalities 1)")

    def files(self, i: int) -> list[Path]:
        """Find the file of a video, or its two files if RGB and flow are apart; empty if it has none.

        Raises:
            InputError: the video's name cannot be a file name.
        """
        if self.in_memory is not None:
            return [self.path]
        if i not in self._files:
            self._files[i] = self._find(self.videos[i])
        return self._files[i]

    def _find(self, video: str) -> list[Path]:
        names = [video] if f"v_{video}" in self._names else [video, f"v_{video}"]  # which may be another video
        for name, layout in itertools.product(names, LAYOUTS):
            files = [feature_file(self.path, name, form) for form in layout]
            if there := [file for file in files if file.is_file()]:
                return there if self._modalities == 1 else files  # if one of two is missing, reading says so
        return []

    def where(self, i: int) -> str:
        """The video's file or files, for messages."""
        return " and ".join(map(str, self.files(i) or [self.path]))

    def require(self, chosen: Sequence[int], on_error: Callable[[str], None] = raise_input_error) -> list[int]:
        """Check that the chosen videos have files; free the memory of the others.

        Args:
            chosen: indices of videos.
            on_error: takes the error that names the videos without files.

        Returns:
            The chosen videos that have files.

        Raises:
            InputError: some have none.
        """
        available: list[int] = []
        missing: list[int] = []
        for i in chosen:
            if is_plain_name(self.videos[i]):  # other names are reported by the reader of annotations
                (available if self.files(i) else missing).append(i)
        if missing:
            names = shorten_list([self.videos[i] for i in missing], 5 if on_error is raise_input_error else None)
            layouts = ", or ".join(" with ".join(name.format("<video>") for name in layout) for layout in LAYOUTS)
            on_error(
                f"{self.path}: {len(missing)} of {len(chosen)} videos have no file: {names}; expected {layouts}; add "
                "them, or remove the folder if the features are in one array"
            )
        for i in set(range(len(self.videos))) - set(chosen):
            self.forget(i)
        return available

    def read(self, i: int, *, any_size: bool = False) -> Tensor:
        """Read one video's features, and check them.

        Args:
            i: index of the video.
            any_size: do not compare their width with that of other videos.

        Returns:
            `[T, D]` float32.

        Raises:
            InputError: a file is missing or damaged, see `check_features`; or D differs from the required width.
        """
        files = self.files(i)
        if len(files) == 2 and (missing := [file for file in files if not file.is_file()]):
            raise InputError(
                f"{missing[0]}: no such file; RGB and flow features go together, and --modalities 1 takes one alone"
            )
        features = check_features(self._stored(i), self.where(i), self.videos[i], self._modalities)
        if not any_size:
            if self.width is None:
                self.require_width(self.width_of(i, features.shape[1]))
            self.check_width(i, features.shape)
        self._num_reads += 1
        if self._num_reads % 16 == 0:  # often enough to limit the peak of memory, and too rare to cost time
            release_memory()
        return features

    def read_again(self, i: int) -> Tensor:
        """Read a video that was read and checked before, without checking it again."""
        return as_tensor(self._stored(i))

    def forget(self, i: int) -> None:
        """Free the memory of a video that is not needed again."""
        if self.in_memory is not None:
            self.in_memory[i] = None

    def width_of(self, i: int, feature_size: int) -> Width:
        """The width of a video, as a requirement for others."""
        return Width(feature_size, f"those of {self.videos[i]} are")

    def check_width(self, i: int, shape: Sequence[int]) -> None:
        """Check the width of a video.

        Args:
            i: index of the video.
            shape: `[T, D]` of its features.

        Raises:
            InputError: D is not the required width.
        """
        (num_snippets, feature_size), width = shape, self.width
        assert width is not None, "no width is required yet"
        if feature_size != width.size:
            turned = "; rows and columns may be exchanged" if num_snippets == width.size else ""
            raise InputError(
                f"{self.where(i)}: video {self.videos[i]}: features are {feature_size} wide, but {width.source} "
                f"{width.size}{turned}"
            )

    def _stored(self, i: int) -> Any:
        """The features as they are stored, RGB and flow joined."""
        if self.in_memory is not None:
            return self.in_memory[i]
        files = self.files(i) or [feature_file(self.path, self.videos[i])]
        parts = [self._part(file) for file in files]
        if len(parts) == 1:
            return parts[0]
        joined = _join(parts, self.where(i), self.videos[i], equal=self._modalities != 1)
        rgb, flow = map(len, parts)
        if rgb != flow:
            self.modality_lengths[i] = (rgb, flow)
        return joined

    def _part(self, file: Path) -> np.ndarray:
        """The content of one file; crops are averaged or chosen."""
        if file.suffix == ".npy":
            return map_array(file)
        array = read_extracted(file)
        if array.ndim == 3 and len(array):  # [crops, T, D/2]
            if self.crop is not None and self.crop >= len(array):
                raise InputError(f"{file}: holds {len(array)} crops, so --crop goes from 0 to {len(array) - 1}")
            precise = np.promote_types(array.dtype, np.float32)
            with np.errstate(invalid="ignore", over="ignore"):  # `check_features` finds values that are not finite
                array = array.mean(0, dtype=precise) if self.crop is None else array[self.crop]
        return array


def temporal_means(features: Features, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Read videos once, one at a time.

    Returns:
        Their temporal means `[B, D]`, and their lengths in snippets `[B]`.

    Raises:
        InputError: see `Features.read`.
    """
    means, lengths = [], []
    for i in tqdm(chosen, desc="reading features", unit="video", leave=False):
        raw = features.read(i)
        features.forget(i)
        means.append(raw.mean(0))
        if not means[-1].isfinite().all():
            raise InputError(f"{features.where(i)}: video {features.videos[i]}: features are too large for their mean")
        lengths.append(len(raw))
    return torch.stack(means), torch.tensor(lengths)


def feature_file(folder: Path, video: str, name: str = LAYOUTS[0][0]) -> Path:
    """The file of a video in a folder; `name` has braces for the video's name.

    Raises:
        InputError: the video's name cannot be a file name.
    """
    if not is_plain_name(video):
        raise InputError(f"{folder}: video name {video!r} cannot be a file name")
    return folder / name.format(video)


def read_object_array(path: Path, videos: Sequence[str]) -> np.ndarray:
    """Read the object array of all videos: one `[T, D]` array each, in the order of the annotations.

    Raises:
        InputError: the file is damaged, or its number of videos is not that of the annotations.
    """
    features = read_array(path)
    stacked = features.ndim == 3 and features.dtype.kind == "f"  # numpy stacks videos of equal length
    if not stacked and (features.ndim != 1 or features.dtype != object):
        raise InputError(f"{path}: expected an object array of [T, D] arrays, found {features.dtype} {features.shape}")
    if len(features) != len(videos):
        raise InputError(f"{path}: holds {len(features)} videos, but the annotations list {len(videos)}")
    if stacked:
        separate = np.empty(len(features), dtype=object)
        separate[:] = list(features)
        return separate
    return features


def read_extracted(path: Path) -> np.ndarray:
    """Read the array `feature` of an extractor's `.npz` file.

    Raises:
        InputError: the file is missing or damaged, or holds no such array of floats.
    """
    array = read_archive(path, "feature")
    if array.dtype.kind != "f":
        raise InputError(f"{path}: expected floats, found {array.dtype} {list(array.shape)}")
    return array


def _join(parts: Sequence[np.ndarray], where: str, video: str, *, equal: bool) -> np.ndarray:
    """Join RGB and flow, cut to the shorter of the two: many extractors give flow one snippet less.

    Args:
        parts: `[T, D/2]` each.
        where: their files, for messages.
        video: its name, for messages.
        equal: whether they must be of equal width.
    """
    fit = all(part.ndim == 2 and part.dtype.kind == "f" for part in parts)
    if not fit or (equal and parts[0].shape[1] != parts[1].shape[1]):
        shapes = " and ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
        raise InputError(f"{where}: video {video}: expected RGB and flow of equal width, found {shapes}")
    length = min(len(part) for part in parts)
    return np.concatenate([part[:length] for part in parts], axis=1)


def check_features(array: Any, where: str, video: str, modalities: int | None = None) -> Tensor:
    """Check one video's features, and convert them to float32 `[T, D]`.

    Raises:
        InputError: not a `[T, D]` array of finite numbers with T >= 1 and D >= 2, or D is odd and `modalities` is 2.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        kind = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{where}: video {video}: expected a [T, D] array of floats, found {kind}")
    if array.shape[1] < 2:
        raise InputError(f"{where}: video {video}: width {array.shape[1]}; expected at least 2")
    if array.shape[1] % 2 and modalities == 2:
        raise InputError(
            f"{where}: video {video}: width {array.shape[1]}; expected RGB and flow of equal width, since --modalities "
            "is 2; --modalities 1 takes features of any width"
        )
    if array.shape[1] > MAX_FEATURE_SIZE:
        raise InputError(
            f"{where}: video {video}: width {array.shape[1]}; a network for more than {MAX_FEATURE_SIZE} is too large"
        )
    features = as_tensor(array)
    finite = features.isfinite().all(1)
    if not finite.all():
        snippet = int((~finite).nonzero()[0])
        raise InputError(
            f"{where}: video {video}: snippet {snippet} is not finite in float32; extract this video again"
        )
    return features


def as_tensor(array: np.ndarray) -> Tensor:
    """Copy to float32; values outside its range become inf."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def check_range(features: Tensor, where: str, video: str, pooled_dtype: torch.dtype) -> None:
    """Check that differences of features fit in the type that pooled proposals are kept in.

    Raises:
        InputError: that type is float16, and they may not.
    """
    limit = torch.finfo(torch.float16).max / 2
    if pooled_dtype == torch.float16 and (largest := float(features.abs().max())) > limit:
        raise InputError(
            f"{where}: video {video}: features reach {largest:g}, but --pooled_dtype float16 holds only differences "
            f"up to {limit:g}; choose float32"
        )
