"""The features of a dataset's videos, and the check of each when it is read (SPEC section 1).

Either one object array holds all videos, or a folder holds one or two files for each, see `readers.feature_files`.
Arrays may have crops, see `readers.feature_axes`. Features of one modality may have any width; where they are asked
for, one of two files is enough.

Axes: T snippets of a video, D features, RGB then flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from readers.arrays import read_array
from readers.feature_axes import Axes, Crops, find_axes, one_crop, without_trailing
from readers.feature_checks import FeatureCheck, as_tensor, check_features, check_modality_lengths
from readers.feature_files import EXPECTED, FeatureFolder, arrays_in, feature_file, shapes_in
from readers.findings import Findings
from readers.kept_features import KeptFeatures
from utils import InputError, is_plain_name, log, raise_input_error, release_memory, shorten_list

I3D_STREAM = 1024  # width of its RGB, and of its flow
RELEASED_AFTER = 1 << 24  # bytes read: often enough to limit the peak of memory, and too rare to cost time
SIMULATED_MARK = "SIMULATED.txt"  # a file beside simulated features; reports say so wherever they show figures


class Width(NamedTuple):
    """The width that all features must have."""

    size: int  # D
    source: str  # what says so, for messages
    num_snippets: int | None = None  # T of the video that says so


class Features:
    """The features of all videos, in the order of the annotations.

    The object array is read into memory as a whole. The `.npy` files of a folder are mapped while they are read. What
    is unpacked from a file, or made of its crops, is kept until it is forgotten, see `KeptFeatures`.

    Args:
        path: the object array, or the folder.
        videos: their names.
        crop: which crop of features with crops to take; None averages them.
        crop_axis: which axis of arrays with crops, 0 or 1, is the crops; None finds out, see `readers.feature_axes`.
        feature_size: D that all videos must have; None takes that of the video that is read first.
        likely_crops: those that a model was trained with, for arrays that do not tell.
        modalities: 2 if features are RGB and flow, 1 if they are one kind; None takes 2 unless D is odd.

    Attributes:
        width: the required width; None until it is known.
        modality_lengths: T of RGB and of flow, for the videos read so far in which the two differ.
        content: what was noticed of the videos read so far, see `report`.

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
        crop_axis: int | None = None,
        likely_crops: Crops | None = None,
    ) -> None:
        self.path, self.videos, self.crop = path, videos, crop
        self.in_memory = None if path.is_dir() else read_object_array(path, videos)
        self._modalities, self._crop_axis, self._likely_crops = modalities, crop_axis, likely_crops
        self._is_one_array = False  # whether RGB and flow of the last video read came in one array
        self.width: Width | None = None
        if feature_size is not None:
            self.require_width(Width(feature_size, "--feature_size is"))
        self.modality_lengths: dict[int, tuple[int, int]] = {}
        self.content = FeatureCheck(modalities)
        self._folder = FeatureFolder(path, videos)
        self._files: dict[int, list[Path]] = {}  # found so far: on network file systems, looking for files is slow
        self._axes: dict[int, Axes] = {}  # by the number of axes of an array, but for D
        self._kept = KeptFeatures()
        self._bytes_read = 0  # since memory was released

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
        """Require a width of all videos; a notice says what follows for the modalities, if it is no usual one."""
        self.width = width
        if self._modalities is None and self.modalities == 1:
            log.info(f"notice: features are {width.size} wide, an odd number: taken as one modality (--modalities 1)")
        elif self._modalities is None and self._is_one_array and width.size == I3D_STREAM:
            log.info(
                f"notice: features are {width.size} wide, as one stream of I3D is: taken as RGB and flow of "
                f"{width.size // 2} each; if they are RGB or flow alone, pass --modalities 1"
            )

    @property
    def crops(self) -> Crops | None:
        """The crops of the arrays read so far; None if they have none."""
        return self._axes[2].of_three if 2 in self._axes else None

    def files(self, i: int) -> list[Path]:
        """Find the file of a video, or its two files if RGB and flow are apart; empty if it has none.

        Raises:
            InputError: see `FeatureFolder.find`.
        """
        if self.in_memory is not None:
            return [self.path]
        if i not in self._files:
            self._files[i] = self._folder.find(self.videos[i], alone=self._modalities == 1)
        return self._files[i]

    def lack(self, i: int) -> str | None:
        """What of a video's features is missing, for messages; None if nothing is.

        Of the object array, this is known until the video is forgotten.
        """
        if self.in_memory is not None:
            stored = self.in_memory[i]
            empty = stored is None or (isinstance(stored, (np.ndarray, list)) and not len(stored))
            return "no features" if empty else None
        files = self.files(i)
        absent = [file for file in files if not file.is_file()] if len(files) == 2 else []
        return f"no {absent[0].name}" if absent else None if files else "no features"

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
        named = [i for i in chosen if is_plain_name(self.videos[i])]  # others: see the reader of annotations
        missing = [i for i in named if self._has_nothing(i)]
        absent = set(missing)
        if missing:
            names = shorten_list([self.videos[i] for i in missing], 5 if on_error is raise_input_error else None)
            what = "features" if self.in_memory is not None else "file"
            expected = "" if self.in_memory is not None else f"; expected {EXPECTED}"
            remedy = "add them, or leave these videos out with --missing_features skip"
            if len(missing) == len(chosen):
                remedy = self.instead()
            on_error(f"{self.path}: {len(missing)} of {len(chosen)} videos have no {what}: {names}{expected}; {remedy}")
        for i in set(range(len(self.videos))) - set(chosen):
            self.forget(i)
        return [i for i in named if i not in absent]

    def instead(self) -> str:
        """What is in the folder, for a message that it has no features of any video."""
        if self.in_memory is not None:
            return "the array has no features of any"
        files = sorted(file.name for file in self.path.iterdir())
        return f"the folder has {shorten_list(files, 3)}: rename or convert them" if files else "the folder is empty"

    def _has_nothing(self, i: int) -> bool:
        """Whether a video has no features at all; of one modality alone, reading says so."""
        return self.lack(i) is not None if self.in_memory is not None else not self.files(i)

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
                f"{missing[0]}: no such file; RGB and flow features go together. --modalities 1 takes one alone, and "
                "--missing_features skip leaves such videos out"
            )
        features = check_features(self._stored(i), self.where(i), self.videos[i], self._modalities)
        if not any_size:
            if self.width is None:
                self.require_width(self.width_of(i, features.shape))
            self.check_width(i, features.shape)
        self.content.add(self.videos[i], features)
        has_crops = any(axes.crops > 1 for axes in self._axes.values())
        if self.in_memory is None and (has_crops or any(file.suffix == ".npz" for file in files)):
            self._kept.keep(i, features)
        self._bytes_read += features.nbytes
        if self._bytes_read >= RELEASED_AFTER:
            release_memory()
            self._bytes_read = 0
        return features

    def report(self, findings: Findings) -> None:
        """Add what was noticed of the videos read so far, see `readers.feature_checks`."""
        lengths = {self.videos[i]: both for i, both in self.modality_lengths.items()}
        check_modality_lengths(lengths, findings)
        self.content.report(findings)

    def read_again(self, i: int, out: Tensor | None = None) -> Tensor:
        """Read a video that was read and checked before, without checking it again.

        Args:
            i: index of the video.
            out: `[T, D]` float32 to write to.

        Raises:
            InputError: the file is gone or damaged, or not as large as `out`.
        """
        kept = self._kept.get(i)
        if out is None:
            return as_tensor(self._stored(i)) if kept is None else kept
        stored = self._stored(i) if kept is None else kept.numpy()
        if np.shape(stored) != out.shape:
            raise InputError(
                f"{self.where(i)}: video {self.videos[i]}: the features have changed since they were first read: "
                f"{list(np.shape(stored))}, not {list(out.shape)}"
            )
        with np.errstate(over="ignore"):
            np.copyto(out.numpy(), stored, casting="unsafe")
        return out

    def forget(self, i: int) -> None:
        """Free the memory of a video that is not needed again."""
        self._kept.forget(i)
        if self.in_memory is not None:
            self.in_memory[i] = None

    def width_of(self, i: int, shape: Sequence[int]) -> Width:
        """The width of a video with features of this shape `[T, D]`, as a requirement for others."""
        return Width(shape[1], f"those of {self.videos[i]} are", shape[0])

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
            remedy = "leave it out" if width.source.startswith("--") else "extract one of them again, like the others"
            if num_snippets in (width.size, width.num_snippets):
                remedy = f"rows and columns may be exchanged: save features as [T, D], or {remedy}"
            raise InputError(
                f"{self.where(i)}: video {self.videos[i]}: features are {feature_size} wide, but {width.source} "
                f"{width.size}; {remedy}"
            )

    def _stored(self, i: int) -> Any:
        """The features as they are stored, without crops, RGB and flow joined."""
        if self.in_memory is not None:
            return self._without_crops(self.in_memory[i], self.where(i))
        files = self.files(i) or [feature_file(self.path, self.videos[i])]
        parts = [
            self._without_crops(part, str(file), documented) for file in files for part, documented in arrays_in(file)
        ]
        self._is_one_array = len(parts) == 1
        if self._is_one_array:
            return parts[0]
        joined = _join(parts, self.where(i), self.videos[i], equal=self._modalities != 1)
        rgb, flow = map(len, parts)
        if rgb != flow:
            self.modality_lengths[i] = (rgb, flow)
        return joined

    def _without_crops(self, array: Any, where: str, documented: bool = False) -> Any:
        """An array `[T, D]` of one that may have crops and axes of length 1; others are returned as they are."""
        if not isinstance(array, np.ndarray) or array.ndim < 3 or array.dtype.kind not in "fiu" or not array.size:
            return array
        array = array.reshape(without_trailing(array.shape))
        if array.ndim == 2:
            return array
        return one_crop(array, self._axes_of(array.shape[:-1], where, documented), self.crop, where)

    def _axes_of(self, lengths: tuple[int, ...], where: str, documented: bool) -> Axes:
        """What the axes of an array are, see `find_axes`; the first array decides for all."""
        if (axes := self._axes.get(len(lengths))) is None:
            others = (shape[:-1] for shape in self._shapes() if len(shape) == len(lengths) + 1)
            axes = find_axes(
                lengths,
                others,
                where,
                documented=documented,
                crop_axis=self._crop_axis,
                likely=self._likely_crops,
            )
            self._axes[len(lengths)] = axes
            if axes.crops > 1:
                taken = "averaged (--crop K takes one)" if self.crop is None else f"of which --crop takes {self.crop}"
                log.info(f"notice: features are {axes.as_text()}, T snippets: {axes.crops} crops, {taken}")
        if self._crop_axis is None:
            axes.require_same(lengths, where)
        return axes

    def length(self, i: int) -> int:
        """T of a video whose features are in files, from their headers: nothing else is read.

        Raises:
            InputError: it has no features, or a file is damaged.
        """
        if (lack := self.lack(i)) is not None:
            raise InputError(f"{self.path}: video {self.videos[i]}: {lack}")
        lengths = []
        for file in self.files(i):
            for shape, documented in shapes_in(file):
                shape = without_trailing(shape)
                if len(shape) < 2:
                    raise InputError(f"{file}: video {self.videos[i]}: expected a [T, D] array, found {list(shape)}")
                axis = 0 if len(shape) == 2 else self._axes_of(shape[:-1], str(file), documented).snippets
                lengths.append(shape[axis])
        return min(lengths)

    def _shapes(self) -> Iterator[tuple[int, ...]]:
        """The shapes of the arrays of all videos, without reading them; what cannot be read is left out."""
        for i in range(len(self.videos)):
            try:
                if self.in_memory is not None:
                    shapes = [getattr(self.in_memory[i], "shape", ())]
                else:
                    shapes = [shape for file in self.files(i) for shape, _ in shapes_in(file)]
            except InputError:
                continue
            yield from map(without_trailing, shapes)


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


