"""Reads `.npy` and `.npz` files without running code from them.

An object array is stored as a pickle, often one of Python 2. readers/pickles.py loads it.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from readers.pickles import Factory, Refused, StandIn, load_pickle
from utils import InputError, error_text, ran_out, short_repr, shorten_list

_MAX_NESTING = 4  # an array of lists of [start, end] has three levels
_MAX_UNPACKED = 1 << 28  # bytes that even a small archive may unpack to: features of a black video compress well


class _Dtype(StandIn):
    """Stands for a `numpy.dtype` of plain numbers, strings or objects."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any) -> None:
        name = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not re.fullmatch(r"[biuf][1248]|f16|b1|[SU][1-9][0-9]{0,8}|O[48]?", name):
            raise pickle.UnpicklingError(f"unexpected kind of array {short_repr(name)}")
        self.dtype = np.dtype("O" if name[0] == "O" else name)

    def build(self, state: Any) -> None:
        """Set the byte order."""
        _, order, subarray, names, fields = state[:5]
        if (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("an array has fields")
        match order:
            case "<" | b"<":
                self.dtype = self.dtype.newbyteorder("<")
            case ">" | b">":
                self.dtype = self.dtype.newbyteorder(">")
            case "=" | b"=" | "|" | b"|":
                pass
            case _:
                raise pickle.UnpicklingError(f"unexpected byte order {short_repr(order)}")


def _with_real_characters(array: np.ndarray) -> np.ndarray:
    """Check that text holds Unicode only; numpy itself fails on other text, but later and with an obscure message."""
    if array.dtype.kind == "U":
        codes = np.frombuffer(array.tobytes(), np.dtype("u4").newbyteorder(array.dtype.byteorder))
        if codes.max(initial=0) > 0x10FFFF:
            raise ValueError("it holds text that is not Unicode")
    return array


class _Array(StandIn):
    """Stands for a `numpy.ndarray`; `items` is a list for an object array, else the finished array."""

    __slots__ = ("items", "shape")

    def build(self, state: Any) -> None:
        """Set shape, type and data."""
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array has no proper type or shape")
        if len(shape) > 32 or max(shape, default=0) > 1 << 48:
            raise pickle.UnpicklingError("an array has too many axes or entries")
        objects = dtype.dtype.hasobject
        length = math.prod(shape) * (1 if objects else dtype.dtype.itemsize)
        if type(data) is not (list if objects else bytes) or len(data) != length:
            raise pickle.UnpicklingError(f"an array of shape {shape} has data of another size")
        self.shape = shape
        self.items: list[Any] | np.ndarray
        if isinstance(data, bytes):
            array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")
            self.items = _with_real_characters(array)
        else:
            self.items = data

    def finished(self, finish_all: Callable[[Sequence[Any]], list[Any]]) -> np.ndarray:
        """Return the array."""
        if isinstance(self.items, np.ndarray):
            return self.items
        result = np.empty(len(self.items), dtype=object)
        result[:] = finish_all(self.items)
        return result.reshape(self.shape)


class _MakeDtype(Factory):
    __slots__ = ()

    def __call__(self, name: Any, align: Any = False, copy: Any = True) -> _Dtype:
        return _Dtype(name)


class _MakeArray(Factory):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> _Array:
        return _Array()  # numpy creates every array empty, and sets its state afterwards


class _Budgeted(Factory):
    """A factory that makes no more text or numbers than the file has bytes: a short file could call it many times."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def _spend(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise pickle.UnpicklingError("more text than the file holds")


class _MakeScalar(_Budgeted):
    __slots__ = ()

    def __call__(self, dtype: _Dtype, data: bytes) -> Any:
        self._spend(len(data))
        if not isinstance(dtype, _Dtype) or dtype.dtype.hasobject or len(data) != dtype.dtype.itemsize:
            raise pickle.UnpicklingError("a number has data of another size")
        return _with_real_characters(np.frombuffer(data, dtype.dtype))[0].item()


class _Latin1(_Budgeted):
    """Stands for `_codecs.encode`, with which Python 3 writes bytes for Python 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        self._spend(len(text))
        if encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError(f"unexpected text encoding {short_repr(encoding)}")
        return text.encode("latin1")


def _admitted(size: int) -> dict[tuple[str, str], Factory]:
    """The names that a pickle of `size` bytes may use. Files of numpy 1 and 2 differ only in a module's name."""
    make_array, make_scalar = _MakeArray(), _MakeScalar(size)
    admitted: dict[tuple[str, str], Factory] = {("numpy", "ndarray"): Factory(), ("numpy", "dtype"): _MakeDtype()}
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        admitted |= {(core, "_reconstruct"): make_array, (core, "scalar"): make_scalar}
    return admitted | {("_codecs", "encode"): _Latin1(size)}


def _size(file: IO[bytes]) -> int:
    """The size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def _read_object_array(file: IO[bytes], path: Path) -> Any:
    size = _size(file)
    try:
        return load_pickle(file, size, _admitted(size), levels=_MAX_NESTING)
    except Refused as error:
        raise InputError(
            f"{path}: {error_text(error)}: an array file should hold only numbers, strings and lists, and this could "
            "run code; get the file from a source you trust"
        ) from None


def read_array(path: Path) -> np.ndarray:
    """Read a `.npy` file, which may hold an object array.

    Raises:
        InputError: the file is missing or damaged, or holds other things than numbers, strings, lists and arrays.
    """
    with _reading(path, "a readable .npy file", "download or make it again"), open(path, "rb") as file:
        shape, _, dtype = _read_header(file)
        array = _read_object_array(file, path) if dtype.kind == "O" else _read_plain_array(file, _size(file))
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise ValueError(f"it does not hold the {shape} array that it declares")
        return array


@contextmanager
def _reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn the exceptions of the block into an `InputError`, since damaged files raise many kinds."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        if ran_out(error):
            raise
        raise InputError(f"{path}: not {what} ({error_text(error)}); {remedy}") from None


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether in Fortran's order, and the type of the array that a `.npy` file declares."""
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Python about the text of a damaged header
        return header[np.lib.format.read_magic(file)](file)


def _read_plain_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The same, for an array of numbers or text that fits in a file of `size` bytes."""
    shape, fortran, dtype = _read_header(file)
    if dtype.kind not in "biufSU" or not dtype.itemsize:
        objects = ", which could run code: save the array of numbers itself" if dtype.hasobject else ""
        raise ValueError(f"unexpected kind of array {dtype}{objects}")
    if dtype.itemsize * math.prod(shape) > size:
        raise ValueError(f"it ends before its {shape} array does")
    return shape, fortran, dtype


def _read_plain_array(file: IO[bytes], size: int) -> np.ndarray:
    """Read the array of numbers or text of a `.npy` file of `size` bytes."""
    file.seek(0)
    _read_plain_header(file, size)
    file.seek(0)
    return _with_real_characters(np.lib.format.read_array(file, allow_pickle=False))


def read_archive(path: Path, name: str) -> np.ndarray:
    """Read one array of numbers from an `.npz` file.

    Raises:
        InputError: the file is missing or damaged, does not hold the array, or would unpack to far more than its size.
    """
    with _opened_archive(path) as (archive, size):
        if f"{name}.npy" not in archive.namelist():
            names = shorten_list([member.removesuffix(".npy") for member in archive.namelist()]) or "none"
            raise InputError(f"{path}: expected an array named {name}, found {error_text(names)}")
        with _opened_member(archive, f"{name}.npy", size) as (file, unpacked):
            return _read_plain_array(file, unpacked)


def archive_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in an `.npz` file, by their names.

    Raises:
        InputError: the file is missing or damaged.
    """
    shapes = {}
    with _opened_archive(path) as (archive, size):
        for member in archive.namelist():
            if member.endswith(".npy"):
                with _opened_member(archive, member, size) as (file, _):
                    shapes[member.removesuffix(".npy")] = _read_header(file)[0]
    return shapes


@contextmanager
def _opened_archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """An `.npz` file, and its size in bytes."""
    with (
        _reading(path, "a readable .npz file of numbers", "make it again"),
        open(path, "rb") as whole,
        zipfile.ZipFile(whole) as archive,
    ):
        yield archive, _size(whole)


@contextmanager
def _opened_member(archive: zipfile.ZipFile, name: str, size: int) -> Iterator[tuple[IO[bytes], int]]:
    """A member of an archive of `size` bytes, and the bytes that it unpacks to."""
    member = archive.getinfo(name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("its compression is not one that numpy uses")
    if member.file_size > _MAX_UNPACKED + 100 * size:  # real features compress to half
        raise ValueError(f"it would unpack to {member.file_size} bytes")
    with archive.open(member) as file:
        yield file, member.file_size


def map_array(path: Path) -> np.ndarray:
    """Map a `.npy` file of numbers into memory, read-only: only the parts that are used are read from disk.

    Raises:
        InputError: the file is missing or damaged, or does not hold numbers or text.
    """
    with _reading(path, "a .npy file of numbers", "make it again"), open(path, "rb") as file:
        shape, fortran, dtype = _read_plain_header(file, _size(file))
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
