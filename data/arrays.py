"""Reading `.npy` files, object arrays written by Python 2 too, without running anything that is in them.

A pickled object array is a small program. It is run only after every instruction and every name in it was found to be
one that arrays of numbers, strings and lists need; and all that those names make are inert stand-ins, from which the
arrays are built afterwards. So a file can neither run code nor have numpy take its bytes for something else.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import reprlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from utils import InputError, one_line

_INSTRUCTIONS = frozenset(
    """PROTO FRAME STOP MARK GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    GLOBAL STACK_GLOBAL REDUCE BUILD""".split()  # noqa: SIM905 - a list of 45 quoted names is hard to read
)
_MAX_NESTING = 4  # an array of lists of [start, end] has three levels


class _Dtype:
    """Stands for a `numpy.dtype` of plain numbers, strings or objects."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any) -> None:
        name = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not re.fullmatch(r"[biuf][1248]|f16|b1|[SU][1-9][0-9]{0,8}|O[48]?", name):
            raise pickle.UnpicklingError(f"unexpected kind of array {reprlib.repr(name)}")
        self.dtype = np.dtype("O" if name[0] == "O" else name)

    def __setstate__(self, state: tuple) -> None:
        _, order, subarray, names, fields = state[:5]
        if (subarray, names, fields) != (None, None, None) or order not in ("<", ">", "=", "|", b"<", b">", b"=", b"|"):
            raise pickle.UnpicklingError("an array has fields")
        order = order.decode("ascii") if isinstance(order, bytes) else order
        self.dtype = self.dtype if order == "|" else self.dtype.newbyteorder(order)


def _with_real_characters(array: np.ndarray) -> np.ndarray:
    """The array; numpy itself fails, later and obscurely, on text that holds no Unicode."""
    if array.dtype.kind == "U":
        codes = np.frombuffer(array.tobytes(), np.dtype("u4").newbyteorder(array.dtype.byteorder))
        if codes.max(initial=0) > 0x10FFFF:
            raise ValueError("it holds text that is no Unicode")
    return array


class _Array:
    """Stands for a `numpy.ndarray`; `items` is a list for an object array, else the finished array."""

    __slots__ = ("items", "shape")

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array has no proper type or shape")
        if len(shape) > 32 or max(shape, default=0) > 1 << 48:
            raise pickle.UnpicklingError("an array is larger than any")
        objects = dtype.dtype.hasobject
        length = math.prod(shape) * (1 if objects else dtype.dtype.itemsize)
        if type(data) is not (list if objects else bytes) or len(data) != length:
            raise pickle.UnpicklingError(f"an array of shape {shape} has data of another size")
        self.shape = shape
        if not objects:
            data = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")
        self.items = data if objects else _with_real_characters(data)


class _Callable:
    """Base of what a pickle may call; without attributes, so that no pickle can change it."""

    __slots__ = ()


class _MakeDtype(_Callable):
    __slots__ = ()

    def __call__(self, name: Any, align: Any = False, copy: Any = True) -> _Dtype:
        return _Dtype(name)


class _MakeArray(_Callable):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> _Array:
        return _Array()  # numpy makes every array empty first, and gives it its state afterwards


class _MakeScalar(_Callable):
    __slots__ = ()

    def __call__(self, dtype: _Dtype, data: bytes) -> Any:
        if len(data) > 1000:
            raise pickle.UnpicklingError("a single number or string is unexpectedly long")
        if not isinstance(dtype, _Dtype) or dtype.dtype.hasobject or len(data) != dtype.dtype.itemsize:
            raise pickle.UnpicklingError("a number has data of another size")
        return _with_real_characters(np.frombuffer(data, dtype.dtype))[0].item()


class _Latin1(_Callable):
    """`_codecs.encode`, with which Python 3 writes bytes for Python 2.

    Args:
        budget: how many bytes it may make altogether; else a short file could ask for one long text again and again.
    """

    __slots__ = ("_left",)

    def __init__(self, budget: int) -> None:
        self._left = budget

    def __call__(self, text: str, encoding: str) -> bytes:
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError("more text than the file holds")
        if encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError(f"unexpected text encoding {reprlib.repr(encoding)}")
        return text.encode("latin1")


