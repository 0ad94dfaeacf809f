"""The features of a dataset's videos as they lie on disk, and the check of each when it is read (SPEC section 1).

Either one object array holds all videos, or a folder holds, of each video, one of

    <video>.npy                              [T, D]: RGB, then flow
    <video>-rgb.npz and <video>-flow.npz     `feature` [crops, T, D/2] each, as the usual I3D extractors write it
    rgb/<video>.npy and flow/<video>.npy     [T, D/2] each

or the same with `v_` before the video's name, as ActivityNet's files often have it.

Axes: T snippets of a video, D features, RGB then flow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from readers.arrays import map_array, read_archive, read_array
from utils import InputError, is_plain_name, raise_input_error, release_memory, shorten_list

MAX_FEATURE_SIZE = 8192  # features; a network has three times the square of that in weights

# Of RGB and flow, where they are apart; the video's name goes into the braces.
LAYOUTS = (("{}.npy",), ("{}-rgb.npz", "{}-flow.npz"), ("rgb/{}.npy", "flow/{}.npy"))


class Features:
    """The features of all videos, in the order of the annotations.

    The object array is in memory as a whole; `.npy` files of a folder are mapped while they are read.

    Args:
        path: the object array, or the folder.
        videos: their names.
        crop: which crop of `[crops, T, D/2]` features to take; None averages them.
        feature_size: D to insist on; None insists on that of the video that is read first.

    Raises:
        InputError: the array is damaged, or its number of videos is not that of the annotations.
    """

    def __init__(
        self, path: Path, videos: Sequence[str], crop: int | None = None, feature_size: int | None = None
    ) -> None:
        self.path, self.videos, self.crop = path, videos, crop
        self.in_memory = None if path.is_dir() else read_object_array(path, videos)
        self.feature_size, self.size_of = feature_size, "--feature_size is"
        self.apart: dict[int, list[int]] = {}  # T of RGB and of flow, of the videos read in which these differ
        self._names = set(videos)
        self._reads = 0

    def files(self, i: int) -> list[Path]:
        """The file or, of a video whose RGB and flow are apart, the two files; none if there are none.

        Raises:
            InputError: the video's name cannot name a file.
        """
        if self.in_memory is not None:
            return [self.path]
        video = self.videos[i]
        names = [video] if f"v_{video}" in self._names else [video, f"v_{video}"]  # which may be another video
        for name, layout in itertools.product(names, LAYOUTS):
            files = [feature_file(self.path, name, form) for form in layout]
            if any(file.is_file() for file in files):  # of two, reading names the one that is missing
                return files
        return []

    def where(self, i: int) -> str:
        """The video's file or files, for messages."""
        return " and ".join(map(str, self.files(i) or [self.path]))

    def require(self, chosen: Sequence[int], on_error: Callable[[str], None] = raise_input_error) -> list[int]:
        """See that these videos are there, and give back the memory of all others; returns those that are.

        Raises:
            InputError: one of these has no file.
        """
        there, missing = [], []
        for i in chosen:
            if is_plain_name(self.videos[i]):  # else the annotations have been found wrong
                (there if self.files(i) else missing).append(i)
        if missing:
            names = shorten_list([self.videos[i] for i in missing], 5 if on_error is raise_input_error else None)
            layouts = ", or ".join(" with ".join(name.format("<video>") for name in layout) for layout in LAYOUTS)
            on_error(
                f"{self.path}: {len(missing)} of {len(chosen)} videos have no file: {names}; expected {layouts}; add "
                "them, or remove the folder if the features are in one array"
            )
        for i in set(range(len(self.videos))) - set(chosen):
            self.forget(i)
        return there

    def read(self, i: int, *, any_size: bool = False) -> Tensor:
        """One video's features as float32 `[T, D]`, checked.

        Raises:
            InputError: a file is missing or damaged, see `check_features`; or, unless `any_size`, D is another.
        """
        features = check_features(self._stored(i), self.where(i), self.videos[i])
        if not any_size:
            if self.feature_size is None:
                self.insist_on(i, features.shape[1])
            self.check_size(i, *features.shape)
        self._reads += 1
        if self._reads % 16 == 0:  # often enough to keep the peak of memory low, and too seldom to cost time
            release_memory()
        return features

    def read_again(self, i: int) -> Tensor:
        """The same, of a video that was read before, and without checking it again."""
        return as_tensor(self._stored(i))

    def forget(self, i: int) -> None:
        """Give back the memory of a video that is not needed again."""
        if self.in_memory is not None:
            self.in_memory[i] = None

    def insist_on(self, i: int, feature_size: int) -> None:
        """From here on every video must be as wide as this one."""
        self.feature_size, self.size_of = feature_size, f"those of {self.videos[i]} are"

    def check_size(self, i: int, num_snippets: int, feature_size: int) -> None:
        """Refuse `[T, D]` features of another D than is insisted on.

        Raises:
            InputError: as said.
        """
        if feature_size != self.feature_size:
            turned = "; rows and columns may be exchanged" if num_snippets == self.feature_size else ""
            raise InputError(
                f"{self.where(i)}: video {self.videos[i]}: features are {feature_size} wide, but {self.size_of} "
                f"{self.feature_size}{turned}"
            )

    def _stored(self, i: int) -> Any:
        if self.in_memory is not None:
            return self.in_memory[i]
        files = self.files(i) or [feature_file(self.path, self.videos[i])]
        parts = [self._part(file) for file in files]
        if len(parts) == 1:
            return parts[0]
        joined = _join(parts, self.where(i), self.videos[i])
        if len(parts[0]) != len(parts[1]):
            self.apart[i] = [len(part) for part in parts]
        return joined

    def _part(self, file: Path) -> np.ndarray:
        if file.suffix == ".npy":
            return map_array(file)
        array = read_extracted(file)
        if array.ndim == 3 and len(array):  # [crops, T, D/2]
            if self.crop is not None and self.crop >= len(array):
                raise InputError(f"{file}: holds {len(array)} crops, so --crop goes from 0 to {len(array) - 1}")
            precise = np.promote_types(array.dtype, np.float32)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found when it is checked
                array = array.mean(0, dtype=precise) if self.crop is None else array[self.crop]
        return array


