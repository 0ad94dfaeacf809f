"""Makes proposals from snippet features and the video-level labels of the training videos (SPEC section 11).

Each recipe has a network that learns from these labels, and a way to find segments in its activations; LAC's network
has learned already. What is the same for all is here.

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

from prepare import lac, own_proposals, paper_proposals
from proposals import Proposals, snippets_to_seconds
from readers.annotations import Annotations
from readers.features import Features
from utils import InputError, to_device


class Recipe(NamedTuple):
    """How a recipe makes proposals."""

    propose: Callable[..., Proposals]  # from the network and the features of a video
    decimals: Callable[[float], tuple[int | None, int | None]]  # of times in seconds, at a rate, and of scores
    train: Callable[..., nn.Module] | None = None  # from features and labels of videos to a network


RECIPES = {
    "paper": Recipe(paper_proposals.propose, lambda rate: (2, 4), paper_proposals.train_network),
    # Times are rounded by at most a hundredth of a snippet.
    "own": Recipe(
        own_proposals.propose, lambda rate: (max(2, math.ceil(math.log10(50 * rate))), 6), own_proposals.train_network
    ),
    "lac": Recipe(lac.propose, lambda rate: (None, None)),
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

    @property
    def kind(self) -> str:
        """Of `RECIPES`: how they are made."""
        return self.recipe if self.lac_ckpt is None else "lac"


class Made(NamedTuple):
    """Proposals of a dataset, and what they were made with."""

    network: nn.Module  # in evaluation mode
    class_names: tuple[str, ...]  # C, in the order of its outputs
    results: dict[str, dict[str, list[dict[str, Any]]]]  # of the parts `train` and `test`: the entries of each video


def make_results(
    features: Features,
    annotations: Annotations,
    settings: ProposalSettings,
    *,
    training: Sequence[int],
    testing: Sequence[int],
    device: torch.device,
) -> Made:
    """Train the snippet network, or read LAC's, and make the proposals of all videos.

    Args:
        features: of the videos.
        annotations: only class names and the video-level labels of the training videos are used.
        settings: of the network and its proposals.
        training: indices of the training videos.
        testing: indices of the test videos.
        device: to train on.

    Returns:
        The network, and the entries of a result file for each video. A video may be in both parts: the labels of
        training videos are known.

    Raises:
        InputError: features or LAC's network cannot be used, or the loss is not finite.
    """
    chosen = list(dict.fromkeys([*training, *testing]))
    labels, names = torch.from_numpy(annotations.labels), annotations.class_names
    propose, decimals, train = RECIPES[settings.kind]
    if settings.lac_ckpt is not None:
        features.read(chosen[0])  # which tells their width
        network: nn.Module = lac.read_lac(settings.lac_ckpt, names, features.feature_size).to(device)
        names = lac.lac_order(names)
    for i in tqdm(chosen, desc="checking features", unit="video", leave=False):  # all of them before the work begins
        features.read(i)
    if train is not None:
        network = train(features, training, labels, device=device, epochs=settings.epochs, seed=settings.seed)
    options = options_of(settings.kind, settings.rate, settings.per_video)
    of_part = {
        "train": propose_all(propose, network, features, training, labels=labels, **options),
        "test": propose_all(propose, network, features, testing, **options),
    }
    rate = settings.rate
    results = {
        part: {annotations.videos[i]: result_entries(made, names, rate, *decimals(rate)) for i, made in found.items()}
        for part, found in of_part.items()
    }
    return Made(network, tuple(names), results)


def options_of(kind: str, rate: float, per_video: int | None) -> dict[str, Any]:
    """The arguments that `propose` of a kind takes beside network, features and labels; `rate` is in snippets a second.

    LAC's suppression depends on seconds, and keeps as many proposals as it finds.
    """
    return {"rate": rate} if kind == "lac" else {"per_video": per_video}


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
    proposals: Proposals,
    class_names: Sequence[str],
    rate: float,
    time_decimals: int | None,
    score_decimals: int | None,
) -> list[dict[str, Any]]:
    """Convert a video's proposals to entries of a result file.

    Args:
        proposals: of the video.
        class_names: C, in the order of their classes.
        rate: snippets per second.
        time_decimals: to which seconds are rounded; None keeps them as they are.
        score_decimals: the same for scores.
    """
    segments_sec, scores = snippets_to_seconds(proposals.segments_snip, rate), proposals.score.tolist()
    if time_decimals is not None:
        segments_sec = segments_sec.round(time_decimals)
    if score_decimals is not None:
        scores = [round(score, score_decimals) for score in scores]
    return [
        {"segment": segment, "score": score, "label": class_names[class_idx]}
        for segment, score, class_idx in zip(segments_sec.tolist(), scores, proposals.class_idx, strict=True)
    ]
