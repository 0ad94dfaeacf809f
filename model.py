"""SEAL's network, which scores proposals (SPEC section 4), and the one place where it is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import Batch
from utils import InputError


class PointwiseLinear(nn.Linear):
    """A linear layer that keeps its weight as `[out, in, 1]`, the 1-wide convolution of released checkpoints.

    Fan-in and so PyTorch's default initialisation are those of both layers.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight.detach().unsqueeze(-1))

    def forward(self, rows: Tensor) -> Tensor:
        """`[N, in]` to `[N, out]`."""
        return F.linear(rows, self.weight.squeeze(-1), self.bias)


class Dropout(nn.Module):
    """Dropout with sixteen random bits a value, which on the CPU are drawn four values at a time.

    `nn.Dropout` draws a whole number for each value there, in one thread, which takes about fifteen times as long. The
    numbers come from PyTorch's generator, so that they depend on the seed alone and not on the number of threads. GPUs
    draw theirs by counters within one kernel.

    Args:
        ratio: the probability of a value to be dropped, in [0, 1); in steps of 2^-16.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = min(round(ratio * 2**16), 2**16 - 1) / 2**16

    def forward(self, values: Tensor) -> Tensor:
        """The values, of any shape; in training some are zero, and the others larger by 1 / (1 - ratio)."""
        if not self.training or self.ratio == 0:
            return values
        if not values.is_cpu and not values.is_meta:
            return F.dropout(values, self.ratio)
        bits = values.new_empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        uniform = bits.view(torch.int16)[: values.numel()].view(values.shape)  # from -2^15 to 2^15 - 1
        kept = (uniform >= self.ratio * 2**16 - 2**15).to(values.dtype)
        return values * kept.div_(1 - self.ratio)


def _branch(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(PointwiseLinear(width, width // 2), nn.ReLU(inplace=True), PointwiseLinear(width // 2, out))


class ProposalBackbone(nn.Module):
    """Fusion of the three pooled parts of a proposal, and the three branches that read it."""

    def __init__(self, feature_size: int, hidden_size: int, num_class: int, dropout_ratio: float) -> None:
        super().__init__()
        self.prop_fusion = nn.Sequential(
            nn.Linear(3 * feature_size, hidden_size), nn.ReLU(inplace=True), Dropout(dropout_ratio)
        )
        self.prop_classifier = _branch(hidden_size, num_class + 1)
        self.prop_attention = _branch(hidden_size, 1)
        self.prop_completeness = _branch(hidden_size, 1)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """Score pooled proposals `[N, 3, D]`; `SEAL.forward` documents the outputs."""
        fused = self.prop_fusion(rows.flatten(1))  # [N, H]
        return {
            "class_logits": self.prop_classifier(fused),  # [N, C+1], background last
            "attention_logits": self.prop_attention(fused).squeeze(-1),  # [N]
            "completeness_logits": self.prop_completeness(fused).squeeze(-1),  # [N]
            "fused": fused,  # [N, H]
        }


class Standardise(nn.Module):
    """Shifts and scales pooled features, so that those of the training videos have mean 0 and a mean variance of 1.

    All dimensions have the same scale: one each would make those that hardly vary as loud as the others, and in many
    features these are noise. Pooling takes differences and maxima, so that it can come first (SPEC section 2).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_size))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, mean: Tensor, variance: Tensor) -> None:
        """Take mean and scale from the mean `[D]` and the variance `[D]` of features.

        Raises:
            InputError: features are too large for a scale.
        """
        scale = float(variance.double().mean().sqrt()) or 1.0
        if not math.isfinite(scale):
            raise InputError("the features of the training videos are too large to be standardised; scale them down")
        self.mean.copy_(mean)
        self.scale.fill_(scale)

    def forward(self, rows: Tensor) -> Tensor:
        """`[N, 3, D]` to the same; the outer parts of a proposal are differences, which have no mean to take off."""
        left, inside, right = rows.float().unbind(1)
        return torch.stack([left, inside - self.mean, right], 1) / self.scale


@dataclass(frozen=True)
class NetworkSettings:
    """What a network is built from."""

    feature_size: int  # D, RGB and flow together
    num_class: int  # C, background excluded
    hidden_size: int | None = None  # H, of the fused features; None takes D, as the paper does
    standardise: bool = False  # see `Standardise`
    dropout_ratio: float = 0.5  # of the fused features, in training
    precision: torch.dtype = torch.float32  # of the matrix products, or bfloat16; weights are float32 in either case


class SEAL(nn.Module):
    """Scores each proposal by itself.

    Args:
        settings: widths, dropout and precision.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.precision = settings.precision
        self.standardise: nn.Module = Standardise(settings.feature_size) if settings.standardise else nn.Identity()
        self.prop_fused_backbone = ProposalBackbone(
            settings.feature_size,
            settings.hidden_size or settings.feature_size,
            settings.num_class,
            settings.dropout_ratio,
        )

    @torch.no_grad()
    def reorder_classes(self, order: Sequence[int]) -> None:
        """Let class i be what was class `order[i]`, C of them; the background stays last."""
        last = self.prop_fused_backbone.prop_classifier[-1]
        assert isinstance(last, PointwiseLinear)
        for parameter in (last.weight, last.bias):  # all that has an axis of classes
            parameter.copy_(parameter[[*order, len(order)]])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Score the proposals of a batch of videos (SPEC section 4).

        Args:
            batch: its `rows` are `[N, 3, D]` pooled proposals, in any floating-point type. SEAL reads nothing else;
                `sizes` and `proposals` are there for networks in which the proposals of a video see each other.

        Returns:
            `class_logits` `[N, C+1]` with the background last, `attention_logits` `[N]`, `completeness_logits`
            `[N]` (the predicted IoU before its sigmoid), and `fused` `[N, H]`: float32 at any precision.
        """
        exact = self.precision == torch.float32
        with nullcontext() if exact else torch.autocast(batch.rows.device.type, self.precision):
            outputs = self.prop_fused_backbone(self.standardise(batch.rows).to(self.precision))
        return {name: value.float() for name, value in outputs.items()}


def build_network(settings: NetworkSettings) -> SEAL:
    """The network that is trained, tested, and that checkpoints are checked against."""
    return SEAL(settings)


@torch.no_grad()
def scores(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The network's outputs in evaluation mode and without gradients; its training mode is restored."""
    was_training = network.training
    network.eval()
    outputs = network(batch)
    network.train(was_training)
    return outputs
