"""The losses of SEAL: one pure function for each term, and the criterion that sums them (SPEC section 5).

    total = MIL + 0.5 MIL_suppressed + w_SME(epoch) SME + 3.4 PC + w_SC(epoch) SC

Axes: B videos of a batch, N rows (the proposals of all of them, one video under another), M proposals of one
video, C classes without and C+1 with the background, which is the last column. `sizes` holds the M of each video.
Videos differ in M. `per_video_mean`, `mean_of_strongest`, `of_each_row` and `padded` hide that: no loop runs over
videos, so that a step takes as many device operations for a large batch as for a small one. Rows that do not count
have no weight; to drop them, the program would have to wait for the device.

`seal_terms` are those of the paper, `own_terms` those for own data (SPEC section 14).

To add a term, write its function and its entry in one of them; its option goes into options.py and, under the same
name, into `LossSettings` (docs/EXTENDING.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset import Batch, Instances
from descriptors import PseudoLabels
from proposals import tiou
from utils import chunks, exact_product, to_device

MIL_SCALES = (1, 2, 4, 8, 16)  # of `multi_scale_loss`: all proposals of a video, its strongest half, and so on
PAIRS_AT_A_TIME = 1 << 22  # of proposals of one video; a pair takes about 40 bytes for a moment
FAR_AWAY = 1e30  # start and end of an empty segment that overlaps nothing


def multiple_instance_loss(
    class_logits: Tensor, sizes: Sequence[int], labels: Tensor, *, background: float, topk_divisor: int
) -> Tensor:
    """Multiple-instance classification: a video's logits are the means of its strongest proposals, class by class.

    Args:
        class_logits: `[N, C+1]`.
        sizes: M of each video.
        labels: `[B, C]` video labels, 0 or 1.
        background: the target of the background column, 1 for x and 0 for the attention-suppressed a·x.
        topk_divisor: the k of the top-k mean is M // topk_divisor, at least 1.

    Returns:
        Cross-entropy against the normalised labels, mean over the videos.
    """
    target = F.pad(labels, (0, 1), value=background)  # [B, C+1]
    target = target / (target.sum(1, keepdim=True) + 1e-4)
    [video_logits] = mean_of_strongest(class_logits, sizes, [topk_divisor])  # [B, C+1]
    return -(target * video_logits.log_softmax(1)).sum(1).mean()


def similar_modality_loss(
    class_logits: Tensor,
    sizes: Sequence[int],
    pseudo_label: Tensor,
    consistent: Tensor,
    partial: Tensor,
    *,
    partial_weight: float,
) -> Tensor:
    """Similar modality enhancement (SME): a video's mean prediction should be its pseudo-label.

    Args:
        class_logits: `[N, C+1]`.
        sizes: M of each video.
        pseudo_label: `[B]` class indices from the descriptors.
        consistent: `[B]` bool, appearance and motion agree on the pseudo-label.
        partial: `[B]` bool, they differ, and it is what one of them says.
        partial_weight: of the partially consistent videos, (1 - epoch / max_epoch) / 2.

    Returns:
        Mean squared error over the consistent videos, plus the weighted one over the partially consistent.
    """
    prediction = mean_prediction(class_logits, sizes)  # [B, C]
    error = (prediction - F.one_hot(pseudo_label, prediction.shape[1])).square().mean(1)  # [B]
    return _masked_mean(error, consistent) + partial_weight * _masked_mean(error, partial)


def mean_prediction(class_logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Class probabilities of each video, the background aside: the mean over its proposals, `[B, C]` of `[N, C+1]`."""
    return per_video_mean(class_logits[:, :-1].softmax(1), sizes)


