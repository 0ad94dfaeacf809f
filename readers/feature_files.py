"""Which files hold a video's features, and which arrays of these, as extractors and releases write them.

data/README.md lists what has been met.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from readers.arrays import archive_shapes, map_array, read_archive
from readers.names import other_form, readable_name
from utils import InputError, error_text, is_plain_name, read_json, shorten_list

# The files of a video, with braces for its name; if there are two, they hold RGB and flow. Each ends in .npy or .npz.
LAYOUTS = (
    ("{}",),
    ("{}-rgb", "{}-flow"),
    ("{}_rgb", "{}_flow"),
    ("rgb/{}", "flow/{}"),
    ("rgb/{}-rgb", "flow/{}-flow"),
    ("rgb/{}_rgb", "flow/{}_flow"),
)
ENDINGS = (".npy", ".npz")
EXTRACTED = "feature"  # the array in the archives of a usual I3D extractor, `[crops, T, D]`
_PARTS = ("", "train/", "test/")  # folders that some releases put the videos of a subset into
_FORMS = [[part + form for form in layout] for layout in LAYOUTS for part in _PARTS]
_PAIRS = [" with ".join(form.format("<video>") for form in layout) for layout in LAYOUTS[1:4]]
EXPECTED = f"<video>.npy or .npz, or two such files, {', or '.join(_PAIRS)}"


class FeatureFolder:
    """The feature files in a folder, by the names of their videos.

    Folders are listed once: on network file systems, looking for every file by itself is slow.

    Args:
        path: the folder.
        videos: all videos of the dataset.
    """

    def __init__(self, path: Path, videos: Sequence[str]) -> None:
        self.path, self._names = path, set(videos)

    def find(self, video: str, *, alone: bool = False) -> list[Path]:
        """The file of a video, or its two files if RGB and flow are apart; empty if it has none.

        Args:
            video: its name. A file may be named by another form of it, with `v_` in front or without, or with other
                characters that look the same.
            alone: whether one of two files will do. Otherwise both are returned where there is only one.

        Raises:
            InputError: the name cannot be a file name, or several files have names that look like it.
        """
        feature_file(self.path, video)
        other = other_form(video)
        names = [video] if other in self._names else [video, other]  # another video has files of its own
        part_of: list[Path] = []
        for name, forms in itertools.product(names, _FORMS):
            stems = [form.format(name) for form in forms]
            found = [self._file(stem) for stem in stems]
            if all(found):
                return [file for file in found if file]
            if any(found) and not part_of:
                ending = next(file.suffix for file in found if file)
                wanted = (file or self.path / f"{stem}{ending}" for file, stem in zip(found, stems, strict=True))
                part_of = [file for file in found if file] if alone else [*wanted]
        return part_of

    def names(self, *, alone: bool = False) -> list[str]:
        """The names of all videos that have files in the folder; see `name_of`."""
        return [*dict.fromkeys(self.name_of(stem, alone=alone) for stem in self._by_stem)]

    def name_of(self, stem: str, *, alone: bool = False) -> str:
        """The name of the video that a file in the folder is of; one of a pair without the other is a file by itself.

        Args:
            stem: of the file, relative to the folder.
            alone: whether one of two files will do, if all files in the folder are named so.
        """
        pairs = [layout for layout in reversed(_FORMS) if len(layout) > 1]
        for layout in pairs:
            for form in layout:
                start, _, end = form.partition("{}")
                name = stem.removeprefix(start).removesuffix(end)
                if form.format(name) != stem:
                    continue
                if all(form.format(name) in self._by_stem for form in layout) or (alone and self._all_are(start, end)):
                    return name
        return stem.rpartition("/")[2]

    def _all_are(self, start: str, end: str) -> bool:
        """Whether the names of all files begin and end so."""
        return all(stem.startswith(start) and stem.endswith(end) for stem in self._by_stem)

    def _file(self, stem: str) -> Path | None:
        """The file with a name, but for its ending, relative to the folder."""
        if (file := self._by_stem.get(stem)) is not None:
            return file if file.is_file() else None
        alike = self._by_look.get(readable_name(stem), []) if not stem.isascii() or self._has_odd_names else []
        if len(alike) > 1:
            names = shorten_list([ascii(str(file)) for file in alike])
            raise InputError(f"{self.path}: names of {len(alike)} files look the same: {names}; remove all but one")
        return alike[0] if alike and alike[0].is_file() else None

    def _listed(self) -> Iterator[tuple[str, Path]]:
        for part, kind in itertools.product(_PARTS, ("", "rgb/", "flow/")):
            folder = self.path / f"{part}{kind}"
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                if file.suffix in ENDINGS:
                    yield f"{part}{kind}{file.stem}", file

    @cached_property
    def _by_stem(self) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for stem, file in self._listed():  # .npy comes before .npz
            files.setdefault(stem, file)
        return files

    @cached_property
    def _has_odd_names(self) -> bool:
        return any(readable_name(stem) != stem for stem in self._by_stem)

    @cached_property
    def _by_look(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for stem, file in self._by_stem.items():
            files.setdefault(readable_name(stem), []).append(file)
        return files


def feature_file(folder: Path, video: str, name: str = "{}.npy") -> Path:
    """The file of a video in a folder; `name` has braces for the video's name.

    Raises:
        InputError: the video's name cannot be a file name.
    """
    if not is_plain_name(video):
        raise InputError(f"{folder}: video name {video!r} cannot be a file name")
    return folder / name.format(video)


def arrays_in(path: Path) -> list[tuple[np.ndarray, bool]]:
    """The array of a file, or its two if it holds RGB and flow; with each whether it is known to be `[crops, T, D]`."""
    if path.suffix == ".npy":
        array = map_array(path)
        return [(array, _is_known(path, array.shape))]
    parts = []
    for name in _names_in(path):
        array = read_archive(path, name)
        if array.dtype.kind not in "fiu":
            raise InputError(f"{path}: expected numbers, found {array.dtype} {list(array.shape)}")
        parts.append((array, name == EXTRACTED))
    return parts


def _is_known(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether an array is one with crops that `--run_type features` made."""
    return len(shape) == 3 and made_by(path) is not None


