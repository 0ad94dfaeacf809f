"""The features of a dataset's videos as they lie on disk, and the check of each when it is read (SPEC section 1).

Axes: T snippets of a video, D features, RGB then flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils import InputError, is_plain_name, map_array, read_array, some_of


class Features:
    """The features of all videos, in the order of `videoname.npy`, from one object array or from a file per video.

    The object array is in memory as a whole; of a folder, `<video>.npy` is mapped while it is read.

    Args:
        path: the object array, or the folder.
        videos: their names.

    Raises:
        InputError: the array is damaged, or its number of videos is not that of the annotations.
    """

    def __init__(self, path: Path, videos: Sequence[str]) -> None:
        self.path, self.videos = path, videos
        self.in_memory = None if path.is_dir() else read_features(path, videos)

    def file(self, i: int) -> Path:
        """The file that holds a video, see `feature_file`."""
        return feature_file(self.path, self.videos[i]) if self.in_memory is None else self.path

    def array(self, i: int) -> Any:
        """A video as it is stored, not checked."""
        return map_array(self.file(i)) if self.in_memory is None else self.in_memory[i]

    def keep(self, chosen: Sequence[int]) -> None:
        """Give back the memory of all videos but these.

        Raises:
            InputError: one of these has no file.
        """
        if missing := [self.videos[i] for i in chosen if not self.file(i).is_file()]:
            raise InputError(
                f"{self.path}: {len(missing)} of {len(chosen)} videos have no file: {some_of(missing)}; add them, or "
                "remove the folder if the features are in one array"
            )
        for i in set(range(len(self.videos))) - set(chosen):
            self.forget(i)

    def forget(self, i: int) -> None:
        """Give back the memory of a video that is not needed again."""
        if self.in_memory is not None:
            self.in_memory[i] = None


def feature_file(folder: Path, video: str) -> Path:
    """The file of a video in a folder of one file per video.

    Raises:
        InputError: the video's name cannot name one.
    """
    if not is_plain_name(video):
        raise InputError(f"{folder}: video {video!r} cannot name a file; use one array for all videos")
    return folder / f"{video}.npy"


def read_features(path: Path, videos: Sequence[str]) -> np.ndarray:
    """The object array of feature arrays, one `[T, D]` per video, in the order of `videoname.npy`.

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
        raise InputError(f"{path}: holds {len(features)} videos, but videoname.npy lists {len(videos)}")
    return features


def check_features(array: Any, path: Path, video: str, feature_size: int | None) -> Tensor:
    """One video's features as float32 `[T, D]`.

    Raises:
        InputError: not a `[T, D]` array of finite numbers with T >= 1, D even and D = feature_size if given.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{path}: video {video}: expected a [T, D] array of floats, found {found}")
    if feature_size is not None and array.shape[1] != feature_size:
        raise InputError(
            f"{path}: video {video}: features are {array.shape[1]} wide, not {feature_size} like --feature_size "
            "or the first video"
        )
    if array.shape[1] < 2 or array.shape[1] % 2:
        raise InputError(f"{path}: video {video}: width {array.shape[1]}; expected RGB and flow of equal width")
    features = as_tensor(array)
    finite = features.isfinite().all(1)
    if not finite.all():
        snippet = int((~finite).nonzero()[0])
        raise InputError(f"{path}: video {video}: snippet {snippet} is not finite in float32; extract this video again")
    return features


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
