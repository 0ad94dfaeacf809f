"""`--holdout`: how many epochs to train, without a look at the test set.

A run then has two phases. The first, in `holdout/` of `--exp_dir`, trains without a share of the training videos and is
evaluated on these. The second, in `--exp_dir`, trains on all of them from the start, and ends after the epoch that was
best in the first. Schedules of the losses are the same functions of the epoch in both.

Each phase is a run of its own, with its own log and `resume.pt`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from eval.results import ChosenEpoch, EpochResults
from runs.folder import HOLDOUT, RunFolder
from runs.inputs import Data
from runs.results import RunResults
from runs.state import read_resume
from utils import InputError, Settling, log


class Earlier(NamedTuple):
    """What is known of a run that is resumed: of its first phase, if it has two."""

    options: dict[str, Any]  # as JSON values
    evaluated: int  # the last evaluated epoch
    best: EpochResults | None
    settled: int | None  # its last epoch, if its loss has settled


def find_earlier(folder: Path) -> Earlier | None:
    """The run in a folder; None if there is none to resume.

    Raises:
        InputError: its `resume.pt` is damaged, or that of its first phase is missing.
    """
    run, first = RunFolder(folder).phases
    resume = next((phase.resume for phase in (first, run) if phase.resume.exists()), None)
    if resume is None:
        return None
    saved = read_resume(resume)
    options = {"holdout": None, **saved.options}  # earlier versions had no such option
    if options["holdout"] is not None and resume != first.resume:
        raise InputError(
            f"{first.resume}: missing, so the run in {folder} cannot be resumed; start another run in another --exp_dir"
        )
    settling = Settling()
    settling.load_state_dict(saved.others.get("settling", settling.state_dict()))
    return Earlier(options, saved.evaluated, saved.best, settling.last_epoch)


def choose_epoch(
    exp_dir: Path,
    train: Callable[[Path, Callable[[], None]], RunResults | None],
    earlier: Earlier | None,
    *,
    max_epoch: int,
    interval: int,
    overwrite: bool,
    pretrained_ckpt: Path | None,
    on_start: Callable[[], None],
) -> ChosenEpoch:
    """The first phase of a run: train without the held-out videos, and choose the epoch that is best on them.

    Args:
        exp_dir: of the run.
        train: trains the first phase in a folder, and returns its results. Its second argument is to be called when
            all input is known to be good, before anything is written.
        earlier: of a run that is resumed; its first phase is not repeated if it is over.
        max_epoch: of the first phase.
        interval: epochs between evaluations.
        overwrite: replace an earlier run, both phases of it.
        pretrained_ckpt: weights to start from.
        on_start: see `train`.

    Raises:
        InputError: nothing is to be evaluated, or an earlier run would be replaced.
    """
    if not interval:
        raise InputError("--interval 0: --holdout chooses among evaluated epochs; give an --interval of 1 or more")
    best = earlier.best if earlier is not None and earlier.evaluated in (max_epoch, earlier.settled) else None
    if best is None:
        with RunFolder(exp_dir) as folder:
            if earlier is None:
                folder.require_free(overwrite, pretrained_ckpt)

            def clear() -> None:
                on_start()
                if overwrite:
                    folder.clear()

            log.info(f"\nfirst phase, without the held-out videos: {exp_dir / HOLDOUT}")
            results = train(exp_dir / HOLDOUT, clear)
        assert results is not None and results.best is not None, "held-out videos are always evaluated"
        best = results.best
    chosen = ChosenEpoch.of(best)
    log.info(f"\n{chosen.text}: {chosen.figure:.3f}\nsecond phase, on all training videos up to this epoch: {exp_dir}")
    return chosen


def hold_out(data: Data, share: float, seed: int, batch_size: int) -> Data:
    """The data of the first phase: without a share of the training videos, which stand in place of the test videos.

    They are evaluated by their instances if each that has labels has times, else by their labels alone.

    Raises:
        InputError: no video can be held out, or too few are left.
    """
    labels = torch.stack([video.labels for video in data.train]).cpu().numpy()  # [V, C]
    is_held_out = choose_videos(labels, share, seed)
    kept, held_out = (np.flatnonzero(part).tolist() for part in (~is_held_out, is_held_out))
    if not labels[held_out].any():
        raise InputError(
            f"--holdout {share:g}: no training video can be held out, since each is the last of a class; add videos, "
            "or leave the option out"
        )
    if len(kept) < batch_size:
        raise InputError(
            f"--holdout {share:g}: leaves {len(kept)} of {len(labels)} training videos, which do not fill a batch; "
            f"choose a smaller share, or a --batch_size below {batch_size}"
        )
    annotations = data.annotations
    have_times = {*annotations.instances["video"], *annotations.empty_instances["video"]}
    names = [data.train[i].name for i in held_out]
    truth = annotations.instances_of(names)
    if without := sum(labels[i].any() and data.train[i].name not in have_times for i in held_out):
        truth = truth.iloc[:0]
    by = f"by labels alone ({without} have no times)" if truth.empty else f"by mAP ({len(truth)} instances)"
    log.info(f"held out: {len(held_out)} of {len(labels)} training videos; they choose the epoch {by}")
    return replace(
        data,
        truth=truth,
        test=[data.train[i] for i in held_out],
        train=[data.train[i] for i in kept],
        pseudo=data.pseudo and data.pseudo.select(kept),
        held_out=True,
        left_out=None,
    )


def choose_videos(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose the videos to hold out: at random, with about the same share of each class.

    The videos are in a random order. The next to be chosen is always the one that brings the numbers held out of each
    class closest to their share, in least squares; among equals, the first. The last video of a class stays, so there
    may be fewer than their share.

    Args:
        labels: `[V, C]` 0 or 1. Videos without a label count as a class of their own.
        share: of the videos; at least one is chosen if the classes allow it.
        seed: of the order.

    Returns:
        `[V]` bool.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    classes = np.column_stack([labels, ~labels.any(1)])[order].astype(np.float64)  # [V, C+1]
    left = classes.sum(0)
    wanted = share * left
    free = np.ones(len(labels), dtype=bool)
    for _ in range(max(1, round(share * len(labels)))):
        may = free & (classes @ (left <= 1) == 0)
        if not may.any():
            break
        gain = classes @ (wanted - 0.5)  # half of what the squared distance to `wanted` falls by
        best = np.where(may, gain, -np.inf).argmax()
        free[best] = False
        left, wanted = left - classes[best], wanted - classes[best]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[order[~free]] = True
    return chosen
