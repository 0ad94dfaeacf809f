"""Train, test and evaluate SEAL, and make what its data lacks.

    python main.py --run_type train --dataset_name Demo
    python main.py --run_type train
    python main.py --run_type train --resume
    python main.py --run_type test --pretrained_ckpt checkpoints/best_model.pkl
    python main.py --run_type eval --detections detections.json
    python main.py --run_type report
    python main.py --run_type detect --model outputs --input new_videos
    python main.py --run_type check
    python main.py --run_type features --videos videos --i3d_weights i3d
    python main.py --run_type proposals
    python main.py --run_type descriptors

`python main.py --help` lists every option; docs/runs.md says what a run writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields

from options import Options, describe, parse_options, resume_options
from runs.console import exit_status, in_utf8, set_up_output

if __name__ == "__main__":  # `--help` and mistakes in the command line end here: the imports below take seconds
    in_utf8()
    parse_options()

import torch
from torch import Tensor, nn

from dataset import Batch
from eval.baselines import warnings_of
from eval.evaluation import diagnose, evaluate
from eval.protocols import TIOU_PROTOCOLS
from eval.results import ChosenEpoch, summary
from losses import TERMS, Criterion, LossSettings, mean_prediction
from prepare.commands import check, make_descriptors, make_proposals, make_video_features, take_proposals
from prepare.make_demo import make_demo_once
from prepare.settings import check_settings, feature_job, proposal_settings
from report.dashboard import Dashboard
from report.requirements import require_matplotlib
from report.settings import dashboard_settings, report_settings
from report.video_pages import write_video_pages
from runs.detect import open_detector
from runs.detection_files import DetectionFiles
from runs.detection_inputs import Inputs
from runs.folder import RunFolder
from runs.holdout import hold_out
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
from runs.run import Run
from runs.setup import (
    build_evaluator,
    build_plan,
    extraction,
    keep_model,
    load_network,
    open_run,
    say_recipe,
    start,
    train_as_told,
)
from runs.signals import uninterrupted
from utils import Settling, __version__, log, seed_everything, step_if_finite, unbreakable_output, versions

# ------------------------------------------------------------------------------------------------ training


def train(
    options: Options, on_start: Callable[[], None] = lambda: None, chosen: ChosenEpoch | None = None
) -> RunResults | None:
    """Train from scratch, from `--pretrained_ckpt`, or from where a run stopped (`--resume`).

    Args:
        options: of the run. With `--holdout` this is one of two phases, see `runs.holdout`.
        on_start: called when all input is known to be good, before anything is written.
        chosen: of the second phase, the last epoch.

    Returns:
        What `results.json` has, if the run was evaluated.
    """
    with open_run(options, chosen) as run:
        if run.saved is not None:
            options = resume_options(options, run.saved.options)
            log.info("\n".join(["options of the run:", *describe(options, changed_only=True)]))
        say_recipe(options)
        run.plan(build_plan(options, chosen))
        generator, device = seed_everything(options.seed), choose_device(options)
        data = load_data(options, device)
        if options.holdout and chosen is None:
            data = hold_out(data, options.holdout, options.seed, options.batch_size)
        network = load_network(options, data, device, None if run.resumed else options.pretrained_ckpt)
        criterion = build_criterion(options)
        optimizer = build_optimizer(options, network)
        evaluator = build_evaluator(options, data)
        dashboard = Dashboard(dashboard_settings(options), data, criterion.weights)
        settling = Settling(length=chosen.epoch if chosen else None) if options.recipe == "own" else None
        run.attach(
            data,
            criterion,
            generator,
            dashboard,
            model=network,
            optimizer=optimizer,
            settling=settling,
            on_start=on_start,
        )

        for epoch in run.epochs():
            network.train()
            for batch in run.batches():
                with uninterrupted():
                    run.step_values.append(training_step(network, batch, data, criterion, optimizer, epoch))
            run.end_epoch()
            if run.evaluation_due():
                run.record_evaluation(evaluator(network))
            run.save_epoch()
        keep_model(options, run, network, data)
        return finish(run, evaluator, network, options.interval > 0, chosen)


def training_step(
    network: nn.Module, batch: Batch, data: Data, criterion: Criterion, optimizer: torch.optim.Optimizer, epoch: int
) -> Tensor:
    """One step of the optimizer.

    Returns:
        `[K]` on the device: the values of `criterion.names`, then of `runs.run.EXTRA_VALUES`: the norm of the gradient,
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


def build_criterion(options: Options) -> Criterion:
    """The recipe's loss terms; `LossSettings` has its fields under the names of their options."""
    settings = {field.name: getattr(options, field.name) for field in fields(LossSettings)}
    return Criterion(TERMS[options.recipe](LossSettings(**settings)))


def build_optimizer(options: Options, network: nn.Module) -> torch.optim.Optimizer:
    """Adam, with the learning rate and weight decay of the options."""
    return torch.optim.Adam(network.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)


