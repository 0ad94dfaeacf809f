"""Detections as subtitles (WebVTT), which most players show over a video."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd

from runs.detected import DetectedVideo
from utils import whole_file

LEAST_OF_BEST = 0.5  # of the best score of the video; weaker detections would fill the screen, also of its page


def shown(video: DetectedVideo) -> pd.DataFrame:
    """The detections that are shown at first: those with at least half of the video's best score."""
    scores = video.detections["score"]
    return video.detections[scores >= LEAST_OF_BEST * scores.max()]


def write_subtitles(path: Path, video: DetectedVideo) -> None:
    """Write a cue for each detection that is shown, see `shown`: the label, and the score.

    Raises:
        CannotWrite: the file cannot be written.
    """
    table = shown(video)
    times = (table[["start_sec", "end_sec"]].clip(lower=0) * 1000).round().astype(int)  # milliseconds
    rows = zip(times["start_sec"].tolist(), times["end_sec"].tolist(), table["label"], table["score"], strict=True)
    cues = [
        f"{_time(start)} --> {_time(end)}\n{html.escape(' '.join(label.split()), quote=False)} ({score:.2g})\n"
        for start, end, label, score in sorted(rows)
        if start < end
    ]
    with whole_file(path, durable=False) as file:
        file.write("\n".join(["WEBVTT\n", *cues]))


def _time(milliseconds: int) -> str:
    """As WebVTT writes it: 01:02:03.456."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"
