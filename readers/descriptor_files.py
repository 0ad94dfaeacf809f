"""Reads and writes the files of class descriptors (files: SPEC section 1; how they are made: section 8)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from readers.arrays import read_array
from readers.facts import MAPPED, Facts
from readers.findings import say_notice
from utils import InputError, read_json, whole_file, write_json, writing

CLASSES = "classes.json"  # what descriptors depend on, see `Facts`; only beside those that SEAL made
AGAIN = "make them again with --run_type descriptors --overwrite"
FILES = {  # by the number of modalities, in their order
    1: ("general_descriptors.npy",),
    2: ("general_appearance_descriptors.npy", "general_motion_descriptors.npy"),
}


def expected_files(folder: Path, modalities: int | None = None) -> list[Path]:
    """The descriptor files that a dataset should have.

    Args:
        folder: `descriptors/<name>`. If it holds files for any number of modalities, all files for this number are
            expected, and `read_descriptors` finds out whether the number is right.
        modalities: the number otherwise; None takes two.
    """
    found = [number for number, names in FILES.items() if any((folder / name).is_file() for name in names)]
    return [folder / name for name in FILES[found[0] if found else modalities or 2]]


def read_descriptors(
    folder: Path,
    num_class: int,
    feature_size: int,
    class_names: Sequence[str] = (),
    *,
    rate: float | None = None,
    modalities: int = 2,
    on_notice: Callable[[str, str], None] = say_notice,
) -> Tensor:
    """Read the descriptor files of a dataset.

    Args:
        folder: `descriptors/<name>`.
        num_class: C of the data.
        feature_size: D of the data.
        class_names: of the data, compared with those in `classes.json` if there is one.
        rate: snippets per second of the data, likewise.
        modalities: m of the data, 1 or 2.
        on_notice: told of the kind and the file, if classes are mapped.

    Returns:
        `[m, C, D/m]`: appearance, motion; or the descriptors of the one modality. In the order of the data's classes.

    Raises:
        InputError: a file is missing, has another shape, holds a value that is not finite, or is of other classes, of
            another rate or of another number of modalities.
    """
    if not any((folder / name).is_file() for name in FILES[modalities]):
        needed = " and ".join(FILES[modalities])
        raise InputError(
            f"{folder}: holds no {needed}, which features of {('one modality', 'two modalities')[modalities - 1]} need "
            f"(see --modalities); {AGAIN}"
        )
    if (order := order_in_descriptors(folder, class_names, rate)) is not None:
        on_notice(MAPPED, str(folder / CLASSES))
    descriptors = []
    for name in FILES[modalities]:
        array = read_array(folder / name)
        expected = (num_class, feature_size // modalities)
        if array.shape != expected or array.dtype.kind not in "fiu":
            raise InputError(
                f"{folder / name}: expected numbers of shape {list(expected)} for {num_class} classes and features of "
                f"width {feature_size}, found {array.dtype} {list(array.shape)}; {AGAIN}"
            )
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise InputError(f"{folder / name}: the descriptor of class {row} is not finite in float32; {AGAIN}")
        descriptors.append(torch.from_numpy(array if order is None else array[order]))
    return torch.stack(descriptors)


def order_in_descriptors(folder: Path, class_names: Sequence[str], rate: float | None) -> list[int] | None:
    """The place that each class of the data has in descriptors, see `Facts.class_order`.

    Raises:
        InputError: they are for other classes or another rate, by what `classes.json` says.
    """
    path = folder / CLASSES
    if not path.is_file():
        return None
    content = read_json(path)
    facts = Facts.from_json({"class_names": content} if isinstance(content, list) else content, path, AGAIN)
    return facts.require(path, rate, class_names, AGAIN)


def write_descriptors(folder: Path, descriptors: Tensor, facts: Facts) -> None:
    """Write the files that `read_descriptors` reads. Earlier ones are removed first, so that they are never mixed.

    Args:
        folder: `descriptors/<name>`.
        descriptors: `[m, C, D/m]` for m modalities; written as float32.
        facts: that they depend on, C class names among them.

    Raises:
        CannotWrite: a file cannot be written.
    """
    for name in itertools.chain(*FILES.values()):
        with writing(folder / name):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / CLASSES, facts.to_json())
    for name, array in zip(FILES[len(descriptors)], descriptors.float().cpu().numpy(), strict=True):
        with whole_file(folder / name, "wb") as file:
            np.save(file, array, allow_pickle=False)
