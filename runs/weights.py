"""Write checkpoints: each whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from runs.signals import uninterrupted
from utils import whole_file


def save_checkpoint(path: Path, content: Any) -> None:
    """Write a file of `torch.save` whole.

    Raises:
        CannotWrite: it cannot be written; what was there is still there.
    """
    with uninterrupted(), whole_file(path, "wb") as file:
        torch.save(content, file)


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write a model's state dict whole: weights alone, under the names of SPEC section 4."""
    save_checkpoint(path, {name: value.cpu() for name, value in model.state_dict().items()})
