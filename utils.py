"""What every module needs: errors that users see, seeding, the device, output, checks of values, whole files.

`readers/arrays.py` reads arrays, `readers/checkpoints.py` checkpoints, and neither runs anything that is in them.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import itertools
import json
import logging
import math
import os
import platform
import random
import re
import reprlib
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np


class Later(ModuleType):
    """A module that is imported when it is first used, for one that takes long and that not every command needs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Later("torch")  # `--help` and mistakes in the command line are answered without it

__version__ = "0.2.0"

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("seal")

Made = TypeVar("Made")


class InputError(Exception):
    """The user's input cannot be used. `main.py` prints the message as one line and exits with status 2."""

    hint = ""  # a second line: what to type


class CannotWrite(InputError):
    """A file cannot be written, for example because the disk is full."""


def ran_out(error: BaseException) -> str | None:
    """What an error says that there is too little of, `memory` or `threads`; None for all other errors.

    Readers let such an error pass: it says nothing about their file. `runs.out_of_memory` says what helps.
    """
    if not isinstance(error, (MemoryError, OSError, RuntimeError, ImportError, SystemError)):
        return None
    number, text = getattr(error, "errno", None), str(error)
    if number == errno.EAGAIN or re.search("can't start new thread|Resource temporarily unavailable", text):
        return "threads"
    # PyTorch on the CPU, on Windows, CUDA and MPS, CUDA's libraries; C++; the loader of libraries; joblib.
    words = (
        "out of memory|not enough memory|(can't|[Cc]annot|[Uu]nable to) (allocate|map)|ALLOC_FAILED|bad.alloc|"
        "failed to map segment|paging file is too small|excessive memory usage|error return without exception set"
    )
    return "memory" if isinstance(error, MemoryError) or number == errno.ENOMEM or re.search(words, text) else None


def versions() -> str:
    """Those of what this program stands on."""
    return f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"


def raise_input_error(message: str) -> NoReturn:
    """The default error handler of readers; `--run_type check` passes one that collects the messages.

    Raises:
        InputError: always.
    """
    raise InputError(message)


def seed_everything(seed: int) -> torch.Generator:
    """Seed the generators of torch (initial weights, dropout), numpy and Python.

    Nothing else in a run is random, and evaluation draws no random numbers. `resume.pt` keeps the state of all
    generators, so a loss or a sampler of yours may use any of them.

    Returns:
        A separate generator, for the order of training videos.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def pick_device(name: str, *, tf32: bool = False, deterministic: bool = False) -> torch.device:
    """Choose and set up the device to run on.

    Args:
        name: `auto` (CUDA, else MPS, else the CPU) or a PyTorch device.
        tf32: let CUDA round the inputs of float32 matrix products and convolutions to TF32.
        deterministic: use only deterministic algorithms; PyTorch raises a RuntimeError for operations without one.

    Raises:
        InputError: PyTorch does not know the name, or has no such device here.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it, and reads it when it starts
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call takes a second of imports
        torch.use_deterministic_algorithms(deterministic)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # PyTorch raises any of these
        if ran_out(error):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: PyTorch cannot use it here ({reason}); try --device cpu") from None
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    return device


@contextmanager
def few_threads(feature_size: int, device: torch.device) -> Iterator[None]:
    """One thread for PyTorch on the CPU while features are narrow.

    Products are then so small that more threads gain little on a quiet machine, and mostly wait for each other on one
    that has other work: training that took half a minute took four.

    Args:
        feature_size: D; nothing changes for wide features.
        device: nothing changes on others than the CPU.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" and feature_size <= 512 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. Copies to a GPU are asynchronous, from page-locked memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def host_memory(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of the host that is filled and then copied by `to_device`: page-locked for a GPU.

    PyTorch keeps page-locked memory that is freed for the next request, and waits until copies from it are over. So
    filling it anew for each batch takes no time for allocation, and needs no buffers to be handed round.
    """
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


class SideStream:
    """Lets another thread give a GPU its work beside what the GPU does already; nothing of it is needed elsewhere.

    Copies and pooling for the next batch then run during the step before. On the stream of the steps they would wait
    for all that the GPU has been told to do. Argued, not tested on a GPU: what is made here waits for nothing but what
    was there when the object was made; the step waits for the event, and PyTorch keeps the memory until the step has
    used it.

    Args:
        device: that the thread works for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def make(self, function: Callable[[], Made]) -> tuple[Made, torch.cuda.Event | None]:
        """Call a function in the thread: what it returns, and what `take` waits for."""
        if self._stream is None:
            return function(), None
        with torch.cuda.stream(self._stream):
            return function(), self._stream.record_event()

    def take(self, made: Made, done: torch.cuda.Event | None) -> Made:
        """What `make` returned, for the thread that uses it."""
        if done is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(done)
            for tensor in _tensors_in(made):
                tensor.record_stream(stream)
        return made


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in the fields of a dataclass, and in tuples and lists."""
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        yield from _tensors_in([*vars(value).values()])
    elif isinstance(value, (tuple, list)):
        yield from itertools.chain.from_iterable(map(_tensors_in, value))


