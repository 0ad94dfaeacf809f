"""Writes the files of a run in a thread, while its next steps are done."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from runs.signals import uninterrupted


class Saver:
    """Does one job after another in a thread. Leaving the `with` block waits for the last.

    What a job raises is raised where the program waits for it: by `wait`, by the next `start`, or at the end of the
    block, if nothing else is raised there.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "saver")
        self._job: Future[None] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:
                raise
        finally:
            self._thread.shutdown()

    @property
    def is_busy(self) -> bool:
        """Whether a job is not done yet."""
        return self._job is not None and not self._job.done()

    def start(self, job: Callable[[], None]) -> None:
        """Have a job done, after the one before."""
        self.wait()
        self._job = self._thread.submit(job)

    def wait(self) -> None:
        """Wait for the job, if there is one. Signals wait, too."""
        with uninterrupted():
            job, self._job = self._job, None
            if job is not None:
                job.result()
