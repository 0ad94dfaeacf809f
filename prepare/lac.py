"""LAC's network and its proposals (Lee and Byun, Learning Action Completeness from Points, ICCV 2021).

The SEAL paper takes LAC's detections as proposals. LAC's own program writes those of the test videos alone; here they
are made of any features, equal to LAC's: the same segments in the same order. LAC's classes are in alphabetical order.

Axes: T snippets, D features, H hidden, C classes without background, L cells, K thresholds, M segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prepare.activation_segments import runs
from proposals import Proposals, nms
from readers.checkpoints import read_checkpoint, state_dict_of, use_weights
from readers.facts import MAPPED
from readers.findings import say_notice
from readers.result_files import MAX_PER_VIDEO
from utils import InputError, shorten_list

CELLS = 24  # a snippet
OF_ACTIVATION, OF_ACTIONNESS = np.arange(0, 0.25, 0.025), np.arange(0.5, 0.725, 0.025)  # thresholds
THRESHOLD_CLS = 0.5  # the video score from which a class is reported
TOPK_DIVISOR = 8  # a video's score of a class is the mean over its T / 8 highest snippets
MARGIN = 0.25  # on each side of a segment, as a share of its length
CLASS_WEIGHT = 0.2  # of the video score in the score of a segment
TOO_CLOSE = 0.7  # tIoU from which the lower of two segments of a class goes

FIRST, LAST = "cls_module.conv_1.0", "cls_module.classifier.0"
SHAPES = {f"{FIRST}.weight": 3, f"{FIRST}.bias": 1, f"{LAST}.weight": 3}  # names of the weights, and how many axes


class LacNetwork(nn.Module):
    """Scores each snippet for each class and as background, under the names of LAC's checkpoints.

    Args:
        feature_size: D, RGB and flow together.
        num_class: C, background excluded.
        hidden: H; LAC has 2048.
    """

    def __init__(self, *, feature_size: int, num_class: int, hidden: int = 2048) -> None:
        super().__init__()
        self.cls_module = nn.ModuleDict(
            {
                "conv_1": nn.Sequential(nn.Conv1d(feature_size, hidden, 3, padding=1), nn.ReLU()),
                "classifier": nn.Sequential(nn.Conv1d(hidden, num_class + 1, 1, bias=False)),
            }
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map the features `[T, D]` of a video to logits `[T, C+1]`, with the background last."""
        line = features.T[None]  # [1, D, T]
        return self.cls_module["classifier"](self.cls_module["conv_1"](line))[0].T


def read_lac(path: Path, class_names: Sequence[str], feature_size: int) -> LacNetwork:
    """Read a checkpoint of LAC, as published or under `state_dict` or `model`; `module.` may be in front of the names.

    Args:
        path: of the checkpoint.
        class_names: C of the data; a notice says if they are not in LAC's order.
        feature_size: D of the data.

    Returns:
        The network in evaluation mode, its classes in alphabetical order.

    Raises:
        InputError: it cannot be read, or is of another network, other classes or other features.
    """
    state = state_dict_of(read_checkpoint(path, "name LAC's with --lac_ckpt"))
    shapes = _shapes(state, path)
    hidden, width, span = shapes[f"{FIRST}.weight"]
    outputs, inputs, one = shapes[f"{LAST}.weight"]
    if span != 3 or one != 1 or inputs != hidden:
        raise InputError(
            f"{path}: not a checkpoint of LAC's network: {FIRST}.weight has shape {[hidden, width, span]} and "
            f"{LAST}.weight {[outputs, inputs, one]}; take the one that LAC's own training writes"
        )
    if width != feature_size:
        raise InputError(
            f"{path}: LAC's network is for features {width} wide, and these are {feature_size} wide; take the features "
            "that it was trained on (--features)"
        )
    if outputs != len(class_names) + 1:
        raise InputError(
            f"{path}: LAC's network has {outputs} outputs, for {outputs - 1} classes and the background, and the data "
            f"have {len(class_names)} classes; take the checkpoint of this dataset, or name its classes (--class_list)"
        )
    network = LacNetwork(feature_size=width, num_class=outputs - 1, hidden=hidden)
    use_weights(network, state, path)
    if [*class_names] != lac_order(class_names):
        say_notice(f"{MAPPED}; LAC's are in alphabetical order", str(path))
    return network.eval()


def lac_order(class_names: Sequence[str]) -> list[str]:
    """The classes in the order of LAC's outputs, which is alphabetical."""
    return sorted(class_names)