# Files of Python 2 and 3 and of numpy 1 and 2 differ in a module's name only.
_ADMITTED = {
    ("numpy", "ndarray"): _Callable(),
    ("numpy", "dtype"): _MakeDtype(),
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy.core.multiarray", "scalar"): _MakeScalar(),
}


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="bytes")  # Python 2 strings, and the raw data of its arrays, are bytes
        self._path = path
        self._admitted = _ADMITTED | {("_codecs", "encode"): _Latin1(path.stat().st_size)}

    def find_class(self, module: str, name: str) -> _Callable:
        try:
            return self._admitted[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise InputError(
                f"{self._path}: refused to load {module}.{name}: an array file holds only numbers, strings and "
                "lists, and this name could run code; get the file from a source you trust"
            ) from None


def _read_object_array(file: IO[bytes], path: Path) -> np.ndarray:
    start, size = file.tell(), path.stat().st_size
    frame_end = 0
    for instruction, argument, position in pickletools.genops(file):
        # The unpickler reads a frame as one block. An instruction across its end would be read differently there and
        # here, and what is checked would not be what is run.
        if position < frame_end < file.tell() or (instruction.name == "FRAME" and position < frame_end):
            raise pickle.UnpicklingError("an instruction crosses the end of its frame")
        if instruction.name == "FRAME":
            frame_end = file.tell() + argument
        if instruction.name not in _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"unexpected pickle instruction {instruction.name}")
        if instruction.name in ("PUT", "LONG_BINPUT") and argument > size:
            raise pickle.UnpicklingError("more numbered objects than bytes")  # each number would cost memory
    file.seek(start)
    return _finished(_ArrayUnpickler(file, path).load(), {}, _MAX_NESTING)


def _finished(value: Any, done: dict[int, Any], levels: int) -> Any:
    """A loaded value with real arrays for the stand-ins; `done` keeps a list met again from being built again."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if not levels or not isinstance(value, (list, tuple, _Array)):
        raise pickle.UnpicklingError("it holds more than arrays and lists of numbers and strings")
    if id(value) not in done:
        if isinstance(value, _Array) and isinstance(value.items, np.ndarray):
            result = value.items
        elif isinstance(value, _Array):
            result = np.empty(len(value.items), dtype=object)
            result[:] = [_finished(item, done, levels - 1) for item in value.items]
            result = result.reshape(value.shape)
        else:
            result = [_finished(item, done, levels - 1) for item in value]
        done[id(value)] = result
    return done[id(value)]


def read_array(path: Path) -> np.ndarray:
    """Read a `.npy` file, an object array too, without running anything that is in it.

    Raises:
        InputError: the file is missing or damaged, or holds anything but numbers, strings, lists and arrays of them.
    """
    try:
        with open(path, "rb") as file:
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = header[np.lib.format.read_magic(file)](file)
            if dtype.kind == "O":
                array = _read_object_array(file, path)
            elif dtype.kind not in "biufSU" or not dtype.itemsize:
                raise ValueError(f"unexpected kind of array {dtype}")
            elif dtype.itemsize * math.prod(shape) > path.stat().st_size:
                raise ValueError(f"it ends before its {shape} array does")
            else:
                file.seek(0)
                array = _with_real_characters(np.load(file, allow_pickle=False))
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise ValueError(f"it does not hold the {shape} array that it declares")
        return array
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle can raise any exception at all
        raise InputError(f"{path}: not a readable .npy file ({one_line(error)}); download or make it again") from None


def map_array(path: Path) -> np.ndarray:
    """Map a `.npy` file of numbers read-only into memory; what is not used of it is not read.

    Raises:
        InputError: the file is missing or damaged, or holds anything else.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        raise InputError(f"{path}: not a .npy file of numbers ({one_line(error)}); make it again") from None
