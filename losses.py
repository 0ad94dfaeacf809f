"""The losses of SEAL: one pure function for each term, and the criterion that sums them (SPEC section 5).

    total = MIL + 0.5 MIL_suppressed + w_SME(epoch) SME + 3.4 PC + w_SC(epoch) SC

Axes: B videos of a batch, N rows (the proposals of all of them, one video under another), M proposals of one
video, C classes without and C+1 with the background, which is the last column. `sizes` holds the M of each video.
Loops run over the videos of a batch (ten by default), because videos differ in M; no loop runs over proposals. On a
GPU, excluded rows are masked, because counting them would wait for the device; on the CPU they are dropped.

`seal_terms` are those of the paper, `own_terms` those for own data (SPEC section 14).

To add a term, write its function and its entry in one of them; its option goes into options.py and, under the same
name, into `LossSettings` (docs/EXTENDING.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset import Batch
from descriptors import PseudoLabels
from proposals import tiou
from utils import exact_product

MIL_SCALES = (1, 2, 4, 8, 16)  # of `multi_scale_loss`: all proposals of a video, its strongest half, and so on


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
    video_logits = torch.stack(
        [x.topk(max(1, len(x) // topk_divisor), dim=0).values.mean(0) for x in class_logits.split(sizes)]
    )  # [B, C+1]
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
    probs = class_logits[:, :-1].softmax(1)  # [N, C]
    return torch.stack([p.mean(0) for p in probs.split(sizes)])


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
    total = count = attention_prob.new_zeros(())
    per_video = (x.split(sizes) for x in (attention_prob.detach(), completeness_prob, proposals))
    for a, u, segments in zip(*per_video, strict=True):
        pseudo = ~(a < gamma * a.max())  # [M], never all false, even if a is nan
        pseudo, pseudo_instances = compact_on_cpu(pseudo, segments)  # [M], or [P] each
        overlap = tiou(segments[:, None], pseudo_instances, epsilon=1e-6).where(pseudo, -1)  # [M, P]
        overlap, nearest = overlap.max(1)  # [M] each
        match = pseudo_instances[nearest]
        kept, u, segments, match = compact_on_cpu(overlap > 0, u, segments, match)  # [M], or [K] each
        kept, (start, end), (match_start, match_end) = kept.to(u.dtype), segments.T, match.T
        match_center = (match_start + match_end) / 2

        inner_start, inner_end = torch.maximum(start, match_start), torch.minimum(end, match_end)
        inter = (inner_end - inner_start).clamp(min=1e-6)

        # Row i is a completeness and column j a geometry: every pair of them, or the diagonal alone.
        scale = u[:, None] if center == "all_pairs" else u
        estimate = (inner_end - inner_start) / 2 * scale + (torch.minimum(start, match_start) + inner_start) / 2
        off_center = F.smooth_l1_loss(estimate, match_center.expand_as(estimate), reduction="none")
        off_center = kept @ off_center if center == "all_pairs" else off_center  # [M], by geometry
        distance = ((start + end) / 2 - match_center).abs() / inter
        distance = F.smooth_l1_loss(distance, torch.zeros_like(distance), reduction="none")
        penalty = (1 - u) * (inter / (match_end - match_start) < 0.5)

        total = total + kept @ (weight_center * off_center + weight_distance * distance + weight_penalty * penalty)
        count = count + kept.sum()
    return total / count.clamp(min=1)


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
    video = torch.cat([labels.new_full((size,), i, dtype=torch.long) for i, size in enumerate(sizes)])  # [N]
    chosen = (logits.argmax(1) == labels.argmax(1)[video]) & labels.any(1)[video]  # [N]

    member = F.one_hot(video, len(sizes)).T * chosen  # [B, N]
    mean_of = member / member.sum(1, keepdim=True).clamp(min=1)
    descriptor = exact_product(mean_of.to(fused.dtype), fused)  # [B, D], zero where no proposal is chosen
    # One by one, not fused - descriptor[video]: the gradient of indexing adds up in an order that changes every time.
    per_video = zip(fused.split(sizes), descriptor, strict=True)
    distance = torch.cat([torch.linalg.vector_norm(f - d, dim=1) for f, d in per_video])  # [N]

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
    per_video = []
    for x in logits.split(sizes):
        counts = [max(1, len(x) // scale) for scale in MIL_SCALES]
        total = x.sort(0, descending=True).values.cumsum(0)  # [M, C]
        per_video.append(torch.stack([total[count - 1] / count for count in counts]))
    return torch.stack(per_video, 1)


def instance_overlap(proposals: Tensor, instance_class: Tensor, sizes: Sequence[int], num_class: int) -> Tensor:
    """The tIoU of each proposal with the nearest pseudo-instance of each class.

    Args:
        proposals: `[N, 2]`.
        instance_class: `[N]`, the class of a proposal that is a pseudo-instance, else -1.
        sizes: M of each video.
        num_class: C.

    Returns:
        `[N, C]` in [0, 1]; 0 for classes without a pseudo-instance in the video.
    """
    overlaps = []
    for segments, classes in zip(proposals.split(sizes), instance_class.split(sizes), strict=True):
        chosen, instances, classes = compact_on_cpu(classes >= 0, segments, classes)  # [P], or [M] each
        overlap = tiou(segments[:, None], instances) * chosen  # [M, P]
        of_class = classes.clamp(min=0).expand_as(overlap)
        zeros = overlap.new_zeros(len(segments), num_class)
        overlaps.append(zeros.scatter_reduce(1, of_class, overlap, "amax"))
    return torch.cat(overlaps)


def compact_on_cpu(mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """The mask and the values; on the CPU without the rows where the mask is false.

    Callers weigh rows by the mask that is returned, so dropping rows changes nothing but the time. On the CPU it saves
    work. On a GPU the number of rows that are left is unknown without a sync, so all rows stay.
    """
    return tuple(x[mask] for x in (mask, *values)) if mask.is_cpu else (mask, *values)


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
        return instance_overlap(b.proposals, b.instance_class, b.sizes, b.labels.shape[1])

    @cached_property
    def overlap_is_known(self) -> Tensor:
        """`[N, C]`, 0 for the labels of which a video has no pseudo-instance, so that nothing is known, else 1."""
        per_video = zip(self.instance_overlap.split(self.batch.sizes), self.batch.labels, strict=True)
        known = [((labels == 0) | (overlap.amax(0) > 0)).expand_as(overlap) for overlap, labels in per_video]
        return torch.cat(known).to(self.instance_overlap.dtype)


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
