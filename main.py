"""Train, test and evaluate SEAL, and make what its data lacks.

    python main.py --run_type train --dataset_name Demo
    python main.py --run_type train
    python main.py --run_type test --pretrained_ckpt checkpoints/best_model.pkl
    python main.py --run_type eval --detections detections.json
    python main.py --run_type check
    python main.py --run_type proposals
    python main.py --run_type descriptors

`python main.py --help` lists every option; the README says what a run writes.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data.annotations import Annotations
from data.checkpoints import load_weights, save_weights
from data.commands import check, make_descriptors, make_proposals
from data.source import Data, load_data, open_dataset
from dataset import Batch, evaluation_batches, training_batches
from eval.classification import video_figures
from eval.postprocess import LOGITS, VideoDetections, detect_batch
from eval.protocols import (
    classification_summary,
    detection_table,
    evaluate,
    figures,
    read_detections,
    results_table,
    summary,
    write_detections,
)
from losses import Criterion
from model import SEAL
from options import describe, parse_options
from utils import (
    InputError,
    RunLog,
    __version__,
    check_run_folder,
    keep_previous,
    log,
    pick_device,
    release_memory,
    seed_everything,
    some_of,
    start_run_folder,
    write_json,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status is 2 when the input cannot be used, and `check`'s 1 when it finds that."""
    for stream in (sys.stdout, sys.stderr):  # a name in a file may hold what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    # PyTorch's switch for large pages under large CPU tensors: fewer page faults, and less memory lost between tensors.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    options = parse_options(argv)
    versions = f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    log.info("\n".join([f"SEAL {__version__} ({versions})", *describe(options, changed_only=True)]))
    try:
        with logging_redirect_tqdm():
            return RUN_TYPES[options.run_type](options) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


# -------------------------------------------------------------------------------------------- run types


def train(options: Namespace) -> None:
    """`--run_type train`: train from scratch or from `--pretrained_ckpt`, evaluating on the way."""
    check_exp_dir(options)
    shuffler = seed_everything(options.seed)
    device = pick_device(options.device, tf32=options.tf32)
    data = load_data(options, device)
    model = build_model(options, data, device)
    criterion = build_criterion(options)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)

    start_run(options)
    run_log = RunLog(options.exp_dir)
    last_path, best_path = (options.exp_dir / "ckpt" / name for name in ("last_model.pkl", "best_model.pkl"))
    last: dict[str, Any] = {}
    best: dict[str, Any] = {}
    progress = tqdm(range(1, options.max_epoch + 1), desc="training", unit="epoch")
    for epoch in progress:
        began = time.perf_counter()
        batches = training_batches(data.train, options.batch_size, options.max_proposal, shuffler, model.precision)
        terms = train_epoch(model, batches, data, criterion, optimizer, epoch)
        run_log.epoch(epoch, terms, time.perf_counter() - began)
        release_memory()  # epochs leave gaps of many sizes, which would add up
        progress.set_postfix(loss=f"{terms['loss_total']:.3f}")
        due = epoch % (options.interval or 10) == 0 or epoch == options.max_epoch
        if due:
            save_weights(model, last_path)
        if due and options.interval and not data.truth.empty:
            results, detections = evaluate_model(model, data, options)
            run_log.evaluation(epoch, results, figures(results))
            log.info(f"\nepoch {epoch}, mean loss {terms['loss_total']:.4f}\n{summary(results)}")
            last = {**results, "checkpoint": str(last_path), "epoch": epoch}
            if not best or results["snippet"]["average"] > best["snippet"]["average"]:
                save_weights(model, best_path)
                best = {**last, "checkpoint": str(best_path)}
    run_log.close()

    if not last:
        log.info(f"weights in {last_path}")
        if options.interval:
            write_detections_alone(model, data, options)
        else:
            log.info("not evaluated, as --interval 0 asks")
        return
    write_results(options, {**last, "best": best}, detections, data.annotations)
    log.info(f"\nlast checkpoint, epoch {last['epoch']}: {last_path}\n{summary(last)}")
    log.info(f"\nbest checkpoint, epoch {best['epoch']}, chosen on the test set: {best_path}\n{summary(best)}")


