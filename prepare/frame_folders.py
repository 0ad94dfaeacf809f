"""Videos as the I3D extractor takes them: a folder of numbered images of frames and flow, or three zip archives.

`img_00001.jpg`, …, `flow_x_00001.jpg`, …, `flow_y_00001.jpg`, …; or `img.zip`, `flow_x.zip` and `flow_y.zip` with
members `img_*`, `x_*` and `y_*`.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from prepare.video_frames import HEIGHT, WIDTH
from prepare.video_packages import require_video_packages
from utils import InputError, error_text, ran_out, shorten_list

_KINDS = ("img", "flow_x", "flow_y")
_IMAGE = re.compile(r"(img|flow_x|flow_y|x|y)_(\d{1,18})\.(?:jpe?g|png|bmp|webp)", re.IGNORECASE | re.ASCII)
_AGAIN = "write the frames of this video again"


class FrameFolder:
    """A video in a folder of images, which is looked into when it is first needed.

    What can be asked of it raises InputError if there are no frames, if an archive is damaged, or if flow and frames
    do not belong together.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether a path is a folder that holds such images or archives."""
        archives = {f"{kind}.zip" for kind in _KINDS}
        with suppress(OSError), os.scandir(path) as entries:
            return any(entry.name in archives or _kind_of(entry.name) in _KINDS for entry in entries)
        return False

    @cached_property
    def _images(self) -> dict[str, _Images]:
        """The images of each kind."""
        images = {kind: _Images(self.path, kind) for kind in _KINDS}
        frames, x, y = (images[kind].names for kind in _KINDS)
        if not frames:
            raise InputError(f"{self.path}: has flow, but no frames: neither img_00001.jpg, … nor img.zip with them")
        if alone := sorted(x.keys() ^ y.keys()):
            some = shorten_list([(x | y)[number] for number in alone])
            raise InputError(f"{self.path}: flow images of x without y, or of y without x: {some}; {_AGAIN}")
        if x and abs(len(frames) - len(x)) > 1:
            raise InputError(f"{self.path}: {len(frames)} frames, but {len(x)} of flow; {_AGAIN}")
        return images

    @property
    def count(self) -> int:
        """F, of RGB frames."""
        return len(self._images["img"].names)

    @property
    def has_flow(self) -> bool:
        """Whether there are flow images; there is one less than frames, or as many."""
        return bool(self._images["flow_x"].names)

    @property
    def damage(self) -> str | None:
        """How many frames are missing in between, by their numbers; None if none is."""
        numbers = self._images["img"].names.keys()
        missing = max(numbers) - min(numbers) + 1 - len(numbers)
        return f"missing between its first and last frame: {missing}" if missing else None

    def rgb(self) -> Iterator[np.ndarray]:
        """The frames, uint8 `[256, 340, 3]`. Those of another size are scaled, whatever the ratio of their sides.

        Raises:
            InputError: Pillow is not installed, or an image is damaged.
        """
        frames = self._images["img"]
        return (np.asarray(_scaled(image)) for image in frames.read("RGB"))

    def flow(self) -> Iterator[np.ndarray]:
        """The optical flow, uint8 `[256, 340, 2]`, as of `optical_flow.flow_of`.

        Where images are scaled, so are the pixels a frame that their values stand for.

        Raises:
            InputError: Pillow is not installed, or an image is damaged.
        """
        x, y = self._images["flow_x"], self._images["flow_y"]
        for image_x, image_y in zip(x.read("L"), y.read("L"), strict=True):
            along = (image_x, WIDTH / image_x.width), (image_y, HEIGHT / image_y.height)
            yield np.stack([_rescaled(np.asarray(_scaled(image)), factor) for image, factor in along], 2)


class _Images:
    """The numbered images of a kind, in the order of their numbers, whatever zeros are in front.

    Attributes:
        names: of files, or of members of an archive, by number; empty if there are none.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.archive = folder, folder / f"{kind}.zip"
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _kind_of(entry.name) == kind]
        self.is_zipped = not names and self.archive.exists()
        if self.is_zipped:
            with _opened(self.archive) as archive:
                kinds = (kind, kind.removeprefix("flow_"))
                names = [name for name in archive.namelist() if _kind_of(name.rpartition("/")[2]) in kinds]
            if not names:
                raise InputError(f"{self.archive}: holds no images named {kinds[-1]}_00001.jpg, …; {_AGAIN}")
        self.names = dict(sorted((int(name.rpartition("_")[2].partition(".")[0]), name) for name in names))
        if len(self.names) < len(names):
            twice = sorted(set(names) - {*self.names.values()})
            raise InputError(f"{folder}: two images of one number: {shorten_list(twice)}; remove one of them")

    def read(self, mode: str) -> Iterator[Any]:
        """The images, in a mode of Pillow's."""
        require_video_packages()
        if not self.is_zipped:
            for name in self.names.values():
                yield _image((self.folder / name).read_bytes, self.folder / name, mode)
            return
        with _opened(self.archive) as archive:
            for name in self.names.values():
                yield _image(partial(archive.read, name), f"{self.archive}: {name}", mode)


def _kind_of(name: str) -> str | None:
    """`img`, `flow_x`, `flow_y`, or in archives `x` and `y`, if a name is that of a numbered image."""
    found = _IMAGE.fullmatch(name)
    return found[1].lower() if found else None


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        if ran_out(error):
            raise
        raise InputError(f"{path}: not a readable zip archive ({error_text(error)}); {_AGAIN}") from None


def _image(read: Callable[[], bytes], where: Path | str, mode: str) -> Any:
    """Read an image of Pillow's; any of many errors says that it is damaged."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(read())) as image:
            return image.convert(mode)
    except UnidentifiedImageError:  # its text is of an object in memory
        raise InputError(f"{where}: not an image; {_AGAIN}") from None
    except Exception as error:
        if ran_out(error):
            raise
        raise InputError(f"{where}: not a readable image ({error_text(error)}); {_AGAIN}") from None


def _scaled(image: Any) -> Any:
    """An image of 340 x 256."""
    from PIL import Image

    size = (WIDTH, HEIGHT)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _rescaled(flow: np.ndarray, factor: float) -> np.ndarray:
    """Flow times a factor; it is zero at 127.5."""
    if factor == 1:
        return flow
    return np.clip(np.rint((flow - 127.5) * factor + 127.5), 0, 255).astype(np.uint8)
