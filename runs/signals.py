"""SIGINT, SIGTERM and SIGHUP end a run between two steps, never inside one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP has come. `main.py` says so, and exits with the status that shells give such an end."""

    hint = ""  # a second line: what to type

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


_HANGUP = getattr(signal, "SIGHUP", None)  # other systems have none


_SIGNALS = [signum for signum in (signal.SIGINT, signal.SIGTERM, _HANGUP) if signum is not None]


class _Signals:
    """Which signal has come, when, and how many blocks want to be finished first."""

    came: int | None = None
    when = 0.0
    blocks = 0


@contextmanager
def catching_signals() -> Iterator[None]:
    """Have SIGINT, SIGTERM or SIGHUP raise `Interrupted` within the block; a second one ends the process at once.

    What comes within half a second is the same one: terminals and schedulers send some twice. SIGHUP, which comes when
    a terminal is closed, never ends the process at once, and stays ignored if it is, as `nohup` has it.
    """

    def handle(signum: int, _: Any) -> None:
        if _Signals.came is None:
            _Signals.came, _Signals.when = signum, time.monotonic()
            if not _Signals.blocks:
                raise Interrupted(signum)
            with suppress(OSError):  # not through `sys.stderr`, which may be in the middle of writing
                os.write(2, b"\nfinishing the step; the same again stops at once\n")
        elif signum != _HANGUP and time.monotonic() - _Signals.when > 0.5:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    if threading.current_thread() is not threading.main_thread():  # Python gives signals to the main thread alone
        yield
        return
    _Signals.came, _Signals.blocks = None, 0
    before = {signum: signal.getsignal(signum) or signal.SIG_DFL for signum in _SIGNALS}
    if before.get(_HANGUP) == signal.SIG_IGN:
        del before[_HANGUP]
    try:
        for signum in before:
            signal.signal(signum, handle)
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Finish the block even when a signal comes; `Interrupted` is raised at the end of the outermost such block."""
    _Signals.blocks += 1
    try:
        yield
    finally:
        _Signals.blocks -= 1
    if _Signals.came is not None and not _Signals.blocks:
        raise Interrupted(_Signals.came)
