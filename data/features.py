"""The features of a dataset's videos as they lie on disk, and the check of each when it is read (SPEC section 1).

Either one object array holds all videos, or a folder holds, of each video, one of

    <video>.npy, or v_<video>.npy            [T, D]: RGB, then flow; ActivityNet's files often have the v_
    <video>-rgb.npz and <video>-flow.npz     `feature` [crops, T, D/2] each, as the usual I3D extractors write it
    rgb/<video>.npy and flow/<video>.npy     [T, D/2] each

Axes: T snippets of a video, D features, RGB then flow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.arrays import map_array, read_array
from utils import InputError, is_plain_name, some_of, stop

# Of RGB and flow, where they are apart; the video's name goes into the braces.
LAYOUTS = (("{}.npy",), ("v_{}.npy",), ("{}-rgb.npz", "{}-flow.npz"), ("rgb/{}.npy", "flow/{}.npy"))


class Features:
    """The features of all videos, in the order of the annotations.

    The object array is in memory as a whole; `.npy` files of a folder are mapped while they are read.

    Args:
        path: the object array, or the folder.
        videos: their names.
        crop: which crop of `[crops, T, D/2]` features to take; None averages them.

    Raises:
        InputError: the array is damaged, or its number of videos is not that of the annotations.
    """

    def __init__(self, path: Path, videos: Sequence[str], crop: int | None = None) -> None:
        self.path, self.videos, self.crop = path, videos, crop
        self.in_memory = None if path.is_dir() else read_object_array(path, videos)

    def files(self, i: int) -> list[Path]:
        """The file or, of a video whose RGB and flow are apart, the two files; none if there are none.

        Raises:
            InputError: the video's name cannot name a file.
        """
        if self.in_memory is not None:
            return [self.path]
        for layout in LAYOUTS:
            files = [feature_file(self.path, self.videos[i], name) for name in layout]
            if any(file.is_file() for file in files):  # of two, reading names the one that is missing
                return files
        return []

    def require(self, chosen: Sequence[int], on_error: Callable[[str], None] = stop) -> None:
        """See that these videos are there, and give back the memory of all others.

        Raises:
            InputError: one of these has no file.
        """
        if missing := [self.videos[i] for i in chosen if not self.files(i)]:
            layouts = ", or ".join(" with ".join(name.format("<video>") for name in layout) for layout in LAYOUTS)
            names = some_of(missing, 5 if on_error is stop else None)
            on_error(
                f"{self.path}: {len(missing)} of {len(chosen)} videos have no file: {names}; expected "
                f"{layouts}; add them, or remove the folder if the features are in one array"
            )
        for i in set(range(len(self.videos))) - set(chosen):
            self.forget(i)

    def read(self, i: int, feature_size: int | None = None) -> Tensor:
        """One video's features as float32 `[T, D]`, checked.

        Raises:
            InputError: a file is missing or damaged, or see `check_features`.
        """
        return check_features(self._stored(i), self.file(i), self.videos[i], feature_size)

    def read_again(self, i: int) -> Tensor:
        """The same, of a video that was read before, and without checking it again."""
        return as_tensor(self._stored(i))

    def file(self, i: int) -> Path:
        """The video's file, or the first of two, for messages."""
        return next(iter(self.files(i)), self.path)

    def forget(self, i: int) -> None:
        """Give back the memory of a video that is not needed again."""
        if self.in_memory is not None:
            self.in_memory[i] = None

    def _stored(self, i: int) -> Any:
        if self.in_memory is not None:
            return self.in_memory[i]
        files = self.files(i) or [feature_file(self.path, self.videos[i])]
        parts = [self._part(file) for file in files]
        return parts[0] if len(parts) == 1 else _join(parts, files[0], self.videos[i])

    def _part(self, file: Path) -> np.ndarray:
        if file.suffix == ".npy":
            return map_array(file)
        array = read_extracted(file)
        if array.ndim == 3 and len(array):  # [crops, T, D/2]
            if self.crop is not None and self.crop >= len(array):
                raise InputError(f"{file}: holds {len(array)} crops, so --crop goes from 0 to {len(array) - 1}")
            precise = np.promote_types(array.dtype, np.float32)
            array = array.mean(0, dtype=precise) if self.crop is None else array[self.crop]
        return array


