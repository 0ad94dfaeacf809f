"""`--exp_dir`: one run at a time writes to it, and what it holds is whole, or is mended when a run is resumed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import InputError, append_line, log, one_line, whole_file, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

RESUME = Path("ckpt") / "resume.pt"
PICTURES = (
    *("class_average_precision", "precision_recall", "label_confusion", "training"),
    *("videos_best", "videos_median", "videos_worst", "error_shares", "error_gains", "error_buckets"),
)
REPORT_FILES = ("report.html", *(f"{name}.png" for name in PICTURES))  # of a run, in its folder `report`
# What a training run writes, and `--overwrite` removes; anything else in the folder is not ours to touch. If the
# process ends in between, what is left is no run to go on with, since `resume.pt` goes first, and still one that is not
# to be mixed with another, since `metrics.jsonl` goes last.
RUN_FILES = (
    str(RESUME),
    "opt.txt",
    "mAP-results.log",
    "results.json",
    "detections.json",
    "detections.csv",
    *(f"report/{name}" for name in REPORT_FILES),
    "ckpt/last_model.pkl",
    "ckpt/best_model.pkl",
    "logs/events.*",
    "metrics.jsonl",
)


class RunFolder:
    """`--exp_dir`, which no other run may write to within the `with` block.

    The folder is made at the block's start, and removed at its end if it is empty then, so that a command that is wrong
    leaves no trace.

    Raises:
        InputError: at the start of the block, if another run has the folder, or it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.resume = path, path / RESUME
        self.last, self.best = (path / "ckpt" / name for name in ("last_model.pkl", "best_model.pkl"))
        self._made: list[Path] = []
        self._lock: int | None = None

    def __enter__(self) -> RunFolder:
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            while self._lock is None:  # another run may remove the folder, or its lock, at its own end
                with suppress(FileNotFoundError):
                    self.path.mkdir(parents=True, exist_ok=True)
                    self._lock = self._try_lock()
        except OSError as error:
            self._remove_if_empty()
            raise InputError(f"--exp_dir {self.path}: is not a folder that can be written to ({error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, InputError):
            self.require_held()
            (self.path / ".lock").unlink()  # while it is locked, so that nobody else can have it
        os.close(self._lock)
        self._remove_if_empty()

    def _try_lock(self) -> int | None:
        """The descriptor of the lock file, which the system unlocks when the process ends, however it does."""
        path = self.path / ".lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = one_line(os.read(descriptor, 200).decode(errors="replace")) or "another run"
            os.close(descriptor)
            raise InputError(f"--exp_dir {self.path} is in use by {holder}; wait for it, or choose another") from None
        except OSError as error:  # some network file systems have no locks
            log.info(f"notice: {self.path} cannot be locked ({error}); see that no other run uses it")
        if not os.fstat(descriptor).st_nlink:  # the run that had it has just removed it
            os.close(descriptor)
            return None
        with suppress(OSError):  # a full disk; the lock holds nevertheless
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return descriptor

    def _remove_if_empty(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                return

    def require_held(self) -> None:
        """See that the folder is still the one that was locked.

        Raises:
            InputError: it was moved or removed, and perhaps another run has begun there.
        """
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._lock), (self.path / ".lock").stat()):
                return
        raise InputError(f"--exp_dir {self.path} was moved or removed while this run used it; the run ends here")

    def require_free(self, overwrite: bool, checkpoint: Path | None) -> None:
        """Find out before any work whether a new training run may go here.

        Args:
            overwrite: whether it may replace an earlier one.
            checkpoint: the weights to start from, if any.

        Raises:
            InputError: there is an earlier one, or `checkpoint` is among what would be removed.
        """
        if not (self.resume.exists() or (self.path / "metrics.jsonl").exists()):
            return
        if not overwrite:
            goes_on = "--resume goes on with it, " if self.resume.exists() else ""
            raise InputError(
                f"{self.path} holds a training run: {goes_on}--overwrite replaces it; or choose another --exp_dir"
            )
        if checkpoint and self.path.resolve() in checkpoint.resolve().parents:
            raise InputError(f"--overwrite would remove {checkpoint}: choose another --exp_dir, or move it")

    def clear(self) -> None:
        """Remove a training run."""
        for pattern in RUN_FILES:
            for path in self.path.glob(pattern):
                with writing(path):
                    path.unlink()

    def start(self, about: str, *, replace: bool = False) -> None:
        """Note in `opt.txt` what is to be done, which is to be called once all input is known to be good.

        Args:
            about: text for the end of `opt.txt`.
            replace: remove an earlier training run.
        """
        for folder in (self.path, self.path / "ckpt"):
            for path in folder.glob(".*.part"):  # of a run or a report that was killed
                with writing(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if replace:
            self.clear()
        options = self.path / "opt.txt"  # testing in a trained folder adds to it
        before = options.read_bytes() if options.exists() else b""
        with whole_file(options, "wb") as file:
            file.write(before + about.encode())


class RunLog:
    """The record of a training run that grows while it goes: `metrics.jsonl`, `mAP-results.log`, TensorBoard.

    Args:
        folder: `--exp_dir`; the files are written where SPEC section 10 says.
        resumed_after: of a run that is resumed, the last epoch and the last evaluation that count. What was recorded of
            later ones is dropped, and so is a line that was cut off; TensorBoard is told to do the same.
        begin: called when TensorBoard's file is made, with its writer and the last epoch before.
    """

    def __init__(
        self,
        folder: Path,
        resumed_after: tuple[int, int] | None = None,
        begin: Callable[[SummaryWriter, int], None] = lambda board, epoch: None,
    ) -> None:
        self._metrics, self._table, self._logs = folder / "metrics.jsonl", folder / "mAP-results.log", folder / "logs"
        if resumed_after is not None:
            epoch, evaluated = resumed_after

            def counts(record: dict[str, Any]) -> bool:
                return record["epoch"] <= (evaluated if "evaluation" in record else epoch)

            _keep_lines(self._metrics, lambda line: counts(json.loads(line)))
            _keep_lines(self._table, lambda line: int(line.split()[0]) <= evaluated)
        self._first = None if resumed_after is None else resumed_after[0] + 1
        self._begin = begin
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

    def evaluation(self, epoch: int, results: dict[str, Any], figures: dict[str, float]) -> None:
        """Record an evaluation: all of it as JSON, its figures (percent) as a line and as TensorBoard scalars."""
        append_line(self._metrics, _json({"epoch": epoch, "evaluation": results}))
        append_line(self._table, " ".join([str(epoch), *(f"{value:.3f}" for value in figures.values())]))
        with self.board() as board:
            _add_scalars(board, {f"test_mAP/{name}": value for name, value in figures.items()}, epoch)

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
