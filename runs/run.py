"""A training run: its folder and lock, how far it is, what it logs, and how it goes on after a stop.

`main.train` drives it:

    with Run(exp_dir, resume=..., ...) as run:        # folder, lock, resume.pt
        run.plan(...)                                 # how long, how often
        run.attach(data, criterion, ..., model=network, optimizer=optimizer)
        for epoch in run.epochs():
            for batch in run.batches():               # of an interrupted epoch, those that are left
                run.step_values.append(...)
            run.end_epoch()                           # checks, means, logs
            if run.evaluation_due():
                run.record_evaluation(...)
            run.save_epoch()                          # if it is due: resume.pt, then the weights
    run.last_evaluation(...)                          # of the last epoch; see `main.finish`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset import Batch, training_batches
from eval.protocols import TiouProtocol
from eval.results import released_figures, summary
from losses import Criterion
from readers.facts import WeightsRecord
from runs.folder import RunFolder, command_line
from runs.inference import Evaluation
from runs.inputs import Data
from runs.log import RunLog
from runs.not_finite import first_not_finite, term_not_finite
from runs.out_of_memory import in_training
from runs.saver import Saver
from runs.signals import Interrupted, uninterrupted
from runs.state import SavedRun, Stateful, TrainingState, read_resume
from runs.weights import save_weights
from utils import CannotWrite, InputError, Settling, few_threads, log, ran_out, release_memory, shorten_list

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.tensorboard import SummaryWriter

    from eval.postprocess import VideoDetections


class Board(Protocol):
    """What TensorBoard shows beside the log's scalars; `report.dashboard.Dashboard` is one."""

    def begin(self, board: SummaryWriter, epoch: int) -> None:
        """TensorBoard's file has been opened, after this epoch."""

    def of_epoch(self, epoch: int, lr: float, means: dict[str, float], steps: int, seconds: float) -> dict[str, float]:
        """Further scalars of an epoch."""

    def evaluation(
        self, board: SummaryWriter, epoch: int, best: float, detections: pd.DataFrame, videos: list[VideoDetections]
    ) -> None:
        """An evaluation is over; `best` is the best `Results.score` so far."""

    def end(self, board: SummaryWriter) -> None:
        """The last epoch is over."""


@dataclass(frozen=True)
class Plan:
    """How a run trains, and the options that it records."""

    last_epoch: int  # after which it ends
    interval: int  # epochs between evaluations; 0 never evaluates
    save_every: float  # seconds of training that a kill costs at most; 0 saves after every epoch
    batch_size: int
    max_proposal: int  # proposals of a video in a step
    precision: torch.dtype  # of a batch's rows
    options: Mapping[str, Any]  # every option by name, as JSON values
    options_text: Sequence[str]  # a line an option, for opt.txt
    tiou_protocol: TiouProtocol


EXTRA_VALUES = ("gradient", "proposals", "agreement")  # recorded of each step beside the losses


