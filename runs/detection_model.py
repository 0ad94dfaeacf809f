"""The folder `model` of a training run: all that detection in new videos needs, in files that can be copied as one.

| file | what it holds |
|---|---|
| `network.pkl`, `network.json` | the weights of the last epoch; what they depend on: classes, rate, widths, recipe |
| `proposals.pkl`, `proposals.json` | the network that made the proposals; absent where they came from elsewhere |
| `detection.json` | how outputs become detections, and what made the features |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eval.nms import NMS
from eval.postprocess import SCORING, PostProcess
from model import NetworkSettings, build_network
from prepare.kept_network import KeptNetwork, keep_network, network_files, read_kept_network, remove_network
from readers.checkpoints import load_weights
from readers.facts import WeightsRecord, read_record, record_path
from readers.feature_checks import MAX_FEATURE_SIZE
from readers.feature_origin import SETTINGS, is_random
from runs.weights import save_weights
from utils import InputError, is_finite_number, log, read_json, short_repr, write_json

MODEL = "model"  # the folder, inside that of the run
WEIGHTS, PROPOSALS, DETECTION = "network.pkl", "proposals.pkl", "detection.json"
_RANGES = {"feature_size": (2, MAX_FEATURE_SIZE), "hidden_size": (2, 8192), "roi_size": (6, 1000), "modalities": (1, 2)}
AGAIN = "copy the folder again, or write it again with --run_type train --resume"


@dataclass(frozen=True)
class DetectionSettings:
    """How a model detects, beside what the record of its weights says."""

    threshold_cls: float  # see `PostProcess`
    score_fusion: float  # likewise
    nms: str  # of `NMS`
    precision: str  # of the matrix products
    row_dtype: str  # of the rows of a batch
    pooled_dtype: str  # that pooled proposals are rounded to
    crop: int | None  # of features with crops, see `readers.features.Features`
    crop_axis: int | None  # likewise
    crops: Sequence[int] | None = None  # which axis they are, and how many, see `readers.feature_axes.Crops`
    features: Mapping[str, Any] | None = None  # what made the features of the training videos, if their files say it

    def post_process(self, rate: float, recipe: str) -> PostProcess:
        """How outputs become detections, at a number of snippets per second."""
        return PostProcess(
            threshold_cls=self.threshold_cls,
            rate=rate,
            nms=NMS[self.nms](),
            scoring=SCORING[recipe],
            score_fusion=self.score_fusion,
        )


@dataclass(frozen=True)
class DetectionModel:
    """A trained model, ready to detect."""

    path: Path  # of its folder
    network: nn.Module
    record: WeightsRecord
    settings: DetectionSettings
    proposals: KeptNetwork | None  # None where the proposals of the training came from elsewhere
    class_names: tuple[str, ...]  # C
    rate: float  # snippets per second
    feature_size: int  # D
    roi_size: int  # R
    post_process: PostProcess

    @property
    def warning(self) -> str:
        """Why what it finds says nothing about real videos; empty if there is no reason."""
        if self.settings.features and is_random(self.settings.features):
            return "The model was trained on features of an I3D with random weights: what is found here means little"
        return (
            "The model was trained on simulated data: what is found says nothing about real videos"
            if self.record.simulated
            else ""
        )


def write_model(
    folder: Path, network: nn.Module, record: WeightsRecord, settings: DetectionSettings, proposals: KeptNetwork | None
) -> None:
    """Write a model, each file whole; files that already hold this epoch of the run are left alone.

    Args:
        folder: for the files.
        network: with its weights.
        record: of the weights.
        settings: of detection.
        proposals: the network that made the proposals; None if there is none.

    Raises:
        CannotWrite: a file cannot be written.
    """
    with suppress(InputError, FileNotFoundError):  # there is none yet, or it is damaged
        earlier = read_record(folder / WEIGHTS)
        kept = read_kept_network(folder / PROPOSALS) if (folder / PROPOSALS).exists() else None
        same = _settings_of(folder / DETECTION) == settings and (kept is None) == (proposals is None)
        if same and earlier is not None and replace(earlier, checksum=None) == record:
            return
    write_json(folder / DETECTION, asdict(settings))
    if proposals is None:
        remove_network(folder / PROPOSALS)
    else:
        keep_network(folder / PROPOSALS, proposals, {})
    save_weights(network.state_dict(), folder / WEIGHTS, record)


def read_model(path: Path, device: torch.device) -> DetectionModel:
    """Read a model.

    Args:
        path: of the folder of a training run, or of a copy of its folder `model`.
        device: for the networks.

    Raises:
        InputError: a file is missing, damaged, or of another model; the message says what to do.
    """
    folder = path if (path / DETECTION).is_file() else path / MODEL
    if not (folder / DETECTION).is_file():
        raise InputError(f"--model {path}: {_what_is_missing(path)}")
    settings = _settings_of(folder / DETECTION)
    record = read_record(folder / WEIGHTS, AGAIN)
    names = ("class_names", "feature_fps", "snippet_frames", "feature_size", "modalities", "roi_size", "recipe")
    if record is None or any(getattr(record, name) is None for name in names):
        raise InputError(f"{record_path(folder / WEIGHTS)}: missing or incomplete; {AGAIN}")
    for name, (least, most) in _RANGES.items():  # before the network is built, however large
        if (value := getattr(record, name)) is not None and not least <= value <= most:
            raise InputError(f"{record_path(folder / WEIGHTS)}: damaged: {name} is {value}; {AGAIN}")
    assert record.class_names and record.feature_size and record.recipe and record.rate and record.roi_size
    _say_if_older(path, record)
    network = build_network(
        NetworkSettings(
            feature_size=record.feature_size,
            num_class=len(record.class_names),
            hidden_size=record.hidden_size,
            standardise=record.recipe == "own",
            precision=getattr(torch, settings.precision),
        )
    )
    load_weights(network, folder / WEIGHTS)
    has_network = any(file.exists() for file in network_files(folder / PROPOSALS))
    kept = read_kept_network(folder / PROPOSALS, AGAIN) if has_network else None
    if kept is not None:
        kept.record.require(record_path(folder / PROPOSALS), record.rate, record.class_names, AGAIN)
    return DetectionModel(
        path=folder,
        network=network.to(device),
        record=record,
        settings=settings,
        proposals=kept,
        class_names=record.class_names,
        rate=record.rate,
        feature_size=record.feature_size,
        roi_size=record.roi_size,
        post_process=settings.post_process(record.rate, record.recipe),
    )


def _say_if_older(run: Path, record: WeightsRecord) -> None:
    """Say so where a run went on after its model was written."""
    with suppress(InputError):
        last = read_record(run / "ckpt" / "last_model.pkl")
        if last is not None and (last.epoch or 0) > (record.epoch or math.inf):
            log.info(
                f"notice: {run}: the model is of epoch {record.epoch}, and the run went on to {last.epoch}; --run_type "
                "train --resume ends the run, and writes its model"
            )


def _what_is_missing(path: Path) -> str:
    """Why there is no model in a folder, and what to do."""
    if not path.is_dir():
        return "no such folder; name that of a training run (its --exp_dir)"
    seeds = sorted(path.glob(f"seed_*/{MODEL}/{DETECTION}"))
    if seeds:
        return f"it has a run for each seed; name one of them: --model {seeds[0].parents[1]}"
    if (path / "ckpt" / "resume.pt").is_file():
        return (
            f"it has no folder {MODEL}, which a training run writes when it ends; end the run with "
            f"--run_type train --resume --exp_dir {path}"
        )
    return f"it has no folder {MODEL}; name the folder of a training run (its --exp_dir)"


def _settings_of(path: Path) -> DetectionSettings:
    """The settings that a file holds."""
    content = read_json(path)
    needed = {field.name for field in fields(DetectionSettings) if field.default is MISSING}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise InputError(f"{path}: damaged; {AGAIN}")
    values = {field.name: content[field.name] for field in fields(DetectionSettings) if field.name in content}
    for name, value in values.items():
        if not _IS_VALID[name](value):
            raise InputError(f"{path}: damaged: {name} is {short_repr(value)}; {AGAIN}")
    return DetectionSettings(**values)


def _is_share(value: Any) -> bool:
    return is_finite_number(value) and 0 <= value <= 1


def _is_dtype(value: Any) -> bool:
    return value in ("float32", "float16", "bfloat16")


def _is_number_or_none(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _are_crops_or_none(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)
    return value is None or (is_pair and value[0] in (0, 1))


_IS_VALID: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("threshold_cls", "score_fusion"), _is_share),
    **dict.fromkeys(("precision", "row_dtype", "pooled_dtype"), _is_dtype),
    **dict.fromkeys(("crop", "crop_axis"), _is_number_or_none),
    "crops": _are_crops_or_none,
    "nms": lambda value: value in (*NMS,),
    "features": lambda value: value is None or (isinstance(value, dict) and value.keys() == {*SETTINGS}),
}
