"""Train, test and evaluate SEAL, and make what its data lacks.

    python main.py --run_type train --dataset_name Demo
    python main.py --run_type train
    python main.py --run_type train --resume
    python main.py --run_type test --pretrained_ckpt checkpoints/best_model.pkl
    python main.py --run_type eval --detections detections.json
    python main.py --run_type report
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dataset import Batch, training_batches
from eval.classification import classification_figures
from eval.evaluation import diagnose, evaluate
from eval.metrics import EvaluationInput
from eval.nms import NMS
from eval.postprocess import PostProcess, VideoDetections
from eval.protocols import TIOU_PROTOCOLS
from eval.results import Results, classification_summary, released_figures, summary
from eval.tables import detection_table, without_ambiguous
from losses import Criterion, mean_prediction
from model import SEAL
from options import describe, parse_options, plain_values
from prepare.check import CheckSettings
from prepare.commands import check, make_descriptors, make_proposals, take_proposals
from prepare.make_demo import make_demo_once
from prepare.snippet_proposals import ProposalSettings
from readers.checkpoints import load_weights
from report.dashboard import Dashboard, DashboardSettings
from report.reading import ReportSettings
from report.requirements import require_matplotlib
from runs.folder import RunFolder
from runs.inference import detect_all
from runs.inputs import (
    Data,
    choose_device,
    dataset_files,
    load_data,
    open_dataset,
    other_files,
    reading_settings,
    uses_demo,
)
from runs.log import RunLog
from runs.results import RunResults, read_to_evaluate, write_evaluation, write_found, write_results
from runs.resume import TrainingState, about_run, run_to_resume
from runs.seeds import train_seeds
from runs.signals import Interrupted, catching_signals, uninterrupted
from runs.weights import save_weights
from utils import (
    CannotWrite,
    InputError,
    __version__,
    error_text,
    keep_previous,
    log,
    printable,
    release_memory,
    seed_everything,
    shorten_list,
    unbreakable_output,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status is 2 when the input cannot be used, and `check`'s 1 when it finds that."""
    for stream in (sys.stdout, sys.stderr):  # a name in a file may hold what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # PyTorch's switch for large pages under large CPU tensors: fewer page faults, and less memory lost between tensors.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    argv = sys.argv[1:] if argv is None else [*argv]
    options = parse_options(argv)
    options.argv = argv
    with unbreakable_output():
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)
        logging.getLogger().handlers[0].setFormatter(Printable())
        versions = f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
        log.info("\n".join([f"SEAL {__version__} ({versions})", *describe(options, changed_only=True)]))
        return run_type(options)


def run_type(options: Namespace) -> int:
    """Do what `--run_type` says, and say in one line why it cannot be done; returns the exit status."""
    try:
        with catching_signals(), logging_redirect_tqdm():
            if uses_demo(options):
                make_demo_once()
            return RUN_TYPES[options.run_type](options) or 0
    except InputError as error:
        return say_end(f"error: {error}", error.hint, 2)
    except Interrupted as stopped:
        return say_end(f"stopped by {stopped}", stopped.hint, stopped.status)
    except OSError as error:  # a folder where a file should be, or one that may not be looked into
        if error.filename is None:
            raise
        return say_end(f"error: {error.filename}: {error.strerror}", "", 2)
    except RuntimeError as error:
        if not options.deterministic or "deterministic" not in str(error):
            raise
        reason = error_text(str(error).partition(", but")[0])
        return say_end(f"error: --deterministic: {reason}; leave the option out", "", 2)


class Printable(logging.Formatter):
    """Shows messages as they are, but for control characters, which a file may have brought into them."""

    def format(self, record: logging.LogRecord) -> str:
        """The text to show."""
        return printable(super().format(record))


def say_end(message: str, hint: str, status: int) -> int:
    """Say why the program ends early and, if there is a hint, what to do; returns the exit status."""
    print(printable(f"{message}\n{hint}".rstrip()), file=sys.stderr)
    return status


# -------------------------------------------------------------------------------------------- run types


