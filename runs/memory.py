"""How much memory training and testing take beside the pooled proposals, so that `--cache auto` leaves room for it.

Letters: P parameters, B videos of a batch, N rows of it, M proposals of a video, D features, H of a hidden row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dataset import ROWS_AT_A_TIME
from losses import PAIRS_AT_A_TIME
from model import NetworkSettings, build_network

FLOAT = 4  # bytes of a float32
LIBRARIES = 50_000_000  # bytes that the products' libraries take to work in
BYTES_OF_PAIR = 10 * FLOAT


def step_memory(settings: NetworkSettings, sizes: Sequence[int], *, batch_size: int, max_proposal: int) -> int:
    """Estimate, from above, the bytes that training takes with its largest possible step.

    These are

    - 4 P numbers for the weights, their gradient and Adam's two moments; in bfloat16 2 P in half the width beside them;
    - the rows of the batch and of the one that is made next, see `_rows`;
    - 8 H N numbers for what network and losses keep for the backward pass, and for the gradients within it;
    - what the losses have of pairs of proposals at a time.

    Args:
        settings: of the network.
        sizes: M of each training video.
        batch_size: B.
        max_proposal: see `dataset.make_batch`.
    """
    largest = sorted(min(size, max_proposal) for size in sizes)[-batch_size:]
    num_rows = sum(largest)
    activations = 8 * (settings.hidden_size or settings.feature_size) * num_rows * FLOAT
    pairs = min(num_rows * largest[-1], PAIRS_AT_A_TIME) * BYTES_OF_PAIR
    return _weights(settings, copies=4) + _rows(settings, num_rows) + activations + pairs + LIBRARIES


def pass_memory(settings: NetworkSettings, sizes: Sequence[int]) -> int:
    """The same for a test pass, which keeps nothing for a backward pass; `sizes` are of the test videos."""
    num_rows = min(ROWS_AT_A_TIME + max(sizes), sum(sizes))
    activations = 4 * (settings.hidden_size or settings.feature_size) * num_rows * FLOAT
    return _weights(settings, copies=1) + _rows(settings, num_rows) + activations + LIBRARIES


def _weights(settings: NetworkSettings, copies: int) -> int:
    """That many float32 copies of the weights; in a narrower type, two in it for each four."""
    with torch.device("meta"):  # where nothing takes memory
        parameters = sum(parameter.numel() for parameter in build_network(settings).parameters())
    narrow = settings.precision.itemsize * -(-copies // 2) if settings.precision.itemsize < FLOAT else 0
    return parameters * (copies * FLOAT + narrow)


def _rows(settings: NetworkSettings, num_rows: int) -> int:
    """Two batches of that many rows in the precision, or in float32 if they are standardised, and two more for that."""
    itemsize = 2 * FLOAT if settings.standardise else settings.precision.itemsize
    return 2 * 3 * settings.feature_size * num_rows * itemsize
