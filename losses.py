"""The method: what SEAL trains on, one pure function a term, and the criterion that weighs them (SPEC section 5).

    total = MIL + 0.5 MIL_suppressed + w_SME(epoch) SME + 3.4 PC + w_SC(epoch) SC

Axes: B videos of a batch, N rows (the proposals of all of them, one video under another), M proposals of one
video, C classes without and C+1 with the background, which is the last column. `sizes` holds the M of each video.
Loops run over the videos of a batch: ten short steps, because videos differ in M; none runs over proposals. What a
term leaves out is masked, and cut out on the CPU alone: how much it is only the device knows, and no GPU is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from proposals import tiou


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
        pseudo, pseudo_instances = _cut_if_free(pseudo, segments)  # [M], or [P] each
        overlap = tiou(segments[:, None], pseudo_instances, epsilon=1e-6).where(pseudo, -1)  # [M, P]
        overlap, nearest = overlap.max(1)  # [M] each
        match = pseudo_instances[nearest]
        kept, u, segments, match = _cut_if_free(overlap > 0, u, segments, match)  # [M], or [K] each
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
    descriptor = mean_of.to(fused.dtype) @ fused  # [B, D], zero where no proposal is chosen
    # One by one, not fused - descriptor[video]: the gradient of indexing adds up in an order that changes every time.
    per_video = zip(fused.split(sizes), descriptor, strict=True)
    distance = torch.cat([torch.linalg.vector_norm(f - d, dim=1) for f, d in per_video])  # [N]

    suppressed = (logits * attention_prob[:, None]).softmax(1)
    return distance_weight * _masked_mean(distance, chosen) + F.mse_loss(logits.softmax(1), suppressed)


def _cut_if_free(mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """The mask and the values, on the CPU without the rows where the mask is false; elsewhere whole.

    Whoever calls this weighs rows by the mask it gets back, so cutting changes nothing but the time. On the CPU it
    saves work; another device would have to be waited for, to learn how many rows are left.
    """
    return tuple(x[mask] for x in (mask, *values)) if mask.is_cpu else (mask, *values)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked values; 0 when there is none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


class Criterion:
    """The weighted sum of all terms; owns every weight and schedule.

    Args:
        max_epoch: the last epoch, where the partially consistent videos of SME have faded out.
        topk_divisor: of multiple-instance classification (`--k`).
        weight_pc: of PC (`--alpha_1`).
        sc_epochs: the last epoch of SC, and the length of its distance ramp (`--alpha_2`).
        sme_epochs: the last epoch of SME, H (`--alpha_3`).
        sc_decay: epochs in which the weight of SC falls to 1/e (`--alpha_4`).
        weight_distance: of PC's distance term (`--alpha_5`).
        weight_penalty: of PC's penalty term (`--alpha_6`).
        gamma: attention of a pseudo-instance, as a share of the video's largest.
        pc_center: `all_pairs` or `matched`, see `process_consistency_loss`.
    """

    def __init__(
        self,
        *,
        max_epoch: int = 200,
        topk_divisor: int = 8,
        weight_pc: float = 3.4,
        sc_epochs: int = 70,
        sme_epochs: int = 160,
        sc_decay: float = 8.0,
        weight_distance: float = 0.6,
        weight_penalty: float = 9.0,
        gamma: float = 0.8,
        pc_center: str = "all_pairs",
    ) -> None:
        self.max_epoch = max_epoch
        self.topk_divisor = topk_divisor
        self.weight_pc = weight_pc
        self.sc_epochs = sc_epochs
        self.sme_epochs = sme_epochs
        self.sc_decay = sc_decay
        self.weight_distance = weight_distance
        self.weight_penalty = weight_penalty
        self.gamma = gamma
        self.pc_center = pc_center

    def sme_weight(self, epoch: int) -> float:
        """exp(-0.05 t/H) (1 - exp(-10 t/H)) for t up to H, then 0; epochs count from 1."""
        t = epoch / self.sme_epochs
        return math.exp(-0.05 * t) * (1 - math.exp(-10 * t)) if epoch <= self.sme_epochs else 0.0

    def sc_weight(self, epoch: int) -> float:
        """exp(-t / sc_decay) for t up to sc_epochs, then 0; epochs count from 1."""
        return math.exp(-epoch / self.sc_decay) if epoch <= self.sc_epochs else 0.0

    def weights(self, epoch: int) -> dict[str, float]:
        """The weight of each term at an epoch. The suppressed term carries its 0.5 already, as the release logs it."""
        return {
            "loss_prop_mil_orig": 1.0,
            "loss_prop_mil_supp": 1.0,
            "SME_loss": self.sme_weight(epoch),
            "PC_loss": self.weight_pc,
            "SC_loss": self.sc_weight(epoch),
        }

    def __call__(
        self,
        outputs: dict[str, Tensor],
        proposals: Tensor,
        sizes: Sequence[int],
        labels: Tensor,
        pseudo: tuple[Tensor, Tensor, Tensor],
        epoch: int,
    ) -> dict[str, Tensor]:
        """All terms of a batch and their weighted sum.

        Args:
            outputs: of the network, see `model.SEAL.forward`.
            proposals: `[N, 2]` the proposals that the rows were pooled from, in snippets.
            sizes: M of each video.
            labels: `[B, C]` video labels, 0 or 1.
            pseudo: pseudo-label, consistent, partial: `[B]` each, see `descriptors.PseudoLabels`.
            epoch: from 1.

        Returns:
            The unweighted terms under the names of `weights`, and `loss_total`.
        """
        x = outputs["class_logits"]
        a = outputs["attention_logits"].sigmoid()
        u = outputs["completeness_logits"].sigmoid()

        def mil(logits: Tensor, background: float) -> Tensor:
            return multiple_instance_loss(logits, sizes, labels, background=background, topk_divisor=self.topk_divisor)

        terms = {
            "loss_prop_mil_orig": mil(x, background=1.0),
            "loss_prop_mil_supp": 0.5 * mil(a[:, None] * x, background=0.0),
            "SME_loss": similar_modality_loss(x, sizes, *pseudo, partial_weight=0.5 * (1 - epoch / self.max_epoch)),
            "PC_loss": process_consistency_loss(
                a,
                u,
                proposals,
                sizes,
                gamma=self.gamma,
                weight_distance=self.weight_distance,
                weight_penalty=self.weight_penalty,
                center=self.pc_center,
            ),
            "SC_loss": semantic_consistency_loss(
                x, a, outputs["fused"], sizes, labels, distance_weight=0.3 + 0.2 * epoch / self.sc_epochs
            ),
        }
        total = sum(weight * terms[name] for name, weight in self.weights(epoch).items())
        return {"loss_total": total, **terms}