def train(options: Namespace) -> None:
    """`--run_type train`: one run, or one for each of `--seeds`."""
    if not options.seeds:
        train_run(options)
        return

    def train_seed(seed: int, folder: Path, began: Callable[[], None]) -> RunResults | None:
        of_run = {"seed": seed, "seeds": None, "exp_dir": folder, "resume": options.resume and "auto"}
        return train_run(Namespace(**vars(options) | of_run), began)

    train_seeds(
        options.seeds,
        options.exp_dir,
        train_seed,
        resume=options.resume,
        overwrite=options.overwrite,
        pretrained_ckpt=options.pretrained_ckpt,
    )


def train_run(options: Namespace, began: Callable[[], None] = lambda: None) -> RunResults | None:
    """Train from scratch, from `--pretrained_ckpt`, or from where a run stopped (`--resume`).

    Args:
        options: of the run.
        began: called when all input has been read, and the run begins.

    Returns:
        What `results.json` has, if the run was evaluated.
    """
    with RunFolder(options.exp_dir) as folder:
        saved = run_to_resume(folder, options)
        resumed = saved is not None
        has_begun = resumed  # else `resume.pt` is that of the run which this one is to replace
        try:
            shuffler = seed_everything(options.seed)
            device = choose_device(options)
            data = load_data(options, device)
            model = build_model(options, data, device, None if resumed else options.pretrained_ckpt)
            criterion = build_criterion(options)
            optimizer = build_optimizer(options, model)
            about = about_run(options, data.digest(), step_terms(criterion), device)
            state = TrainingState(folder.resume, about, model, optimizer, shuffler)
            if resumed:
                state.restore(saved)
            del saved  # as large as the network and its optimizer

            began()
            start_run(options, folder)
            has_begun = True
            if not resumed:
                state.save()
            dashboard = Dashboard(dashboard_settings(options), data, criterion.weights)
            with RunLog(folder.path, (state.epoch, state.evaluated) if resumed else None, dashboard.begin) as run_log:
                run = Training(options, folder, data, criterion, state, run_log, dashboard)
                save_due_weights(run)  # the process before may have ended between `resume.pt` and these
                left = range(state.epoch, options.max_epoch)
                progress = tqdm(left, "training", options.max_epoch, unit="epoch", initial=state.epoch)
                for _ in progress:
                    progress.set_postfix(loss=f"{run_epoch(run):.3f}")
                return finish(run)
        except (Interrupted, CannotWrite) as stopped:
            if has_begun and folder.resume.exists():
                stopped.hint = f"go on with: {command_to_resume(options)}"
            raise


@dataclass
class Training:
    """A training run, with all that takes part in it."""

    options: Namespace
    folder: RunFolder
    data: Data
    criterion: Criterion
    state: TrainingState
    log: RunLog
    dashboard: Dashboard
    evaluation: Evaluation | None = None  # of the last epoch, if that was evaluated

    def batches(self, skip: int = 0) -> Iterator[Batch]:
        """The batches of the next epoch, but for the first `skip`."""
        options, state = self.options, self.state
        precision = state.model.precision
        return training_batches(
            self.data.train, options.batch_size, options.max_proposal, state.shuffler, precision, skip
        )


def run_epoch(run: Training) -> float:
    """Train an epoch, or what is left of it, and evaluate it if that is due; returns the mean loss.

    Raises:
        InputError: a loss or a gradient is not finite.
        Interrupted: by then, what was done of the epoch is in `resume.pt`.
    """
    options, data, state = run.options, run.data, run.state
    epoch, began, order = state.epoch + 1, time.perf_counter(), state.shuffler.get_state()
    run.evaluation = None
    try:
        batches = run.batches(skip=len(state.steps))
        means = train_epoch(state.model, batches, data, run.criterion, state.optimizer, epoch, state.steps)
        run.folder.require_held()
        record_epoch(run, epoch, means, state.seconds + time.perf_counter() - began)
        release_memory()  # epochs leave gaps of many sizes, which would add up
        if due(epoch, options) and options.interval and not data.truth.empty:
            log.info(f"\nepoch {epoch}, mean loss {means['loss_total']:.4f}")
            run.evaluation = evaluate_model(state.model, data, options)
            record_evaluation(run, epoch)
        with uninterrupted():
            state.finish_epoch(run.evaluation and run.evaluation.results)
            state.save()
            save_due_weights(run)
    except NotFinite as fault:
        raise InputError(explain(fault, run, order)) from None
    except Interrupted:
        if state.epoch < epoch:  # else all of it is saved
            run.folder.require_held()
            state.seconds += time.perf_counter() - began
            state.save(order)
        raise
    return means["loss_total"]


