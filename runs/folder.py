"""`--exp_dir`, the folder of a run: its lock, its files, and how they are replaced."""

from __future__ import annotations

import itertools
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils import FileLock, InputError, as_json, log, whole_file, writing

RESUME = Path("ckpt") / "resume.pt"
HOLDOUT = "holdout"  # the folder of the first phase of a run with --holdout, inside that of the run
# What a training run writes and `--overwrite` removes; other files in the folder stay. The order matters if the process
# ends in between: without `resume.pt`, removed first, nothing can be resumed; until `metrics.jsonl`, removed last, is
# gone, the folder counts as occupied.
RUN_FILES = (
    str(RESUME),
    "opt.txt",
    "options.json",
    "mAP-results.log",
    "results.json",
    "detections.json",
    "detections.csv",
    "ckpt/last_model.pkl",
    "ckpt/last_model.json",
    "ckpt/best_model.pkl",
    "ckpt/best_model.json",
    "model/network.pkl",
    "model/network.json",
    "model/proposals.pkl",
    "model/proposals.json",
    "model/detection.json",
    "logs/events.*",
    "metrics.jsonl",
)


def command_line(argv: Sequence[str]) -> str:
    """What to type to run the program with these arguments."""
    return shlex.join(["python", "main.py", *argv])


class RunFolder:
    """`--exp_dir`, locked within the `with` block so that no other run writes to it.

    The folder is made at the start of the block. If it is empty at the end, it is removed: a failed command leaves no
    trace.

    Raises:
        InputError: on entering, if another run holds the lock, or the folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.resume = path, path / RESUME
        self.last, self.best = (path / "ckpt" / name for name in ("last_model.pkl", "best_model.pkl"))
        self._made: list[Path] = []
        self._lock = FileLock(path / ".lock")

    def __enter__(self) -> RunFolder:
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            while not self._lock.is_held:
                with suppress(FileNotFoundError):  # another run that ends may remove the folder
                    self.path.mkdir(parents=True, exist_ok=True)
                    self._take()
        except OSError as error:
            self._remove_if_empty()
            raise InputError(f"--exp_dir {self.path}: not a folder that can be written to ({error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._remove_if_empty()

    @property
    def phases(self) -> tuple[RunFolder, RunFolder]:
        """This folder, and that of the run's first phase, which a run with `--holdout` has."""
        return self, RunFolder(self.path / HOLDOUT)

    def _take(self) -> None:
        if not self._lock.take():
            holder = self._lock.holder or "another run"
            raise InputError(f"--exp_dir {self.path} is in use by {holder}; wait for it, or choose another")
        if self._lock.failure:
            log.info(
                f"notice: {self.path} cannot be locked ({self._lock.failure}); make sure that no other run uses it"
            )

    def _remove_if_empty(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                return

    def require_held(self) -> None:
        """Check that the folder is still the one that was locked.

        Raises:
            InputError: it was moved or removed, and another run may have started there.
        """
        if self._lock.is_there:
            return
        raise InputError(f"--exp_dir {self.path} was moved or removed while this run used it; the run ends here")

    def require_free(self, overwrite: bool, checkpoint: Path | None) -> None:
        """Check before any work that a new training run may be written here.

        Args:
            overwrite: whether it may replace an earlier run.
            checkpoint: the weights to start from, if any.

        Raises:
            InputError: there is an earlier run, or `checkpoint` is among the files that would be removed or replaced.
        """
        if not self.holds_run:
            if checkpoint and checkpoint.resolve() in (self.last.resolve(), self.best.resolve()):
                raise InputError(f"training would replace {checkpoint}: choose another --exp_dir, or move it")
            return
        if not overwrite:
            goes_on = "--resume continues it, " if self.resume.exists() else ""
            raise InputError(
                f"{self.path} holds a training run: {goes_on}--overwrite replaces it; or choose another --exp_dir"
            )
        if checkpoint and self.path.resolve() in checkpoint.resolve().parents:
            raise InputError(f"--overwrite would remove {checkpoint}: choose another --exp_dir, or move it")

    @property
    def holds_run(self) -> bool:
        """Whether a training run has begun here."""
        return self.resume.exists() or (self.path / "metrics.jsonl").exists()

    def require_no_run(self) -> None:
        """Check that a command that is no training run may write here.

        Raises:
            InputError: there is a training run.
        """
        if self.holds_run:
            raise InputError(f"--exp_dir {self.path}: holds a training run, whose files stay as they are; name another")

    def clear(self) -> None:
        """Remove a training run, its first phase, and the report on it. Files that the program did not write stay.

        Where there is no training run, detections and results may be anyone's, and stay too.
        """
        report = self.path / "report"
        for path in report_files(report):
            with writing(path):
                path.unlink()
        with suppress(OSError):  # no such folder, or it has other files
            report.rmdir()
        for phase in reversed([phase for phase in self.phases if phase.holds_run]):
            for path in itertools.chain.from_iterable(map(phase.path.glob, RUN_FILES)):
                with writing(path):
                    path.unlink()

    def start(
        self, argv: Sequence[str], text: Sequence[str], options: Mapping[str, Any], *, replace: bool = False
    ) -> None:
        """Record the command in `opt.txt` and `options.json`. Call it when all input is known to be good.

        Args:
            argv: the command line, without the program.
            text: a line for each option.
            options: the options as JSON values.
            replace: remove an earlier training run.
        """
        for folder in (self.path, self.path / "ckpt", self.path / "model"):
            for path in folder.glob(".*.part"):  # of a run that was killed
                with writing(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if replace:
            self.clear()
        opt = self.path / "opt.txt"  # testing in a trained folder adds to it
        before = opt.read_bytes() if opt.exists() else b""
        with whole_file(opt, "wb") as file:
            file.write(before + "\n".join([f"# {command_line(argv)}", *text, "", ""]).encode())
        content, path = as_json(dict(options)), self.path / "options.json"
        if not path.exists() or path.read_text() != content:
            with whole_file(path) as file:
                file.write(content)


def report_files(folder: Path) -> list[Path]:
    """The files of the report in a folder: the pictures that its page names, then the page. Others are not its own."""
    page = folder / "report.html"
    if not page.is_file():
        return []
    html = page.read_text(encoding="utf-8", errors="replace")
    # `report.page` writes this below each picture. Text that comes from files is escaped, and cannot look like it.
    pictures = [path for path in sorted(folder.glob("*.png")) if f"<em>({path.name})</em>" in html]
    return [*pictures, page]
