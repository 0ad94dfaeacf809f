"""A dataset on disk: where its files are, which of them a run type reads, and its annotations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from readers.annotations import ANNOTATION_FILES, Annotations
from readers.descriptor_files import FILES
from utils import InputError


@dataclass(frozen=True)
class DatasetFiles:
    """Where the files of a dataset lie (SPEC section 1)."""

    features: Path  # a folder with files of each video, or one file
    annotations: Path  # a folder, or a JSON file
    descriptors: Path  # a folder
    proposals: dict[str, Path]  # of each part, `train` and `test`


@dataclass(frozen=True)
class Source:
    """A dataset that a run has opened: where it lies, and its annotations."""

    files: DatasetFiles
    annotations: Annotations
    subsets: dict[str, str]  # of the parts, `train` and `test`
    simulated: bool  # whether the features are, as `prepare/make_demo.py` notes beside them

    def videos(self, part: str) -> list[str]:
        """The videos of a part."""
        return self.annotations.videos_of(self.subsets[part])


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
    "report": Reads(False, (), False),
    "descriptors": Reads(True, (), False),
    "proposals": Reads(True, (), False),
}


def annotation_files(annotations: Path) -> list[Path]:
    """The files that `read_annotations` reads of an annotation folder or file."""
    return [annotations / f"{name}.npy" for name in ANNOTATION_FILES] if annotations.is_dir() else [annotations]


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
    if files.annotations.exists():
        needed = dict.fromkeys(annotation_files(files.annotations), "annotations, see data/README.md")
    else:
        needed = {files.annotations: "annotations: this folder, or a file annotations.json; see data/README.md"}
    if class_list is not None:
        needed[class_list] = "the class names that --class_list gives"
    if reads.features and not files.features.is_dir():  # a folder is looked into when it is read
        needed[files.features] = "I3D features: this file, or a folder features; see data/README.md"
    for part in reads.parts:
        needed[files.proposals[part]] = "proposals: those of another method, or make them with --run_type proposals"
    if reads.descriptors:
        source = "class descriptors: make them with --run_type descriptors"
        needed |= {files.descriptors / name: source for name in FILES}
    missing = [f"  {path}: {source}" for path, source in (needed | others).items() if not path.is_file()]
    if missing:
        hint = "No data at hand? This makes its own: python main.py --run_type train --dataset_name Demo"
        lines = [f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing (from {Path.cwd()}):", *missing]
        nothing_there = not files.annotations.exists() and not demo
        raise InputError("\n".join([*lines, hint] if nothing_there else lines))
