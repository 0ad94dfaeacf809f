"""Whether matplotlib is installed, which only reports and TensorBoard timelines need."""

from __future__ import annotations

from utils import InputError, error_text

INSTALL = "python -m pip install matplotlib"


def matplotlib_error() -> str | None:
    """Why matplotlib cannot be imported; None if it can."""
    try:
        import matplotlib.figure  # noqa: F401 - a damaged installation fails here
    except ImportError as error:
        return error_text(error)
    return None


def require_matplotlib() -> None:
    """Check that pictures can be drawn.

    Raises:
        InputError: they cannot; the message names the command that installs matplotlib.
    """
    if error := matplotlib_error():
        raise InputError(f"--run_type report needs matplotlib ({error}); install it: {INSTALL}")
