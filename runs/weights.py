"""Write checkpoints: each whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from readers.facts import WeightsRecord, checksum_of, record_path
from runs.signals import uninterrupted
from utils import as_json, whole_file, write_json


def save_checkpoint(path: Path, content: Any) -> None:
    """Write a file of `torch.save` whole.

    Raises:
        CannotWrite: it cannot be written; what was there is still there.
    """
    with uninterrupted(), whole_file(path, "wb") as file:
        torch.save(content, file)


def save_weights(weights: Mapping[str, Tensor], path: Path, record: WeightsRecord) -> None:
    """Write a state dict whole: weights alone, under the names of SPEC section 4; and their record beside them.

    Whenever the process ends, there is a record that is true of the weights: while they are replaced, it has what is
    true of both, and then says what it knows of the new ones.

    Args:
        weights: the state dict.
        path: of the file.
        record: of the weights, but for the checksum.
    """
    beside, of_any_epoch = record_path(path), replace(record, epoch=None, evaluation=None, evaluated_on=None)
    if not _holds(beside, replace(record, checksum=checksum_of(path))):
        write_json(beside, of_any_epoch.to_json())
    save_checkpoint(path, {name: value.cpu() for name, value in weights.items()})
    record = replace(record, checksum=checksum_of(path))
    if not _holds(beside, record):
        write_json(beside, record.to_json())


def _holds(path: Path, record: WeightsRecord) -> bool:
    return path.is_file() and path.read_bytes() == as_json(record.to_json()).encode()