def read_object_array(path: Path, videos: Sequence[str]) -> np.ndarray:
    """Read the object array of all videos: one `[T, D]` array each, in the order of the annotations.

    Raises:
        InputError: the file is damaged, or its number of videos is not that of the annotations.
    """
    features = read_array(path)
    stacked = features.ndim >= 3 and features.dtype.kind in "fiu"  # numpy stacks videos of equal length
    if not stacked and (features.ndim != 1 or features.dtype != object):
        raise InputError(f"{path}: expected an object array of [T, D] arrays, found {features.dtype} {features.shape}")
    if len(features) != len(videos):
        raise InputError(f"{path}: holds {len(features)} videos, but the annotations list {len(videos)}")
    if stacked:
        separate = np.empty(len(features), dtype=object)
        separate[:] = list(features)
        return separate
    return features


def _join(parts: Sequence[np.ndarray], where: str, video: str, *, equal: bool) -> np.ndarray:
    """Join RGB and flow, cut to the shorter of the two: many extractors give flow one snippet less.

    Args:
        parts: `[T, D/2]` each.
        where: their files, for messages.
        video: its name, for messages.
        equal: whether they must be of equal width.
    """
    fit = all(part.ndim == 2 and part.dtype.kind in "fiu" for part in parts)
    if not fit or (equal and parts[0].shape[1] != parts[1].shape[1]):
        shapes = " and ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
        raise InputError(f"{where}: video {video}: expected RGB and flow of equal width, found {shapes}")
    length = min(len(part) for part in parts)
    return np.concatenate([part[:length] for part in parts], axis=1)