def train_epoch(
    model: SEAL,
    batches: Iterable[Batch],
    data: Data,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> dict[str, float]:
    """One pass over the training videos; returns the mean of each loss term.

    Raises:
        InputError: a loss is not finite.
    """
    model.train()
    history, videos = [], []
    for batch in batches:
        pseudo = data.pseudo.select(batch.videos)
        terms = criterion(model(batch.rows), batch.proposals, batch.sizes, batch.labels, pseudo, epoch)
        terms["loss_total"].backward()
        optimizer.step()
        optimizer.zero_grad()  # here, so that gradients and activations are not in memory at once
        history.append(torch.stack([term.detach() for term in terms.values()]))
        videos.append(batch.videos)
    values = torch.stack(history).cpu()  # [steps, terms]; only here does the program wait for the device
    for step, row in enumerate(values):
        if not row.isfinite().all():
            bad = [name for name, value in zip(terms, row, strict=True) if not value.isfinite()][-1]
            names = ", ".join(data.train[i].name for i in videos[step])
            raise InputError(
                f"epoch {epoch}, step {step + 1}: {bad} is not finite, on the videos {names}; lower --lr, or check "
                "their features; no checkpoint of this epoch was written"
            )
    return dict(zip(terms, values.mean(0).tolist(), strict=True))


def test(options: Namespace) -> None:
    """`--run_type test`: detections and figures of a checkpoint."""
    check_exp_dir(options)
    device = pick_device(options.device, tf32=options.tf32)
    data = load_data(options, device)
    model = build_model(options, data, device)
    if data.truth.empty:
        start_run(options)
        write_detections_alone(model, data, options)
        return
    results, detections = evaluate_model(model, data, options)
    start_run(options)
    # A checkpoint holds weights alone and does not say which epoch it is of.
    results |= {"checkpoint": str(options.pretrained_ckpt), "epoch": None}
    write_results(options, results, detections, data.annotations)
    log.info(summary(results))


def evaluate_file(options: Namespace) -> None:
    """`--run_type eval`: figures of anyone's detections; needs the annotations and nothing else."""
    check_exp_dir(options)
    source = open_dataset(options)
    annotations, subset = source.annotations, source.subsets["test"]
    videos, truth = annotations.videos_of(subset), annotations.ground_truth(subset)
    if truth.empty:
        raise InputError(f"{source.files.annotations}: no instance in subset {subset!r} to evaluate on")
    detections = read_detections(options.detections, videos, annotations.class_names, options.rate)
    log.info(f"{len(videos)} videos, {len(truth)} instances, {len(detections)} detections")
    without = sorted(set(videos) - set(detections["video"]))
    if without:
        log.info(f"notice: {len(without)} videos have no detection: {some_of(without)}")
    results = evaluate(detections, truth, annotations.class_names, options.tiou, options.rate)
    start_run(options)
    write_results(options, results | {"detections": str(options.detections)})
    log.info(results_table(results))


# ------------------------------------------------------------------------------------------- evaluation


def evaluate_model(model: SEAL, data: Data, options: Namespace) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run the network over the test videos: the figures of `results.json`, and the table of detections."""
    found, detections = detect_all(model, data, options)
    labels = torch.stack([video.labels for video in data.test]).cpu().numpy()
    results = evaluate(detections, data.truth, data.annotations.class_names, options.tiou, options.rate)
    return results | video_figures(found, labels), detections


def detect_all(model: SEAL, data: Data, options: Namespace) -> tuple[list[VideoDetections], pd.DataFrame]:
    """Run the network over the test videos: what is found in each, and the table of all detections."""
    parts = []
    with tqdm(total=len(data.test), desc="testing", unit="video", leave=False) as progress:
        for batch in evaluation_batches(data.test, dtype=model.precision):
            outputs = model.scores(batch.rows)
            parts.append({name: outputs[name] for name in LOGITS})
            progress.update(len(batch.videos))
    logits = {name: torch.cat([part[name] for part in parts]) for name in LOGITS}
    finite = sum(values.view(len(values), -1).sum(1) for values in logits.values()).isfinite()  # [N]
    sizes = [len(video.proposals) for video in data.test]
    if bad := [video.name for video, own in zip(data.test, finite.split(sizes), strict=True) if not own.all()]:
        raise InputError(
            f"outputs of the network are not finite on {some_of(bad)}; check their features, and the weights"
        )
    found = detect_batch(
        logits,
        [video.segments_snip for video in data.test],
        [data.annotations.ambiguous.get(video.name) for video in data.test],
        threshold_cls=options.threshold_cls,
        rate=options.rate,
    )
    return found, detection_table([video.name for video in data.test], found, options.rate)


def write_detections_alone(model: SEAL, data: Data, options: Namespace) -> None:
    """Write `detections.json` of test videos that have no ground truth."""
    found, detections = detect_all(model, data, options)
    keep_previous(options.exp_dir / "results.json")  # which would be taken for that of these detections
    write_found(options, detections, data.annotations)
    labels = torch.stack([video.labels for video in data.test]).cpu().numpy()
    if labels.any():
        log.info(classification_summary(video_figures(found, labels)))
    log.info(
        "no mAP can be had, since the test videos have no instances in the annotations; detections in "
        f"{options.exp_dir / 'detections.json'}"
    )


# ------------------------------------------------------------------------------------------ what is trained


def build_model(options: Namespace, data: Data, device: torch.device) -> SEAL:
    """The network for this data, with the weights of `--pretrained_ckpt` if there are any."""
    return build_network(options, data.test[0].mean.numel(), len(data.annotations.class_names)).to(device)


def build_network(options: Namespace, feature_size: int, num_class: int) -> SEAL:
    """The network for features and classes, with the weights of `--pretrained_ckpt` if there are any."""
    model = SEAL(
        feature_size=feature_size,
        num_class=num_class,
        dropout_ratio=options.dropout_ratio,
        precision=getattr(torch, options.precision),
    )
    if options.pretrained_ckpt is not None:
        load_weights(model, options.pretrained_ckpt)
    return model


def build_criterion(options: Namespace) -> Criterion:
    """The criterion with the weights and schedules of the options."""
    return Criterion(
        max_epoch=options.max_epoch,
        topk_divisor=options.topk_divisor,
        weight_pc=options.weight_pc,
        sc_epochs=options.sc_epochs,
        sme_epochs=options.sme_epochs,
        sc_decay=options.sc_decay,
        weight_distance=options.weight_pc_distance,
        weight_penalty=options.weight_pc_penalty,
        gamma=options.pseudo_instance_ratio,
        pc_center=options.pc_center,
    )


# -------------------------------------------------------------------------------------- what a run leaves


def check_exp_dir(options: Namespace) -> None:
    """Find out before any work whether `--exp_dir` can take the run, see `check_run_folder`."""
    training = options.run_type == "train"
    check_run_folder(options.exp_dir, training, options.overwrite, options.pretrained_ckpt)


def start_run(options: Namespace) -> None:
    """Make `--exp_dir` ready, once all input has been read: a run that stops on bad input touches nothing."""
    lines = [f"# python {shlex.join(sys.argv)}", *describe(options), "", ""]
    start_run_folder(options.exp_dir, options.run_type == "train" and options.overwrite, lines)


def write_results(
    options: Namespace,
    results: dict[str, Any],
    detections: pd.DataFrame | None = None,
    annotations: Annotations | None = None,
) -> None:
    """Write `results.json`, and `detections.json` if there are any; what an earlier run left is kept beside them."""
    keep_previous(options.exp_dir / "results.json")
    write_json(options.exp_dir / "results.json", results)
    if detections is not None:
        write_found(options, detections, annotations)


def write_found(options: Namespace, detections: pd.DataFrame, annotations: Annotations) -> None:
    """Write `detections.json`; what an earlier run left is kept beside it."""
    path = options.exp_dir / "detections.json"
    keep_previous(path)
    write_detections(path, detections, annotations.class_names, f"SEAL {__version__}, {options.dataset_name}")


RUN_TYPES = {
    "train": train,
    "test": test,
    "eval": evaluate_file,
    "check": check,
    "descriptors": make_descriptors,
    "proposals": make_proposals,
}


if __name__ == "__main__":
    sys.exit(main())
