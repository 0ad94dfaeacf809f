"""What the terminal shows at the start and the end of a command, and the exit status."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from runs.signals import Interrupted, catching_signals
from utils import InputError, error_text, printable


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


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command; what a user can mend is told in one line, with exit status 2.

    Returns:
        The exit status: that of the command, or 0; 2 when input cannot be used; 128 + n after signal n.
    """
    try:
        with catching_signals(), logging_redirect_tqdm():
            return command() or 0
    except InputError as error:
        return say_end(f"error: {error}", error.hint, 2)
    except Interrupted as stopped:
        return say_end(f"stopped by {stopped}", stopped.hint, stopped.status)
    except OSError as error:  # a folder where a file should be, or one without permission
        if error.filename is None:
            raise
        return say_end(f"error: {error.filename}: {error.strerror}", "", 2)
    except RuntimeError as error:
        if not torch.are_deterministic_algorithms_enabled() or "deterministic" not in str(error):
            raise
        reason = error_text(str(error).partition(", but")[0])
        return say_end(f"error: --deterministic: {reason}; leave the option out", "", 2)


def say_end(message: str, hint: str, status: int) -> int:
    """Say why the program ends early and, if there is a hint, what to do; returns the exit status."""
    print(printable(f"{message}\n{hint}".rstrip()), file=sys.stderr)
    return status
