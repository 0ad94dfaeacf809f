"""Class descriptors: one appearance (RGB) and one motion (flow) vector per class, and the pseudo-labels they give.

Features of one modality, which are not RGB and flow, have one vector per class. Axes: m modalities (1 or 2), B videos,
C classes, D features.

Descriptors are temporal means of each class's training videos (the paper's Eq. 1 and 2, SPEC section 8). A video
whose own means resemble a class's descriptors gets that class as its pseudo-label (SPEC section 5, SME).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ONE_MODALITY = "one modality: pseudo-labels come from one descriptor per class"


def build_descriptors(means: Tensor, labels: Tensor, weights: Tensor | None = None, modalities: int = 2) -> Tensor:
    """Descriptors from training videos: per class, the mean over its videos of each video's temporal mean.

    The paper's figure says "temporal aggregation per class". Averaging each video first, so that a long video weighs no
    more than a short one, is our reading (SPEC section 8). With the lengths of the videos as `weights`, descriptors are
    means over all snippets of the class instead.

    Args:
        means: `[B, D]` temporal means of the videos, RGB then flow.
        labels: `[B, C]` video labels, 0 or 1.
        weights: `[B]` positive weights of the videos; None gives all the same weight.
        modalities: m.

    Returns:
        `[m, C, D/m]`, for two modalities appearance, motion. A class without videos gets the zero vector.
    """
    weighted = labels if weights is None else labels * weights[:, None]
    share = weighted / weighted.sum(0).clamp(min=1)  # [B, C]
    return torch.stack([share.T @ part for part in means.chunk(modalities, dim=1)])


class PseudoLabels(NamedTuple):
    """The pseudo-labels of videos; constant during training."""

    label: Tensor  # [B] long, the pseudo-label
    consistent: Tensor  # [B] bool, appearance and motion agree on it; always, if there is one modality
    partial: Tensor  # [B] bool, they differ, and one of them agrees with it

    def select(self, videos: Sequence[int]) -> PseudoLabels:
        """The pseudo-labels of some of the videos, in the given order."""
        return PseudoLabels(*(torch.stack([field[i] for i in videos]) for field in self))


def pseudo_labels(means: Tensor, descriptors: Tensor) -> PseudoLabels:
    """Pseudo-labels by cosine similarity to the descriptors (SPEC section 5, SME).

    Args:
        means: `[B, D]` temporal means of the videos, RGB then flow.
        descriptors: `[m, C, D/m]`.

    Returns:
        The pseudo-label of each video, and whether its modalities are consistent or partially consistent.
    """
    parts = means.unflatten(1, (len(descriptors), -1)).transpose(0, 1)  # [m, B, D/m]
    cosine = F.normalize(parts, dim=-1, eps=1e-8) @ F.normalize(descriptors, dim=-1, eps=1e-8).mT  # [m, B, C]
    similarity = cosine.softmax(-1)
    best = similarity.argmax(-1)  # [m, B]
    label = similarity.mean(0).argmax(-1)  # [B]
    consistent = (best == best[0]).all(0)
    return PseudoLabels(label, consistent, ~consistent & (best == label).any(0))


def pseudo_label_report(
    pseudo: PseudoLabels, labels: Tensor, class_names: Sequence[str], *, modalities: int = 2, most: int = 10
) -> str:
    """Describe how good pseudo-labels are: a line of counts, and the most frequent confusions.

    Args:
        pseudo: of the videos.
        labels: `[B, C]` their true labels, 0 or 1; videos without labels are left out.
        class_names: C names.
        modalities: m, which pseudo-labels were made from.
        most: confusions to list.
    """
    labelled = labels.any(1)
    label, labels = pseudo.label[labelled], labels[labelled] > 0
    right = labels.gather(1, label[:, None])[:, 0]
    share = 100 * float(right.float().mean())
    consistent, partial = int(pseudo.consistent[labelled].sum()), int(pseudo.partial[labelled].sum())
    agreement = ONE_MODALITY
    if modalities == 2:
        agreement = f"{consistent} videos are consistent (appearance and motion agree), {partial} partially consistent"
    lines = [
        f"pseudo-labels of {len(label)} labelled training videos: {int(right.sum())} are a true label ({share:.1f}%); "
        f"{agreement}"
    ]
    wrong, true = (labels & ~right[:, None]).nonzero(as_tuple=True)  # a row for each true label of a wrong video
    confusions, counts = torch.stack([true, label[wrong]], dim=1).unique(dim=0, return_counts=True)
    order = counts.sort(descending=True, stable=True).indices[:most]
    names = [(class_names[a], class_names[b]) for a, b in confusions[order].tolist()]
    lines += [f"  {n} x {a} taken for {b}" for (a, b), n in zip(names, counts[order].tolist(), strict=True)]
    if len(counts) > most:
        lines.append(f"  … and {len(counts) - most} other pairs")
    return "\n".join(lines)
