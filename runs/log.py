"""The log of a training run: `metrics.jsonl`, `mAP-results.log` and TensorBoard; written, and read for reports."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from eval.results import BASELINES, DAMAGED, Results, whole_number
from utils import InputError, append_line, is_finite_number, short_repr, whole_file, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """The record of a training run that grows while it goes: `metrics.jsonl`, `mAP-results.log`, TensorBoard.

    Args:
        folder: `--exp_dir`; the files are written where SPEC section 10 says.
        resumed_after: of a run that is resumed, the last epoch and the last evaluation that count. What was recorded of
            later ones is dropped, and so is a line that was cut off; TensorBoard is told to do the same.
        begin: called when TensorBoard's file is made, with its writer and the last epoch before.
        part: of the dataset that is evaluated, for TensorBoard, see `runs.inputs.Data.part`.

    Attributes:
        evaluations: all that are recorded, by epoch.
    """

    def __init__(
        self,
        folder: Path,
        resumed_after: tuple[int, int] | None = None,
        begin: Callable[[SummaryWriter, int], None] = lambda board, epoch: None,
        part: str = "test",
    ) -> None:
        self._metrics, self._table, self._logs = folder / "metrics.jsonl", folder / "mAP-results.log", folder / "logs"
        self.evaluations: dict[int, Results] = {}
        if resumed_after is not None:
            epoch, evaluated = resumed_after

            def counts(record: dict[str, Any]) -> bool:
                return record["epoch"] <= (evaluated if "evaluation" in record else epoch)

            _keep_lines(self._metrics, lambda line: counts(json.loads(line)))
            _keep_lines(self._table, lambda line: int(line.split()[0]) <= evaluated)
            with suppress(InputError):  # a line is damaged, which reports tell
                self.evaluations = read_metrics(self._metrics).evaluations
        self._first = None if resumed_after is None else resumed_after[0] + 1
        self._begin, self._part = begin, part
        self._board: SummaryWriter | None = None  # made when there is something to write
        self._excepthook, threading.excepthook = threading.excepthook, _without_disk_errors

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Write out what TensorBoard still holds."""
        try:
            if self._board is not None:
                with writing(self._logs):
                    self._board.close()
        except InputError:
            if kind is None:
                raise
        finally:
            threading.excepthook = self._excepthook

    def epoch(self, epoch: int, terms: dict[str, float], seconds: float, scalars: dict[str, float]) -> None:
        """Record the mean loss terms of an epoch and its wall time, and further scalars for TensorBoard."""
        append_line(self._metrics, _json({"epoch": epoch, **terms, "seconds": round(seconds, 3)}))
        with self.board() as board:
            _add_scalars(board, {f"loss/{name}": value for name, value in terms.items()} | scalars, epoch)

    def evaluation(self, epoch: int, results: Results, figures: dict[str, float]) -> None:
        """Record an evaluation: all of it as JSON, the released figures as a line, and both as TensorBoard scalars."""
        self.evaluations[epoch] = results
        append_line(self._metrics, _json({"epoch": epoch, "evaluation": results.to_json()}))
        append_line(self._table, " ".join([str(epoch), *(f"{value:.3f}" for value in figures.values())]))
        scalars = {f"{self._part}_mAP/{name}": value for name, value in figures.items()}
        scalars |= {f"{self._part}/{name}": value for name, value in results.extra.items() if value is not None}
        scalars |= {
            f"{self._part}/average mAP of {BASELINES[name]}": one.average for name, one in results.baselines.items()
        }
        if results.classification is not None and (recall := results.classification.recall) is not None:
            scalars[f"{self._part}/labels reported, %"] = recall
        with self.board() as board:
            _add_scalars(board, scalars, epoch)

    @contextmanager
    def board(self) -> Iterator[SummaryWriter]:
        """TensorBoard's writer; what was written to it is on the disk at the end of the block.

        Raises:
            CannotWrite: it is not.
        """
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import; only training needs it

        with writing(self._logs):
            if self._board is None:
                self._board = SummaryWriter(str(self._logs), purge_step=self._first)
                self._begin(self._board, (self._first or 1) - 1)
            yield self._board
            self._board.flush()  # before `resume.pt` says that the epoch is over


def _add_scalars(board: SummaryWriter, scalars: dict[str, float], epoch: int) -> None:
    """All in one record, which takes a tenth of the time that one for each would take."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
    assert board.file_writer is not None, "the writer is open"
    board.file_writer.add_summary(Summary(value=values), epoch)


def _without_disk_errors(args: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread; if it cannot, that is raised where it is told to flush, and need not be shown."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False)


def _keep_lines(path: Path, counts: Callable[[str], bool]) -> None:
    """Keep those lines of a file that count; one that cannot be read, or has no end, does not."""

    def is_kept(line: str) -> bool:
        try:
            return counts(line)
        except (ValueError, TypeError, LookupError, RecursionError):
            return False

    if not path.exists():
        return
    *lines, cut_off = path.read_bytes().decode(errors="replace").split("\n")
    kept = [line for line in lines if is_kept(line)]
    if kept != lines or cut_off:
        with whole_file(path) as file:
            file.writelines(line + "\n" for line in kept)


# ---------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Metrics:
    """The content of a `metrics.jsonl`."""

    losses: pd.DataFrame  # a row for each epoch, a column for each loss term
    evaluations: dict[int, Results]  # by epoch


def read_metrics(path: Path) -> Metrics:
    """Read a `metrics.jsonl`. A last line that was cut off is ignored; if there is no file, nothing was recorded.

    Raises:
        InputError: a line is damaged.
    """
    losses: dict[int, dict[str, float]] = {}
    evaluations: dict[int, Results] = {}
    lines = path.read_bytes().decode(errors="replace").split("\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            epoch = whole_number(record["epoch"], low=1)
            if "evaluation" in record:
                evaluations[epoch] = Results.from_json(record["evaluation"])
            else:
                losses[epoch] = {name: value for name, value in record.items() if name not in ("epoch", "seconds")}
                # Losses are float32, up to 3e38; much larger numbers could not be drawn.
                if not all(is_finite_number(value) and abs(value) < 1e40 for value in losses[epoch].values()):
                    raise ValueError("no loss terms")
        except DAMAGED:
            raise InputError(
                f"{path}: line {number} is damaged: {short_repr(line)}; remove the file to continue without it"
            ) from None
    return Metrics(pd.DataFrame.from_dict(losses, orient="index").sort_index(), dict(sorted(evaluations.items())))
