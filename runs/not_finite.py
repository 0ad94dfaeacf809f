"""Which loss term is not finite, when a step of the training is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dataset import Batch
from descriptors import PseudoLabels
from losses import Criterion


def first_not_finite(values: Tensor, names: Sequence[str]) -> tuple[int, list[str]] | None:
    """The first of S steps with a value that is not finite, counted from 0, and the names of these values.

    Args:
        values: `[S, K]` on the CPU.
        names: of the K values.
    """
    bad = ~values.isfinite()
    if not bad.any():
        return None
    step = int(bad.any(1).nonzero()[0])
    return step, [name for name, is_bad in zip(names, bad[step].tolist(), strict=True) if is_bad]


def term_not_finite(
    names: Sequence[str],
    network: nn.Module,
    criterion: Criterion,
    batch: Batch,
    pseudo: PseudoLabels,
    epoch: int,
) -> str:
    """The loss term to name in a message, or "the gradient of" one.

    Args:
        names: the values of the step that are not finite, `loss_total` and `gradient` among them.
        network: with the weights before the step.
        criterion: of the run.
        batch: of the step.
        pseudo: the pseudo-labels of its videos.
        epoch: from 1.
    """
    losses = [name for name in names if name != "gradient"]
    if losses:
        return losses[-1]
    parameters = [*network.parameters()]
    terms = criterion(network(batch), batch, pseudo, epoch)
    for name, weight in criterion.weights(epoch).items():
        gradients = torch.autograd.grad(weight * terms[name], parameters, retain_graph=True, allow_unused=True)
        if not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
            return f"the gradient of {name}"
    return "the gradient of loss_total"  # with other dropout than in the step, each term's is finite
