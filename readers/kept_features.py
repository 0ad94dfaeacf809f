"""Keeps features that are costly to read, such as ten crops in a compressed file, so that they are read once."""

from __future__ import annotations

import tempfile
import weakref
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from readers.free_memory import free_memory
from utils import log

_SHARE = 0.5  # of the memory that is free at first


class _Place(NamedTuple):
    """Where an array is in the temporary file."""

    start: int
    shape: tuple[int, ...]


class KeptFeatures:
    """Tensors by number: in memory while they fit, then in a temporary file. If that is full, too, they are not kept.

    The file has no name, so the system removes it when the program ends, in whatever way.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor | _Place] = {}
        self._left: float | None = None  # bytes of memory that may still be taken; None before the first
        self._file: IO[bytes] | None = None
        self._is_full = False

    def keep(self, i: int, features: Tensor) -> None:
        """Keep a tensor of float32, which must not be changed afterwards."""
        if self._left is None:
            free = free_memory(torch.device("cpu"))
            self._left = float("inf") if free is None else _SHARE * free
        if i in self._kept:
            return
        if features.nbytes <= self._left:
            self._left -= features.nbytes
            self._kept[i] = features
        elif not self._is_full:
            self._write(i, features)

    def get(self, i: int) -> Tensor | None:
        """The tensor; None if it was not kept."""
        kept = self._kept.get(i)
        if isinstance(kept, _Place):
            assert self._file is not None
            return torch.from_numpy(np.array(np.memmap(self._file, np.float32, "r", kept.start, kept.shape)))
        return kept

    def forget(self, i: int) -> None:
        """Free the memory that a tensor takes."""
        kept = self._kept.pop(i, None)
        if isinstance(kept, Tensor) and self._left is not None:
            self._left += kept.nbytes

    def _write(self, i: int, features: Tensor) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open until the end
                weakref.finalize(self, self._file.close)
                where = tempfile.gettempdir()
                log.info(
                    f"notice: unpacked features do not all fit in memory; others are in a temporary file in {where}"
                )
            start = self._file.seek(0, 2)
            self._file.write(features.numpy().tobytes())
            self._file.flush()
            self._kept[i] = _Place(start, tuple(features.shape))
        except OSError as error:
            self._is_full = True
            log.info(
                f"notice: no room for a temporary file ({error}), so features are unpacked each time they are read; "
                "TMPDIR names another folder for it"
            )
