"""The same training step as most code of the field has it, for comparison: pooled in every step, and padded.

Every batch pools the proposals of its videos from raw features, pads them to `[B, M, R, D]` with the M of its longest
video, and takes the padding through the network. The losses then see the proposals alone, so the results are ours.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dataset import Batch, batch_instances
from descriptors import PseudoLabels
from losses import Criterion
from proposals import roi_samples


def plain_roi_align(features: Tensor, segments_snip: Tensor, num_bins: int = 12) -> Tensor:
    """The same as `proposals.roi_align`, word for word as SPEC section 2 has it: read every sample, then average."""
    y, weight, offset, _ = roi_samples(segments_snip, num_bins)
    within = F.pad(features, (0, 0, 1, 1))  # zero outside the video
    low = y.floor()
    before, after = (within[(low.long() + i).clamp(0, len(within) - 1)] for i in (1, 2))  # [S, D] each
    samples = torch.lerp(before, after, (y - low).float()[:, None]) * weight.float()[:, None]
    counts = torch.diff(offset, append=torch.tensor([len(y)]))
    bins = features.new_zeros(len(offset), features.shape[1])
    bins.index_add_(0, torch.arange(len(offset)).repeat_interleave(counts), samples)
    return bins.view(len(segments_snip), num_bins, -1)


def padded_step(
    model: nn.Module,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    features: list[Tensor],
    segments_snip: list[Tensor],
    labels: Tensor,
    pseudo: PseudoLabels,
) -> Tensor:
    """One training step.

    Args:
        model: the network.
        criterion: of the losses.
        optimizer: of the network.
        features: `[T, D]` of each video.
        segments_snip: `[M, 2]` of each video.
        labels: `[B, C]`.
        pseudo: of the videos.

    Returns:
        The total loss.
    """
    sizes = [len(segments) for segments in segments_snip]
    bins = pad_sequence([plain_roi_align(f, s) for f, s in zip(features, segments_snip, strict=True)], batch_first=True)
    left, inside, right = (part.amax(2) for part in bins.split([2, 8, 2], dim=2))  # [B, M, D] each
    rows = torch.stack([inside - left, inside, inside - right], dim=2)  # [B, M, 3, D]
    batch = Batch(
        [*range(len(sizes))],
        sizes,
        rows.flatten(0, 1),
        torch.cat(segments_snip).float(),
        batch_instances([np.full(size, -1) for size in sizes], labels.device),
        labels,
    )
    outputs = model(batch)  # padding and all
    real = (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).flatten()
    outputs = {name: value[real] for name, value in outputs.items()}
    total = criterion(outputs, batch, pseudo, 1)["loss_total"]
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return total.detach()