def due(epoch: int, options: Namespace) -> bool:
    """Whether an epoch's weights are saved and, unless `--interval` is 0, evaluated."""
    return epoch % (options.interval or 10) == 0 or epoch == options.max_epoch


def record_epoch(run: Training, epoch: int, means: dict[str, float], seconds: float) -> None:
    """Log the means of what was recorded of the steps of an epoch."""
    losses = {name: means[name] for name in loss_names(run.criterion)}
    lr, steps = run.state.optimizer.param_groups[0]["lr"], len(run.state.steps)
    run.log.epoch(epoch, losses, seconds, run.dashboard.of_epoch(epoch, lr, means, steps, seconds))
    if epoch == run.options.max_epoch:
        with run.log.board() as board:
            run.dashboard.end(board)


def record_evaluation(run: Training, epoch: int) -> None:
    """Log and print the results of the evaluation."""
    results, _, detections, found = run.evaluation
    run.log.evaluation(epoch, results, released_figures(results, TIOU_PROTOCOLS[run.options.tiou]))
    best = results.snippet.average
    if run.state.best is not None:
        best = max(best, run.state.best.results.snippet.average)
    with run.log.board() as board:
        run.dashboard.evaluation(board, epoch, best, detections, found)
    log.info(summary(results, TIOU_PROTOCOLS[run.options.tiou]))


def save_due_weights(run: Training) -> None:
    """Save the weights at the end of an epoch if they are due, or the best; `resume.pt` has been written before."""
    state = run.state
    if not state.epoch or state.steps:  # the weights are not those at the end of an epoch
        return
    if due(state.epoch, run.options):
        save_weights(state.model, run.folder.last)
    if state.best is not None and state.best.epoch == state.epoch:
        save_weights(state.model, run.folder.best)


def finish(run: Training) -> RunResults | None:
    """Write what there is at the end of a training run, and print its tables; returns the results, if there are any."""
    options, folder, state = run.options, run.folder, run.state
    folder.require_held()
    if not options.interval or run.data.truth.empty:
        log.info(f"weights in {folder.last}")
        if options.interval:
            write_detections_alone(state.model, run.data, options)
        else:
            log.info("not evaluated, as --interval 0 asks")
        return None
    if run.evaluation is None:  # the process that trained the last epoch ended before this, or did not evaluate
        run.evaluation = evaluate_model(state.model, run.data, options)
        if state.evaluated < state.epoch:
            record_evaluation(run, state.epoch)
            with uninterrupted():
                state.note_evaluation(run.evaluation.results)
                state.save()
                save_due_weights(run)
    results, inputs, detections, _ = run.evaluation
    of_run = RunResults(results, state.epoch, str(folder.last), state.best, str(folder.best))
    unless_same = options.resume is not None
    write_evaluation(
        options.exp_dir, of_run, inputs, detections, run.data, options.dataset_name, unless_same=unless_same
    )
    shown = [summary(part, TIOU_PROTOCOLS[options.tiou]) for part in (results, state.best.results)]
    log.info(f"\nlast checkpoint, epoch {state.epoch}: {folder.last}\n{shown[0]}")
    log.info(f"\nbest checkpoint, epoch {state.best.epoch}, chosen on the test set: {folder.best}\n{shown[1]}")
    return of_run


def train_epoch(
    model: SEAL,
    batches: Iterable[Batch],
    data: Data,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    steps: list[Tensor] | None = None,
) -> dict[str, float]:
    """One pass over the training videos.

    Args:
        model: the network.
        batches: of the training videos; of an epoch that was interrupted, those that are left.
        data: with the pseudo-labels.
        criterion: of the losses.
        optimizer: of the network.
        epoch: from 1.
        steps: the K `step_terms` of each step, `[K]` on the device; of an epoch that was interrupted, those of the
            steps before. This adds its own.

    Returns:
        The mean of each of the `step_terms`.

    Raises:
        NotFinite: a loss or a gradient is not.
        Interrupted: between two steps.
    """
    model.train()
    steps = [] if steps is None else steps
    try:
        for batch in batches:
            with uninterrupted():
                steps.append(training_step(model, batch, data, criterion, optimizer, epoch))
    except Interrupted:
        finite_terms(steps, criterion)  # what is not finite must not get into `resume.pt`
        raise
    return {name: values.mean().item() for name, values in finite_terms(steps, criterion).items()}