def temporal_means(features: Features, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Read videos once, and keep their temporal means `[B, D]` and their lengths `[B]`.

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
        InputError: the video's name cannot name a file.
    """
    if not is_plain_name(video):
        raise InputError(f"{folder}: video {video!r} cannot name a file")
    return folder / name.format(video)


def read_object_array(path: Path, videos: Sequence[str]) -> np.ndarray:
    """The object array of feature arrays, one `[T, D]` per video, in the order of the annotations.

    Raises:
        InputError: the file is damaged, or its number of videos is not that of the annotations.
    """
    features = read_array(path)
    stacked = features.ndim == 3 and features.dtype.kind == "f"  # numpy stacks videos of one length by itself
    if not stacked and (features.ndim != 1 or features.dtype != object):
        raise InputError(f"{path}: expected an object array of [T, D] arrays, found {features.dtype} {features.shape}")
    if len(features) != len(videos):
        raise InputError(f"{path}: holds {len(features)} videos, but the annotations list {len(videos)}")
    if stacked:
        stacked, features = features, np.empty(len(features), dtype=object)
        features[:] = list(stacked)
    return features


def read_extracted(path: Path) -> np.ndarray:
    """The array `feature` of an extractor's `.npz` file.

    Raises:
        InputError: the file is missing or damaged, or holds no such array of numbers.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; RGB and flow features go together")
    array = read_archive(path, "feature")
    if array.dtype.kind != "f":
        raise InputError(f"{path}: expected floats, found {array.dtype} {list(array.shape)}")
    return array


def _join(parts: Sequence[np.ndarray], where: str, video: str) -> np.ndarray:
    """RGB and flow side by side, both cut to the shorter one, since extractors often give flow a snippet less."""
    if any(part.ndim != 2 or part.dtype.kind != "f" for part in parts) or parts[0].shape[1] != parts[1].shape[1]:
        found = " and ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
        raise InputError(f"{where}: video {video}: expected RGB and flow of equal width, found {found}")
    length = min(len(part) for part in parts)
    return np.concatenate([part[:length] for part in parts], axis=1)


def check_features(array: Any, where: str, video: str) -> Tensor:
    """One video's features as float32 `[T, D]`.

    Raises:
        InputError: not a `[T, D]` array of finite numbers with T >= 1 and D even.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{where}: video {video}: expected a [T, D] array of floats, found {found}")
    if array.shape[1] < 2 or array.shape[1] % 2:
        raise InputError(f"{where}: video {video}: width {array.shape[1]}; expected RGB and flow of equal width")
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
    """A float32 copy; what float32 cannot hold becomes inf."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def check_range(features: Tensor, where: str, video: str, pooled_dtype: torch.dtype) -> None:
    """Refuse features whose differences float16 cannot hold, if that is what is asked for.

    Raises:
        InputError: as said.
    """
    limit = torch.finfo(torch.float16).max / 2
    if pooled_dtype == torch.float16 and (largest := float(features.abs().max())) > limit:
        raise InputError(
            f"{where}: video {video}: features reach {largest:g}, and --pooled_dtype float16 can hold differences of "
            f"up to {limit:g}; choose float32"
        )


MARK = "SIMULATED.txt"  # beside simulated features; all that shows figures says of such data what they are
