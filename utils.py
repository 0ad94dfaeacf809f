"""What every room needs: the error a user sees, seeding, the device, and safe reading and whole-file writing.

Nothing read here can run code: object arrays go through an unpickler that admits numpy arrays of numbers,
strings and lists and refuses everything else; checkpoints go through `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger("seal")


class InputError(Exception):
    """Something the user gave cannot be used. `main.py` prints it as one line and exits with status 2."""


def seed_everything(seed: int) -> torch.Generator:
    """Seed torch (initial weights, dropout); returns a generator of its own for the order of training videos.

    Nothing else in a run is random, and evaluation draws from neither.
    """
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def pick_device(name: str) -> torch.device:
    """The device to run on: `auto` takes CUDA, else MPS, else the CPU; any other name is PyTorch's own.

    Raises:
        InputError: PyTorch does not know the name, or has no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # PyTorch raises any of these
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: PyTorch cannot use it here ({reason}); try --device auto") from None
    return device


# ---------------------------------------------------------------------------------------------- reading


def require_files(needed: dict[Path, str]) -> None:
    """Stop when files are missing, naming all of them and where each comes from.

    Raises:
        InputError: as said.
    """
    missing = [f"  {path}: {source}" for path, source in needed.items() if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} missing file{'s' if len(missing) > 1 else ''}:\n" + "\n".join(missing) + "\n"
            "No data at hand? This makes its own: python main.py --run_type train --dataset_name Demo"
        )


class _NdarrayName:
    """Stands for `numpy.ndarray` in a pickle; not callable, so a file cannot allocate an array through it."""


def _new_array(kind: Any, shape: Any, typecode: Any) -> np.ndarray:
    """`numpy.core.multiarray._reconstruct`, which every pickled array calls with exactly these arguments."""
    if kind is not _NdarrayName or shape != (0,) or typecode not in (b"b", "b"):
        raise pickle.UnpicklingError("an array is not built the way numpy builds it")
    return np.empty(0, dtype=np.int8)


def _new_dtype(name: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """`numpy.dtype`; always a copy, since the pickle then sets its byte order in place."""
    return np.dtype(name.decode("ascii") if isinstance(name, bytes) else name, bool(align), True)


def _new_scalar(dtype: np.dtype, raw: bytes) -> Any:
    if dtype.hasobject or not isinstance(raw, bytes) or len(raw) != dtype.itemsize:
        raise pickle.UnpicklingError("a number is not built the way numpy builds it")
    return np.frombuffer(raw, dtype)[0]


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, which Python 3 writes for the bytes in a pickle that Python 2 can read."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"unexpected text encoding {encoding!r}")
    return text.encode("latin1")


# Everything an array of numbers, strings and lists needs. The real files were written by Python 2 and 3 and by
# numpy 1 and 2, which differ in the module's name only.
_ADMITTED = {
    ("numpy", "ndarray"): _NdarrayName,
    ("numpy", "dtype"): _new_dtype,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _new_scalar,
    ("_codecs", "encode"): _latin1_bytes,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Loads numpy object arrays and nothing that could run code."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="bytes")  # Python 2 strings, and the raw data of its arrays, are bytes
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for one admitted global name.

        Raises:
            InputError: the name is not admitted.
        """
        try:
            return _ADMITTED[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise InputError(
                f"{self._path}: refused to load {module}.{name}: an array file holds only numbers, strings and "
                "lists, and this name could run code; get the file from a source you trust"
            ) from None


def read_array(path: Path) -> np.ndarray:
    """Read a `.npy` file, an object array too, without running anything that is in it.

    Raises:
        InputError: the file is missing or damaged, or refers to a name that is not admitted.
    """
    try:
        with open(path, "rb") as file:
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = header[np.lib.format.read_magic(file)](file)
            if dtype.hasobject:
                array = _ArrayUnpickler(file, path).load()
            else:
                if dtype.itemsize * int(np.prod(shape, dtype=object)) > path.stat().st_size:
                    raise ValueError(f"it ends before its {shape} array does")
                file.seek(0)
                array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise ValueError(f"it does not hold the {shape} array that it declares")
        return array
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle can raise any exception at all
        raise InputError(f"{path}: not a readable .npy file ({_one_line(error)}); download or make it again") from None


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
    except Exception as error:  # torch.load raises whatever its zip reader or unpickler meets
        raise InputError(f"{path}: not a readable checkpoint of weights alone ({_one_line(error)})") from None
    wanted = model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict: expected tensors named {next(iter(wanted))}, …")
    names = sorted(map(str, wanted.keys() ^ state.keys()))
    if names:
        raise InputError(f"{path}: not a SEAL checkpoint: missing or unknown parameters {', '.join(names[:4])}")
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise InputError(
                f"{path}: {name} is {list(state[name].shape)}, but the data asks for {list(value.shape)}: the "
                "checkpoint was trained with another number of classes or another feature width"
            )
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
        _append_line(self._metrics, json.dumps({"epoch": epoch, **terms, "seconds": round(seconds, 3)}))
        for name, value in terms.items():
            self._board.add_scalar(f"loss/{name}", value, epoch)

    def evaluation(self, epoch: int, results: dict[str, Any], figures: dict[str, float]) -> None:
        """Record an evaluation: all of it as JSON, its figures (percent) as a line and as TensorBoard scalars."""
        _append_line(self._metrics, json.dumps({"epoch": epoch, "evaluation": results}))
        _append_line(self._table, " ".join([str(epoch), *(f"{value:.3f}" for value in figures.values())]))
        for name, value in figures.items():
            self._board.add_scalar(f"test_mAP/{name}", value, epoch)
        self._board.flush()

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        self._board.close()


def _append_line(path: Path, line: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