def temporal_means(features: Features, chosen: Sequence[int], feature_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Read videos once, and keep their temporal means `[B, D]` and their lengths `[B]`.

    Raises:
        InputError: see `Features.read`; `feature_size` is None to take that of the first video.
    """
    means, lengths = [], []
    for i in tqdm(chosen, desc="reading features", unit="video", leave=False):
        raw = features.read(i, feature_size)
        feature_size = raw.shape[1]
        features.forget(i)
        means.append(raw.mean(0))
        lengths.append(len(raw))
    return torch.stack(means), torch.tensor(lengths)


def feature_file(folder: Path, video: str, name: str = LAYOUTS[0][0]) -> Path:
    """The file of a video in a folder; `name` has braces for the video's name.

    Raises:
        InputError: the video's name cannot name a file.
    """
    if not is_plain_name(video):
        raise InputError(f"{folder}: video {video!r} cannot name a file; use one array for all videos")
    return folder / name.format(video)


def read_object_array(path: Path, videos: Sequence[str]) -> np.ndarray:
    """The object array of feature arrays, one `[T, D]` per video, in the order of the annotations.

    Raises:
        InputError: the file is damaged, or its number of videos is not that of the annotations.
    """
    features = read_array(path)
    if features.ndim != 1 or features.dtype != object:
        if features.ndim == 3 and features.dtype.kind == "f":  # numpy stacks videos of one length by itself
            stacked, features = features, np.empty(len(features), dtype=object)
            features[:] = list(stacked)
        else:
            raise InputError(
                f"{path}: expected an object array of [T, D] arrays, found {features.dtype} {features.shape}"
            )
    if len(features) != len(videos):
        raise InputError(f"{path}: holds {len(features)} videos, but the annotations list {len(videos)}")
    return features


def read_extracted(path: Path) -> np.ndarray:
    """The array `feature` of an extractor's `.npz` file.

    Raises:
        InputError: the file is missing or damaged, or holds no such array of numbers.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:  # numpy leaves bad ones open
            if "feature" not in content:
                raise InputError(f"{path}: expected an array named feature, found {some_of(content.files) or 'none'}")
            return content["feature"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; RGB and flow features go together") from None
    except InputError:
        raise
    except Exception as error:  # a damaged archive can raise whatever its parts do
        raise InputError(f"{path}: not a readable .npz file of numbers ({error}); extract this video again") from None


def _join(parts: Sequence[np.ndarray], path: Path, video: str) -> np.ndarray:
    """RGB and flow side by side, both cut to the shorter one, since extractors often give flow a snippet less."""
    if any(part.ndim != 2 or part.dtype.kind != "f" for part in parts) or parts[0].shape[1] != parts[1].shape[1]:
        found = " and ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
        raise InputError(f"{path}: video {video}: expected RGB and flow of equal width, found {found}")
    length = min(len(part) for part in parts)
    return np.concatenate([part[:length] for part in parts], axis=1)


def check_features(array: Any, path: Path, video: str, feature_size: int | None) -> Tensor:
    """One video's features as float32 `[T, D]`.

    Raises:
        InputError: not a `[T, D]` array of finite numbers with T >= 1, D even and D = feature_size if given.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{path}: video {video}: expected a [T, D] array of floats, found {found}")
    if feature_size is not None:
        check_width(array.shape, path, video, feature_size)
    if array.shape[1] < 2 or array.shape[1] % 2:
        raise InputError(f"{path}: video {video}: width {array.shape[1]}; expected RGB and flow of equal width")
    features = as_tensor(array)
    finite = features.isfinite().all(1)
    if not finite.all():
        snippet = int((~finite).nonzero()[0])
        raise InputError(f"{path}: video {video}: snippet {snippet} is not finite in float32; extract this video again")
    return features


def check_width(shape: Sequence[int], path: Path, video: str, feature_size: int) -> None:
    """Refuse features of another width than those of other videos.

    Raises:
        InputError: `[T, D]` is of another D.
    """
    if shape[1] != feature_size:
        turned = "; rows and columns may be exchanged" if shape[0] == feature_size else ""
        raise InputError(
            f"{path}: video {video}: features are {shape[1]} wide, not {feature_size} like --feature_size or the "
            f"other videos{turned}"
        )


def as_tensor(array: np.ndarray) -> Tensor:
    """A float32 copy; what float32 cannot hold becomes inf."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def check_range(features: Tensor, path: Path, video: str, pooled_dtype: torch.dtype) -> None:
    """Refuse features whose differences float16 cannot hold, if that is what is asked for.

    Raises:
        InputError: as said.
    """
    limit = torch.finfo(torch.float16).max / 2
    if pooled_dtype == torch.float16 and (largest := float(features.abs().max())) > limit:
        raise InputError(
            f"{path}: video {video}: features reach {largest:g}, and --pooled_dtype float16 can hold differences of "
            f"up to {limit:g}; choose float32"
        )
