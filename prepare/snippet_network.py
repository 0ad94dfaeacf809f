"""The networks that score snippets, one a recipe; proposals are made from their activations (SPEC section 11)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import to_device


class TimeAxis:
    """Puts the snippets of several videos on one time axis, with gaps of zeros between them.

    The gaps are as wide as the reach of a convolution. So one convolution is applied to all videos, without padding
    to equal lengths, and no video sees another.

    Args:
        sizes: T of each video.
        gap: snippets between two videos.
        device: of the rows.
    """

    def __init__(self, sizes: Sequence[int], gap: int, device: torch.device) -> None:
        gaps = gap * torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self.place = to_device(torch.arange(len(gaps)) + gaps, device)  # [S] on the axis
        self.length = len(gaps) + gap * (len(sizes) - 1)  # L

    def line(self, rows: Tensor) -> Tensor:
        """The rows `[S, in]` of all snippets with zeros in the gaps, `[L, in]`."""
        if self.length == len(rows):  # one video has no gaps
            return rows
        return rows.new_zeros(self.length, rows.shape[1]).index_copy(0, self.place, rows)

    def convolve(self, layer: nn.Conv1d, rows: Tensor) -> Tensor:
        """Apply a layer to the rows `[S, in]` of all snippets: `[S, out]`."""
        return layer(self.line(rows).T[None])[0].T[self.place]

    def with_neighbours(self, rows: Tensor) -> Tensor:
        """Each row `[S, in]` between those of the snippets before and after it, zeros at the ends: `[S, 3·in]`."""
        line = F.pad(self.line(rows), (0, 0, 1, 1))
        windows = torch.cat([line[:-2], line[1:-1], line[2:]], dim=1)  # [L, 3·in]
        return windows if self.length == len(rows) else windows[self.place]


class SnippetNetwork(nn.Module):
    """Scores each snippet of a video: which class it shows, and whether it shows any action.

    Args:
        feature_size: D, RGB and flow together.
        num_class: C, background excluded.
        hidden: width of all layers after the first.
        dropout_ratio: of the hidden features, in training.
        kernel_size: snippets that a convolution covers, odd.
    """

    def __init__(
        self,
        *,
        feature_size: int,
        num_class: int,
        hidden: int = 128,
        dropout_ratio: float = 0.5,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.gap = kernel_size // 2
        self.embed = nn.Linear(feature_size, hidden)  # one snippet wide, so that wide features cost little
        self.context = nn.Conv1d(hidden, hidden, kernel_size, padding=self.gap)
        self.classifier = nn.Conv1d(hidden, num_class + 1, kernel_size, padding=self.gap)
        self.attention = nn.Conv1d(hidden, 1, kernel_size, padding=self.gap)
        self.dropout = nn.Dropout(dropout_ratio)

    def forward(self, rows: Tensor, sizes: Sequence[int]) -> dict[str, Tensor]:
        """Score the snippets of several videos, concatenated.

        Args:
            rows: `[S, D]` features of all snippets, float32.
            sizes: T of each video.

        Returns:
            `class_logits` `[S, C+1]` with the background last, and `attention_logits` `[S]`.
        """
        axis = TimeAxis(sizes, self.gap, rows.device)
        embedded = self.dropout(F.relu(self.embed(rows)))  # [S, hidden]
        context = self.dropout(F.relu(axis.convolve(self.context, embedded)))  # [S, hidden]
        return {
            "class_logits": axis.convolve(self.classifier, context),
            "attention_logits": axis.convolve(self.attention, context).squeeze(-1),
        }


class SnippetEnsemble(nn.Module):
    """Scores each snippet of a video for each class: several small networks side by side, for `--recipe own`.

    None sees another, so the sum of their losses trains each as if it were alone. Each is two convolutions and a linear
    layer; a convolution is a linear layer of a snippet and its neighbours here, which takes less time on a CPU.

    Args:
        mean: `[D]` of the features.
        scale: by which all features are divided.
        num_class: C, background excluded.
        members: E, how many networks.
        hidden: width of both hidden layers of each.
        dropout_ratio: of the hidden features, in training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        mean: np.ndarray,
        scale: float,
        *,
        num_class: int,
        members: int = 3,
        hidden: int = 64,
        dropout_ratio: float = 0.3,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.first, self.second, self.classifier = (
            nn.ModuleList(nn.Linear(wide, out) for _ in range(members))
            for wide, out in ((3 * len(mean), hidden), (3 * hidden, hidden), (hidden, num_class))
        )
        self.dropout_ratio = dropout_ratio

    def forward(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Score the snippets of several videos, concatenated.

        Args:
            rows: `[S, D]` features of all snippets, float32.
            sizes: T of each video.

        Returns:
            `[S, E, C]` logits; classes do not exclude each other.
        """
        axis = TimeAxis(sizes, 1, rows.device)
        windows = axis.with_neighbours((rows - self.mean) / self.scale)  # [S, 3·D]
        logits = []
        for first, second, classifier in zip(self.first, self.second, self.classifier, strict=True):
            hidden = self._dropout(F.relu(first(windows)))  # [S, hidden]
            hidden = self._dropout(F.relu(second(axis.with_neighbours(hidden))))
            logits.append(classifier(hidden))  # [S, C]
        return torch.stack(logits, dim=1)

    def _dropout(self, hidden: Tensor) -> Tensor:
        """As `nn.Dropout`, which takes twice the time on a CPU: a quarter of the whole training step."""
        if not self.training:
            return hidden
        kept = torch.rand_like(hidden) >= self.dropout_ratio
        return hidden * (kept.to(hidden.dtype) / (1 - self.dropout_ratio))
