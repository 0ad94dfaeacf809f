"""Whether the packages that read videos are installed; features that are there already need none of them."""

from __future__ import annotations

from utils import InputError, error_text

INSTALL = "pip install -r requirements-video.txt"


def require_video_packages() -> None:
    """Check that videos can be decoded, and that their optical flow can be computed.

    Raises:
        InputError: a package is missing or damaged; the message names the command that installs them.
    """
    try:
        import av  # noqa: F401
        import cv2
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise InputError(f"videos need packages that are not installed here ({error_text(error)}): {INSTALL}") from None
    if not hasattr(cv2, "optflow"):  # `opencv-python` was installed over it
        raise InputError(
            f"the OpenCV installed here (cv2 {cv2.__version__}) has no optical flow, its contrib modules are missing: "
            f"pip uninstall opencv-python opencv-python-headless, then {INSTALL} --force-reinstall"
        )
