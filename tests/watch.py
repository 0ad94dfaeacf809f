"""Notices when a reader of files does more than read: runs code, writes, connects, or takes memory."""

import encodings.cp437
import encodings.raw_unicode_escape
import encodings.unicode_escape
import encodings.utf_8_sig  # noqa: F401
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy.rec  # noqa: F401 - the same
import torch.utils.serialization.config  # noqa: F401 - the same

HARMLESS = {"os.listdir", "os.scandir", "sys._getframe"}  # the last is from logging
SUSPECT = ("os.", "subprocess.", "socket.", "shutil.", "pty.", "urllib.", "webbrowser.", "ftplib.", "http.", "sys.")
NAMES = {"exec", "import", "pickle.find_class", "code.__new__", "function.__new__", "marshal.loads", "ctypes.dlsym"}

_watching = False
_seen: list[tuple] = []


def _hook(event: str, args: tuple) -> None:
    if not _watching:
        return
    if event == "open":
        writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or (isinstance(args[1], str) and set(args[1]) & set("wax+")):
            _seen.append((event, *args))
    elif event in NAMES or (event.startswith(SUSPECT) and event not in HARMLESS):
        _seen.append((event, *args))


sys.addaudithook(_hook)  # for good: Python gives no hook back


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def _memory_is_known() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:  # no Linux, or a container that does not let it
        return False


MEMORY_IS_KNOWN = _memory_is_known()


class Watch:
    """What was noticed."""

    peak = 0  # bytes beyond what the process had

    def __init__(self) -> None:
        self.seen: list[tuple] = []


@contextmanager
def watching():
    """Watch the block."""
    global _watching
    watch = Watch()
    _seen.clear()
    if MEMORY_IS_KNOWN:
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    _watching = True
    try:
        yield watch
    finally:
        _watching = False
        watch.seen = list(_seen)
        if MEMORY_IS_KNOWN:
            watch.peak = max(0, _status("VmHWM") - before)
