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

`python main.py --help` lists every option; docs/runs.md says what a run writes.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.contrib.logging import logging_redirect_tqdm

from dataset import Batch
from eval.evaluation import diagnose, evaluate
from eval.nms import NMS
from eval.postprocess import PostProcess
from eval.protocols import TIOU_PROTOCOLS
from eval.results import summary
from losses import Criterion, LossSettings, mean_prediction, seal_terms
from model import NetworkSettings, build_network
from options import Options, describe, parse_options, plain_values, resume_options
from prepare.check import CheckSettings
from prepare.commands import check, make_descriptors, make_proposals, take_proposals
from prepare.make_demo import make_demo_once
from prepare.snippet_proposals import ProposalSettings
from readers.checkpoints import load_weights
from report.dashboard import Dashboard, DashboardSettings
from report.reading import ReportSettings
from report.requirements import require_matplotlib
from runs.folder import RunFolder
from runs.inference import Evaluator
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
from runs.results import RunResults, read_to_evaluate, write_results
from runs.run import Plan, Run
from runs.seeds import train_seeds
from runs.signals import Interrupted, catching_signals, uninterrupted
from utils import (
    InputError,
    __version__,
    error_text,
    log,
    printable,
    seed_everything,
    step_if_finite,
    unbreakable_output,
)

# ------------------------------------------------------------------------------------------------ training


def train(options: Options, on_start: Callable[[], None] = lambda: None) -> RunResults | None:
    """Train from scratch, from `--pretrained_ckpt`, or from where a run stopped (`--resume`).

    Args:
        options: of the run.
        on_start: called when all input is known to be good, before anything is written.

    Returns:
        What `results.json` has, if the run was evaluated.
    """
    with open_run(options) as run:
        if run.saved is not None:
            options = resume_options(options, run.saved.options)
        run.plan(build_plan(options))
        generator = seed_everything(options.seed)
        device = choose_device(options)
        data = load_data(options, device)
        network = load_network(options, data, device, None if run.resumed else options.pretrained_ckpt)
        criterion = build_criterion(options)
        optimizer = build_optimizer(options, network)
        evaluator = build_evaluator(options, data)
        dashboard = Dashboard(dashboard_settings(options), data, criterion.weights)
        run.attach(data, criterion, generator, dashboard, model=network, optimizer=optimizer, on_start=on_start)

        for epoch in run.epochs():
            network.train()
            for batch in run.batches():
                with uninterrupted():
                    run.steps.append(training_step(network, batch, data, criterion, optimizer, epoch))
            run.end_epoch()
            if run.evaluation_due():
                run.record_evaluation(evaluator(network))
            run.save_epoch()
        return finish(run, evaluator, network, options.interval > 0)


def training_step(
    network: nn.Module, batch: Batch, data: Data, criterion: Criterion, optimizer: torch.optim.Optimizer, epoch: int
) -> Tensor:
    """One step of the optimizer.

    Returns:
        `[K]` on the device: the values of `criterion.names`, then of `runs.run.EXTRA_TERMS`: the norm of the gradient,
        the number of proposals, and the share of videos whose most likely class is their pseudo-label.
    """
    pseudo = data.pseudo_of(batch)
    outputs = network(batch)
    losses = criterion(outputs, batch, pseudo, epoch)
    losses["loss_total"].backward()
    gradient = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    step_if_finite(optimizer, gradient)
    optimizer.zero_grad()  # here, so that gradients and activations are not in memory at once
    with torch.no_grad():
        predicted = mean_prediction(outputs["class_logits"], batch.sizes).argmax(1)  # [B]
        agreement = (predicted == pseudo.label).float().mean()
    proposals = gradient.new_full((), len(batch.rows))
    return torch.stack([value.detach() for value in (*losses.values(), gradient, proposals, agreement)])


def finish(run: Run, evaluator: Evaluator, network: nn.Module, evaluates: bool) -> RunResults | None:
    """Write what a run leaves at its end, and print its tables; returns the results, if there are any."""
    run.folder.require_held()
    if not evaluates or evaluator.data.truth.empty:
        log.info(f"weights in {run.folder.last}")
        if evaluates:
            evaluator.write_detections_alone(network)
        else:
            log.info("not evaluated, because of --interval 0")
        return None
    evaluation, best = run.last_evaluation(lambda: evaluator(network)), run.state.best
    assert best is not None, "the last epoch was evaluated"
    last, epoch = evaluation.results, run.state.epoch
    results = RunResults(last, epoch, str(run.folder.last), best, str(run.folder.best))
    evaluator.write(evaluation, results)
    log.info(f"\nlast checkpoint, epoch {epoch}: {run.folder.last}\n{summary(last, evaluator.protocol)}")
    log.info(f"\nbest checkpoint, epoch {best.epoch}, chosen on the test set: {run.folder.best}")
    log.info(summary(best.results, evaluator.protocol))
    return results


# ------------------------------------------------------------------------------------- the other run types


def train_or_train_seeds(options: Options) -> None:
    """`--run_type train`: one run, or one for each of `--seeds`."""
    if not options.seeds:
        train(options)
        return

    def train_seed(seed: int, folder: Path, on_start: Callable[[], None]) -> RunResults | None:
        of_run = {"seed": seed, "seeds": None, "exp_dir": folder, "resume": options.resume and "auto"}
        return train(Options(**vars(options) | of_run), on_start)

    train_seeds(
        options.seeds,
        options.exp_dir,
        train_seed,
        resume=options.resume,
        overwrite=options.overwrite,
        pretrained_ckpt=options.pretrained_ckpt,
    )


