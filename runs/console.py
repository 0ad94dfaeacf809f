"""What the terminal shows at the start and the end of a command, and the exit status."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from runs.out_of_memory import with_nothing_kept
from runs.signals import Interrupted, catching_signals
from utils import InputError, error_text, printable, ran_out


def in_utf8() -> None:
    """Start Python again where names of files are in another encoding than UTF-8, as with `LC_ALL=C`.

    Python's UTF-8 mode, which cannot be entered later, finds files of any name, and prints it.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def set_up_output() -> None:
    """Log to the standard output; a name in a file may hold what the terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)
    logging.getLogger().handlers[0].setFormatter(Printable())


class Printable(logging.Formatter):
    """Escapes the control characters that a file may have brought into a message."""

    def format(self, record: logging.LogRecord) -> str:
        """The text to show."""
        return printable(super().format(record))


def exit_status(command: Callable[[], int | None], options: Mapping[str, Any]) -> int:
    """Run a command; what a user can mend is told in one line, with exit status 2.

    Args:
        command: to run.
        options: of the command, by name, and `argv`, the command line.

    Returns:
        The exit status: that of the command, or 0; 2 when input cannot be used or memory runs out; 128 + n after
        signal n.
    """
    try:
        with catching_signals(), logging_redirect_tqdm():
            return command() or 0
    except InputError as error:
        return say_end(f"error: {error}", error.hint, 2)
    except Interrupted as stopped:
        return say_end(f"stopped by {stopped}", stopped.hint, stopped.status)
    except (MemoryError, OSError, RuntimeError, ImportError, SystemError) as error:
        traceback.clear_frames(error.__traceback__)  # what they hold may be all the memory that there is to say so
        return _of_system_error(error, options)


def _of_system_error(error: Exception, options: Mapping[str, Any]) -> int:
    """Say why the system, or PyTorch, ended a command, if a user can mend that; raise the error again if not."""
    if ran_out(error):
        told = with_nothing_kept(error, options, options["argv"])
        return say_end(f"error: {told}", told.hint, 2)
    if isinstance(error, OSError) and error.filename is not None:  # a folder for a file, or one without permission
        return say_end(f"error: {error.filename}: {error.strerror}", "", 2)
    import torch  # not above: `in_utf8` comes before everything that takes long to import

    if torch.are_deterministic_algorithms_enabled() and "deterministic" in str(error):
        reason = error_text(str(error).partition(", but")[0])
        return say_end(f"error: --deterministic: {reason}; leave the option out", "", 2)
    raise error


def say_end(message: str, hint: str, status: int) -> int:
    """Say why the program ends early and, if there is a hint, what to do; returns the exit status."""
    print(printable(f"{message}\n{hint}".rstrip()), file=sys.stderr)
    return status
