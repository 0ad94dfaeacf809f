"""Fresh processes for tests, forked from a server that has loaded the program: 10 ms each where Python takes 4 s.

The server is a process of its own, which imports and forks and does nothing else: no threads that a fork would lose, no
CUDA, no locks that a killed child could keep from the tests.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# The program, and what is imported while it runs: by torch's optimizers torch._dynamo, which takes two seconds.
PRELOADED = (
    "main",
    "report.dashboard",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "tensorboard.plugins.hparams.api_pb2",
)


class Processes:
    """Starts processes that run Python code, as `python -c` would."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, __file__]
        self._server = subprocess.Popen(command, **pipes, env=environment, text=True, start_new_session=True)
        self._lock = threading.Lock()
        self.start("", [], Path.cwd()).wait()  # the server has started

    def close(self) -> None:
        """End the server, and the children that are left."""
        self._server.communicate(timeout=60)

    def ask(self, **request: object) -> int | None:
        """Send the server a request; returns its answer."""
        with self._lock:
            self._server.stdin.write(json.dumps(request, default=str) + "\n")
            self._server.stdin.flush()
            return json.loads(self._server.stdout.readline())

    def start(
        self, code: str, argv: Sequence[object], cwd: Path, output: str | Path | None = "/dev/null", **more: object
    ) -> Child:
        """Start `python -c code argv…`.

        Args:
            code: to run; the repository is on `sys.path`, and torch has one thread.
            argv: its arguments.
            cwd: its working folder.
            output: file to which standard output is appended; None closes it.
            more: `errors`, the file for standard error if that is another one.
        """
        streams = [output, more.get("errors", output)]
        return Child(self, self.ask(code=code, argv=[*map(str, argv)], cwd=cwd, streams=streams))


class Child:
    """A process, with what `kill_runs` and the tests need of `subprocess.Popen`."""

    def __init__(self, processes: Processes, pid: int) -> None:
        self._processes, self.pid = processes, pid
        self.returncode: int | None = None  # the negative of a signal that ended it

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        if self.returncode is None:
            self.returncode = self._processes.ask(ended=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = 60) -> int:
        """The exit status, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, after that many seconds.
        """
        until = time.monotonic() + (60 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("python", timeout)
            time.sleep(0.005)
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)  # the server has not waited for it, so the number is still its own


# ------------------------------------------------------------------------------------------- in the server


def serve() -> None:
    """Fork a child for each line of standard input that has code, and answer when asked how it ended."""
    sys.path[:0] = [str(REPOSITORY)]
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    children: set[int] = set()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in iter(requests.readline, ""):
        request = json.loads(line)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            children.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            requests.close()
            answers.close()
            run_child(**request)
        else:
            children.add(answer)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)  # in no time, where the libraries would take two seconds to end


def run_child(code: str, argv: list[str], cwd: str, streams: list[str | None]) -> None:
    """Run code as a new interpreter would, and end the process."""
    os.chdir(cwd)
    for number, path in enumerate(streams, 1):
        stream = None
        os.close(number)
        if path is not None:
            os.dup2(descriptor := os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            if descriptor != number:
                os.close(descriptor)
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open to the end
        setattr(sys, ("stdout", "stderr")[number - 1], stream)
    sys.argv, status = ["-c", *argv], 0
    try:
        exec(code, {"__name__": "__main__"})  # noqa: S102
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            status = 120  # as Python's own
    os._exit(status or 0)


if __name__ == "__main__":
    serve()
