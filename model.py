"""The networks: SEAL, which scores proposals (SPEC section 4), and a small one whose scores proposals are made from."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def _branch(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(PointwiseLinear(width, width // 2), nn.ReLU(inplace=True), PointwiseLinear(width // 2, out))


class ProposalBackbone(nn.Module):
    """Fusion of the three pooled parts of a proposal, and the three branches that read it."""

    def __init__(self, feature_size: int, num_class: int, dropout_ratio: float) -> None:
        super().__init__()
        self.prop_fusion = nn.Sequential(
            nn.Linear(3 * feature_size, feature_size), nn.ReLU(inplace=True), nn.Dropout(dropout_ratio)
        )
        self.prop_classifier = _branch(feature_size, num_class + 1)
        self.prop_attention = _branch(feature_size, 1)
        self.prop_completeness = _branch(feature_size, 1)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """See `SEAL.forward`."""
        fused = self.prop_fusion(rows.flatten(1))  # [N, D]
        return {
            "class_logits": self.prop_classifier(fused),  # [N, C+1], background last
            "attention_logits": self.prop_attention(fused).squeeze(-1),  # [N]
            "completeness_logits": self.prop_completeness(fused).squeeze(-1),  # [N]
            "fused": fused,  # [N, D]
        }


class SEAL(nn.Module):
    """Scores proposals one by one; videos play no part here, so the rows of any videos can be mixed.

    Args:
        feature_size: D, RGB and flow together.
        num_class: C, background excluded.
        dropout_ratio: of the fused features, in training.
        precision: of the matrix products, float32 or bfloat16. Weights are float32 in either case.
    """

    def __init__(
        self,
        *,
        feature_size: int,
        num_class: int,
        dropout_ratio: float = 0.5,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.precision = precision
        self.prop_fused_backbone = ProposalBackbone(feature_size, num_class, dropout_ratio)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """Score proposals.

        Args:
            rows: `[N, 3, D]` pooled proposals, in any floating-point type.

        Returns:
            `class_logits` `[N, C+1]` with the background last, `attention_logits` `[N]`, `completeness_logits`
            `[N]` (the predicted IoU before its sigmoid), and `fused` `[N, D]`: float32 at any precision.
        """
        exact = self.precision == torch.float32
        with nullcontext() if exact else torch.autocast(rows.device.type, self.precision):
            outputs = self.prop_fused_backbone(rows.to(self.precision))
        return {name: value.float() for name, value in outputs.items()}

    @torch.no_grad()
    def scores(self, rows: Tensor) -> dict[str, Tensor]:
        """The outputs of `forward` in evaluation mode and without gradients; the training mode is left as it was."""
        was_training = self.training
        self.eval()
        outputs = self(rows)
        self.train(was_training)
        return outputs