def process_consistency_loss(
    attention_prob: Tensor,
    completeness_prob: Tensor,
    proposals: Tensor,
    sizes: Sequence[int],
    *,
    gamma: float,
    weight_center: float = 0.01,
    weight_distance: float,
    weight_penalty: float,
    center: str = "all_pairs",
) -> Tensor:
    """Process consistency (PC): proposals should agree with the most attended ones, the pseudo-instances.

    Args:
        attention_prob: `[N]`, a; it chooses the pseudo-instances, a >= gamma·max a, and gets no gradient.
        completeness_prob: `[N]`, u.
        proposals: `[N, 2]` in snippets.
        sizes: M of each video.
        gamma: see above.
        weight_center: of the centre term.
        weight_distance: of the distance term.
        weight_penalty: of the penalty term.
        center: `all_pairs` takes the centre term of a kept proposal over the completeness of every kept proposal
            of its video, as the release computes it; `matched` over its own alone.

    Returns:
        weight_center · centre + weight_distance · distance + weight_penalty · penalty, each a sum over the kept
        proposals of the batch divided by their number; 0 when none is kept.
    """
    a, u = attention_prob.detach(), completeness_prob
    highest = padded(a, sizes, -torch.inf).amax(1)  # [B]
    is_pseudo = ~(a < gamma * of_each_row(highest, sizes))  # [N], in no video all false, even if a is nan
    overlap, match = nearest_pseudo_instance(proposals, is_pseudo, sizes)
    kept, (start, end), (match_start, match_end) = (overlap > 0).to(u.dtype), proposals.T, match.T
    match_center = (match_start + match_end) / 2

    inner_start, inner_end = torch.maximum(start, match_start), torch.minimum(end, match_end)
    inter = (inner_end - inner_start).clamp(min=1e-6)

    # How far the estimate of the centre lies off, as a function of a completeness: slope · completeness + offset.
    slope = (inner_end - inner_start) / 2
    offset = (torch.minimum(start, match_start) + inner_start) / 2 - match_center
    if center == "all_pairs":
        off_center = smooth_l1_of_pairs(u, kept * slope, kept * offset, sizes)
    else:
        off_center = _smooth_l1(slope * u + offset)
    distance = _smooth_l1(((start + end) / 2 - match_center) / inter)
    penalty = (1 - u) * (inter / (match_end - match_start) < 0.5)
    return _masked_mean(weight_center * off_center + weight_distance * distance + weight_penalty * penalty, kept)


