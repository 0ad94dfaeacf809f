"""Trains a network that scores snippets, from the labels of whole videos: one loop for every such network.

How long it runs, and at which learning rates, is said by a schedule. Axes: V videos, B videos of a batch, S snippets of
a batch, T of one video, D features, C classes without background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from readers.features import Features
from utils import InputError, release_memory, to_device

# The network's outputs, T of each video and the labels `[B, C]`, to the loss of a batch.
Loss = Callable[[Any, Sequence[int], Tensor], Tensor]

# The losses of all steps so far, a list that grows, and the steps of an epoch; to the learning rates of the next steps,
# as shares of the highest. The losses are not read before these steps are done, so the device is not waited for.
Schedule = Callable[[Sequence[float], int], Iterable[Sequence[float]]]


def train_on_labels(
    network: nn.Module,
    loss: Loss,
    schedule: Schedule,
    features: Features,
    training: Sequence[int],
    labels: Tensor,
    *,
    order: torch.Generator,
    lr: float,
    batch_size: int = 10,
    weight_decay: float = 1e-4,
) -> list[float]:
    """Train a network with Adam; it is left in evaluation mode.

    Args:
        network: takes the features `[S, D]` of a batch and T of each video.
        loss: of a batch.
        schedule: how long to train, and at which learning rates.
        features: of the videos; all must have been read, and so checked. Each batch reads its videos again.
        training: indices of the training videos.
        labels: `[V, C]` 0 or 1, of all videos; only the rows of training videos are read.
        order: draws the order of the videos.
        lr: the highest learning rate.
        batch_size: videos in a batch.
        weight_decay: L2 penalty.

    Returns:
        The loss of each step.

    Raises:
        InputError: the loss is not finite.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, weight_decay=weight_decay)
    batches, steps_of_epoch = _batches(training, batch_size, order), -(-len(training) // batch_size)
    losses: list[float] = []
    with tqdm(desc="training the snippet network", unit="step", leave=False) as progress:
        for rates in schedule(losses, steps_of_epoch):
            chosen, steps = list(islice(batches, len(rates))), []
            for rate, batch in zip(rates, chosen, strict=True):
                optimizer.param_groups[0]["lr"] = lr * rate
                steps.append(_step(network, loss, optimizer, features, batch, labels))
            values = torch.stack(steps).cpu()  # the only wait for the device
            if not values.isfinite().all():
                first = int((~values.isfinite()).nonzero()[0])
                epoch = (len(losses) + first) // steps_of_epoch + 1
                names = ", ".join(features.videos[i] for i in chosen[first])
                raise InputError(
                    f"snippet network, epoch {epoch}: the loss is not finite on {names}; check their features"
                )
            losses += values.tolist()
            progress.update(len(rates))
            progress.set_postfix(loss=f"{float(values.mean()):.3f}")
            release_memory()
    network.eval()
    return losses


def _batches(training: Sequence[int], batch_size: int, order: torch.Generator) -> Iterator[list[int]]:
    """Batches of videos without end, in a new order in each epoch."""
    indices = torch.as_tensor(training)
    while True:
        yield from (
            batch.tolist() for batch in indices[torch.randperm(len(indices), generator=order)].split(batch_size)
        )


def _step(
    network: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    features: Features,
    batch: Sequence[int],
    labels: Tensor,
) -> Tensor:
    """Train on a batch of videos; returns the loss, on the device."""
    device = next(network.parameters()).device
    videos = [features.read_again(i) for i in batch]
    rows, sizes = to_device(torch.cat(videos), device), [len(video) for video in videos]
    value = loss(network(rows, sizes), sizes, to_device(labels[batch], device))
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return value.detach()