def _shapes(state: Any, path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of LAC's weights in what was read of a file.

    Raises:
        InputError: they are of another network; the message names what differs.
    """
    values = {str(name): value for name, value in state.items()} if isinstance(state, dict) else {}
    shapes = {name: tuple(value.shape) for name, value in values.items() if isinstance(value, Tensor)}
    other = {name for name, axes in SHAPES.items() if len(shapes.get(name, ())) != axes}
    if differing := sorted(other | values.keys() ^ SHAPES.keys()):
        raise InputError(
            f"{path}: not a checkpoint of LAC's network, which has {', '.join(SHAPES)}; missing, unknown or of another "
            f"shape: {shorten_list(differing, 4)}; take the one that LAC's own training writes"
        )
    return shapes


@torch.no_grad()
def propose(
    network: LacNetwork,
    features: Tensor,
    *,
    rate: float,
    known_labels: Tensor | None = None,
    most: int = MAX_PER_VIDEO,
) -> Proposals:
    """Make the proposals of a video: segments in which a class is active, or any action is.

    Args:
        network: in evaluation mode.
        features: `[T, D]`, on the network's device.
        rate: snippets per second, on which suppression depends.
        known_labels: not used: LAC takes the classes that it finds, of training videos too.
        most: proposals of a video; if there are more, its best are taken.

    Returns:
        Segments within [0, T]; classes in the order in which a threshold first gave them a candidate, each by falling
        score. The score is the contrast of the class's activation inside and around the segment, and a share of the
        class's video score. If the network's outputs are not finite, the whole video with the score nan.
    """
    logits = network(features).cpu()  # [T, C+1]
    if not logits.isfinite().all():
        return Proposals(np.array([[0.0, len(logits)]]), np.array([np.nan]), np.array([0]))
    prob = logits.sigmoid()
    strongest = prob[:, :-1].topk(max(1, len(prob) // TOPK_DIVISOR), dim=0).values
    video_score = strongest.double().mean(0).numpy()  # [C]
    reported = np.flatnonzero(video_score >= min(THRESHOLD_CLS, video_score.max()))
    actionness = 1 - prob[:, -1:]  # [T, 1]
    fine = interpolate(torch.cat([prob[:, reported] * actionness, actionness], dim=1).numpy())  # [L, C'+1]

    parts = []
    for class_idx, activation in zip(reported, fine.T[:-1], strict=True):
        cells, contrast, first = candidates(activation, fine[:, -1])
        score = contrast + CLASS_WEIGHT * video_score[class_idx]
        best = np.argsort(score, kind="stable")[::-1]
        best = best[nms(cells[best] * (1 / (CELLS * rate)), np.nextafter(TOO_CLOSE, 0), closed=True)]
        parts.append((first, cells[best] / CELLS, score[best], np.full(len(best), class_idx)))
    parts.sort(key=lambda part: part[0])  # of equal ones the first class stays first
    return _best(Proposals(*(np.concatenate(part) for part in list(zip(*parts, strict=True))[1:])), most)


def _best(proposals: Proposals, most: int) -> Proposals:
    """The best `most` proposals, highest score first; all as they are if there are no more."""
    if len(proposals) <= most:
        return proposals
    best = np.argsort(-proposals.score, kind="stable")[:most]
    return Proposals(proposals.segments_snip[best], proposals.score[best], proposals.class_idx[best])


def interpolate(activations: np.ndarray) -> np.ndarray:
    """Interpolate activations `[T, …]` linearly to `CELLS` cells a snippet, `[CELLS·T, …]` float64.

    Cell j is at j / `CELLS` snippets. Those beyond the last snippet follow the line through the last two.
    """
    position = np.arange(len(activations) * CELLS) / CELLS
    low = np.minimum(position.astype(np.int64), max(0, len(activations) - 2))
    before, after = activations[low], activations[np.minimum(low + 1, len(activations) - 1)]
    return (after - before).astype(np.float64) * (position - low)[:, None] + before


def candidates(activation: np.ndarray, actionness: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The runs of cells in which a class's activation, or actionness, reaches one of the thresholds.

    In the runs of the activation, what is below the threshold counts as nothing; in those of actionness, it counts.

    Args:
        activation: `[L]` of the class.
        actionness: `[L]`.

    Returns:
        `[M, 2]` the first cell of each run and the cell after its last; `[M]` mean activation inside minus the mean in
        the margins, which end with the video; and the number of the first threshold that has a run.
    """
    reached = activation >= OF_ACTIVATION[:, None]  # [K, L]
    row, start, end = runs_as_lac(reached & (activation > 0))
    contrast = outer_inner_contrast(np.where(reached, activation, 0), row, start, end)
    rows, starts, ends = runs_as_lac((actionness >= OF_ACTIONNESS[:, None]) & (actionness > 0))
    contrasts = outer_inner_contrast(activation[None], np.zeros_like(rows), starts, ends)
    cells = np.stack([np.append(start, starts), np.append(end, ends)], axis=1)
    numbers = np.append(row, rows + len(OF_ACTIVATION))
    return cells, np.append(contrast, contrasts), int(numbers.min(initial=len(OF_ACTIVATION) + len(OF_ACTIONNESS)))


def runs_as_lac(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `runs`, but a row that has the first cell alone has no run."""
    return runs(inside & inside[:, 1:].any(1, keepdims=True))


def outer_inner_contrast(sequences: np.ndarray, row: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Mean activation inside runs minus the mean over whole cells in the margins, which is 0 where there are none.

    Args:
        sequences: `[K, L]`.
        row: `[M]` of each run.
        start: `[M]` its first cell.
        end: `[M]` the cell after its last.

    Returns:
        `[M]`.
    """
    total = np.pad(sequences.cumsum(1, dtype=np.float64), ((0, 0), (1, 0)))  # [K, L+1]
    wide = (end - start) * MARGIN
    low = np.maximum(0, start - wide).astype(np.int64)
    high = np.minimum(sequences.shape[1] - 1, end - 1 + wide).astype(np.int64) + 1
    inner = total[row, end] - total[row, start]
    outer = total[row, high] - total[row, low] - inner
    return inner / (end - start) - outer / np.maximum((start - low) + (high - end), 1)
