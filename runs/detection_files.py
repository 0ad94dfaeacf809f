"""The files that `--run_type detect` writes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from readers.facts import WeightsRecord
from runs.detected import DetectedVideo
from runs.detections import write_detection_csv, write_detections
from runs.results import DETECTIONS
from runs.subtitles import write_subtitles
from utils import InputError, __version__, keep_previous, log

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
        self._started = time.monotonic()

    def each(self, videos: Iterable[DetectedVideo]) -> Iterator[DetectedVideo]:
        """Pass videos on, and write the subtitles of each as it comes by."""
        for video in videos:
            write_subtitles(self.folder / SUBTITLES / f"{video.name}.vtt", video)
            self._tables.append(video.detections.drop(columns="label"))
            self.lengths[video.name] = video.seconds
            yield video

    def finish(self, failed: int) -> int:
        """Write the detections of the videos that came by, those of a class together, and say what was written.

        Args:
            failed: how many videos could not be used.

        Returns:
            The exit status: 1 if there are any of these, else 0.

        Raises:
            InputError: no video could be used.
        """
        if not self._tables:
            raise InputError(f"none of the {failed} videos could be used, see above; nothing was detected")
        keep_previous(self.folder / "results.json")  # which would be taken for that of these detections
        path, record = self.folder / DETECTIONS, self.record
        table = pd.concat(self._tables, ignore_index=True)
        table["place"] = table["video"].map({video: i for i, video in enumerate(self.lengths)})
        table = table.sort_values(["place", "class_idx"], kind="stable", ignore_index=True).drop(columns="place")
        names = record.class_names or ()
        version = f"SEAL {__version__}, {record.dataset}{' (simulated)' if record.simulated else ''}"
        write_detections(path, table, names, version, self.lengths, facts=record.facts)
        write_detection_csv(path.with_suffix(".csv"), table, names, self.lengths)
        seconds, taken = sum(self.lengths.values()), time.monotonic() - self._started
        log.info(
            f"{len(table)} detections in {len(self.lengths)} videos, {seconds:,.0f} s of video in {taken:.1f} s "
            f"({seconds / taken:,.0f} x real time): {path}"
        )
        if failed:
            log.info(f"{failed} videos could not be used, see above")
        return 1 if failed else 0
