"""Which axis of a feature array is the snippets, and which the crops.

Extractors write `[T, D]`, `[T, 1, 1, D]`, `[crops, T, D]` or `[T, crops, D]`, and do not say which. D is the last axis,
but for axes of length 1 behind it. The others are told apart by their lengths:

1. T differs from video to video, and the number of crops does not. So the axis whose length varies is T.
2. If no length varies, all axes but one may have length 1, and that one is T.
3. Else, a trained model knows the crops that its features had, if these have as many on the same axis.
4. Else, an archive's array `feature` is `[crops, T, D]`, as its extractor documents, if there are fewer crops than
   snippets, or as many crops as are usual.
5. Else, if one of two axes has a usual number of crops, it is the crops.
6. Else it is an error, and `--crop_axis` tells.

The first video with crops decides, after a look at the shapes of others; each that is read later must agree with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from utils import InputError

USUAL_CROPS = (2, 3, 5, 10)
_MOST_LOOKED_AT = 1000  # shapes of other videos, until they differ


class Crops(NamedTuple):
    """The crops of arrays with three axes."""

    axis: int  # 0 or 1
    number: int


@dataclass(frozen=True)
class Axes:
    """What the axes of an array are, but for the last, which is D.

    Attributes:
        snippets: the axis of T.
        lengths: of the axes in the video that decided; all but T must be the same in others.
        where: the files of that video, for messages.
    """

    snippets: int
    lengths: tuple[int, ...]
    where: str

    @property
    def crops(self) -> int:
        """How many crops there are."""
        return int(np.prod([length for axis, length in enumerate(self.lengths) if axis != self.snippets]))

    @property
    def of_three(self) -> Crops | None:
        """The crops, if there are several, and no axes but theirs, T and D."""
        return Crops(1 - self.snippets, self.crops) if len(self.lengths) == 2 and self.crops > 1 else None

    def require_same(self, lengths: tuple[int, ...], where: str) -> None:
        """Check that an array has as many crops as the first.

        Raises:
            InputError: it has not.
        """
        for axis, (found, first) in enumerate(zip(lengths, self.lengths, strict=True)):
            if axis != self.snippets and found != first:
                raise InputError(
                    f"{where}: {found} crops (axis {axis} of {len(lengths) + 1}), but {self.where} has {first}; "
                    "extract one of them again, or say with --crop_axis which axis is the crops"
                )

    def as_text(self) -> str:
        """As a shape."""
        return _as_text(["T" if axis == self.snippets else length for axis, length in enumerate(self.lengths)])


def _as_text(lengths: Iterable[object]) -> str:
    return f"[{', '.join(map(str, lengths))}, D]"


def find_axes(
    lengths: tuple[int, ...],
    others: Iterable[tuple[int, ...]],
    where: str,
    *,
    documented: bool = False,
    crop_axis: int | None = None,
    likely: Crops | None = None,
) -> Axes:
    """Find out what the axes of the first array with crops are.

    Args:
        lengths: of its axes but the last.
        others: those of other arrays; looked at until one differs.
        where: its file, for messages.
        documented: whether it is an extractor's array `feature`.
        crop_axis: 0 or 1, if the user says which axis is the crops.
        likely: crops of other features, that these are likely to have as well.

    Raises:
        InputError: the lengths do not tell.
    """
    if crop_axis is not None and len(lengths) == 2:
        return Axes(1 - crop_axis, lengths, where)
    long = [axis for axis, length in enumerate(lengths) if length > 1]
    usual = [axis for axis in long if lengths[axis] in USUAL_CROPS]
    snippets = None
    for other in islice(others, _MOST_LOOKED_AT):
        if varying := [axis for axis, (a, b) in enumerate(zip(lengths, other, strict=True)) if a != b]:
            if len(varying) > 1:
                raise InputError(
                    f"{where}: arrays {_as_text(lengths)} and {_as_text(other)}: one axis must be the crops, as many "
                    "in each video; expected [T, D], or [crops, T, D] with --crop_axis 0, or [T, crops, D] with 1"
                )
            snippets = varying[0]
            break
    else:
        if likely is not None and len(lengths) == 2 and lengths[likely.axis] == likely.number:
            snippets = 1 - likely.axis
        elif documented and len(lengths) == 2 and (lengths[0] in USUAL_CROPS or lengths[0] < lengths[1]):
            snippets = 1
        elif len(long) <= 1:
            snippets = long[0] if long else 0
        elif len(long) == 2 and len(usual) == 1:
            snippets = next(axis for axis in long if axis not in usual)
    if snippets is None:
        raise InputError(
            f"{where}: an array {_as_text(lengths)}, and no video of another length: which axis is the crops, and "
            "which the snippets? Say it with --crop_axis 0 or 1, or save [T, D]"
        )
    return Axes(snippets, lengths, where)


def without_trailing(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of length 1 behind D; two axes are always left."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def one_crop(array: np.ndarray, axes: Axes, crop: int | None, where: str) -> np.ndarray:
    """Take a crop of an array, or the mean of all.

    Args:
        array: of as many axes as `axes` say, and D.
        axes: what they are.
        crop: which crop; None averages them, at least in single precision.
        where: its file, for messages.

    Returns:
        `[T, D]`.

    Raises:
        InputError: there are other axes than T, crops and D, or there is no such crop.
    """
    array = np.moveaxis(array, axes.snippets, 0)  # [T, ..., D]
    if sum(length > 1 for length in array.shape[1:-1]) > 1:
        raise InputError(
            f"{where}: its arrays {axes.as_text()} have more axes than crops, snippets and features; save [T, D]"
        )
    array = array.reshape(len(array), -1, array.shape[-1])  # [T, crops, D]
    count = array.shape[1]
    if crop is not None and crop >= count:
        raise InputError(f"{where}: holds {count} crops, so --crop goes from 0 to {count - 1}")
    if count == 1 or crop is not None:
        return array[:, crop or 0]
    precise = np.promote_types(array.dtype, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # `check_features` finds values that are not finite
        return array.mean(1, dtype=precise)
