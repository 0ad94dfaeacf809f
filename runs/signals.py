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
    """SIGINT, SIGTERM or SIGHUP was received. `main.py` exits with 128 + the signal's number, as shells expect."""

    hint = ""  # a second line: what to type

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


_HANGUP = getattr(signal, "SIGHUP", None)  # other systems have none


_SIGNALS = [signum for signum in (signal.SIGINT, signal.SIGTERM, _HANGUP) if signum is not None]


class _Signals:
    """Which signal was received, when, and how many blocks must finish first."""

    received: int | None = None
    when = 0.0
    blocks = 0


@contextmanager
def catching_signals() -> Iterator[None]:
    """Raise `Interrupted` on SIGINT, SIGTERM or SIGHUP within the block; a second signal ends the process at once.

    Signals within half a second count as one: terminals and schedulers send some twice. SIGHUP, sent when a terminal is
    closed, never ends the process at once, and stays ignored where `nohup` made it so.
    """

    def handle(signum: int, _: Any) -> None:
        if _Signals.received is None:
            _Signals.received, _Signals.when = signum, time.monotonic()
            if not _Signals.blocks:
                raise Interrupted(signum)
            with suppress(OSError):  # not through `sys.stderr`, which may be in the middle of writing
                os.write(2, b"\nfinishing the current step; press Ctrl-C again to quit now\n")
        elif signum != _HANGUP and time.monotonic() - _Signals.when > 0.5:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    if not _may_receive():
        yield
        return
    _Signals.received, _Signals.blocks = None, 0
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
        _Signals.received = None


def _may_receive() -> bool:
    """Whether this is the main thread, to which alone Python gives signals."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Finish the block even when a signal is received; `Interrupted` is raised at the end of the outermost block."""
    if not _may_receive():
        yield
        return
    _Signals.blocks += 1
    try:
        yield
    finally:
        _Signals.blocks -= 1
    if _Signals.received is not None and not _Signals.blocks:
        raise Interrupted(_Signals.received)
