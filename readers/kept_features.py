"""Keeps features that are costly to read, such as ten crops in a compressed file, so that they are read once."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from readers.arrays import map_array
from utils import CannotWrite, free_memory, log, whole_file

_SHARE = 0.5  # of the memory that is free at first


class KeptFeatures:
    """Tensors by number: in memory while they fit, then in a temporary folder that is removed when the program ends.

    If that is full, too, they are not kept.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor | Path] = {}
        self._left: float | None = None  # bytes that may still be taken; None before the first
        self._folder: Path | None = None
        self._is_full = False

    def keep(self, i: int, features: Tensor) -> None:
        """Keep a tensor of float32, which must not be changed afterwards."""
        if self._left is None:
            free = free_memory(torch.device("cpu"))
            self._left = float("inf") if free is None else _SHARE * free
        if features.nbytes <= self._left:
            self._left -= features.nbytes
            self._kept[i] = features
        elif not self._is_full:
            self._write(i, features)

    def get(self, i: int) -> Tensor | None:
        """The tensor; None if it was not kept."""
        kept = self._kept.get(i)
        return torch.from_numpy(np.array(map_array(kept))) if isinstance(kept, Path) else kept

    def forget(self, i: int) -> None:
        """Free what a tensor takes."""
        kept = self._kept.pop(i, None)
        if isinstance(kept, Path):
            kept.unlink(missing_ok=True)
        elif kept is not None and self._left is not None:
            self._left += kept.nbytes

    def _write(self, i: int, features: Tensor) -> None:
        try:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="seal-features-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # also when the program ends
                log.info(f"notice: unpacked features do not fit in memory; those that do not are in {self._folder}")
            with whole_file(self._folder / f"{i}.npy", "wb") as file:
                np.save(file, features.numpy())
            self._kept[i] = self._folder / f"{i}.npy"
        except (OSError, CannotWrite) as error:
            self._is_full = True
            log.info(f"notice: features are unpacked again each time they are read ({error}); TMPDIR names a folder")
