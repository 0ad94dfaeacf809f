"""What every module needs: the error a user sees, seeding, the device, safe reading and whole-file writing.

Nothing read here can run code; checkpoints go through `torch.load(weights_only=True)`. `data/arrays.py` reads arrays.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
import math
import os
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
from torch import Tensor

__version__ = "0.1.0"

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
    strange = any(char in "/\\" or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name)
    return name not in ("", ".", "..") and not strange and len(name.encode()) <= 200  # most systems take 255 bytes


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON, or says something twice; the message says where.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once_each)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({one_line(error)})") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name that is there twice, Python would keep the last value without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{reprlib.repr(twice)} is there more than once")
    return content


def one_line(error: BaseException) -> str:
    """An exception's message for use within one of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


# ---------------------------------------------------------------------------------------------- writing


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears whole or not at all: written beside, flushed, renamed.

    Raises:
        InputError: it cannot be written; what was there is still there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None
    finally:
        with suppress(OSError):
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


# What a training run writes, and `--overwrite` removes; anything else in the folder is not ours to touch.
RUN_FILES = (
    "opt.txt",
    "metrics.jsonl",
    "mAP-results.log",
    "results.json",
    "detections.json",
    "ckpt/*_model.pkl",
    "logs/events.*",
)


def check_run_folder(folder: Path, training: bool, overwrite: bool, checkpoint: Path | None) -> None:
    """Find out before any work whether `--exp_dir` can take a run; nothing is written yet.

    Args:
        folder: `--exp_dir`.
        training: whether the run trains.
        overwrite: whether it may replace an earlier training run.
        checkpoint: the weights to start from, if any.

    Raises:
        InputError: the folder cannot be written to, holds a training run already, or holds the weights to start from.
    """
    _require_writable(folder, "--exp_dir")
    if training and (folder / "metrics.jsonl").exists():
        if not overwrite:
            raise InputError(f"{folder} holds a training run: choose another --exp_dir, or --overwrite it")
        if checkpoint and folder.resolve() in checkpoint.resolve().parents:
            raise InputError(f"--overwrite would remove {checkpoint}: choose another --exp_dir, or move it")


def start_run_folder(folder: Path, replace: bool, lines: Sequence[str]) -> None:
    """Make `--exp_dir`, remove an earlier training run if it is to be replaced, and add lines to `opt.txt`.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        for pattern in RUN_FILES if replace else ():
            for path in folder.glob(pattern):
                path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "opt.txt", "a", encoding="utf-8") as file:  # testing in a trained folder adds to it
            file.write("\n".join(lines))
    except OSError as error:
        raise InputError(f"--exp_dir {folder}: {error}") from None


def _require_writable(folder: Path, option: str) -> None:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{option} {folder}: {there} is not a folder that can be written to")


def check_targets(paths: Iterable[Path], option: str, overwrite: bool) -> None:
    """Find out before any work whether files can be written.

    Args:
        paths: of the files.
        option: that names their folder, for messages.
        overwrite: whether they may replace others.

    Raises:
        InputError: their folder cannot be written to, or one is there already and may not be replaced.
    """
    paths = list(paths)
    for folder in {path.parent for path in paths}:
        _require_writable(folder, option)
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise InputError(f"{some_of(there)}: there already; pass --overwrite to replace, or another {option}")


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
