"""Train, test and evaluate SEAL.

    python main.py --run_type train --dataset_name Demo
    python main.py --run_type train
    python main.py --run_type test --pretrained_ckpt checkpoints/best_model.pkl
    python main.py --run_type eval --detections detections.json

`python main.py --help` lists every option; the README says what a run writes.
"""

from __future__ import annotations

import logging
import platform
import shlex
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data.make_demo import make_demo
from dataset import (
    ANNOTATION_FILES,
    Annotations,
    Batch,
    Video,
    evaluation_batches,
    load_videos,
    read_annotations,
    training_batches,
)
from descriptors import FILES as DESCRIPTOR_FILES
from descriptors import PseudoLabels, pseudo_labels, read_descriptors
from eval.classification import classification_accuracy, classification_map
from eval.postprocess import VideoDetections, detect
from eval.protocols import (
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
from proposals import read_proposals
from utils import (
    InputError,
    RunLog,
    load_weights,
    log,
    pick_device,
    require_files,
    save_weights,
    seed_everything,
    write_json,
)

__version__ = "0.1.0"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status is 2 when the input cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    options = parse_options(argv)
    versions = f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    log.info("\n".join([f"SEAL {__version__} ({versions})", *describe(options, changed_only=True)]))
    try:
        with logging_redirect_tqdm():
            {"train": train, "test": test, "eval": evaluate_file}[options.run_type](options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


# -------------------------------------------------------------------------------------------- run types


def train(options: Namespace) -> None:
    """`--run_type train`: train from scratch or from `--pretrained_ckpt`, evaluating on the way."""
    if (options.exp_dir / "metrics.jsonl").exists() and not options.overwrite:
        raise InputError(f"{options.exp_dir} holds a training run: choose another --exp_dir, or --overwrite it")
    shuffler = seed_everything(options.seed)
    device = pick_device(options.device)
    data = load_data(options, device)
    model = build_model(options, data, device)
    criterion = build_criterion(options)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)

    start_run(options)
    run_log = RunLog(options.exp_dir)
    checkpoints = {name: options.exp_dir / "ckpt" / f"{name}_model.pkl" for name in ("last", "best")}
    evaluations: dict[str, dict[str, Any]] = {}
    progress = tqdm(range(1, options.max_epoch + 1), desc="training", unit="epoch")
    for epoch in progress:
        began = time.perf_counter()
        batches = training_batches(data.train, options.batch_size, options.max_proposal, shuffler)
        terms = train_epoch(model, batches, data, criterion, optimizer, epoch)
        run_log.epoch(epoch, terms, time.perf_counter() - began)
        progress.set_postfix(loss=f"{terms['loss_total']:.3f}")
        if options.interval and (epoch % options.interval == 0 or epoch == options.max_epoch):
            results, detections = evaluate_model(model, data, options)
            run_log.evaluation(epoch, results, figures(results))
            log.info(f"\nepoch {epoch}, mean loss {terms['loss_total']:.4f}\n{summary(results)}")
            best = evaluations.get("best")
            better = best is None or results["snippet"]["average"] > best["snippet"]["average"]
            for name in ("last", "best") if better else ("last",):
                save_weights(model, checkpoints[name])
                evaluations[name] = {**results, "checkpoint": str(checkpoints[name]), "epoch": epoch}
    run_log.close()

    if not evaluations:
        save_weights(model, checkpoints["last"])
        log.info(f"not evaluated, as --interval 0 asks; weights in {checkpoints['last']}")
        return
    write_results(options, data.annotations, {**evaluations["last"], "best": evaluations["best"]}, detections)
    for name, note in (("last", ""), ("best", ", chosen on the test set")):
        found = evaluations[name]
        log.info(f"\n{name} checkpoint, epoch {found['epoch']}{note}: {found['checkpoint']}\n{summary(found)}")


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
        pseudo = data.pseudo.of(batch.videos)
        terms = criterion(model(batch.rows), batch.proposals, batch.sizes, batch.labels, pseudo, epoch)
        optimizer.zero_grad()
        terms["loss_total"].backward()
        optimizer.step()
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
    device = pick_device(options.device)
    data = load_data(options, device)
    results, detections = evaluate_model(build_model(options, data, device), data, options)
    start_run(options)
    # A checkpoint holds weights alone and does not say which epoch it is of.
    write_results(
        options, data.annotations, {**results, "checkpoint": str(options.pretrained_ckpt), "epoch": None}, detections
    )
    log.info(summary(results))


def evaluate_file(options: Namespace) -> None:
    """`--run_type eval`: figures of anyone's detections; needs the annotations and nothing else."""
    require_files(annotation_files(options) | {options.detections: "the detections to evaluate"})
    annotations = read_annotations(annotation_folder(options))
    videos = annotations.of_subset(options.test_subset)
    truth = annotations.ground_truth(options.test_subset)
    detections = read_detections(options.detections, videos, annotations.class_names)
    log.info(f"{len(videos)} videos, {len(truth)} instances, {len(detections)} detections")
    results = evaluate(detections, truth, annotations.class_names, options.tiou)
    start_run(options)
    write_json(options.exp_dir / "results.json", {**results, "detections": str(options.detections)})
    log.info(results_table(results))


# ------------------------------------------------------------------------------------------- evaluation


def evaluate_model(model: SEAL, data: Data, options: Namespace) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run the network over the test videos: the figures of `results.json`, and the table of detections."""
    found: list[VideoDetections] = []
    names = ("class_logits", "attention_logits", "completeness_logits")
    with tqdm(total=len(data.test), desc="testing", unit="video", leave=False) as progress:
        for batch in evaluation_batches(data.test):
            outputs = model.scores(batch.rows)
            per_video = zip(*(outputs[name].cpu().split(batch.sizes) for name in names), strict=True)
            for i, (class_logits, attention_logits, completeness_logits) in zip(batch.videos, per_video, strict=True):
                found.append(
                    detect(
                        class_logits.numpy(),
                        attention_logits.numpy(),
                        completeness_logits.numpy(),
                        data.test[i].segments_snip,
                        threshold_cls=options.threshold_cls,
                        ambiguous_sec=data.annotations.ambiguous.get(data.test[i].name),
                    )
                )
            progress.update(len(batch.videos))
    detections = detection_table([video.name for video in data.test], found)
    results = evaluate(detections, data.truth, data.annotations.class_names, options.tiou)
    labels = np.stack([video.labels.cpu().numpy() for video in data.test])
    results["classification_mAP"] = 100 * classification_map(np.stack([video.video_score for video in found]), labels)
    results["classification_accuracy"] = 100 * classification_accuracy(np.stack([v.reported for v in found]), labels)
    return results, detections


# ----------------------------------------------------------------------------------------- what runs need


@dataclass(frozen=True)
class Data:
    """What a run has read."""

    annotations: Annotations
    truth: pd.DataFrame  # instances of the test videos
    test: list[Video]
    train: list[Video]  # empty when only testing
    pseudo: PseudoLabels | None  # of the training videos


def annotation_folder(options: Namespace) -> Path:
    """Where SPEC section 1 puts the annotations."""
    return options.dataset_root / f"{options.dataset_name}-Annotations"


def annotation_files(options: Namespace) -> dict[Path, str]:
    """The annotation files that every run reads, and where they come from."""
    source = "the annotations, with the features in the public I3D release that W-TALC and its successors use"
    return {annotation_folder(options) / f"{name}.npy": source for name in ANNOTATION_FILES}


def proposal_file(options: Namespace, part: str) -> Path:
    """The proposals of a part of the data, `train` or `test`."""
    return options.proposals_root / f"Proposals_{options.dataset_name}_{part}.json"


def load_data(options: Namespace, device: torch.device) -> Data:
    """Read everything that training (or testing) needs, and pool the proposals."""
    training = options.run_type == "train"
    feature_path = options.dataset_root / f"{options.dataset_name}-I3D-JOINTFeatures.npy"
    if options.dataset_name == "Demo" and not feature_path.exists():  # the last of its files to be written
        log.info(f"making the demo dataset (simulated) in {options.dataset_root}")
        make_demo(options.dataset_root, options.proposals_root, options.descriptors_root)
    descriptor_folder = options.descriptors_root / options.dataset_name
    needed = {feature_path: "I3D features, RGB and flow, an object array with one [T, 2048] array a video"}
    needed |= annotation_files(options)
    for part in ("train", "test") if training else ("test",):
        needed[proposal_file(options, part)] = "proposals, for instance the detections of LAC or P-MIL"
    if training:
        needed |= {descriptor_folder / name: "class descriptors, from the SEAL release" for name in DESCRIPTOR_FILES}
    if options.pretrained_ckpt is not None:
        needed[options.pretrained_ckpt] = "weights, from a training run or the SEAL release"
    require_files(needed)

    annotations = read_annotations(annotation_folder(options))
    num_class = len(annotations.class_names)
    if options.num_class not in (None, num_class):
        raise InputError(f"--num_class {options.num_class}: {annotation_folder(options)} has {num_class} classes")
    subsets = {"test": annotations.of_subset(options.test_subset)}
    if training:
        subsets["train"] = annotations.of_subset(options.train_subset)
        if len(subsets["train"]) < options.batch_size:
            raise InputError(
                f"--batch_size {options.batch_size}: there are only {len(subsets['train'])} training videos"
            )
    proposals = {
        name: segments
        for part, videos in subsets.items()
        for name, segments in read_proposals(proposal_file(options, part), videos, options.missing_proposals).items()
    }
    loaded = load_videos(
        annotations,
        feature_path,
        proposals,
        roi_size=options.roi_size,
        feature_size=options.feature_size,
        device=device,
    )
    parts = {part: [loaded[name] for name in videos] for part, videos in subsets.items()}
    pseudo = None
    if training:
        means = torch.stack([video.mean for video in parts["train"]])
        pseudo = pseudo_labels(means, read_descriptors(descriptor_folder, num_class, means.shape[1]).to(device))
    for part, videos in parts.items():
        log.info(
            f"{part}: {len(videos)} videos, {sum(video.num_snippets for video in videos)} snippets, "
            f"{sum(len(video.pooled) for video in videos)} proposals"
        )
    truth = annotations.ground_truth(options.test_subset)
    log.info(f"{num_class} classes, {len(truth)} test instances, features {videos[0].mean.numel()} wide; on {device}")
    return Data(annotations, truth, parts["test"], parts.get("train", []), pseudo)


def build_model(options: Namespace, data: Data, device: torch.device) -> SEAL:
    """The network for this data, with the weights of `--pretrained_ckpt` if there are any."""
    model = SEAL(
        feature_size=data.test[0].mean.numel(),
        num_class=len(data.annotations.class_names),
        dropout_ratio=options.dropout_ratio,
    )
    if options.pretrained_ckpt is not None:
        load_weights(model, options.pretrained_ckpt)
    return model.to(device)


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


def start_run(options: Namespace) -> None:
    """Make `--exp_dir` ready, once all input has been read: a run that stops on bad input touches nothing."""
    folder = options.exp_dir
    if options.run_type == "train" and options.overwrite:
        for name in ("opt.txt", "mAP-results.log", "metrics.jsonl", "detections.json", "results.json"):
            (folder / name).unlink(missing_ok=True)
        for name in ("ckpt/last_model.pkl", "ckpt/best_model.pkl"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "logs", ignore_errors=True)
    (folder / "ckpt").mkdir(parents=True, exist_ok=True)
    with open(folder / "opt.txt", "a", encoding="utf-8") as file:  # testing a trained folder adds to it
        file.write("\n".join([f"# python {shlex.join(sys.argv)}", *describe(options), "", ""]))


def write_results(
    options: Namespace, annotations: Annotations, results: dict[str, Any], detections: pd.DataFrame
) -> None:
    """Write `detections.json` and `results.json`."""
    write_detections(options.exp_dir / "detections.json", detections, annotations.class_names, options.dataset_name)
    write_json(options.exp_dir / "results.json", results)


if __name__ == "__main__":
    sys.exit(main())
