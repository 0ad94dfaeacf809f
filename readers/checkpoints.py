"""Reads checkpoints, files of `torch.save`, and puts their weights into a model.

PyTorch reads the file with `weights_only=True`, which runs no code from it. The checks here find damage that PyTorch
does not look for (it ignores the checksums of the archive) and refuse everything but tensors and plain values.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from readers.facts import MAPPED, WeightsRecord, read_record, record_path
from readers.findings import say_notice
from utils import InputError, error_text, ran_out, shorten_list

_MAX_NESTING = 8  # of dicts and lists in a checkpoint; `resume.pt` has five levels
_WRAPPERS = ("weights", "state_dict", "model")  # where `resume.pt` and common training loops keep the weights


def read_checkpoint(path: Path, remedy: str = "train one, or name one with --pretrained_ckpt") -> Any:
    """Read a file of `torch.save`, of any PyTorch version; its tensors come on the CPU.

    Args:
        path: of the file.
        remedy: what to do if there is none, for messages.

    Returns:
        Tensors, numbers, text and None, and dicts and lists of these. Tuples are returned as lists.

    Raises:
        InputError: the file is missing or damaged, or holds other objects, which could run code.
    """
    try:
        if zipfile.is_zipfile(path):  # the format since PyTorch 1.6
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint; {remedy}") from None
    except Exception as error:  # damaged files raise many kinds
        if ran_out(error):
            raise
        reason = _other_kind(path) or _reason(error)
        raise InputError(
            f"{path}: not a readable checkpoint ({reason}); expected a file of torch.save that holds only "
            "tensors, numbers and text, since other objects could run code"
        ) from None


def _plain(value: Any, levels: int = _MAX_NESTING) -> Any:
    """Copy nested containers to plain dicts and lists.

    Raises:
        ValueError: a value is no plain value and no dense tensor.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ValueError("a tensor is sparse, quantized or without data")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of shape {list(value.shape)} is larger than its data")  # expanded
        return value.detach()
    if levels and isinstance(value, dict) and all(type(name) in (str, int) for name in value):
        return {name: _plain(part, levels - 1) for name, part in value.items()}
    if levels and isinstance(value, (list, tuple)):
        return [_plain(part, levels - 1) for part in value]
    raise ValueError(f"unexpected or too deeply nested {type(value).__name__}")


def _other_kind(path: Path) -> str | None:
    """Says what a file is that is no checkpoint at all, by how it begins; None if that cannot be said."""
    with path.open("rb") as file:
        start = file.read(512)
    beside = path.with_suffix(".pkl")
    weights = f", and the weights are in {beside.name}" if beside != path and beside.is_file() else ""
    if start.lstrip()[:1] in (b"{", b"["):
        return f"it is a JSON file{weights}"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30:
        return "it is a safetensors file"
    for magic, kind in ((b"\x93NUMPY", "a .npy file"), (b"\x89HDF", "an HDF5 file"), (b"\x1f\x8b", "a gzip file")):
        if start.startswith(magic):
            return f"it is {kind}"
    is_text = bool(start) and not re.search(rb"[\x00-\x08\x0e-\x1f\x7f-\xff]", start)
    return f"it is a text file{weights}" if is_text else None


def _reason(error: Exception) -> str:
    """Return the cause that PyTorch gives, without its advice to load the file unsafely."""
    cause = re.search(r"WeightsUnpickler error:\s*(.*)|^(Trying to load .*)", str(error), re.MULTILINE)
    sentence = (cause.group(cause.lastindex or 0) if cause else str(error)).partition(". ")[0]
    return error_text(sentence) if sentence else type(error).__name__


def load_weights(
    model: torch.nn.Module,
    path: Path,
    now: WeightsRecord | None = None,
    on_notice: Callable[[str, str], None] = say_notice,
) -> list[int] | None:
    """Load the weights of a checkpoint into a model.

    Takes a state dict (ours, or of the SEAL release), also one under `state_dict`, `model` or, as in `resume.pt`,
    `weights`, and one with `module.` in front of every name, as `torch.nn.DataParallel` writes it.

    Args:
        model: the network.
        path: of the checkpoint.
        now: what weights trained now would depend on, which is compared with what the checkpoint says, if it does.
        on_notice: told of the kind and the file, if its classes are mapped or unknown, or it is of simulated features.

    Returns:
        The place that each class has in the checkpoint, if they are in another order; else None.

    Raises:
        InputError: see `read_checkpoint`, `readers.facts` and `use_weights`.
    """
    content = read_checkpoint(path)
    where, record = _recorded(path, content)
    order = None if now is None else record.require_fit(where, now)
    use_weights(model, state_dict_of(content), path)
    if now is not None and record.class_names is None:
        on_notice(
            "weights that do not say for which classes they are, taken for those of the data in this order", str(path)
        )
    if now is not None and None not in (record.dataset, now.dataset) and record.dataset != now.dataset:
        on_notice(f"weights that were trained on dataset {record.dataset}, not on {now.dataset}", str(path))
    if now is not None and record.simulated and not now.simulated:
        on_notice("weights that were trained on simulated features", str(path))
    if order is not None:
        on_notice(MAPPED, str(path))
    return order


def state_dict_of(content: Any) -> Any:
    """The state dict in the content of a checkpoint, which may be under a name, or of `torch.nn.DataParallel`."""
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if isinstance(content, dict) and all(str(name).startswith("module.") for name in content):
        content = {str(name).removeprefix("module."): value for name, value in content.items()}
    return content


def _recorded(path: Path, state: Any) -> tuple[Path, WeightsRecord]:
    """What a checkpoint says that it depends on, and the file in which it does: beside weights, or a `resume.pt`."""
    if not isinstance(state, dict) or not {"format", "weights", "options"} <= state.keys():
        return record_path(path), read_record(path) or WeightsRecord()
    parts = [state["options"], state.get("record")]  # earlier versions had the first alone
    known = {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}
    return path, WeightsRecord.from_json(known, path, "use other weights")


def use_weights(model: torch.nn.Module, state: Any, path: Path) -> None:
    """Put a state dict into a model.

    Args:
        model: the network.
        state: what was read from a file.
        path: of that file, for messages.

    Raises:
        InputError: it is no state dict of finite tensors, or names or shapes differ from the model's.
    """
    wanted: Mapping[str, Tensor] = model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict: expected tensors named {next(iter(wanted))}, …")
    names = sorted(map(str, wanted.keys() ^ state.keys()))
    if names:
        raise InputError(
            f"{path}: not a checkpoint of this network: missing or unknown parameters "
            f"{error_text(shorten_list(names, 4))}; weights need the --recipe that they were trained with"
        )
    for name, value in wanted.items():
        if not state[name].is_floating_point():
            raise InputError(f"{path}: {name} is not a tensor of real floating-point numbers")
        if state[name].shape != value.shape:
            raise InputError(
                f"{path}: {name} has shape {list(state[name].shape)}, but the data needs {list(value.shape)}: the "
                "checkpoint was trained with another number of classes, feature width or --hidden_size"
            )
        if not state[name].to(value.dtype).isfinite().all():
            raise InputError(f"{path}: {name} has a value that is not finite; use an earlier checkpoint")
    model.load_state_dict(state)
