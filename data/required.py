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


def require_files(reads: Reads, files: DatasetFiles, others: dict[Path, str], *, demo: bool) -> None:
    """Stop when files that a run reads are missing, naming all of them and where each comes from.

    Args:
        reads: what the run type reads, of `READS`.
        files: of the dataset.
        others: further files that the run reads, and what each is.
        demo: whether it is the demo dataset, which is not suggested then.

    Raises:
        InputError: as said.
    """
    release = "the public I3D release that W-TALC and its successors use"
    needed = {}
    if files.annotations.suffix == ".json":
        needed[files.annotations] = "annotations, see data/README.md"
    else:
        needed |= {files.annotations / f"{name}.npy": f"annotations, from {release}" for name in ANNOTATION_FILES}
    if reads.features and not files.features.is_dir():  # a folder is looked into when it is read
        needed[files.features] = f"I3D features, from {release}"
    for part in reads.parts:
        needed[files.proposals[part]] = "proposals: those of another method, or make them with --run_type proposals"
    if reads.descriptors:
        needed |= {
            files.descriptors / name: "class descriptors: make them with --run_type descriptors"
            for name in DESCRIPTOR_FILES
        }
    missing = [f"  {path}: {source}" for path, source in (needed | others).items() if not path.is_file()]
    if missing:
        hint = "No data at hand? This makes its own: python main.py --run_type train --dataset_name Demo"
        lines = [f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing (from {Path.cwd()}):", *missing]
        nothing_there = not files.annotations.exists() and not demo
        raise InputError("\n".join([*lines, hint] if nothing_there else lines))