def nearest_pseudo_instance(proposals: Tensor, is_pseudo: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Match each proposal with the pseudo-instance of its video that it overlaps most.

    Args:
        proposals: `[N, 2]`.
        is_pseudo: `[N]` bool, which proposals are pseudo-instances.
        sizes: M of each video.

    Returns:
        The tIoU `[N]` and the match `[N, 2]`; where the tIoU is 0, the match is any proposal.
    """
    instances = proposals.where(is_pseudo[:, None], FAR_AWAY)
    best = [overlap.max(1) for overlap in _overlaps(proposals, sizes, instances, sizes, epsilon=1e-6)]
    overlap, nearest = (torch.cat(part) for part in zip(*best, strict=True))  # [N] each
    rows = _rows(sizes, proposals.device)
    return overlap, padded(proposals, sizes, 0).flatten(0, 1)[rows.video * max(sizes) + nearest]


def smooth_l1_of_pairs(u: Tensor, slope: Tensor, offset: Tensor, sizes: Sequence[int]) -> Tensor:
    """For each row i the sum of smooth_l1(slope_j · u_i + offset_j) over the rows j of its video.

    Smooth L1 of d is g·d - g²/2, where g, its derivative, is d limited to [-1, 1]. So the sum and its derivative come
    together, and no pair has to be kept for the backward pass.

    Args:
        u: `[N]`, which alone gets a gradient.
        slope: `[N]`.
        offset: `[N]`.
        sizes: M of each video.

    Returns:
        `[N]`.
    """
    video = _rows(sizes, u.device).video
    slopes, offsets = padded(slope, sizes, 0), padded(offset, sizes, 0)  # [B, M_max] each
    sums = []
    for part in chunks(len(u), max(sizes), PAIRS_AT_A_TIME):
        of_slope = slopes[video[part]]  # [n, M_max]
        d = torch.addcmul(offsets[video[part]], of_slope, u.detach()[part, None])
        g = d.clamp(-1, 1)
        sums.append(torch.stack([d.sub_(g, alpha=0.5).mul_(g).sum(1), g.mul_(of_slope).sum(1)]))
    value, derivative = torch.cat(sums, 1)
    return value + derivative * (u - u.detach())


def semantic_consistency_loss(
    class_logits: Tensor,
    attention_prob: Tensor,
    fused: Tensor,
    sizes: Sequence[int],
    labels: Tensor,
    *,
    distance_weight: float,
) -> Tensor:
    """Semantic consistency (SC): proposals of the video's class lie together, with and without attention.

    Args:
        class_logits: `[N, C+1]`, x.
        attention_prob: `[N]`, a.
        fused: `[N, D]`.
        sizes: M of each video.
        labels: `[B, C]` video labels; the first label in class order counts, and a video without any adds nothing.
        distance_weight: of the distances, 0.3 + 0.2 epoch / alpha_2.

    Returns:
        distance_weight · mean distance of the proposals predicted as their video's class to their own mean, plus
        the mean squared error between softmax(x) and softmax(a·x), background left out of both.
    """
    logits = class_logits[:, :-1]  # [N, C]
    has_label = of_each_row(labels.any(1), sizes)
    chosen = (logits.argmax(1) == of_each_row(labels.argmax(1), sizes)) & has_label  # [N]

    descriptor = per_video_mean(fused, sizes, chosen)  # [B, D], zero where no proposal is chosen
    # A product, not `of_each_row`: the gradient of indexing adds up in an order that changes every time.
    off_descriptor = exact_product(_rows(sizes, fused.device).member.T.to(fused.dtype), descriptor, minuend=fused)
    distance = torch.linalg.vector_norm(off_descriptor, dim=1)  # [N]

    suppressed = (logits * attention_prob[:, None]).softmax(1)
    return distance_weight * _masked_mean(distance, chosen) + F.mse_loss(logits.softmax(1), suppressed)


def independent_logits(class_logits: Tensor) -> Tensor:
    """Each class against the background: `[N, C]` of `[N, C+1]`. Their sigmoids do not depend on the other classes."""
    return class_logits[:, :-1] - class_logits[:, -1:]


def multi_scale_loss(logits: Tensor, sizes: Sequence[int], labels: Tensor) -> Tensor:
    """Multiple-instance classification at several scales, from every proposal of a video to its strongest few.

    Which share of a video its actions cover is unknown, and differs from class to class. Short actions are learnt at
    the scales that look at the strongest few, long ones at those that look at many.

    Args:
        logits: `[N, C]`, independent; or with further axes between, as the labels then have.
        sizes: M of each video.
        labels: `[B, C]` video labels, 0 or 1.

    Returns:
        Binary cross-entropy, mean over scales, videos and classes.
    """
    pooled = multi_scale_logits(logits, sizes)  # [K, B, C]
    return F.binary_cross_entropy_with_logits(pooled, labels.expand_as(pooled))


def multi_scale_logits(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """The logits of videos at each of `MIL_SCALES`: means of the strongest M // scale, class by class; `[K, B, C]`."""
    return mean_of_strongest(logits, sizes, MIL_SCALES)


def instance_overlap(proposals: Tensor, sizes: Sequence[int], instances: Instances, num_class: int) -> Tensor:
    """The tIoU of each proposal with the nearest pseudo-instance of each class.

    Args:
        proposals: `[N, 2]`.
        sizes: M of each video.
        instances: the pseudo-instances of the B videos.
        num_class: C.

    Returns:
        `[N, C]` in [0, 1]; 0 for classes without a pseudo-instance in the video.
    """
    if not any(instances.sizes):
        return proposals.new_zeros(len(proposals), num_class)
    classes = of_each_row(padded(instances.classes, instances.sizes, 0), sizes)  # [N, P_max]
    segments = proposals[instances.rows]
    overlap = torch.cat([*_overlaps(proposals, sizes, segments, instances.sizes, epsilon=0)])  # [N, P_max]
    return overlap.new_zeros(len(overlap), num_class).scatter_reduce(1, classes, overlap, "amax")


# ------------------------------------------------------------------------------------- the rows of each video


class _Rows(NamedTuple):
    """Where the rows of each video are."""

    video: Tensor  # [N] the video of each row
    place: Tensor  # [N] of each row, in the rows of a padded view, [B * M_max]
    member: Tensor  # [B, N] float32, 1 for the rows of a video


def _rows(sizes: Sequence[int], device: torch.device) -> _Rows:
    return _rows_of(tuple(sizes), device)


@lru_cache(maxsize=8)  # the terms of a step share it
def _rows_of(sizes: tuple[int, ...], device: torch.device) -> _Rows:
    count = np.array(sizes)
    video = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(video)) + np.repeat(count.max() * np.arange(len(count)) - (count.cumsum() - count), count)
    video, place = to_device(torch.from_numpy(np.stack([video, place])), device)
    member = video == torch.arange(len(count), device=device)[:, None]
    return _Rows(video, place, member.float())


