"""Result files: proposals and detections in ActivityNet's JSON format, checked entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils import (
    InputError,
    has_control_characters,
    is_finite_number,
    is_time,
    log,
    raise_input_error,
    read_json,
    short_repr,
    shorten_list,
)

# Entries of one video in a result file. Real ones have hundreds or some thousands; a network and a soft-NMS over more
# would take memory and time out of all proportion to the file.
MAX_PER_VIDEO = 50_000


class ResultFile(NamedTuple):
    """An ActivityNet-format result file: proposals, or detections."""

    results: dict[str, list[dict[str, Any]]]  # a video's entries; each has a `segment` [start, end] in seconds
    snippet_decimals: int | None  # decimals, in snippets, that its boundaries are rounded to, where it says so
    simulated: bool  # whether it says that it is of simulated data
    lengths: dict[str, float]  # seconds of the videos that it tells of


def parse_results(path: Path, on_error: Callable[[str], None] = raise_input_error) -> ResultFile:
    """Read a result file and check every segment.

    Args:
        path: `{"results": {video: [{"segment": [start, end], …}]}}`, seconds.
        on_error: takes the error of one entry, which is then left out.

    Raises:
        InputError: the file is not of that form; a segment is not two finite numbers in rising order; a score is not
            finite; a video has a name that none has, or more segments than can be meant.
    """
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise InputError(f'{path}: expected {{"results": {{video: [{{"segment": [start, end], …}}]}}}}')
    for video in [*results]:
        if has_control_characters(video):
            on_error(f"{path}: video {video!r}: the name has characters that no name has")
            del results[video]
            continue
        try:
            results[video] = _entries(results[video], f"{path}: video {video}", on_error)
        except InputError as error:
            on_error(str(error))
            results[video] = []
    external = content.get("external_data")
    decimals = external.get("snippet_decimals") if isinstance(external, dict) else None
    decimals = decimals if isinstance(decimals, int) and 0 <= decimals <= 15 else None
    lengths = external.get("video_seconds") if isinstance(external, dict) else None
    lengths = lengths if isinstance(lengths, dict) else {}
    lengths = {video: float(length) for video, length in lengths.items() if is_time(length) and length > 0}
    return ResultFile(results, decimals, "(simulated)" in str(content.get("version")), lengths)


def _entries(entries: Any, where: str, on_error: Callable[[str], None]) -> list[dict[str, Any]]:
    """The entries of a video that can be used."""
    if not isinstance(entries, list):
        raise InputError(f"{where}: expected a list of segments, found {type(entries).__name__}")
    if len(entries) > MAX_PER_VIDEO:
        raise InputError(f"{where}: {len(entries)} segments; a video can have {MAX_PER_VIDEO}, so keep the best")
    good = []
    for entry in entries:
        score = entry.get("score") if isinstance(entry, dict) else None
        if not _has_segment(entry):
            found = short_repr(entry.get("segment") if isinstance(entry, dict) else entry)
            on_error(f"{where}: bad segment {found}; expected [start, end] seconds, start <= end")
        elif isinstance(score, float) and not is_finite_number(score):
            on_error(f"{where}: score {score} is not a finite number")
        else:
            good.append(entry)
    return good


def _has_segment(entry: Any) -> bool:
    segment = entry.get("segment") if isinstance(entry, dict) else None
    return isinstance(segment, list) and len(segment) == 2 and all(map(is_time, segment)) and segment[0] <= segment[1]


def merge_results(paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The entries of several result files; none may hold a video of another.

    Raises:
        InputError: one does, or a file is damaged.
    """
    merged: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        results = parse_results(path).results
        if both := sorted(results.keys() & merged.keys()):
            raise InputError(
                f"{path}: {shorten_list(both)} is also in an earlier one of the files; give each video once"
            )
        merged |= results
    return merged


def require_entries(
    path: Path | str,
    results: dict,
    videos: Sequence[str],
    missing: str,
    on_error: Callable[[str], None] = raise_input_error,
    most: int | None = 5,
) -> None:
    """See that videos are in a result file; if `missing` is `empty` they need not be, but `most` of them are named.

    Raises:
        InputError: they are not, and `missing` is `error`.
    """
    absent = [video for video in videos if video not in results]
    if results and videos and len(absent) == len(videos):
        on_error(
            f"{path}: none of the {len(videos)} videos has an entry; it is of others: {shorten_list(sorted(results))}"
        )
        return
    names = shorten_list(absent, most)
    if absent and missing == "error":
        on_error(
            f"{path}: {len(absent)} of {len(videos)} videos have no entry: {names}; add them, or pass "
            "--missing_proposals empty"
        )
    elif absent:
        log.info(f"notice: {path}: {len(absent)} of {len(videos)} videos have no entry: {names}")


def ranked_segments(entries: Sequence[dict[str, Any]]) -> np.ndarray:
    """A video's segments in seconds, `[M, 2]`, best score first; as listed if an entry has no score."""
    segments = np.array([entry["segment"] for entry in entries], dtype=np.float64).reshape(-1, 2)
    scores = [entry.get("score") for entry in entries]
    if not all(map(is_finite_number, scores)):
        return segments
    return segments[np.argsort(-np.array(scores, dtype=np.float64), kind="stable")]