def test(options: Options) -> None:
    """`--run_type test`: detections and figures of a checkpoint."""
    with RunFolder(options.exp_dir) as folder:
        device = choose_device(options)
        data = load_data(options, device)
        network = load_network(options, data, device, options.pretrained_ckpt)
        evaluator = build_evaluator(options, data)
        if data.truth.empty:
            start(folder, options)
            evaluator.write_detections_alone(network)
            return
        evaluation = evaluator(network)
        start(folder, options)
        # A checkpoint holds weights alone and does not say which epoch it is of.
        evaluator.write(evaluation, RunResults(evaluation.results, checkpoint=str(options.pretrained_ckpt)))
        log.info(summary(evaluation.results, evaluator.protocol))


def evaluate_file(options: Options) -> None:
    """`--run_type eval`: figures of anyone's detections; needs the annotations and nothing else."""
    with RunFolder(options.exp_dir) as folder:
        source, protocol = open_dataset(options), TIOU_PROTOCOLS[options.tiou]
        evaluable = read_to_evaluate(options.detections, source, protocol, options.rate)
        results = evaluate(evaluable.inputs)
        analysis = diagnose(evaluable.inputs, evaluable.lengths)
        start(folder, options)
        file, simulated = str(options.detections), evaluable.simulated
        of_file = RunResults(results, detections=file, simulated=simulated, error_analysis=analysis)
        write_results(options.exp_dir, of_file)
        log.info(summary(results, protocol))


def report(options: Options) -> None:
    """`--run_type report`: a page on a run, on anyone's detections, or on runs side by side."""
    require_matplotlib()
    from report.command import write_report  # imports matplotlib, which no other run type needs

    write_report(report_settings(options), lambda: open_dataset(options))


def check_data(options: Options) -> int:
    """`--run_type check`: list what is wrong with a dataset; returns 1 if a run would stop."""
    settings = CheckSettings(
        rate=options.rate,
        batch_size=options.batch_size,
        pooled_dtype=getattr(torch, options.pooled_dtype),
        missing_proposals=options.missing_proposals,
        checkpoint=options.pretrained_ckpt,
    )
    return check(dataset_files(options), reading_settings(options), settings, other_files(options))


def prepare_descriptors(options: Options) -> None:
    """`--run_type descriptors`: make the class descriptors of a dataset."""
    source = open_dataset(options, features=True)
    make_descriptors(source, pooling=options.descriptor_pooling, overwrite=options.overwrite)


def prepare_proposals(options: Options) -> None:
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


RUN_TYPES: dict[str, Callable[[Options], int | None]] = {
    "train": train_or_train_seeds,
    "test": test,
    "eval": evaluate_file,
    "report": report,
    "check": check_data,
    "descriptors": prepare_descriptors,
    "proposals": prepare_proposals,
}


# ------------------------------------------------------------------------- options, translated for each room


def open_run(options: Options) -> Run:
    """The training run in `--exp_dir`, to be entered."""
    return Run(
        options.exp_dir,
        resume=options.resume,
        overwrite=options.overwrite,
        pretrained_ckpt=options.pretrained_ckpt,
        argv=options.argv,
    )


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
        protocol=TIOU_PROTOCOLS[options.tiou],
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


def build_criterion(options: Options) -> Criterion:
    """SEAL's loss terms; `LossSettings` has its fields under the names of their options."""
    settings = {field.name: getattr(options, field.name) for field in fields(LossSettings)}
    return Criterion(seal_terms(LossSettings(**settings)))


def build_optimizer(options: Options, network: nn.Module) -> torch.optim.Optimizer:
    """Adam, with the learning rate and weight decay of the options."""
    return torch.optim.Adam(network.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)


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


def report_settings(options: Options) -> ReportSettings:
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


def dashboard_settings(options: Options) -> DashboardSettings:
    """What TensorBoard shows of the options."""
    return DashboardSettings(
        options=plain_values(options),
        options_text=describe(options),
        batch_size=options.batch_size,
        evaluates=bool(options.interval),
        tiou_protocol=TIOU_PROTOCOLS[options.tiou],
        curve_tiou=options.curve_tiou,
        rate=options.rate,
    )


def start(folder: RunFolder, options: Options) -> None:
    """Note the command in a folder, once all input has been read: bad input changes nothing."""
    command = shlex.join(["python", "main.py", *options.argv])
    folder.start(command, describe(options), plain_values(options))


# ---------------------------------------------------------------------------------------- the command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit status: 2 when the input cannot be used, 1 when `check` finds that, 128 + n after signal n.
    """
    for stream in (sys.stdout, sys.stderr):  # a name in a file may hold what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # PyTorch's switch for large pages under large CPU tensors: fewer page faults, and less memory lost between tensors.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    options = parse_options(argv)
    with unbreakable_output():
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)
        logging.getLogger().handlers[0].setFormatter(Printable())
        versions = f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
        log.info("\n".join([f"SEAL {__version__} ({versions})", *describe(options, changed_only=True)]))
        return run_type(options)


def run_type(options: Options) -> int:
    """Do what `--run_type` says; what the user can mend is told in one line. Returns the exit status."""
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
    """Escapes the control characters that a file may have brought into a message."""

    def format(self, record: logging.LogRecord) -> str:
        """The text to show."""
        return printable(super().format(record))


def say_end(message: str, hint: str, status: int) -> int:
    """Say why the program ends early and, if there is a hint, what to do; returns the exit status."""
    print(printable(f"{message}\n{hint}".rstrip()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