def finish(
    run: Run, evaluator: Evaluator, network: nn.Module, evaluates: bool, chosen: ChosenEpoch | None
) -> RunResults | None:
    """Write what a run leaves at its end, and print its tables; returns the results, if there are any."""
    run.folder.require_held()
    if not evaluates or not evaluator.data.is_evaluated:
        log.info(f"weights in {run.folder.last}")
        if evaluates:
            evaluator.write_detections_alone(network)
        else:
            log.info("not evaluated, because of --interval 0")
        return None
    evaluation, best = run.last_evaluation(lambda: evaluator(network)), run.state.best
    assert best is not None, "the last epoch was evaluated"
    last, epoch = evaluation.results, run.state.epoch
    results = RunResults(last, epoch, str(run.folder.last), best, str(run.folder.best), chosen=chosen)
    if evaluator.data.held_out:
        return results  # of which the choice of the epoch is all that counts
    evaluator.write(evaluation, results)
    name = chosen.text if chosen else f"epoch {epoch}"
    log.info(f"\nlast checkpoint, {name}: {run.folder.last}\n{summary(last, evaluator.tiou_protocol)}")
    log.info(f"\nbest checkpoint, epoch {best.epoch}, chosen on the test set{last.how_chosen}: {run.folder.best}")
    log.info("\n".join([summary(best.results, evaluator.tiou_protocol), *warnings_of(last)]))
    return results


# ------------------------------------------------------------------------------------- the other run types


def test(options: Options) -> None:
    """`--run_type test`: detections and figures of a checkpoint."""
    say_recipe(options)
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
        evaluator.write(evaluation, RunResults(evaluation.results, checkpoint=str(options.pretrained_ckpt)))
        log.info("\n".join([summary(evaluation.results, evaluator.tiou_protocol), *warnings_of(evaluation.results)]))


def evaluate_file(options: Options) -> None:
    """`--run_type eval`: figures of anyone's detections; needs the annotations and nothing else."""
    with RunFolder(options.exp_dir) as folder:
        source, tiou_protocol = open_dataset(options), TIOU_PROTOCOLS[options.tiou]
        evaluable = read_to_evaluate(options.detections, source, tiou_protocol, options.rate)
        results = evaluate(evaluable.inputs)
        analysis = diagnose(evaluable.inputs, evaluable.lengths)
        start(folder, options)
        file, simulated = str(options.detections), evaluable.simulated
        of_file = RunResults(results, detections=file, simulated=simulated, error_analysis=analysis)
        write_results(options.exp_dir, of_file)
        log.info(summary(results, tiou_protocol))


def report(options: Options) -> None:
    """`--run_type report`: a page on a run, on anyone's detections, or on runs side by side."""
    require_matplotlib()
    from report.command import write_report  # imports matplotlib, which no other run type needs

    write_report(report_settings(options), lambda: open_dataset(options))


def detect_actions(options: Options) -> int:
    """`--run_type detect`: find actions in new videos; returns 1 if some could not be used."""
    with RunFolder(options.exp_dir) as folder:
        folder.require_no_run()
        detector = open_detector(options.model, device=options.device, lac_ckpt=options.lac_ckpt)
        model = detector.model
        start(folder, options)
        inputs = Inputs(model, extraction(options), options.videos)
        inputs.add(options.input, detector.device)
        files = DetectionFiles(folder.path, model.record)
        videos = files.each(detector(inputs.with_bar()))
        write_video_pages(folder.path / "pages", videos, model.class_names, f"{options.model}", warning=model.warning)
        return files.finish(len(inputs.failed) + len(detector.failed))


def check_data(options: Options) -> int:
    """`--run_type check`: list what is wrong with a dataset; returns 1 if a run would stop."""
    return check(dataset_files(options), reading_settings(options), check_settings(options), other_files(options))


def prepare_features(options: Options) -> int:
    """`--run_type features`: make I3D features of videos; returns 1 if some could not be used."""
    return make_video_features(feature_job(options), choose_device(options)).status


def prepare_descriptors(options: Options) -> None:
    """`--run_type descriptors`: make the class descriptors of a dataset."""
    source = open_dataset(options, features=True)
    make_descriptors(source, pooling=options.descriptor_pooling, overwrite=options.overwrite)


def prepare_proposals(options: Options) -> None:
    """`--run_type proposals`: make the proposals of a dataset, or take them from `--proposals_from`."""
    say_recipe(options)
    source = open_dataset(options, features=not options.proposals_from)
    if options.proposals_from:
        missing, overwrite = options.missing_proposals, options.overwrite
        take_proposals(source, options.proposals_from, rate=options.rate, missing=missing, overwrite=overwrite)
    else:
        make_proposals(source, proposal_settings(options), choose_device(options), overwrite=options.overwrite)


RUN_TYPES: dict[str, Callable[[Options], int | None]] = {
    "train": lambda options: train_as_told(options, train),
    "test": test,
    "eval": evaluate_file,
    "report": report,
    "detect": detect_actions,
    "check": check_data,
    "features": prepare_features,
    "descriptors": prepare_descriptors,
    "proposals": prepare_proposals,
}


# ---------------------------------------------------------------------------------------- the command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit status: 2 for unusable input or too little memory, 1 when `check` finds that, 128 + n after signal n.
    """
    # PyTorch's switch for large pages under large CPU tensors: fewer page faults, and less memory lost between tensors.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    options = parse_options(argv)
    with unbreakable_output():
        set_up_output()
        log.info("\n".join([f"SEAL {__version__} ({versions()})", *describe(options, changed_only=True)]))
        return exit_status(lambda: dispatch(options), vars(options))


def dispatch(options: Options) -> int | None:
    """Do what `--run_type` says; the demo dataset is made where it is missing."""
    if uses_demo(options):
        make_demo_once()
    return RUN_TYPES[options.run_type](options)


if __name__ == "__main__":
    sys.exit(main())