def exact_product(a: Tensor, b: Tensor, minuend: Tensor | None = None) -> Tensor:
    """`a @ b` of float32 matrices, or `minuend - a @ b`, never rounded to TF32.

    `--tf32` is for the network, not for the losses.
    """
    if a.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        product = (a.double() @ b.double()).to(b.dtype)
        return product if minuend is None else minuend - product
    return a @ b if minuend is None else torch.addmm(minuend, a, b, alpha=-1)


def has_settled(losses: Sequence[float], window: int, fall: float = 0.03) -> bool:
    """Whether the last `window` losses are no longer below as many before them, but for a share `fall`, in the mean."""
    before, last = losses[-2 * window : -window], losses[-window:]
    return len(before) == window and sum(last) >= (1 - fall) * sum(before)


class Settling:
    """Decides how long to train: at a constant learning rate until the loss has settled, then half as long, to zero.

    See `has_settled`.

    Args:
        window: steps that are compared with as many before them; rounded to whole epochs.
        most: steps after which it is taken to have settled.
        length: epochs to train in all, if they are known beforehand.

    Attributes:
        last_epoch: None until the loss has settled.
    """

    def __init__(self, *, window: int = 100, most: int = 1500, length: int | None = None) -> None:
        self.window, self.most = window, most
        self.losses: list[float] = []  # the mean of each epoch
        self.settled = None if length is None else -(-2 * length // 3)  # the epoch after which the learning rate falls

    @property
    def last_epoch(self) -> int | None:
        """The last epoch to train; None until the loss has settled."""
        return None if self.settled is None else self.settled + -(-self.settled // 2)

    def rate(self, epoch: int) -> float:
        """The share of the learning rate for an epoch, from 1."""
        if self.settled is None or epoch <= self.settled:
            return 1.0
        cooling = -(-self.settled // 2)
        return 1 - (epoch - self.settled - 0.5) / cooling

    def end_epoch(self, epoch: int, loss: float, steps: int) -> None:
        """Note an epoch's mean loss and number of steps; again, if its end is repeated after an interruption."""
        self.losses[epoch - 1 :] = [loss]
        if self.settled is not None:
            return
        epochs = -(-self.window // max(1, steps))
        if len(self.losses) * steps >= self.most or has_settled(self.losses, epochs):
            self.settled = len(self.losses)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"losses": [*self.losses], "settled": self.settled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises TypeError or ValueError if it is none."""
        self.losses = [float(loss) for loss in state["losses"]]
        self.settled = None if state["settled"] is None else int(state["settled"])


def step_if_finite(optimizer: torch.optim.Optimizer, gradient_norm: Tensor) -> None:
    """Take a step of the optimizer, unless this gradient or that of an earlier step is not finite.

    The weights then stay as they are, so that a run can be resumed from them, and the cause can be found. The device is
    not waited for: the fused Adam of the CPU and of CUDA decides there. Other optimizers cannot, nor can the fused Adam
    of MPS, so their weights are put back.

    Args:
        optimizer: an attribute of it remembers that a gradient was not finite.
        gradient_norm: scalar, the norm of the gradient of all parameters.
    """
    # The fused optimizers of the CPU and of CUDA read an attribute of this name; others refuse to step if it is there.
    reads_it = optimizer.defaults.get("fused") and gradient_norm.device.type in ("cpu", "cuda")
    name = "found_inf" if reads_it else "gradient_was_not_finite"
    broken = (~gradient_norm.isfinite()).float()
    broken = torch.maximum(broken, getattr(optimizer, name, broken))
    setattr(optimizer, name, broken)
    if reads_it:
        optimizer.step()
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with torch.no_grad():
        before = [parameter.clone() for parameter in parameters]
        optimizer.step()
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(torch.where(broken > 0, value, parameter))


class _Unbreakable:
    """A stream that ignores failed writes: the disk is full, or the terminal or pipe is closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write; failures are ignored."""
        with suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; failures are ignored."""
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unbreakable_output() -> Iterator[None]:
    """Inside the block, failed writes to stdout and stderr are ignored: a training outlives its terminal."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Unbreakable, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:  # the interpreter would write what is left in the buffers, and fail, when it ends
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except (AttributeError, ValueError):  # no stream, or a closed one
                pass


def release_memory() -> None:
    """Hand freed memory back to the system, where the C library (glibc) would keep it for itself."""
    with suppress(AttributeError, OSError, TypeError):  # other systems have other libraries
        ctypes.CDLL(None).malloc_trim(0)


# ---------------------------------------------------------------------------------------------- reading


def is_finite_number(value: Any) -> bool:
    """Whether a value from a file is a finite number; True and False are not numbers."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def to_number(value: Any) -> float | None:
    """The finite number that a value from a file is, or is as text (`"18.6"`); None for anything else."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value.strip(), re.ASCII):
        value = float(value)
    return float(value) if is_finite_number(value) else None


def to_time(value: Any) -> float | None:
    """As `to_number`, for seconds, see `is_time`."""
    number = to_number(value)
    return number if is_time(number) else None


def is_time(value: Any) -> bool:
    """Whether a value from a file can be a time in seconds: a finite number of at most thirty years."""
    return is_finite_number(value) and abs(value) <= 1e9


def shorten_list(names: Sequence[str], limit: int | None = 5) -> str:
    """The first `limit` names, for a message; all if `limit` is None. Very long names are cut."""
    some = [name if len(name) <= 200 else f"{name[:200]}…" for name in names[:limit]]
    return ", ".join(some) + (", …" if limit is not None and len(names) > limit else "")


# Control characters, line separators, lone surrogates, and characters that set the direction of writing.
_CONTROL = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"


class _Shown(reprlib.Repr):
    """`reprlib.repr`, with arrays shortened too."""

    def repr_ndarray(self, array: np.ndarray, _: int) -> str:
        """Type and shape."""
        return f"an array {array.dtype} {list(array.shape)}"


def short_repr(value: Any) -> str:
    """A value from a file, shortened and on one line, for a message."""
    return printable(" ".join(_Shown().repr(value).split()))


def chunks(count: int, each: int, most: int = 1 << 22) -> Iterator[slice]:
    """Slices that cover `range(count)`, of about `most` numbers each if an item has `each` numbers."""
    step = max(1, most // max(1, each))
    return (slice(start, start + step) for start in range(0, count, step))


def ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The whole numbers from each `first` on, as many as its `count`, one range after another."""
    return np.arange(count.sum()) + np.repeat(first - count.cumsum() + count, count)


def has_control_characters(text: str) -> bool:
    """Whether a text from a file holds characters that do not belong into a name."""
    return re.search(f"[{_CONTROL}]", text) is not None


def printable(text: str) -> str:
    """Text with its control characters escaped, except tabs and newlines, so that it is safe to show."""
    return re.sub(f"(?![\t\n])[{_CONTROL}]", lambda found: found[0].encode("unicode_escape").decode(), text)


def is_plain_name(name: str) -> bool:
    """Whether a name can be used as the name of a file or folder without leaving its parent folder."""
    separators = r"[/\\:]" if os.name == "nt" else r"[/\\]"
    if name in ("", ".", "..") or re.search(separators, name) or has_control_characters(name):
        return False
    return len(name.encode()) <= 200  # most systems take 255 bytes


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside the block, Python's garbage collector rests; also a decorator.

    Whenever many objects have been made, it looks for cycles among all of them, and the content of files has none.
    That takes as long as reading a large file.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@without_collection()
def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, is not JSON, or has an object with a name twice; the message says where.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once_each)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        if ran_out(error):
            raise
        raise InputError(f"{path}: not a readable JSON file ({_not_json(path) or error_text(error)})") from None


_OTHER_FORMATS = {
    b"\xff\xfe": "it is text in UTF-16: save it in UTF-8",
    b"\x1f\x8b": "it is packed with gzip: unpack it",
    b"PK\x03\x04": "it is a zip archive: unpack it",
    b"\x80": "it is a pickle, which could run code: write its content as JSON",
    b"\x93NUMPY": "it is an array of numpy's: write its content as JSON",
}


def _not_json(path: Path) -> str:
    """What a file is that is not JSON, and what to do; empty if it may be damaged JSON."""
    start = b""
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(1000)
    for other, text in _OTHER_FORMATS.items():
        if start.startswith(other):
            return text
    line = start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n").partition("\n")[0]
    is_other = line and not line.startswith(("{", "[", "\ufffd"))
    return f"it begins with {short_repr(line)}, and JSON with {{" if is_other else ""


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without repeated names; Python would silently keep the last value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{short_repr(twice)} appears more than once")
    return content


def error_text(error: BaseException | str) -> str:
    """The message of an exception, on one line and shortened, for use within another message."""
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__


# ---------------------------------------------------------------------------------------------- writing


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn system errors into a message that names the file.

    Raises:
        CannotWrite: the block could not write the file.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save raises its own error from it
        if not isinstance(cause, OSError):
            raise
        raise CannotWrite(f"{path}: cannot be written ({cause.strerror or cause})") from None


@contextmanager
def whole_file(path: Path, mode: str = "w", *, durable: bool = True) -> Iterator[IO]:
    """Open a file for writing that appears whole or not at all: a temporary file is written, flushed and renamed.

    Args:
        path: of the file.
        mode: as of `open`.
        durable: flush it to the disk, so that it outlives a power failure. For thousands of small files that can be
            made again, flushing takes longer than all else.

    Raises:
        CannotWrite: it cannot be written; an earlier file is kept.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            beside.replace(path)
            if durable:
                _flush_folder(path.parent)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a folder to the disk; otherwise a power failure could undo the renaming of a file."""
    with suppress(OSError):  # some systems cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class FileLock:
    """A lock file, which the system frees when the process that holds it ends, in whatever way.

    Attributes:
        holder: who holds it, when it could not be taken; may be empty.
        failure: why it keeps nobody out although it was taken, as on network file systems without locks; empty if it
            does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holder = self.failure = ""
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process has taken it."""
        return self._descriptor is not None

    @property
    def is_there(self) -> bool:
        """Whether the lock file is still the one that was taken."""
        assert self._descriptor is not None, "only while it is held"
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        return False

    def take(self) -> bool:
        """Take it, in a folder that exists; False if another process holds it, and is not waited for.

        Raises:
            OSError: the lock file cannot be written.
        """
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                self._lock(descriptor)
            except BlockingIOError:
                self.holder = error_text(os.read(descriptor, 200).decode(errors="replace"))
                os.close(descriptor)
                return False
            except OSError as error:
                self.failure = error_text(error)
            if os.fstat(descriptor).st_nlink:
                self._descriptor = descriptor
            else:  # the process that held it has just removed it
                os.close(descriptor)
        with suppress(OSError):  # a full disk; the lock works without
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return True

    @staticmethod
    def _lock(descriptor: int) -> None:
        if sys.platform == "win32":
            raise OSError("this program has no locks on Windows")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let others take it, and remove the lock file; nothing happens if it is not held."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            if self.is_there:
                self.path.unlink()  # while it is still locked
        os.close(self._descriptor)
        self._descriptor = None


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file and flush it to the disk.

    Raises:
        CannotWrite: the line cannot be written completely.
    """
    with writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole."""
    with whole_file(path) as file:
        file.write(as_json(content))


def write_beside_earlier(path: Path, text: str, *, unless_same: bool = False) -> None:
    """Write a file whole; a file of an earlier run is renamed to `name.1.json`, or the next free number.

    Args:
        path: of the file.
        text: of the file.
        unless_same: do nothing if the file already has this text.
    """
    if unless_same and path.is_file() and path.read_bytes() == text.encode():
        return
    with whole_file(path) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # before the earlier file is renamed
        keep_previous(path)


def keep_previous(path: Path) -> None:
    """Rename a file of an earlier run to `name.1.json`, or the next free number."""
    if path.exists():
        numbered = (path.with_name(f"{path.stem}.{i}{path.suffix}") for i in itertools.count(1))
        kept = next(name for name in numbered if not name.exists())
        path.replace(kept)
        log.info(f"{path} of an earlier run is now {kept}")


def as_json(content: Any) -> str:
    """The text of a JSON file."""
    return json.dumps(content, allow_nan=False) + "\n"  # dumps is several times faster than dump


def require_writable(folder: Path, option: str) -> None:
    """Check before any work that a folder, which need not exist, can be written to.

    Raises:
        InputError: it cannot be written to.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{option} {folder}: {there} is not a folder that can be written to")


def check_targets(paths: Iterable[Path], option: str, overwrite: bool) -> None:
    """Check before any work that files can be written.

    Args:
        paths: of the files.
        option: the option that names their folder, for messages.
        overwrite: whether existing files may be replaced.

    Raises:
        InputError: the folder cannot be written to, or a file exists and may not be replaced.
    """
    paths = list(paths)
    for folder in {path.parent for path in paths}:
        require_writable(folder, option)
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise InputError(f"{shorten_list(there)}: already exists; pass --overwrite to replace, or another {option}")
