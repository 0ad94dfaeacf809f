"""Files of features: which a video has, what made them, and how they are written and locked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prepare.i3d import CHANNELS
from readers.feature_files import made_by
from readers.feature_origin import SETTINGS, difference
from utils import FileLock, InputError, as_json, shorten_list, whole_file, writing

KINDS = (*CHANNELS,)  # in the order in which they are joined
# Temporary files of `utils.whole_file`, and locks.
_TEMPORARY = re.compile(r"\.(?P<video>.+)(?:(?:-rgb\.npz|-flow\.npz|\.npy|\.json)\.\d+\.part|\.lock)", re.DOTALL)


@dataclass(frozen=True)
class FeatureSettings:
    """What features depend on, besides the video, and how they are written."""

    weights: Mapping[str, str] = field(default_factory=dict)  # of `rgb` and `flow`, see `prepare.i3d.i3d_checksum`
    feature_fps: float = 25.0  # frames per second
    snippet_frames: int = 16  # from one snippet to the next
    crop: str = "center"  # one of `options.CROPS`
    half: bool = False  # whether the network computes in float16
    feature_format: str = "npz"  # or npy

    def to_json(self) -> dict[str, Any]:
        """As plain values, of what `made_by` holds."""
        return {name: getattr(self, name) for name in (*SETTINGS, "half")} | {"weights": dict(self.weights)}


@dataclass
class VideoFeatures:
    """Features of a video, by kind."""

    features: dict[str, np.ndarray]  # [K, T, 1024]; of flow T may be one less
    frames: dict[str, int]  # that they were made of

    def joined(self) -> np.ndarray:
        """RGB, then flow: `[T, 2048]`, or `[K, T, 2048]` if there are several crops."""
        length = min(part.shape[1] for part in self.features.values())
        joined = np.concatenate([self.features[kind][:, :length] for kind in KINDS], axis=2)
        return joined[0] if len(joined) == 1 else joined


class FeatureFiles:
    """The files of features in a folder.

    Args:
        folder: which may not exist yet.
        settings: of the features that are to be in it.
    """

    def __init__(self, folder: Path, settings: FeatureSettings) -> None:
        self.folder, self.settings = folder, settings

    def paths(self, video: str, form: str | None = None) -> list[Path]:
        """The files of a video; `form` is npz or npy, that of the settings when not given."""
        form = form or self.settings.feature_format
        parts = [""] if form == "npy" else [f"-{kind}" for kind in KINDS]
        return [self.folder / f"{video}{part}.{form}" for part in parts]

    @property
    def _other(self) -> str:
        """The format that is not that of the settings."""
        return "npy" if self.settings.feature_format == "npz" else "npz"

    def complete(self, sizes: Mapping[str, int | None], *, overwrite: bool) -> set[str]:
        """Which videos have all their files.

        Args:
            sizes: of the files of the videos, in bytes, by name; None for folders.
            overwrite: whether files that were made in another way, or from another video, count as missing.

        Raises:
            InputError: there are such files; the message says how one differs, and names the videos.
        """
        complete, differing = set(), {}
        for video, size in sizes.items():
            there = [path for path in self.paths(video) if path.exists()]
            reasons = [reason for path in there if (reason := self._differs(path, size))]
            reasons += [f"{path}: in another format" for path in self.paths(video, self._other) if path.exists()]
            reasons += self._taken(video)
            if reasons:
                differing[video] = reasons[0]
            elif len(there) == len(self.paths(video)):
                complete.add(video)
        if differing and not overwrite:
            names = shorten_list([*differing])
            raise InputError(
                f"{next(iter(differing.values()))}; {len(differing)} videos have such features ({names}): --overwrite "
                "replaces them, or choose another folder with --features"
            )
        return complete

    def _taken(self, video: str) -> list[str]:
        """Says that the place of the JSON file beside an array is taken by a file of another kind."""
        (path,) = self.paths(video, "npy")
        beside = path.with_suffix(".json")
        is_other = self.settings.feature_format == "npy" and beside.exists() and self._made_by(path) is None
        return [f"{beside}: not what says how features were made"] if is_other else []

    @staticmethod
    def _made_by(path: Path) -> dict[str, Any] | None:
        """See `made_by`; None as well if it is damaged."""
        with suppress(InputError):
            return made_by(path)
        return None

    def _differs(self, path: Path, size: int | None) -> str | None:
        """Says how a file was made, if not as it would be made now."""
        try:
            found = made_by(path)
        except InputError as error:
            return str(error)
        if found is None:
            return f"{path}: it does not say what made it"
        differing = difference(found, self.settings.to_json() | {"bytes": size})
        return f"{path}: made with {differing}" if differing else None

    def write(self, video: str, features: VideoFeatures, made: Mapping[str, Any]) -> None:
        """Write the files of a video, each whole, over those that are there.

        Raises:
            CannotWrite: the disk is full, or the folder cannot be written to.
        """
        if self.settings.feature_format == "npz":
            for kind, path in zip(KINDS, self.paths(video), strict=True):
                array, count = features.features[kind], features.frames[kind]
                with whole_file(path, "wb") as file:
                    np.savez(file, feature=array, frame_cnt=count, video_name=video, made_by=json.dumps(made))
        else:
            (path,) = self.paths(video)
            with writing(path):  # an array with the JSON file of another would be taken for it
                path.unlink(missing_ok=True)
            with whole_file(path.with_suffix(".json")) as file:
                file.write(as_json({"made_by": made}))
            with whole_file(path, "wb") as file:
                np.save(file, features.joined())
        others = self.paths(video, self._other)
        if self._other == "npy" and self._made_by(others[0]):
            others.append(others[0].with_suffix(".json"))
        for path in others:
            with writing(path):
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what processes that were killed have left: temporary files, and locks that nobody holds."""
        left: dict[str, list[Path]] = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if found := _TEMPORARY.fullmatch(path.name):
                left.setdefault(found["video"], []).append(path)
        for video, paths in left.items():
            lock = self.lock(video)
            with writing(lock.path):
                if lock.take() and not lock.failure:
                    for path in paths:
                        if path != lock.path:
                            path.unlink(missing_ok=True)
                lock.release()

    def lock(self, video: str) -> FileLock:
        """The lock that a process takes while it makes the features of a video."""
        return FileLock(self.folder / f".{video}.lock")
