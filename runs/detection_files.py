"""The files that `--run_type detect` writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from eval.tables import detection_table
from readers.facts import WeightsRecord
from runs.detected import DetectedVideo
from runs.detections import write_detection_csv, write_detections
from runs.results import DETECTIONS
from runs.subtitles import write_subtitles
from utils import __version__

SUBTITLES = "subtitles"  # the folder of them


class DetectionFiles:
    """Writes `detections.json` and `detections.csv` of all videos, and subtitles of each.

    Args:
        folder: for the files.
        record: of the model.
    """

    def __init__(self, folder: Path, record: WeightsRecord) -> None:
        self.folder, self.record = folder, record
        self.lengths: dict[str, float] = {}  # seconds of each video
        self._tables: list[pd.DataFrame] = []

    def each(self, videos: Iterable[DetectedVideo]) -> Iterator[DetectedVideo]:
        """Pass videos on, and write the subtitles of each as it comes by."""
        for video in videos:
            write_subtitles(self.folder / SUBTITLES / f"{video.name}.vtt", video)
            self._tables.append(video.detections.drop(columns="label"))
            self.lengths[video.name] = video.seconds
            yield video

    def write(self) -> Path:
        """Write the detections of the videos that came by, those of a class together; returns the result file."""
        path, record = self.folder / DETECTIONS, self.record
        table = pd.concat(self._tables or [detection_table([], [], 1.0)], ignore_index=True)
        table["place"] = table["video"].map({video: i for i, video in enumerate(self.lengths)})
        table = table.sort_values(["place", "class_idx"], kind="stable", ignore_index=True).drop(columns="place")
        names, version = record.class_names or (), f"SEAL {__version__}, {record.dataset}"
        if record.simulated:
            version += " (simulated)"
        write_detections(path, table, names, version, self.lengths, facts=record.facts)
        write_detection_csv(path.with_suffix(".csv"), table, names, self.lengths)
        return path
