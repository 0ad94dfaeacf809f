"""Reads and writes the files of class descriptors (files: SPEC section 1; how they are made: section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from readers.arrays import read_array
from utils import InputError, read_json, whole_file, write_json

CLASSES = "classes.json"  # the class names, in the order of the descriptors; only beside those that SEAL made
FILES = ("general_appearance_descriptors.npy", "general_motion_descriptors.npy")


def read_descriptors(
    folder: Path, num_class: int, feature_size: int, class_names: Sequence[str] | None = None
) -> Tensor:
    """Read both descriptor files of a dataset.

    Args:
        folder: `descriptors/<name>`.
        num_class: C of the data.
        feature_size: D of the data.
        class_names: of the data, compared with those in `classes.json` if there is one.

    Returns:
        `[2, C, D/2]`: appearance, motion.

    Raises:
        InputError: a file is missing, has another shape, holds a value that is not finite, or is of other classes.
    """
    again = "--run_type descriptors --overwrite makes them again"
    if class_names is not None and (folder / CLASSES).is_file() and read_json(folder / CLASSES) != list(class_names):
        raise InputError(f"{folder / CLASSES}: the descriptors are for other classes, or in another order; {again}")
    descriptors = []
    for name in FILES:
        array = read_array(folder / name)
        expected = (num_class, feature_size // 2)
        if array.shape != expected or array.dtype.kind not in "fiu":
            raise InputError(
                f"{folder / name}: expected numbers of shape {list(expected)} for {num_class} classes and features of "
                f"width {feature_size}, found {array.dtype} {list(array.shape)}; {again}"
            )
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise InputError(f"{folder / name}: the descriptor of class {row} is not finite in float32; {again}")
        descriptors.append(torch.from_numpy(array))
    return torch.stack(descriptors)


def write_descriptors(folder: Path, descriptors: Tensor, class_names: Sequence[str]) -> None:
    """Write the files that `read_descriptors` reads.

    Args:
        folder: `descriptors/<name>`.
        descriptors: `[2, C, D/2]`: appearance, motion; written as float32.
        class_names: the C names.

    Raises:
        CannotWrite: a file cannot be written.
    """
    write_json(folder / CLASSES, list(class_names))
    for name, array in zip(FILES, descriptors.float().cpu().numpy(), strict=True):
        with whole_file(folder / name, "wb") as file:
            np.save(file, array, allow_pickle=False)
