"""Builds the parts of a run from its options: phases, plan, network, evaluator. Its input: `runs.inputs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from eval.postprocess import PostProcess
from eval.protocols import TIOU_PROTOCOLS
from eval.results import ChosenEpoch
from model import NetworkSettings, Standardise, build_network
from options import Options, describe, plain_values, resume_options
from readers.checkpoints import load_weights
from runs.detection_inputs import Extraction
from runs.detection_model import MODEL, DetectionSettings, write_model
from runs.folder import RunFolder
from runs.holdout import choose_epoch, find_earlier
from runs.inference import Evaluator
from runs.inputs import Data
from runs.results import RunResults
from runs.run import Plan, Run
from runs.seeds import train_seeds
from utils import log


def say_recipe(options: Options) -> None:
    """Say so where the method is not the published one."""
    if options.recipe == "own":
        log.info("recipe own: our settings for own data, see docs/own-videos.md; the published method: --recipe paper")


def build_plan(options: Options, chosen: ChosenEpoch | None = None) -> Plan:
    """How a run trains: to `--max_epoch`, or up to the epoch that was chosen on held-out videos."""
    return Plan(
        last_epoch=options.max_epoch if chosen is None else chosen.epoch,
        interval=options.interval,
        save_every=options.save_every,
        batch_size=options.batch_size,
        max_proposal=options.max_proposal,
        precision=row_dtype(options),
        options=plain_values(options),
        options_text=describe(options),
        tiou_protocol=TIOU_PROTOCOLS[options.tiou],
    )


def row_dtype(options: Options) -> torch.dtype:
    """What the rows of a batch are in. Rounded before the mean is taken off, they would lose what makes them differ."""
    return torch.float32 if options.recipe == "own" else getattr(torch, options.precision)


def load_network(options: Options, data: Data, device: torch.device, weights: Path | None) -> nn.Module:
    """The network for this data, with the weights of a checkpoint if one is given."""
    settings = NetworkSettings(
        feature_size=data.test[0].mean.numel(),
        num_class=len(data.annotations.class_names),
        hidden_size=options.hidden_size,
        standardise=options.recipe == "own",
        dropout_ratio=options.dropout_ratio,
        precision=getattr(torch, options.precision),
    )
    network = build_network(settings)
    for module in network.modules():
        if isinstance(module, Standardise) and data.train:
            module.fit(*data.moments())
    if weights is not None and (order := load_weights(network, weights, data.record)) is not None:
        network.reorder_classes(order)
    return network.to(device)


def build_post_process(options: Options) -> PostProcess:
    """How outputs of the network become detections."""
    return detection_settings(options).post_process(options.rate, options.recipe)


def detection_settings(options: Options) -> DetectionSettings:
    """How a model that is trained with these options detects."""
    return DetectionSettings(
        threshold_cls=options.threshold_cls,
        score_fusion=options.score_fusion,
        nms=options.nms,
        precision=options.precision,
        row_dtype=str(row_dtype(options)).removeprefix("torch."),
        pooled_dtype=options.pooled_dtype,
        crop=options.crop,
        crop_axis=options.crop_axis,
    )


def extraction(options: Options) -> Extraction:
    """How `--run_type detect` makes features of videos."""
    return Extraction(
        i3d_weights=options.i3d_weights,
        folder=options.exp_dir / "features",
        workers=options.workers,
        half=options.half,
    )


def keep_model(options: Options, run: Run, network: nn.Module, data: Data) -> None:
    """Write what detection in new videos needs into a folder of the run, at its end, see `runs.detection_model`."""
    if not data.held_out:
        settings = replace(detection_settings(options), crops=data.crops and [*data.crops], features=data.made_by)
        record = replace(data.record, epoch=run.state.epoch)
        write_model(options.exp_dir / MODEL, network, record, settings, data.proposal_network)


def build_evaluator(options: Options, data: Data) -> Evaluator:
    """What evaluates the network on the test videos."""
    precision = row_dtype(options)
    return Evaluator(
        data,
        build_post_process(options),
        TIOU_PROTOCOLS[options.tiou],
        precision,
        options.exp_dir,
        options.dataset_name,
        resumed=options.resume is not None,
    )


def open_run(options: Options, chosen: ChosenEpoch | None = None) -> Run:
    """The training run in `--exp_dir`, to be entered; its second phase, if its epoch has been chosen."""
    return Run(
        options.exp_dir,
        resume=options.resume,
        overwrite=options.overwrite,
        pretrained_ckpt=options.pretrained_ckpt,
        argv=options.argv,
        second_phase=chosen is not None,
    )


Train = Callable[[Options, Callable[[], None], ChosenEpoch | None], RunResults | None]  # see `main.train`


def train_as_told(options: Options, train: Train) -> None:
    """Train once, or once with each of `--seeds`; see `train_in_phases`."""
    if not options.seeds:
        train_in_phases(options, train)
        return

    def train_seed(seed: int, folder: Path, on_start: Callable[[], None]) -> RunResults | None:
        of_run = {"seed": seed, "seeds": None, "exp_dir": folder, "resume": options.resume and "auto"}
        return train_in_phases(Options(**vars(options) | of_run), train, on_start)

    train_seeds(
        options.seeds,
        options.exp_dir,
        train_seed,
        resume=options.resume,
        overwrite=options.overwrite,
        pretrained_ckpt=options.pretrained_ckpt,
    )


def train_in_phases(
    options: Options,
    train: Train,
    on_start: Callable[[], None] = lambda: None,
) -> RunResults | None:
    """Train once, or with `--holdout` in the two phases of `runs.holdout`.

    Args:
        options: of the run.
        train: see `main.train`.
        on_start: likewise.

    Returns:
        The results, if the run was evaluated.
    """
    earlier = find_earlier(options.exp_dir) if options.resume else None
    if earlier is not None:
        options = resume_options(options, earlier.options)
    if options.holdout is None:
        return train(options, on_start, None)

    def train_first(folder: Path, on_start: Callable[[], None]) -> RunResults | None:
        of_first = {"exp_dir": folder, "resume": "always" if earlier else options.resume}
        return train(Options(**vars(options) | of_first), on_start, None)

    chosen = choose_epoch(
        options.exp_dir,
        train_first,
        earlier,
        max_epoch=options.max_epoch,
        interval=options.interval,
        overwrite=options.overwrite,
        pretrained_ckpt=options.pretrained_ckpt,
        on_start=on_start,
    )
    of_second = {"resume": options.resume and "auto", "overwrite": False}  # `choose_epoch` has removed both phases
    return train(Options(**vars(options) | of_second), lambda: None, chosen)


def start(folder: RunFolder, options: Options) -> None:
    """Note the command in a folder, once all input has been read: bad input changes nothing."""
    folder.start(options.argv, describe(options), plain_values(options))
