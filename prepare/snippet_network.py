"""The network that scores snippets; proposals are made from its activations (SPEC section 11)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import to_device


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

        All videos are put on one time axis, with gaps of zeros between them as wide as the reach of a convolution. So
        each layer is one convolution without padding to equal lengths, and no video sees another.

        Args:
            rows: `[S, D]` features of all snippets, float32.
            sizes: T of each video.

        Returns:
            `class_logits` `[S, C+1]` with the background last, and `attention_logits` `[S]`.
        """
        gaps = self.gap * torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        place = to_device(torch.arange(len(rows)) + gaps, rows.device)  # [S] on the time axis
        length = len(rows) + self.gap * (len(sizes) - 1)

        def convolve(layer: nn.Conv1d, rows: Tensor) -> Tensor:
            line = rows.new_zeros(length, rows.shape[1]).index_copy(0, place, rows)  # [L, in]
            return layer(line.T[None])[0].T[place]  # [S, out]

        embedded = self.dropout(F.relu(self.embed(rows)))  # [S, hidden]
        context = self.dropout(F.relu(convolve(self.context, embedded)))  # [S, hidden]
        return {
            "class_logits": convolve(self.classifier, context),
            "attention_logits": convolve(self.attention, context).squeeze(-1),
        }
