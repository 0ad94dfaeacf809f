"""Checkpoints: PyTorch's own files, written whole, and read without running anything that is in them.

`torch.save` writes a ZIP archive: a pickle, and a member of raw numbers for each storage. PyTorch's own safe loader
admits more than checkpoints need, and takes a file's word for how much memory to ask for. Here Python's `zipfile` opens
the archive, and checks its sums, and the pickle is loaded as readers/pickles.py says.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from readers.pickles import Factory, StandIn, load_pickle
from utils import InputError, error_text, shorten_list

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}
_MAX_NESTING = 8


class _Storage(StandIn):
    """Stands for a storage; reads it when it is asked for."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], Tensor]) -> None:
        self._read = read

    def numbers(self) -> Tensor:
        """All its numbers, `[numel]`."""
        return self._read()


class _Tensor(StandIn):
    """Stands for a tensor, a part of a storage."""

    __slots__ = ("_offset", "_size", "_storage", "_stride")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any) -> None:
        shapes = type(size) is tuple and type(stride) is tuple and len(size) == len(stride)
        if not isinstance(storage, _Storage) or not shapes or not all(map(_is_count, (offset, *size, *stride))):
            raise pickle.UnpicklingError("a tensor has no proper storage or shape")
        self._storage, self._offset, self._size, self._stride = storage, offset, size, stride

    def finished(self, finish_all: Callable[[Sequence[Any]], list[Any]]) -> Tensor:
        """The tensor."""
        numbers = self._storage.numbers()
        last = self._offset + sum((n - 1) * step for n, step in zip(self._size, self._stride, strict=True))
        if math.prod(self._size) and last >= len(numbers):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        if max((math.prod(self._size), *self._size)) > len(numbers):  # an expanded one is small only until it is used
            raise pickle.UnpicklingError("a tensor is larger than its storage")
        return numbers.as_strided(self._size, self._stride, self._offset)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


class _Mapping(dict, StandIn):
    """Stands for an `OrderedDict`; its attributes (a state dict keeps versions of modules in one) are not needed."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Forget it."""


class _MakeMapping(Factory):
    __slots__ = ()

    def __call__(self) -> _Mapping:
        return _Mapping()


class _MakeTensor(Factory):
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *of_gradients: Any) -> _Tensor:
        return _Tensor(storage, offset, size, stride)


class _MakeParameter(Factory):
    __slots__ = ()

    def __call__(self, tensor: Any, *of_gradients: Any) -> _Tensor:
        if not isinstance(tensor, _Tensor):
            raise pickle.UnpicklingError("a parameter has no tensor")
        return tensor


_ADMITTED = {
    ("collections", "OrderedDict"): _MakeMapping(),
    ("torch._utils", "_rebuild_tensor_v2"): _MakeTensor(),
    ("torch._utils", "_rebuild_parameter"): _MakeParameter(),
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


class _Archive:
    """An open checkpoint.

    Raises:
        Exception: of any kind, here and in its methods, if it is damaged, or holds anything but plain data and tensors.
    """

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        members = file.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("it is compressed")
        if sum(member.file_size for member in members) > size:
            raise zipfile.BadZipFile("it declares more than it holds")
        (self._root,) = [name[:-8] for name in file.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        self._file = file
        self._read: dict[str, Tensor] = {}

    def content(self) -> Any:
        """What was saved."""
        byteorder = f"{self._root}byteorder"
        if byteorder in self._file.namelist() and self._file.read(byteorder) != sys.byteorder.encode():
            raise ValueError("its numbers have the byte order of another machine")
        data = self._file.read(f"{self._root}data.pkl")
        return load_pickle(io.BytesIO(data), len(data), _ADMITTED, levels=_MAX_NESTING, persistent=self._storage)

    def _storage(self, pid: Any) -> _Storage:
        """What stands for the storage that a persistent id of the pickle names."""
        _, dtype, key, _, numel = pid  # "storage", its type, its name, the device it was on, its length
        if type(dtype) is not torch.dtype or type(key) is not str or not _is_count(numel):
            raise pickle.UnpicklingError("a storage has no proper name or length")
        return _Storage(partial(self._numbers, dtype, key, numel))

    def _numbers(self, dtype: torch.dtype, key: str, numel: int) -> Tensor:
        """All numbers of a storage, `[numel]`."""
        member = self._file.getinfo(f"{self._root}data/{key}")
        if not member.file_size == member.compress_size == numel * dtype.itemsize:
            raise ValueError(f"storage {key} is of another size than it says")
        if key not in self._read:
            content = torch.empty(member.file_size, dtype=torch.uint8)
            left = memoryview(content.numpy())
            with self._file.open(member) as file:
                while part := file.read(1 << 20):
                    left[: len(part)] = part
                    left = left[len(part) :]
            if len(left):
                raise ValueError(f"storage {key} ends early")
            self._read[key] = content
        return self._read[key].view(dtype)


def read_checkpoint(path: Path) -> Any:
    """Read a file of `torch.save`: tensors, numbers and text, and dicts and lists of them; tuples come as lists.

    Raises:
        InputError: the file is missing or damaged, or holds anything else, which could run code.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return _Archive(file, path.stat().st_size).content()
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint; train one, or pass --pretrained_ckpt") from None
    except Exception as error:  # a damaged archive or pickle can raise any exception at all
        raise InputError(
            f"{path}: not a readable checkpoint ({error_text(error)}): expected a file of torch.save, of PyTorch 1.6 "
            "or newer; what is not a plain tensor in it could run code and is not loaded"
        ) from None


# ---------------------------------------------------------------------------------------------- weights


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load the weights of a checkpoint, ours or a released one, or of a `resume.pt`, into a model.

    Raises:
        InputError: the file is missing or damaged, is no state dict of tensors, or has other names or shapes than the
            model; the message names them.
    """
    state = read_checkpoint(path)
    if isinstance(state, dict) and isinstance(state.get("weights"), dict):
        state = state["weights"]
    use_weights(model, state, path)


def use_weights(model: torch.nn.Module, state: Any, path: Path) -> None:
    """Put a state dict that was read from a file into a model, see `load_weights`."""
    wanted = model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict: expected tensors named {next(iter(wanted))}, …")
    names = sorted(map(str, wanted.keys() ^ state.keys()))
    if names:
        raise InputError(
            f"{path}: not a SEAL checkpoint: missing or unknown parameters {error_text(shorten_list(names, 4))}"
        )
    for name, value in wanted.items():
        if not state[name].is_floating_point():
            raise InputError(f"{path}: {name} is not a plain tensor of floating-point numbers")
        if state[name].shape != value.shape:
            raise InputError(
                f"{path}: {name} is {list(state[name].shape)}, but the data asks for {list(value.shape)}: the "
                "checkpoint was trained with another number of classes or another feature width"
            )
        if not state[name].isfinite().all():
            raise InputError(f"{path}: {name} holds a number that is not finite; use an earlier checkpoint")
    model.load_state_dict(state)
