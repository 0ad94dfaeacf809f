"""What detection finds in a video, for files, pages and Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class DetectedVideo:
    """A video and the actions that were found in it. Times are in seconds.

    M is the number of proposals.
    """

    name: str
    seconds: float  # its length, that of its features
    detections: pd.DataFrame  # label, score, start_sec, end_sec; the best score first
    proposals: np.ndarray  # [M, 2]
    attention: np.ndarray  # [M] of each proposal, 0 to 1
    media: Path | None = None  # the video file; None where only features were given
