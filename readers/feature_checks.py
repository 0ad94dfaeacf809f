"""Checks of one video's features when they are read: whether they can be used, and whether they can be right.

Axes: T snippets, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from readers.findings import DOUBTFUL, USELESS, Findings
from utils import InputError, shorten_list

MAX_FEATURE_SIZE = 8192  # the network has three times the square of that in weights
# Features and duration of a video, or its RGB and flow, may differ by a snippet, and by this share of the longer.
LENGTH_TOLERANCE = 0.02


def check_features(array: Any, where: str, video: str, modalities: int | None = None) -> Tensor:
    """Check one video's features, and convert them to float32 `[T, D]`.

    Raises:
        InputError: not a `[T, D]` array of finite numbers with T >= 1 and D >= 2, or D is odd and `modalities` is 2.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu" or not len(array):
        kind = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        empty = isinstance(array, np.ndarray) and array.ndim == 2 and not len(array)
        remedy = "; extract it again, or remove the file (and train with --missing_features skip)" if empty else ""
        raise InputError(f"{where}: video {video}: expected a [T, D] array of numbers, found {kind}{remedy}")
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


# Kinds of features that are the same in all snippets, and what to do.
_CONSTANT = (
    "features that do not vary over time, so nothing can be found in them",
    "make the features of these videos again, or leave the videos out",
)
_HALF_CONSTANT = (
    "features of which one modality does not vary over time",
    "make the features of these videos again, unless there was nothing to see or no motion",
)


class FeatureCheck:
    """Notices features that do not vary, and equal features of different videos, while videos are read one by one.

    Args:
        modalities: 2 if features are RGB and flow, each of which must vary, 1 if they are one kind; None takes 2 unless
            D is odd, as `readers.features.Features` does.
    """

    SAMPLED = 4  # rows that are compared for equality, beside T and the sum over all

    def __init__(self, modalities: int | None = None) -> None:
        self._modalities = modalities
        self._constant: dict[str, tuple[tuple[str, str], str]] = {}  # video -> which of the two kinds, and how
        self._doubled: dict[str, None] = {}  # videos whose RGB and flow are equal
        self._alike: dict[int, dict[str, None]] = {}  # hash of some rows -> videos, in order

    def add(self, video: str, features: Tensor) -> None:
        """Look at the features `[T, D]` of a video."""
        is_one = self._modalities == 1 or features.shape[1] % 2
        parts = (features,) if is_one else features.chunk(2, dim=1)
        constant = [_is_constant(part) for part in parts]
        if any(constant):
            is_zero = not any(part[0].any() for part, same in zip(parts, constant, strict=True) if same)
            how = "all zero" if is_zero else f"the same in all {len(features)} snippets"
            half = f"{'RGB' if constant[0] else 'flow'} {how}"
            self._constant[video] = (_CONSTANT, how) if all(constant) else (_HALF_CONSTANT, half)
        elif len(parts) == 2 and torch.equal(parts[0][0], parts[1][0]) and torch.equal(*parts):
            self._doubled[video] = None
        if not all(constant):
            rows, total = features[:: max(1, len(features) // self.SAMPLED)].numpy(), float(features.sum())
            self._alike.setdefault(hash((features.shape, rows.tobytes(), total)), {})[video] = None

    def report(self, findings: Findings) -> None:
        """Add what was noticed."""
        for video, ((kind, remedy), how) in self._constant.items():
            findings.warn(kind, f"{video}: {how}", remedy, weight=USELESS)
        for video in self._doubled:
            remedy = "make the features again, or keep one half and pass --modalities 1"
            findings.warn("features whose RGB and flow are equal", video, remedy, weight=DOUBTFUL)
        for videos in self._alike.values():
            if len(videos) > 1:
                findings.warn(
                    "equal features of different videos",
                    shorten_list([*videos]),
                    "make their features again, or leave all but one out",
                    weight=USELESS,
                )


def _is_constant(features: Tensor) -> bool:
    """Whether all T rows are equal: of several rows, or of one that is zero."""
    first = features[0]
    if len(features) == 1:
        return not first.any()
    return bool((features[len(features) // 2] == first).all()) and bool((features == first).all())


def check_modality_lengths(modality_lengths: Mapping[str, tuple[int, int]], findings: Findings) -> None:
    """Warn of videos whose RGB and flow differ in length.

    Args:
        modality_lengths: T of RGB and of flow, of the videos in which the two differ.
        findings: takes the warnings.
    """
    for video, (rgb, flow) in modality_lengths.items():
        if abs(rgb - flow) > max(1, LENGTH_TOLERANCE * max(rgb, flow)):
            detail = f"{video}: {rgb} and {flow} snippets; the first {min(rgb, flow)} are used"
            findings.warn("RGB and flow of different length", detail)
