"""Builds the parts of a run from its options: plan, network, evaluator. Its input: `runs.inputs`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from eval.nms import NMS
from eval.postprocess import PostProcess
from eval.protocols import TIOU_PROTOCOLS
from model import NetworkSettings, build_network
from options import Options, describe, plain_values
from readers.checkpoints import load_weights
from runs.folder import RunFolder
from runs.inference import Evaluator
from runs.inputs import Data
from runs.run import Plan, Run


def build_plan(options: Options) -> Plan:
    """How a run trains."""
    return Plan(
        max_epoch=options.max_epoch,
        interval=options.interval,
        batch_size=options.batch_size,
        max_proposal=options.max_proposal,
        precision=getattr(torch, options.precision),
        options=plain_values(options),
        options_text=describe(options),
        tiou_protocol=TIOU_PROTOCOLS[options.tiou],
    )


def load_network(options: Options, data: Data, device: torch.device, weights: Path | None) -> nn.Module:
    """The network for this data, with the weights of a checkpoint if one is given."""
    settings = NetworkSettings(
        feature_size=data.test[0].mean.numel(),
        num_class=len(data.annotations.class_names),
        dropout_ratio=options.dropout_ratio,
        precision=getattr(torch, options.precision),
    )
    network = build_network(settings)
    if weights is not None:
        load_weights(network, weights)
    return network.to(device)


def build_post_process(options: Options) -> PostProcess:
    """How outputs of the network become detections."""
    return PostProcess(threshold_cls=options.threshold_cls, rate=options.rate, nms=NMS[options.nms]())


def build_evaluator(options: Options, data: Data) -> Evaluator:
    """What evaluates the network on the test videos."""
    precision = getattr(torch, options.precision)
    return Evaluator(
        data,
        build_post_process(options),
        TIOU_PROTOCOLS[options.tiou],
        precision,
        options.exp_dir,
        options.dataset_name,
        resumed=options.resume is not None,
    )


def open_run(options: Options) -> Run:
    """The training run in `--exp_dir`, to be entered."""
    return Run(
        options.exp_dir,
        resume=options.resume,
        overwrite=options.overwrite,
        pretrained_ckpt=options.pretrained_ckpt,
        argv=options.argv,
    )


def start(folder: RunFolder, options: Options) -> None:
    """Note the command in a folder, once all input has been read: bad input changes nothing."""
    folder.start(options.argv, describe(options), plain_values(options))
