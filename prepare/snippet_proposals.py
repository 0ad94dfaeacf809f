"""Makes proposals from snippet features and the video-level labels of the training videos (SPEC section 11).

Each recipe has a network that learns from these labels, and a way to find segments in its activations; what is the same
for both is here.

Axes: V videos, T snippets of one video, D features, C classes without background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from prepare import own_proposals, paper_proposals
from proposals import Proposals, snippets_to_seconds
from readers.annotations import Annotations
from readers.features import Features
from utils import InputError, to_device


class Recipe(NamedTuple):
    """How a recipe makes proposals."""

    train: Callable[..., nn.Module]  # from features and labels of videos to a network
    propose: Callable[..., Proposals]  # from the network and the features of a video
    decimals: Callable[[float], tuple[int, int]]  # of times in seconds, at a rate, and of scores


RECIPES = {
    "paper": Recipe(paper_proposals.train_network, paper_proposals.propose, lambda rate: (2, 4)),
    # Times are rounded by at most a hundredth of a snippet.
    "own": Recipe(
        own_proposals.train_network, own_proposals.propose, lambda rate: (max(2, math.ceil(math.log10(50 * rate))), 6)
    ),
}


@dataclass(frozen=True)
class ProposalSettings:
    """Settings of the snippet network and its proposals."""

    recipe: str  # of `RECIPES`
    rate: float  # snippets per second
    epochs: int | None  # to train; None, for `own` only, trains until the loss has settled
    per_video: int  # proposals at most
    seed: int = 0  # of the network's initial weights, of dropout, and of the order of videos
    lac_ckpt: Path | None = None  # makes them with LAC's network instead


def make_results(
    features: Features,
    annotations: Annotations,
    settings: ProposalSettings,
    *,
    training: Sequence[int],
    testing: Sequence[int],
    device: torch.device,
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Train the snippet network and make the proposals of all videos.

    Args:
        features: of the videos.
        annotations: only class names and the video-level labels of the training videos are used.
        settings: of the network and its proposals.
        training: indices of the training videos.
        testing: indices of the test videos.
        device: to train on.

    Returns:
        The entries of a result file for each video, of the parts `train` and `test`. A video may be in both: the labels
        of training videos are known.

    Raises:
        InputError: features cannot be used, or the loss is not finite.
    """
    chosen = list(dict.fromkeys([*training, *testing]))
    for i in tqdm(chosen, desc="checking features", unit="video", leave=False):  # all of them before the work begins
        features.read(i)
    labels = torch.from_numpy(annotations.labels)
    train, propose, decimals = RECIPES[settings.recipe]
    network = train(features, training, labels, device=device, epochs=settings.epochs, seed=settings.seed)
    of_part = {
        "train": propose_all(propose, network, features, training, labels=labels, per_video=settings.per_video),
        "test": propose_all(propose, network, features, testing, per_video=settings.per_video),
    }
    names, rate = annotations.class_names, settings.rate
    return {
        part: {annotations.videos[i]: result_entries(made, names, rate, *decimals(rate)) for i, made in found.items()}
        for part, found in of_part.items()
    }


def propose_all(
    propose: Callable[..., Proposals],
    network: nn.Module,
    features: Features,
    videos: Sequence[int],
    *,
    labels: Tensor | None = None,
    **options: Any,
) -> dict[int, Proposals]:
    """Make the proposals of many videos.

    Args:
        propose: of a `Recipe`.
        network: of the same recipe, in evaluation mode.
        features: of the videos; all must have been read, and so checked.
        videos: their indices.
        labels: `[V, C]` of all videos, if these are training videos.
        options: further arguments of `propose`.

    Returns:
        The proposals of each video, by its index.

    Raises:
        InputError: the network's outputs are not finite, because features are too large.
    """
    device = next(network.parameters()).device
    proposals = {}
    for i in tqdm(videos, desc="making proposals", unit="video", leave=False):
        rows = to_device(features.read_again(i), device)  # [T, D]
        proposals[i] = propose(network, rows, known_labels=None if labels is None else labels[i], **options)
        if not np.isfinite(proposals[i].score).all():
            name = features.videos[i]
            raise InputError(
                f"{features.where(i)}: video {name}: the snippet network's outputs are not finite; check "
                "the size of its features"
            )
    return proposals


def result_entries(
    proposals: Proposals, class_names: Sequence[str], rate: float, time_decimals: int = 2, score_decimals: int = 4
) -> list[dict[str, Any]]:
    """Convert a video's proposals to entries of a result file; `rate` is in snippets per second."""
    segments_sec = snippets_to_seconds(proposals.segments_snip, rate).round(time_decimals).tolist()
    return [
        {"segment": segment, "score": round(score, score_decimals), "label": class_names[class_idx]}
        for segment, score, class_idx in zip(segments_sec, proposals.score.tolist(), proposals.class_idx, strict=True)
    ]