def training_step(
    model: SEAL, batch: Batch, data: Data, criterion: Criterion, optimizer: torch.optim.Optimizer, epoch: int
) -> Tensor:
    """One step of the optimizer; returns its K `step_terms`, `[K]` on the device."""
    outputs = model(batch.rows)
    terms = batch_terms(outputs, batch, data, criterion, epoch)
    terms["loss_total"].backward()
    gradient = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    # From a gradient on that is not finite, weights stay as they are, so that it can be found where that came from. A
    # fused optimizer sees to it on the device, which need not be waited for; other optimizers cannot.
    if optimizer.defaults.get("fused"):
        broken = (~gradient.isfinite()).float()
        optimizer.found_inf = torch.maximum(broken, getattr(optimizer, "found_inf", broken))
    optimizer.step()
    optimizer.zero_grad()  # here, so that gradients and activations are not in memory at once
    proposals = gradient.new_full((), len(batch.rows))
    agreement = agreement_with_pseudo_labels(outputs, batch, data)
    return torch.stack([term.detach() for term in (*terms.values(), gradient, proposals, agreement)])


def batch_terms(
    outputs: dict[str, Tensor], batch: Batch, data: Data, criterion: Criterion, epoch: int
) -> dict[str, Tensor]:
    """The loss terms of a batch, see `Criterion`."""
    pseudo = data.pseudo.select(batch.videos)
    return criterion(outputs, batch.proposals, batch.sizes, batch.labels, pseudo, epoch)


@torch.no_grad()
def agreement_with_pseudo_labels(outputs: dict[str, Tensor], batch: Batch, data: Data) -> Tensor:
    """Share of the videos of a batch for which the network's most likely class is the pseudo-label."""
    predicted = mean_prediction(outputs["class_logits"], batch.sizes).argmax(1)  # [B]
    return (predicted == data.pseudo.select(batch.videos).label).float().mean()


def loss_names(criterion: Criterion) -> list[str]:
    """The names of the losses, as the criterion gives them."""
    return ["loss_total", *criterion.weights(1)]


def step_terms(criterion: Criterion) -> list[str]:
    """The names of what is recorded of each step: losses, norm of the gradient, rows, agreement with pseudo-labels."""
    return [*loss_names(criterion), "gradient", "proposals", "agreement"]


class NotFinite(Exception):
    """Some terms of a step, which is counted from 0, are not finite."""

    def __init__(self, step: int, terms: list[str]) -> None:
        super().__init__(f"step {step}: {', '.join(terms)}")
        self.step, self.terms = step, terms


def finite_terms(steps: list[Tensor], criterion: Criterion) -> dict[str, Tensor]:
    """The values of each term in all S steps, `[S]` on the CPU.

    Raises:
        NotFinite: some are not; it is of the first step of which that is so.
    """
    names = step_terms(criterion)
    values = torch.stack(steps).cpu() if steps else torch.empty(0, len(names))  # here the program waits for the device
    bad = ~values.isfinite()
    if bad.any():
        step = int(bad.any(1).nonzero()[0])
        raise NotFinite(step, [name for name, is_bad in zip(names, bad[step], strict=True) if is_bad])
    return dict(zip(names, values.T, strict=True))


def explain(fault: NotFinite, run: Training, order: Tensor) -> str:
    """What to say of terms that are not finite, in an epoch at whose start the shuffler had the state `order`."""
    epoch = run.state.epoch + 1
    run.state.shuffler.set_state(order)
    batch = next(run.batches(skip=fault.step))
    losses = [name for name in fault.terms if name != "gradient"]
    what = losses[-1] if losses else f"the gradient of {term_of_gradient(run, batch, epoch)}"
    videos = shorten_list([run.data.train[i].name for i in batch.videos], None)
    return (
        f"epoch {epoch}, step {fault.step + 1}: {what} is not finite, on the videos {videos}; check their features, or "
        f"begin another run with a lower --lr, maybe from --pretrained_ckpt {run.folder.resume}, which is from before"
    )