def _names_in(path: Path) -> list[str]:
    """The names of the arrays of an `.npz` file that hold features: one, or those of RGB and flow.

    Raises:
        InputError: the file is missing or damaged, or it has several arrays and none of these names.
    """
    shapes = archive_shapes(path)
    if EXTRACTED in shapes:
        return [EXTRACTED]
    by_kind = {name.casefold(): name for name in shapes}
    if {"rgb", "flow"} <= by_kind.keys():
        return [by_kind["rgb"], by_kind["flow"]]
    arrays = [name for name, shape in shapes.items() if len(shape) > 1] or [*shapes]
    if len(arrays) != 1:
        found = error_text(shorten_list(arrays)) if arrays else "none"
        raise InputError(
            f"{path}: expected one array, an array `{EXTRACTED}`, or `rgb` and `flow`; found {found}; keep one"
        )
    return arrays


def shapes_in(path: Path) -> list[tuple[tuple[int, ...], bool]]:
    """The shapes of the arrays that `arrays_in` reads; with each whether it is known to be `[crops, T, D]`."""
    if path.suffix == ".npy":
        shape = map_array(path).shape
        return [(shape, _is_known(path, shape))]
    names, shapes = _names_in(path), archive_shapes(path)
    return [(shapes[name], name == EXTRACTED) for name in names]


def made_by(path: Path) -> dict[str, Any] | None:
    """What `--run_type features` says of how it made a file of features; None for files of other programs.

    An archive holds it as `made_by`, the text of a JSON object; an array has a JSON file of its name beside it. Of it,
    `readers.facts.Facts` reads the rate.

    Args:
        path: of an `.npz` or `.npy` file.

    Returns:
        Plain values: `version` of this program; `video`, the name of its file, and `bytes`, its size; `feature_fps`,
        `snippet_frames`, `crop`, `weights` and `half`, with which it was made; `frames` that were used; `seconds` of
        the video; `damage` of the video, or None.

    Raises:
        InputError: the file is damaged.
    """
    if path.suffix == ".npy":
        beside = path.with_suffix(".json")
        content = read_json(beside) if beside.is_file() else None
        return content["made_by"] if isinstance(content, dict) and isinstance(content.get("made_by"), dict) else None
    if "made_by" not in archive_shapes(path):
        return None
    try:
        content = json.loads(str(read_archive(path, "made_by")))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: damaged: `made_by` is not a JSON object; make it again")
    return content