def padded(values: Tensor, sizes: Sequence[int], fill: float) -> Tensor:
    """`[B, M_max, ...]` of `[N, ...]`: each video filled up to the length of the longest."""
    shape, place = (len(sizes), max(sizes)), _rows(sizes, values.device).place
    filled = values.new_full((shape[0] * shape[1], *values.shape[1:]), fill)
    return filled.index_copy(0, place, values).unflatten(0, shape)


def of_each_row(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """`[N, ...]` of `[B, ...]`: for each row what its video has."""
    return values.index_select(0, _rows(sizes, values.device).video)


def per_video_mean(values: Tensor, sizes: Sequence[int], mask: Tensor | None = None) -> Tensor:
    """`[B, D]` of `[N, D]`: the mean over the rows of each video, or over those of a mask `[N]`; 0 if it has none."""
    weight = _rows(sizes, values.device).member.to(values.dtype)  # [B, N]
    weight = weight if mask is None else weight * mask
    return exact_product(weight, values) / weight.sum(1, keepdim=True).clamp(min=1)


def mean_of_strongest(values: Tensor, sizes: Sequence[int], divisors: Sequence[int]) -> Tensor:
    """The mean of the largest M // divisor values of each video (at least one), column by column.

    Args:
        values: `[N, ...]`.
        sizes: M of each video.
        divisors: K of them.

    Returns:
        `[K, B, ...]`.
    """
    counts = [[max(1, size // divisor) for divisor in divisors] for size in sizes]  # [B, K]
    most = max(map(max, counts))
    strongest = padded(values.flatten(1), sizes, -torch.inf).topk(most, dim=1).values  # [B, most, columns]
    count = to_device(torch.tensor(counts, dtype=values.dtype), values.device)[..., None]
    weight = (torch.arange(most, device=values.device) < count) / count  # [B, K, most]
    means = exact_product(weight, strongest.masked_fill(strongest == -torch.inf, 0))  # [B, K, columns]
    return means.movedim(1, 0).unflatten(2, values.shape[1:])


def _overlaps(
    proposals: Tensor, sizes: Sequence[int], others: Tensor, other_sizes: Sequence[int], epsilon: float
) -> Iterator[Tensor]:
    """The tIoU of proposals with other segments of their videos: `[n, P_max]` for n proposals after others."""
    video = _rows(sizes, proposals.device).video
    others = padded(others, other_sizes, FAR_AWAY).movedim(-1, 0).contiguous()  # [2, B, P_max]
    for part in chunks(len(proposals), others.shape[2], PAIRS_AT_A_TIME):
        yield tiou(proposals[part, None], others[:, video[part]].movedim(0, -1), epsilon=epsilon)


def _smooth_l1(x: Tensor) -> Tensor:
    return F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none")


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked values; 0 if none is masked."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


@dataclass(frozen=True)
class Step:
    """What a loss term may read of one training step."""

    outputs: Mapping[str, Tensor]  # of the network, see `model.SEAL.forward`
    batch: Batch
    pseudo: PseudoLabels  # of the B videos of the batch
    epoch: int  # from 1

    @property
    def class_logits(self) -> Tensor:
        """x, `[N, C+1]`, background last."""
        return self.outputs["class_logits"]

    @cached_property
    def attention_prob(self) -> Tensor:
        """a, `[N]`."""
        return self.outputs["attention_logits"].sigmoid()

    @cached_property
    def completeness_prob(self) -> Tensor:
        """u, `[N]`."""
        return self.outputs["completeness_logits"].sigmoid()

    @cached_property
    def instance_overlap(self) -> Tensor:
        """The tIoU with the nearest pseudo-instance of each class, `[N, C]`."""
        b = self.batch
        return instance_overlap(b.proposals, b.sizes, b.instances, b.labels.shape[1])

    @cached_property
    def overlap_is_known(self) -> Tensor:
        """`[N, C]`, 0 for the labels of which a video has no pseudo-instance, so that nothing is known, else 1."""
        overlap, sizes = self.instance_overlap, self.batch.sizes
        known = (self.batch.labels == 0) | (padded(overlap, sizes, 0).amax(1) > 0)  # [B, C]
        return of_each_row(known, sizes).to(overlap.dtype)


class Term(NamedTuple):
    """A loss term: what is logged under `name` is `loss`, and `weight(epoch) * loss` goes into the total."""

    name: str
    loss: Callable[[Step], Tensor]  # a scalar
    weight: Callable[[int], float]  # of the epoch, from 1


@dataclass(frozen=True)
class LossSettings:
    """The options of the loss terms, each under the name of its command-line option (defaults: options.py)."""

    max_epoch: int  # the last epoch, where the partially consistent videos of SME have faded out
    topk_divisor: int  # of multiple-instance classification (--k)
    weight_pc: float  # of PC (--alpha_1)
    sc_epochs: int  # the last epoch of SC, and the length of its distance ramp (--alpha_2)
    sme_epochs: int  # the last epoch of SME, H (--alpha_3)
    sc_decay: float  # epochs in which the weight of SC falls to 1/e (--alpha_4)
    weight_pc_distance: float  # of PC's distance term (--alpha_5)
    weight_pc_penalty: float  # of PC's penalty term (--alpha_6)
    pseudo_instance_ratio: float  # attention of a pseudo-instance, as a share of the video's largest (--gamma)
    pc_center: str  # `all_pairs` or `matched`, see `process_consistency_loss`
    weight_sme: float  # of SME
    weight_sc: float  # of SC
    weight_instances: float  # of classifying proposals by the pseudo-instances, in the recipe for own data
    weight_completeness: float  # of completeness, likewise
    weight_suppressed: float  # of MIL on the attended proposals, likewise


def seal_terms(settings: LossSettings) -> list[Term]:
    """SEAL's five terms with their weights and schedules (SPEC section 5)."""
    s = settings

    def mil_original(step: Step) -> Tensor:
        b = step.batch
        return multiple_instance_loss(step.class_logits, b.sizes, b.labels, background=1.0, topk_divisor=s.topk_divisor)

    def mil_suppressed(step: Step) -> Tensor:
        """MIL on a·x. The 0.5 is here, not in the weight, so that the log shows the same value as the release's."""
        b, logits = step.batch, step.attention_prob[:, None] * step.class_logits
        return 0.5 * multiple_instance_loss(logits, b.sizes, b.labels, background=0.0, topk_divisor=s.topk_divisor)

    def sme(step: Step) -> Tensor:
        partial_weight = 0.5 * (1 - step.epoch / s.max_epoch)
        return similar_modality_loss(step.class_logits, step.batch.sizes, *step.pseudo, partial_weight=partial_weight)

    def pc(step: Step) -> Tensor:
        return process_consistency_loss(
            step.attention_prob,
            step.completeness_prob,
            step.batch.proposals,
            step.batch.sizes,
            gamma=s.pseudo_instance_ratio,
            weight_distance=s.weight_pc_distance,
            weight_penalty=s.weight_pc_penalty,
            center=s.pc_center,
        )

    def sc(step: Step) -> Tensor:
        return semantic_consistency_loss(
            step.class_logits,
            step.attention_prob,
            step.outputs["fused"],
            step.batch.sizes,
            step.batch.labels,
            distance_weight=0.3 + 0.2 * step.epoch / s.sc_epochs,
        )

    return [
        Term("loss_prop_mil_orig", mil_original, lambda epoch: 1.0),
        Term("loss_prop_mil_supp", mil_suppressed, lambda epoch: 1.0),
        Term("SME_loss", sme, lambda epoch: s.weight_sme * sme_weight(epoch, s.sme_epochs)),
        Term("PC_loss", pc, lambda epoch: s.weight_pc),
        Term("SC_loss", sc, lambda epoch: s.weight_sc * sc_weight(epoch, s.sc_epochs, s.sc_decay)),
    ]


def own_terms(settings: LossSettings) -> list[Term]:
    """The terms of the recipe for own data (docs/own-videos.md): MIL and pseudo-instances of independent classes.

    The pseudo-instances are the proposals that score best in their file. SEAL's choose them by its own attention, which
    lets every proposal become one. SEAL's other terms are there if they have a weight.
    """
    s, seal = settings, {term.name: term for term in seal_terms(settings)}

    def mil(step: Step) -> Tensor:
        return multi_scale_loss(independent_logits(step.class_logits), step.batch.sizes, step.batch.labels)

    def suppressed(step: Step) -> Tensor:
        logits = step.attention_prob[:, None] * independent_logits(step.class_logits)
        return multi_scale_loss(logits, step.batch.sizes, step.batch.labels)

    def instances(step: Step) -> Tensor:
        logits = independent_logits(step.class_logits)
        return F.binary_cross_entropy_with_logits(logits, step.instance_overlap, step.overlap_is_known)

    def completeness(step: Step) -> Tensor:
        target, known = step.instance_overlap.amax(1), step.overlap_is_known.amin(1)
        return F.binary_cross_entropy_with_logits(step.outputs["completeness_logits"], target, known)

    terms = [
        (Term("MIL_loss", mil, lambda epoch: 1.0), 1.0),
        (Term("MIL_suppressed_loss", suppressed, lambda epoch: s.weight_suppressed), s.weight_suppressed),
        (Term("instance_loss", instances, lambda epoch: s.weight_instances), s.weight_instances),
        (Term("completeness_loss", completeness, lambda epoch: s.weight_completeness), s.weight_completeness),
        (seal["SME_loss"], s.weight_sme),
        (seal["PC_loss"], s.weight_pc),
        (seal["SC_loss"], s.weight_sc),
    ]
    return [term for term, weight in terms if weight > 0]


TERMS = {"paper": seal_terms, "own": own_terms}  # by --recipe


def sme_weight(epoch: int, sme_epochs: int) -> float:
    """exp(-0.05 t/H) (1 - exp(-10 t/H)) for t up to H = sme_epochs, then 0; epochs count from 1."""
    t = epoch / sme_epochs
    return math.exp(-0.05 * t) * (1 - math.exp(-10 * t)) if epoch <= sme_epochs else 0.0


def sc_weight(epoch: int, sc_epochs: int, sc_decay: float) -> float:
    """exp(-t / sc_decay) for t up to sc_epochs, then 0; epochs count from 1."""
    return math.exp(-epoch / sc_decay) if epoch <= sc_epochs else 0.0


class Criterion:
    """The weighted sum of loss terms.

    Args:
        terms: each with its name, its function and its schedule, e.g. `seal_terms(settings)`.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = list(terms)

    @property
    def names(self) -> list[str]:
        """What a call returns: `loss_total`, then the terms."""
        return ["loss_total", *(term.name for term in self.terms)]

    def weights(self, epoch: int) -> dict[str, float]:
        """The weight of each term at an epoch."""
        return {term.name: term.weight(epoch) for term in self.terms}

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: Batch, pseudo: PseudoLabels, epoch: int
    ) -> dict[str, Tensor]:
        """All terms of a batch and their weighted sum.

        Args:
            outputs: of the network for the batch.
            batch: B videos.
            pseudo: the pseudo-labels of these B videos.
            epoch: from 1.

        Returns:
            `loss_total`, and the terms under their names, before their weights; scalars.
        """
        step = Step(outputs, batch, pseudo, epoch)
        losses = {term.name: term.loss(step) for term in self.terms}
        total = reduce(torch.add, [weight * losses[name] for name, weight in self.weights(epoch).items()])
        return {"loss_total": total, **losses}
