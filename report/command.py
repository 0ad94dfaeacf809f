"""`--run_type report`: a page on a run or on a file of detections, or a comparison of runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from readers.source import Source
from report.comparison_page import ComparedRun, build_comparison
from report.page import Page
from report.reading import (
    LocatedRun,
    ReportSettings,
    locate_run,
    read_file,
    read_run,
    require_one_rate,
    with_proposals,
    with_training,
)
from report.run_page import build_report
from runs.folder import RunFolder
from utils import keep_previous, log, whole_file, writing

__all__ = ["ReportSettings", "write_report"]


def write_report(settings: ReportSettings, open_source: Callable[[], Source]) -> None:
    """Write a page and its pictures into a folder of `exp_dir`: `report`, `report_of_file` or `comparison`.

    No other process writes to `exp_dir` meanwhile.

    Args:
        settings: of the report.
        open_source: opens the dataset; called once the runs have been found.

    Raises:
        InputError: another process uses `exp_dir`, there is nothing to report on, or a file cannot be used.
    """
    with RunFolder(settings.exp_dir):
        if settings.compare:
            runs = [locate_run(folder, settings.dataset_name) for folder in settings.compare]
            folder, page = "comparison", compare_runs(settings, open_source(), runs)
        elif settings.detections is not None:
            folder, page = "report_of_file", report_on_file(settings, open_source(), settings.detections)
        else:
            run = locate_run(settings.exp_dir, settings.dataset_name)
            folder, page = "report", report_on_run(settings, open_source(), run)
        html = settings.exp_dir / folder / ("comparison.html" if settings.compare else "report.html")
        write_folder(html.parent, {html.name: page.html().encode()} | page.pngs)
    log.info(f"{html}, and its {len(page.pngs)} pictures beside it as PNG files")


def report_on_file(settings: ReportSettings, source: Source, path: Path) -> Page:
    """The page on a file of detections."""
    return build_report(with_proposals(read_file(settings, source, path, f"Detections of {path}"), source))


def report_on_run(settings: ReportSettings, source: Source, run: LocatedRun) -> Page:
    """The page on a run, and on the seeds that it is one of."""
    return build_report(with_proposals(with_training(read_run(settings, source, run), run.folder), source))


def compare_runs(settings: ReportSettings, source: Source, runs: list[LocatedRun]) -> Page:
    """The page that compares runs with the first of them; the differences are printed, too."""
    require_one_rate(runs)
    progress = tqdm(runs, desc="reading runs", unit="run", leave=False)
    data = [with_training(read_run(settings, source, run), run.folder) for run in progress]
    compared = [ComparedRun(str(run.folder), of_run) for run, of_run in zip(runs, data, strict=True)]
    page, text = build_comparison(compared, settings.seed)
    log.info(text)
    return page


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, all or none; a folder with other content is kept beside it.

    Raises:
        CannotWrite: it cannot be written.
    """
    there = {path.name: path for path in folder.glob("*") if path.is_file()}
    if there and all(name in there and there[name].read_bytes() == content for name, content in files.items()):
        return
    beside = folder.with_name(f".{folder.name}.part")
    try:
        with writing(folder):
            shutil.rmtree(beside, ignore_errors=True)  # of a report that was killed
            for name, content in files.items():
                with whole_file(beside / name, "wb") as file:
                    file.write(content)
            keep_previous(folder)
            beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