def term_of_gradient(run: Training, batch: Batch, epoch: int) -> str:
    """The loss term whose gradient is not finite on a batch; the total, if with other dropout it is none by itself."""
    parameters = [*run.state.model.parameters()]
    terms = batch_terms(run.state.model(batch.rows), batch, run.data, run.criterion, epoch)
    for name, weight in run.criterion.weights(epoch).items():
        gradients = torch.autograd.grad(weight * terms[name], parameters, retain_graph=True, allow_unused=True)
        if not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
            return name
    return "loss_total"


def test(options: Namespace) -> None:
    """`--run_type test`: detections and figures of a checkpoint."""
    with RunFolder(options.exp_dir) as folder:
        device = choose_device(options)
        data = load_data(options, device)
        model = build_model(options, data, device, options.pretrained_ckpt)
        if data.truth.empty:
            start_run(options, folder)
            write_detections_alone(model, data, options)
            return
        evaluation = evaluate_model(model, data, options)
        start_run(options, folder)
        # A checkpoint holds weights alone and does not say which epoch it is of.
        results = RunResults(evaluation.results, checkpoint=str(options.pretrained_ckpt))
        write_evaluation(options.exp_dir, results, evaluation.inputs, evaluation.detections, data, options.dataset_name)
        log.info(summary(evaluation.results, TIOU_PROTOCOLS[options.tiou]))


def evaluate_file(options: Namespace) -> None:
    """`--run_type eval`: figures of anyone's detections; needs the annotations and nothing else."""
    with RunFolder(options.exp_dir) as folder:
        source = open_dataset(options)
        tiou_protocol = TIOU_PROTOCOLS[options.tiou]
        evaluable = read_to_evaluate(options.detections, source, tiou_protocol, options.rate)
        results = evaluate(evaluable.inputs)
        analysis = diagnose(evaluable.inputs, evaluable.lengths)
        start_run(options, folder)
        of_file = {"detections": str(options.detections), "simulated": evaluable.simulated}
        write_results(options.exp_dir, RunResults(results, **of_file, error_analysis=analysis))
        log.info(summary(results, tiou_protocol))


def report(options: Namespace) -> None:
    """`--run_type report`: a page on a run, on anyone's detections, or on runs side by side."""
    require_matplotlib()
    from report.command import write_report  # imports matplotlib, which no other run type needs

    write_report(report_settings(options), lambda: open_dataset(options))


def check_data(options: Namespace) -> int:
    """`--run_type check`: list what is wrong with a dataset; returns 1 if a run would stop."""
    settings = CheckSettings(
        rate=options.rate,
        batch_size=options.batch_size,
        pooled_dtype=getattr(torch, options.pooled_dtype),
        missing_proposals=options.missing_proposals,
        checkpoint=options.pretrained_ckpt,
    )
    return check(dataset_files(options), reading_settings(options), settings, other_files(options))


def prepare_descriptors(options: Namespace) -> None:
    """`--run_type descriptors`: make the class descriptors of a dataset."""
    source = open_dataset(options, features=True)
    make_descriptors(source, pooling=options.descriptor_pooling, overwrite=options.overwrite)


def prepare_proposals(options: Namespace) -> None:
    """`--run_type proposals`: make the proposals of a dataset, or take them from `--proposals_from`."""
    source = open_dataset(options, features=not options.proposals_from)
    if options.proposals_from:
        missing, overwrite = options.missing_proposals, options.overwrite
        take_proposals(source, options.proposals_from, missing=missing, overwrite=overwrite)
    else:
        settings = ProposalSettings(
            rate=options.rate,
            epochs=options.proposal_epochs,
            per_video=options.proposals_per_video,
            seed=options.seed,
        )
        make_proposals(source, settings, choose_device(options), overwrite=options.overwrite)


# ------------------------------------------------------------------------------------------- evaluation


class Evaluation(NamedTuple):
    """What an evaluation of the network on the test videos gives."""

    results: Results
    inputs: EvaluationInput
    detections: pd.DataFrame  # see `eval.tables.detection_table`
    found: list[VideoDetections]  # of each test video


