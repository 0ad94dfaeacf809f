"""What every module needs: the error a user sees, seeding, the device, safe reading and whole-file writing.

Nothing read here can run code: object arrays go through an unpickler that admits arrays of numbers, strings and lists
and refuses everything else; checkpoints go through `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
import math
import os
import pickle
import pickletools
import re
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger("seal")


class InputError(Exception):
    """Something the user gave cannot be used. `main.py` prints it as one line and exits with status 2."""


def stop(message: str) -> NoReturn:
    """What a reader does with an error, unless it is given something else to do, as `--run_type check` does.

    Raises:
        InputError: always.
    """
    raise InputError(message)


def seed_everything(seed: int) -> torch.Generator:
    """Seed torch (initial weights, dropout); returns a generator of its own for the order of training videos.

    Nothing else in a run is random, and evaluation draws from neither.
    """
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def pick_device(name: str, *, tf32: bool = False) -> torch.device:
    """The device to run on: `auto` takes CUDA, else MPS, else the CPU; any other name is PyTorch's own.

    `tf32` lets CUDA round what goes into float32 matrix products to TF32; on other devices it changes nothing.

    Raises:
        InputError: PyTorch does not know the name, or has no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # PyTorch raises any of these
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: PyTorch cannot use it here ({reason}); try --device auto") from None
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, without waiting for a GPU: it copies from page-locked memory in its own time."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that can still be taken: a GPU's own, else this machine's or container's; None where nothing says so.

    `root` is where `/proc` and `/sys` are.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        free = 1024 * int(re.search(r"MemAvailable: +(\d+) kB", (root / "proc/meminfo").read_text())[1])
    except (OSError, TypeError):  # not Linux
        return None
    try:  # the limit of a container or a batch job, where cgroups (version 2) set one
        own = re.search(r"^0::/(.*)$", (root / "proc/self/cgroup").read_text(), re.MULTILINE)[1]
        group = root / "sys/fs/cgroup" / own
        taken = int(re.search(r"^anon (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)[1])
        free = min(free, int((group / "memory.max").read_text()) - taken)
    except (OSError, TypeError, ValueError):  # none, or "max", which is none
        pass
    return free


def release_memory() -> None:
    """Hand freed memory back to the system, where the C library (glibc) would keep it for itself."""
    with suppress(AttributeError, OSError, TypeError):  # other systems have other libraries
        ctypes.CDLL(None).malloc_trim(0)


# ---------------------------------------------------------------------------------------------- reading

# A pickled object array is a small program. It is run only after every instruction and every name in it was found to
# be one that arrays of numbers, strings and lists need; and all that those names make are inert stand-ins, from which
# the arrays are built afterwards. So a file can neither run code nor have numpy take its bytes for something else.

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
        raise InputError(f"{path}: not a readable .npy file ({_one_line(error)}); download or make it again") from None


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
        raise InputError(f"{path}: not a .npy file of numbers ({_one_line(error)}); make it again") from None


def is_finite_number(value: Any) -> bool:
    """Whether a value from a file is a finite number; True and False are none."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def some_of(names: Sequence[str], limit: int | None = 5) -> str:
    """The first few of many names, for a message; all of them if the limit is None."""
    return ", ".join(names[:limit]) + (", …" if limit is not None and len(names) > limit else "")


def is_plain_name(name: str) -> bool:
    """Whether a name can name a folder and files without leaving the folder that they are put in."""
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON; the message says where.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({_one_line(error)})") from None


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a checkpoint, ours or a released one, into a model.

    Raises:
        InputError: the file is missing, is no state dict of tensors, or has other names or shapes than the
            model; the message names them.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint; train one, or pass --pretrained_ckpt") from None
    except Exception:  # torch.load raises whatever its zip reader or unpickler meets, and advises what is not safe
        raise InputError(
            f"{path}: not a readable checkpoint: expected a PyTorch state dict of plain tensors; anything else could "
            "run code and is not loaded"
        ) from None
    wanted = model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict: expected tensors named {next(iter(wanted))}, …")
    names = sorted(map(str, wanted.keys() ^ state.keys()))
    if names:
        raise InputError(f"{path}: not a SEAL checkpoint: missing or unknown parameters {', '.join(names[:4])}")
    for name, value in wanted.items():
        if state[name].layout != torch.strided or not state[name].is_floating_point() or state[name].is_meta:
            raise InputError(f"{path}: {name} is not a plain tensor of floating-point numbers")
        if state[name].shape != value.shape:
            raise InputError(
                f"{path}: {name} is {list(state[name].shape)}, but the data asks for {list(value.shape)}: the "
                "checkpoint was trained with another number of classes or another feature width"
            )
        if not state[name].isfinite().all():
            raise InputError(f"{path}: {name} holds a number that is not finite; use an earlier checkpoint")
    model.load_state_dict(state)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# ---------------------------------------------------------------------------------------------- writing


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears whole or not at all: written beside, flushed, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def keep_previous(path: Path) -> None:
    """Rename a file that an earlier run left, to `name.1.json` or the next free number."""
    if path.exists():
        numbered = (path.with_name(f"{path.stem}.{i}{path.suffix}") for i in itertools.count(1))
        kept = next(name for name in numbered if not name.exists())
        path.replace(kept)
        log.info(f"{path} of an earlier run is now {kept}")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole."""
    with whole_file(path) as file:
        file.write(json.dumps(content, allow_nan=False) + "\n")  # dumps is several times faster than dump


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write a model's state dict whole: weights alone, under the names of SPEC section 4."""
    with whole_file(path, "wb") as file:
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, file)


class RunLog:
    """The record of a training run that grows while it goes: `metrics.jsonl`, `mAP-results.log`, TensorBoard.

    Args:
        folder: `--exp_dir`; the files are written where SPEC section 10 says.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import; only training needs it

        self._metrics, self._table = folder / "metrics.jsonl", folder / "mAP-results.log"
        self._board = SummaryWriter(str(folder / "logs"))

    def epoch(self, epoch: int, terms: dict[str, float], seconds: float) -> None:
        """Record the mean loss terms of an epoch and its wall time."""
        self._append({"epoch": epoch, **terms, "seconds": round(seconds, 3)})
        for name, value in terms.items():
            self._board.add_scalar(f"loss/{name}", value, epoch)

    def evaluation(self, epoch: int, results: dict[str, Any], figures: dict[str, float]) -> None:
        """Record an evaluation: all of it as JSON, its figures (percent) as a line and as TensorBoard scalars."""
        self._append({"epoch": epoch, "evaluation": results})
        with open(self._table, "a", encoding="utf-8") as file:
            file.write(" ".join([str(epoch), *(f"{value:.3f}" for value in figures.values())]) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(f"test_mAP/{name}", value, epoch)
        self._board.flush()

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        self._board.close()

    def _append(self, record: dict[str, Any]) -> None:
        with open(self._metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
