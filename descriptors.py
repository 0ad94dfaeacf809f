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
    """The pseudo-labels of videos; constant during training. One of a tie says nothing, see `are_tied`."""

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
        The pseudo-label of each video, and whether its modalities are consistent or partially consistent; a tie is
        neither.
    """
    cosine = cosines(means, descriptors)
    similarity, untied = cosine.softmax(-1), ~are_tied(cosine)
    best = similarity.argmax(-1)  # [m, B]
    label = similarity.mean(0).argmax(-1)  # [B]
    consistent = (best == best[0]).all(0)
    return PseudoLabels(label, consistent & untied, ~consistent & (best == label).any(0) & untied)


def cosines(means: Tensor, descriptors: Tensor) -> Tensor:
    """The cosine similarity of videos and classes in each modality, `[m, B, C]`; see `pseudo_labels`."""
    parts = means.unflatten(1, (len(descriptors), -1)).transpose(0, 1)  # [m, B, D/m]
    return F.normalize(parts, dim=-1, eps=1e-8) @ F.normalize(descriptors, dim=-1, eps=1e-8).mT


def are_tied(cosine: Tensor) -> Tensor:
    """Which videos two classes resemble most and equally, in a modality or in the mean over them: `[B]` bool.

    Features that are all zero resemble every class alike; classes of the same videos have equal descriptors.

    Args:
        cosine: `[m, B, C]`, see `cosines`.
    """
    compared = torch.cat([cosine, cosine.softmax(-1).mean(0, keepdim=True)])  # [m+1, B, C]
    first, second = F.pad(compared, (0, 1), value=-2).topk(2, dim=-1).values.unbind(-1)  # of one class, no tie
    # A matrix product may add up one column in another order than the next, so equal ones may differ in a last bit.
    return (first - second <= 4 * torch.finfo(first.dtype).eps * first.abs()).any(0)


def pseudo_label_report(
    pseudo: PseudoLabels,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    tied: Tensor | None = None,
    modalities: int = 2,
    most: int = 10,
) -> str:
    """Describe how good pseudo-labels are: a line of counts, and the most frequent confusions.

    Args:
        pseudo: of the videos.
        labels: `[B, C]` their true labels, 0 or 1; videos without labels are left out.
        class_names: C names.
        tied: `[B]` see `are_tied`; these have no pseudo-label. None if there are none.
        modalities: m, which pseudo-labels were made from.
        most: confusions to list.
    """
    labelled = labels.any(1)
    has_one = torch.ones_like(labelled) if tied is None else ~tied
    label, has_one, labels = pseudo.label[labelled], has_one[labelled], labels[labelled] > 0
    right = labels.gather(1, label[:, None])[:, 0] & has_one
    share = 100 * float(right.float().mean())
    consistent, partial = int(pseudo.consistent[labelled].sum()), int(pseudo.partial[labelled].sum())
    agreement = ONE_MODALITY
    if modalities == 2:
        agreement = f"{consistent} videos are consistent (appearance and motion agree), {partial} partially consistent"
    lines = [
        f"pseudo-labels of {len(label)} labelled training videos: {int(right.sum())} are a true label ({share:.1f}%); "
        f"{agreement}"
    ]
    if num_tied := int((~has_one).sum()):
        lines.append(f"  {num_tied} of them have none, since two classes resemble them alike")
    wrong, true = (labels & (has_one & ~right)[:, None]).nonzero(as_tuple=True)  # a row for each true label of these
    confusions, counts = torch.stack([true, label[wrong]], dim=1).unique(dim=0, return_counts=True)
    order = counts.sort(descending=True, stable=True).indices[:most]
    names = [(class_names[a], class_names[b]) for a, b in confusions[order].tolist()]
    lines += [f"  {n} x {a} taken for {b}" for (a, b), n in zip(names, counts[order].tolist(), strict=True)]
    if len(counts) > most:
        lines.append(f"  … and {len(counts) - most} other pairs")
    return "\n".join(lines)
