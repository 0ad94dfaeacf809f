"""Which files each run type reads, and what is said when some of them are missing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data.annotations import ANNOTATION_FILES
from descriptors import FILES as DESCRIPTOR_FILES
from options import DatasetFiles
from utils import InputError


class Reads(NamedTuple):
    """What a run type reads beside the annotations."""

    features: bool
    parts: tuple[str, ...]  # those whose proposals it reads
    descriptors: bool


READS = {
    "train": Reads(True, ("train", "test"), True),
    "check": Reads(True, ("train", "test"), True),
    "test": Reads(True, ("test",), False),
    "eval": Reads(False, (), False),
    "descriptors": Reads(True, (), False),
    "proposals": Reads(True, (), False),
}


def annotation_files(annotations: Path, class_list: Path | None) -> list[Path]:
    """The files that `read_annotations` reads."""
    if annotations.is_file() or annotations.suffix == ".json":
        files = [annotations]
    else:
        files = [annotations / f"{name}.npy" for name in ANNOTATION_FILES]
    return files if class_list is None else [*files, class_list]


def require_files(
    reads: Reads, files: DatasetFiles, class_list: Path | None, others: dict[Path, str], *, demo: bool
) -> None:
    """Stop when files that a run reads are missing, naming all of them and where each comes from.

    Args:
        reads: what the run type reads, of `READS`.
        files: of the dataset.
        class_list: the file of `--class_list`, if given.
        others: further files that the run reads, and what each is.
        demo: whether it is the demo dataset, which is not suggested then.

    Raises:
        InputError: as said.
    """
    needed = dict.fromkeys(annotation_files(files.annotations, class_list), "annotations, see data/README.md")
    if reads.features and not files.features.is_dir():  # a folder is looked into when it is read
        needed[files.features] = "I3D features, see data/README.md"
    for part in reads.parts:
        needed[files.proposals[part]] = "proposals: those of another method, or make them with --run_type proposals"
    if reads.descriptors:
        source = "class descriptors: make them with --run_type descriptors"
        needed |= {files.descriptors / name: source for name in DESCRIPTOR_FILES}
    missing = [f"  {path}: {source}" for path, source in (needed | others).items() if not path.is_file()]
    if missing:
        hint = "No data at hand? This makes its own: python main.py --run_type train --dataset_name Demo"
        lines = [f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing (from {Path.cwd()}):", *missing]
        nothing_there = not files.annotations.exists() and not demo
        raise InputError("\n".join([*lines, hint] if nothing_there else lines))