class Run:
    """A training run in a folder, to be used in a `with` block, which holds the folder's lock.

    Leaving the block by a signal saves what was done of the epoch. The hint of an `Interrupted` or `CannotWrite` that
    leaves it is the command that resumes the run. Where memory ran out, an `OutOfMemory` leaves it.

    Args:
        exp_dir: the folder.
        resume: None starts a run, `always` resumes one, `auto` resumes one if there is one.
        overwrite: replace an earlier run.
        pretrained_ckpt: weights to start from; they must not lie in the run that is replaced.
        argv: the command line, to say how to resume.
        second_phase: the first phase of the run is over, see `runs.holdout`; it can be resumed from the start.

    Attributes:
        saved: what `resume.pt` holds, when the run is resumed; None after `attach`.
        step_values: the K values of each step so far of this epoch, `[K]` each on the device: `Criterion.names`, then
            `EXTRA_VALUES`.
    """

    def __init__(
        self,
        exp_dir: Path,
        *,
        resume: str | None = None,
        overwrite: bool = False,
        pretrained_ckpt: Path | None = None,
        argv: Sequence[str] = (),
        second_phase: bool = False,
    ) -> None:
        self.folder, self._second_phase = RunFolder(exp_dir), second_phase
        self._resume, self._overwrite, self._pretrained_ckpt, self._argv = resume, overwrite, pretrained_ckpt, argv
        self.saved: SavedRun | None = None
        self.resumed = False
        self._has_begun = False  # if False, a `resume.pt` there is of the run that this one replaces
        self._epoch_began: tuple[int, float, Tensor] | None = None  # number, time, state of the generator
        self._evaluation: Evaluation | None = None  # of the last epoch, if it was evaluated
        self._mean_loss: float | None = None  # of the last epoch, if this process trained it
        self._saver, self._saved_at, self._is_attached = Saver(), 0.0, False
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        self._stack.enter_context(self.folder)
        try:
            self.saved = self._find_saved()
        except BaseException:
            self._stack.close()
            raise
        self.resumed = self._has_begun = self.saved is not None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            try:
                if isinstance(error, Interrupted) and self._is_attached:
                    with uninterrupted():
                        self._save_the_rest()
            finally:
                self._stack.__exit__(kind, error, traceback)
        except (Interrupted, CannotWrite) as fault:  # saving ends with the same `Interrupted` again
            self._add_hint(fault)
            raise
        if isinstance(error, (Interrupted, CannotWrite)):
            self._add_hint(error)
        if error is not None and ran_out(error) and self._is_kept:
            kept, epoch = str(self.folder.resume), self._kept_epoch
            again = epoch == 0 and not self._second_phase and "--seeds" not in self._argv  # nothing would be lost
            raise in_training(error, self._plan.options, self._resuming, kept, epoch, again=again) from None

    @property
    def _is_kept(self) -> bool:
        return self._second_phase or (self._has_begun and self.folder.resume.exists())

    @property
    def _kept_epoch(self) -> int:
        """The last epoch that is in `resume.pt`; 0 if there is none."""
        if self.saved is not None:
            return self.saved.epoch
        return self.state.kept[0] if self._has_begun else 0

    @property
    def _resuming(self) -> list[str]:
        """The command line that resumes the run."""
        words = [word for word in self._argv if word != "--overwrite"]
        return [*words, *([] if self._resume else ["--resume"])]

    def _add_hint(self, error: Interrupted | CannotWrite) -> None:
        if self._is_kept:
            error.hint = f"go on with: {command_line(self._resuming)}"

    def _find_saved(self) -> SavedRun | None:
        """What to resume; None to start a run.

        Raises:
            InputError: there is nothing to resume, or a run that must not be replaced.
        """
        folder = self.folder
        if self._resume is None or (self._resume == "auto" and not folder.resume.exists()):
            for phase in folder.phases[: 1 if self._second_phase else 2]:
                phase.require_free(self._overwrite, self._pretrained_ckpt)
            return None
        if not folder.resume.exists():
            raise InputError(f"{folder.path}: no run to resume ({folder.resume} is missing); --resume auto starts one")
        return read_resume(folder.resume)

    # -------------------------------------------------------------------------------------------- start

    def plan(self, plan: Plan) -> None:
        """Say how the run trains; before any data are read.

        Raises:
            InputError: the run to resume has more epochs already.
        """
        self._plan = plan
        if self.saved is None:
            return
        epoch, steps = self.saved.epoch, len(self.saved.steps)
        if epoch + (steps > 0) > plan.last_epoch:
            rest = f" and {steps} steps of the next" if steps else ""
            least = epoch + (steps > 0)
            raise InputError(
                f"--max_epoch {plan.last_epoch}: the run to resume already has {epoch} epochs{rest}; give {least} at "
                "least"
            )
        step = f", step {steps} of the next" if steps else ""
        log.info(f"resuming the run in {self.folder.path} after epoch {epoch}{step}")
        schedule_depends = self.saved.options.get("weight_sme", 1) > 0  # on --max_epoch
        if (planned := self.saved.options.get("max_epoch")) != (now := plan.options["max_epoch"]) and schedule_depends:
            log.info(
                f"notice: --max_epoch was {planned}. The schedule of the SME loss depends on it, so the result differs "
                f"from that of a run of {now} epochs from the start"
            )

    def attach(
        self,
        data: Data,
        criterion: Criterion,
        generator: torch.Generator,
        dashboard: Board,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settling: Settling | None = None,
        on_start: Callable[[], None] = lambda: None,
        **others: Stateful,
    ) -> None:
        """Give the run what it trains; of a resumed run, put each back into the state it had.

        Args:
            data: of the run.
            criterion: of the run.
            generator: of the order of the training videos.
            dashboard: what TensorBoard shows.
            model: the network, on its device.
            optimizer: of the network.
            settling: sets its learning rate, and ends the run when the loss has settled; None trains to the last epoch.
            on_start: called when all input is known to be good, before anything is written.
            others: whatever else has `state_dict` and `load_state_dict`, such as `scheduler=…`. Like the network and
                the optimizer, it is kept in `resume.pt`.

        Raises:
            InputError: `resume.pt` is damaged, or is of other data, another network or other loss terms.
        """
        self._data, self._criterion, self._dashboard, self._settling = data, criterion, dashboard, settling
        self._base_lr = optimizer.param_groups[0]["lr"]
        if settling is not None:
            others["settling"] = settling
            mean = data.train[0].mean
            self._stack.enter_context(few_threads(mean.numel(), mean.device))
        self.state = TrainingState(
            self.folder.resume,
            options=self._plan.options,
            data=data.digest(),
            record=data.record.to_json(),
            terms=[*criterion.names, *EXTRA_VALUES],
            model=model,
            optimizer=optimizer,
            generator=generator,
            others=others,
        )
        resumed_after = self._restore()
        on_start()
        self.folder.start(self._argv, self._plan.options_text, self._plan.options, replace=self._overwrite)
        self._has_begun = True
        if not self.resumed:
            self.state.save()
        self._log = self._stack.enter_context(RunLog(self.folder.path, resumed_after, dashboard.begin, data.part))
        for path, record in self._due_weights():  # the process before may have ended between `resume.pt` and these
            save_weights(model.state_dict(), path, record)
        self._stack.enter_context(self._saver)
        optimizer.register_step_pre_hook(lambda *_: self._before_step())
        self._saved_at, self._is_attached = time.monotonic(), True

    def _restore(self) -> tuple[int, int] | None:
        """Go on from `resume.pt`; the last epoch and the last evaluation that it has, or None if a run is started."""
        if self.saved is None:
            return None
        self.state.restore(self.saved)
        if self.state.epoch >= self._last_epoch:
            longer = "" if self._settling and self._settling.settled else "; a larger --max_epoch continues it"
            log.info(f"the run is complete{longer}")
        self.saved = None  # as large as the network and its optimizer
        return self.state.epoch, self.state.evaluated

    # ------------------------------------------------------------------------------------------- epochs

    @property
    def step_values(self) -> list[Tensor]:
        """The values of each step so far of this epoch; append those of the next."""
        return self.state.steps

    def epochs(self) -> Iterator[int]:
        """The numbers of the epochs that are left to train, from 1."""
        with tqdm(desc="training", total=self._last_epoch, unit="epoch", initial=self.state.epoch) as progress:
            while self.state.epoch < self._last_epoch:
                epoch = self.state.epoch + 1
                if self._settling is not None:
                    for group in self.state.optimizer.param_groups:
                        group["lr"] = self._base_lr * self._settling.rate(epoch)
                self._evaluation = None
                self._epoch_began = (epoch, time.perf_counter(), self.state.generator.get_state())
                yield epoch
                self._epoch_began = None
                progress.set_postfix(loss=f"{self._mean_loss:.3f}", refresh=False)
                progress.total = self._last_epoch
                progress.update()
        self._saver.wait()  # what is written at the end of a run may take for granted that this is on the disk

    @property
    def _last_epoch(self) -> int:
        """After which the run ends, as far as is known."""
        settled = self._settling and self._settling.last_epoch
        return min(settled or self._plan.last_epoch, self._plan.last_epoch)

    def batches(self, skip: int | None = None) -> Iterator[Batch]:
        """The batches of this epoch but the first `skip`; by default those that are left of it.

        In an epoch that takes long, what was done of it is saved between two of them.
        """
        batches = training_batches(
            self._data.train,
            self._plan.batch_size,
            self._plan.max_proposal,
            self.state.generator,
            self._plan.precision,
            len(self.step_values) if skip is None else skip,
        )
        for i, batch in enumerate(batches):
            if i > 0 and self._plan.save_every > 0 and self._is_time_to_save:
                with uninterrupted():
                    self._save_part_of_epoch()
            yield batch

    def _before_step(self) -> None:
        """Weights may change now; whatever stopped the writing of a file ends the run."""
        if self.state.is_written_in_place or not self._saver.is_busy:
            self._saver.wait()

    def end_epoch(self) -> None:
        """Record the mean of each value over the steps of this epoch.

        Raises:
            InputError: a loss or a gradient is not finite; the message names the term and the videos.
        """
        epoch, began, order = self._epoch
        values = self._finite_steps(order)
        means = dict(zip(self.state.terms, values.mean(0).tolist(), strict=True))
        self._mean_loss = means["loss_total"]
        if self._settling is not None:
            self._settling.end_epoch(epoch, self._mean_loss, len(self.step_values))
        self.folder.require_held()
        seconds = self.state.seconds + time.perf_counter() - began
        lr = self.state.optimizer.param_groups[0]["lr"]
        scalars = self._dashboard.of_epoch(epoch, lr, means, len(self.step_values), seconds)
        self._log.epoch(epoch, {name: means[name] for name in self._criterion.names}, seconds, scalars)
        if epoch == self._last_epoch:
            with self._log.board() as board:
                self._dashboard.end(board)
        release_memory()  # epochs leave gaps of many sizes, which would add up

    def save_epoch(self) -> None:
        """Note that this epoch is over; if it is due, or time, have `resume.pt` written, then the weights."""
        with uninterrupted():
            self.state.finish_epoch(self._evaluation.results if self._evaluation else None)
            if self._due(self.state.epoch) or self._is_time_to_save:
                self._save()

    @property
    def _is_time_to_save(self) -> bool:
        every = self._plan.save_every
        return time.monotonic() - self._saved_at >= every and not (every and self._saver.is_busy)

    def _save(self, order: Tensor | None = None) -> None:
        """Have `resume.pt` written, then the weights that are due; `order` as in `TrainingState.snapshot`."""
        self._saver.wait()  # the snapshot before is in the same memory
        snapshot, due, self._saved_at = self.state.snapshot(order), self._due_weights(), time.monotonic()

        def write() -> None:
            self.folder.require_held()
            self.state.write(snapshot)
            for path, record in due:
                save_weights(snapshot["weights"], path, record)

        self._saver.start(write)

    def _due(self, epoch: int) -> bool:
        """Whether an epoch's weights are saved and, unless `interval` is 0, evaluated."""
        return epoch % (self._plan.interval or 10) == 0 or epoch == self._last_epoch

    @property
    def _epoch(self) -> tuple[int, float, Tensor]:
        assert self._epoch_began is not None, "only inside the loop over epochs()"
        return self._epoch_began

    def _finite_steps(self, order: Tensor) -> Tensor:
        """The values of all S steps of this epoch, `[S, K]` on the CPU: here the program waits for the device.

        Args:
            order: the generator's state at the start of the epoch.

        Raises:
            InputError: some are not finite; the message names the term and the videos.
        """
        values = torch.stack(self.step_values).cpu() if self.step_values else torch.empty(0, len(self.state.terms))
        if (found := first_not_finite(values, self.state.terms)) is None:
            return values
        step, names = found
        self.state.generator.set_state(order)
        batch = next(self.batches(skip=step))
        pseudo, epoch = self._data.pseudo_of(batch), self._epoch[0]
        term = term_not_finite(names, self.state.model, self._criterion, batch, pseudo, epoch)
        videos = shorten_list([self._data.train[i].name for i in batch.videos], None)
        raise InputError(
            f"epoch {epoch}, step {step + 1}: {term} is not finite, on the videos {videos}; check their features, or "
            f"start another run with a lower --lr, for example from --pretrained_ckpt {self.folder.resume}, which was "
            "saved before"
        )

    def _save_part_of_epoch(self) -> None:
        epoch, began, order = self._epoch
        self._finite_steps(order)  # what is not finite must not get into `resume.pt`
        now = time.perf_counter()
        self.state.seconds += now - began
        self._epoch_began = (epoch, now, order)
        self._save(order)

    def _save_the_rest(self) -> None:
        """Write what is not in `resume.pt` yet."""
        self._saver.wait()
        if self.state.position == self.state.kept:
            return
        if self._epoch_began is None or self.state.epoch == self._epoch[0]:
            self._save()
        else:
            self._save_part_of_epoch()
        self._saver.wait()

    # --------------------------------------------------------------------------------------- evaluation

    def evaluation_due(self) -> bool:
        """Whether this epoch is to be evaluated."""
        return self._due(self._epoch[0]) and self._plan.interval > 0 and self._data.is_evaluated

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """Log and print the results of this epoch."""
        self._record_evaluation(self._epoch[0], evaluation)

    def _record_evaluation(self, epoch: int, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        results, tiou_protocol = evaluation.results, self._plan.tiou_protocol
        self._log.evaluation(epoch, results, released_figures(results, tiou_protocol))
        scores = [results.score]
        if self.state.best is not None:
            scores.append(self.state.best.results.score)
        with self._log.board() as board:
            self._dashboard.evaluation(board, epoch, max(scores), evaluation.detections, evaluation.videos)
        loss = "" if self._mean_loss is None else f", mean loss {self._mean_loss:.4f}"
        where = ", on held-out training videos" if self._data.held_out else ""
        log.info(f"\nepoch {epoch}{where}{loss}\n{summary(results, tiou_protocol)}")

    def _due_weights(self) -> list[tuple[Path, WeightsRecord]]:
        """The files of weights to write, and their records: of the last and the best, at the end of some epochs."""
        state, due = self.state, list[tuple[Path, WeightsRecord]]()
        if not state.epoch or state.steps:  # the weights are not those at the end of an epoch
            return due
        record = replace(self._data.record, epoch=state.epoch)
        if (results := self._log.evaluations.get(state.epoch)) is not None:
            record = replace(record, evaluation=results.to_json(), evaluated_on=self._data.part)
        if self._due(state.epoch):
            due.append((self.folder.last, record))
        if state.best is not None and state.best.epoch == state.epoch:
            due.append((self.folder.best, record))
        return due

    # -------------------------------------------------------------------------------------------- end

    def last_evaluation(self, evaluate: Callable[[], Evaluation]) -> Evaluation:
        """The evaluation of the last epoch, done now if the process that trained it did not get that far."""
        if self._evaluation is not None:
            return self._evaluation
        evaluation = evaluate()
        if self.state.evaluated < self.state.epoch:
            self._record_evaluation(self.state.epoch, evaluation)
            with uninterrupted():
                self.state.note_evaluation(evaluation.results)
                self._save()
                self._saver.wait()
        return evaluation
