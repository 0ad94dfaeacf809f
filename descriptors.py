"""Class descriptors: one appearance (RGB) and one motion (flow) vector per class, and the pseudo-labels they give.

Descriptors are temporal means of each class's training videos (the paper's Eq. 1 and 2, SPEC section 8). A video
whose own means resemble a class's descriptors gets that class as its pseudo-label (SPEC section 5, SME).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.arrays import read_array
from utils import InputError, read_json, whole_file, write_json

CLASSES = "classes.json"  # the class names of descriptors that were made here, in their order
FILES = ("general_appearance_descriptors.npy", "general_motion_descriptors.npy")


def read_descriptors(
    folder: Path, num_class: int, feature_size: int, class_names: Sequence[str] | None = None
) -> Tensor:
    """Read both descriptor files.

    Args:
        folder: `descriptors/<name>`.
        num_class: C of the data.
        feature_size: D of the data.
        class_names: of the data, to compare with those that the descriptors were made for, where that is known.

    Returns:
        `[2, C, D/2]`: appearance, motion.

    Raises:
        InputError: a file is missing, has another shape, holds a number that is not finite, or is of other classes.
    """
    again = "--run_type descriptors --overwrite makes them again"
    if class_names is not None and (folder / CLASSES).is_file() and read_json(folder / CLASSES) != list(class_names):
        raise InputError(f"{folder / CLASSES}: the descriptors are of other classes, or in another order; {again}")
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


def build_descriptors(means: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Descriptors from training videos: per class, the mean over its videos of each video's temporal mean.

    The paper's figure fixes "temporal aggregation per class"; averaging each video first, so that a long video
    weighs no more than a short one, is our reading (SPEC section 8). With the videos' lengths as `weights` it is the
    mean over all snippets of the class instead.

    Args:
        means: `[B, D]` temporal means of the videos, RGB then flow.
        labels: `[B, C]` video labels, 0 or 1.
        weights: `[B]` of the videos in the mean, positive; None weighs them alike.

    Returns:
        `[2, C, D/2]`: appearance, motion. A class without a video has the zero vector.
    """
    weighted = labels if weights is None else labels * weights[:, None]
    share = weighted / weighted.sum(0).clamp(min=1)  # [B, C]
    return torch.stack([share.T @ half for half in means.chunk(2, dim=1)])


def write_descriptors(folder: Path, descriptors: Tensor, class_names: Sequence[str]) -> None:
    """Write `[2, C, D/2]` as the two float32 files that `read_descriptors` reads, and the names of the C classes."""
    write_json(folder / CLASSES, list(class_names))
    for name, array in zip(FILES, descriptors.float().cpu().numpy(), strict=True):
        with whole_file(folder / name, "wb") as file:
            np.save(file, array, allow_pickle=False)


class PseudoLabels(NamedTuple):
    """What the descriptors say of each video; constant during training."""

    label: Tensor  # [B] long, the pseudo-label
    consistent: Tensor  # [B] bool, appearance and motion agree on it
    partial: Tensor  # [B] bool, they differ, and it is what one of them says

    def select(self, videos: Sequence[int]) -> PseudoLabels:
        """The pseudo-labels of some of the videos, in the given order."""
        return PseudoLabels(*(torch.stack([field[i] for i in videos]) for field in self))


def pseudo_labels(means: Tensor, descriptors: Tensor) -> PseudoLabels:
    """Pseudo-labels by cosine similarity to the descriptors (SPEC section 5, SME).

    Args:
        means: `[B, D]` temporal means of the videos, RGB then flow.
        descriptors: `[2, C, D/2]`.

    Returns:
        The pseudo-label of each video and whether the modalities are consistent, or partially so, about it.
    """
    halves = means.unflatten(1, (2, -1)).transpose(0, 1)  # [2, B, D/2]
    cosine = F.normalize(halves, dim=-1, eps=1e-8) @ F.normalize(descriptors, dim=-1, eps=1e-8).mT  # [2, B, C]
    similarity = cosine.softmax(-1)
    appearance, motion = similarity.argmax(-1)  # [B] each
    label = similarity.mean(0).argmax(-1)
    consistent = appearance == motion
    return PseudoLabels(label, consistent, ~consistent & ((label == appearance) | (label == motion)))


def pseudo_label_report(pseudo: PseudoLabels, labels: Tensor, class_names: Sequence[str], most: int = 10) -> str:
    """How good the pseudo-labels of videos are, as text: a line of counts, and the most frequent confusions.

    Args:
        pseudo: of the videos.
        labels: `[B, C]` their true labels, 0 or 1; a video without any is left out.
        class_names: C names.
        most: confusions to list.
    """
    labelled = labels.any(1)
    label, labels = pseudo.label[labelled], labels[labelled] > 0
    right = labels.gather(1, label[:, None])[:, 0]
    share = 100 * float(right.float().mean())
    consistent, partial = int(pseudo.consistent[labelled].sum()), int(pseudo.partial[labelled].sum())
    lines = [
        f"pseudo-labels of {len(label)} labelled training videos: {int(right.sum())} are a true label ({share:.1f}%); "
        f"{consistent} videos are consistent (appearance and motion agree), {partial} partially consistent"
    ]
    wrong, true = (labels & ~right[:, None]).nonzero(as_tuple=True)  # a row for each true label of a wrong video
    confusions, counts = torch.stack([true, label[wrong]], dim=1).unique(dim=0, return_counts=True)
    order = counts.sort(descending=True, stable=True).indices[:most]
    names = [(class_names[a], class_names[b]) for a, b in confusions[order].tolist()]
    lines += [f"  {n} x {a} taken for {b}" for (a, b), n in zip(names, counts[order].tolist(), strict=True)]
    if len(counts) > most:
        lines.append(f"  … and {len(counts) - most} other pairs")
    return "\n".join(lines)