def evaluate_model(model: SEAL, data: Data, options: Namespace) -> Evaluation:
    """Run the network over the test videos, and evaluate what it finds."""
    found, detections = detect_test_videos(model, data, options)
    inputs = EvaluationInput(
        without_ambiguous(detections),
        data.truth,
        data.annotations.class_names,
        TIOU_PROTOCOLS[options.tiou],
        options.rate,
        videos=found,
        labels=data.test_labels(),
    )
    return Evaluation(evaluate(inputs), inputs, detections, found)


def detect_test_videos(model: SEAL, data: Data, options: Namespace) -> tuple[list[VideoDetections], pd.DataFrame]:
    """What is found in each test video, and the table of all detections."""
    found = detect_all(model, data.test, data.annotations.ambiguous, build_post_process(options))
    return found, detection_table([video.name for video in data.test], found, options.rate)


def write_detections_alone(model: SEAL, data: Data, options: Namespace) -> None:
    """Write the detections of test videos that have no ground truth."""
    found, detections = detect_test_videos(model, data, options)
    keep_previous(options.exp_dir / "results.json")  # which would be taken for that of these detections
    unless_same = options.resume is not None
    write_found(options.exp_dir, detections, data, options.dataset_name, options.rate, unless_same=unless_same)
    if (labels := data.test_labels()).any():
        log.info(classification_summary(classification_figures(found, labels)))
    log.info(
        "no mAP can be had, since the test videos have no instances in the annotations; detections in "
        f"{options.exp_dir / 'detections.json'}"
    )


# ------------------------------------------------------------------------------------------ what is trained


def build_model(options: Namespace, data: Data, device: torch.device, weights: Path | None = None) -> SEAL:
    """The network for this data, with the weights of a checkpoint if one is given."""
    model = SEAL(
        feature_size=data.test[0].mean.numel(),
        num_class=len(data.annotations.class_names),
        dropout_ratio=options.dropout_ratio,
        precision=getattr(torch, options.precision),
    )
    if weights is not None:
        load_weights(model, weights)
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


def report_settings(options: Namespace) -> ReportSettings:
    """What a report needs to know of the options."""
    return ReportSettings(
        exp_dir=options.exp_dir,
        dataset_name=options.dataset_name,
        tiou_protocol=TIOU_PROTOCOLS[options.tiou],
        curve_tiou=options.curve_tiou,
        rate=options.rate,
        seed=options.seed,
        detections=options.detections,
        compare=options.compare or (),
    )


def dashboard_settings(options: Namespace) -> DashboardSettings:
    """What the dashboard shows of the options."""
    return DashboardSettings(
        options=plain_values(options),
        options_text=describe(options),
        batch_size=options.batch_size,
        evaluates=bool(options.interval),
        tiou_protocol=TIOU_PROTOCOLS[options.tiou],
        curve_tiou=options.curve_tiou,
        rate=options.rate,
    )


def build_optimizer(options: Namespace, model: SEAL) -> torch.optim.Optimizer:
    """Adam, with the learning rate and weight decay of the options."""
    return torch.optim.Adam(model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)


def build_post_process(options: Namespace) -> PostProcess:
    """Network outputs to detections, with the threshold and the NMS of the options."""
    return PostProcess(options.threshold_cls, options.rate, NMS[options.nms]())


# -------------------------------------------------------------------------------------- what a run leaves


def command_to_resume(options: Namespace) -> str:
    """What to type to go on with a run."""
    words = [word for word in options.argv if word != "--overwrite"]
    return shlex.join(["python", "main.py", *words, *([] if options.resume else ["--resume"])])


def start_run(options: Namespace, folder: RunFolder) -> None:
    """Note the command in `opt.txt`, once all input has been read: a run that stops on bad input touches nothing."""
    lines = [f"# python {shlex.join(['main.py', *options.argv])}", *describe(options), "", ""]
    folder.start("\n".join(lines), replace=options.run_type == "train" and options.overwrite)


RUN_TYPES = {
    "train": train,
    "test": test,
    "eval": evaluate_file,
    "report": report,
    "check": check_data,
    "descriptors": prepare_descriptors,
    "proposals": prepare_proposals,
}


if __name__ == "__main__":
    sys.exit(main())
