"""Splits a dataset's object array of features into one file per video, so that not all must fit in memory.

    python -m prepare.split_features --dataset_name Thumos14reduced [--dtype float16]

writes `data/<name>/features/<video>.npy` beside the object array. From then on main.py reads these files. float16
halves their size, and rounds the features to three digits. The object array is not changed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from readers.annotations import read_annotations
from readers.feature_files import feature_file
from readers.features import Features
from utils import InputError, is_plain_name, printable, whole_file


def split_features(name: str, root: Path, dtype: np.dtype) -> Path:
    """Write `features/<video>.npy` for every video of a dataset. The folder appears once it is complete.

    Args:
        name: of the dataset.
        root: its folder.
        dtype: of the files, float16 or float32.

    Returns:
        The folder `features`.

    Raises:
        InputError: the folder exists already, or the features cannot be read or do not fit in `dtype`.
    """
    folder = root / "features"
    if folder.exists():
        raise InputError(f"{folder} exists; remove it first")
    videos = read_annotations(root / f"{name}-Annotations").videos
    features = Features(root / f"{name}-I3D-JOINTFeatures.npy", videos)
    unfinished = root / "features.part"
    for i, video in enumerate(tqdm(videos, desc="writing", unit="video", leave=False)):
        with np.errstate(over="ignore"):
            array = features.read(i).numpy().astype(dtype)
        if not np.isfinite(array).all():
            raise InputError(f"{features.path}: video {video}: features are too large for {dtype}; use float32")
        with whole_file(feature_file(unfinished, video), "wb") as file:
            np.save(file, array)
        features.forget(i)
    unfinished.rename(folder)
    return folder


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m prepare.split_features",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--dataset_root", type=Path, help="the dataset's own folder (data/<name> when not given)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the files written")
    args = parser.parse_args()
    try:
        if not is_plain_name(args.dataset_name):
            raise InputError(f"--dataset_name {args.dataset_name!r}: expected a plain name, since it names files")
        root = args.dataset_root or Path("data") / args.dataset_name
        print(f"features are now in {split_features(args.dataset_name, root, np.dtype(args.dtype))}")
    except InputError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
