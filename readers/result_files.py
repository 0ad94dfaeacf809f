"""Reads result files, proposals or detections in ActivityNet's JSON format, and checks every entry."""

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

# Proposals of one video. Real files have hundreds or a few thousand; many more would need far too much memory and time
# in the network and in soft-NMS. A video has as many detections at most in each of its classes.
MAX_PER_VIDEO = 50_000


class ResultFile(NamedTuple):
    """The content of a result file."""

    results: dict[str, list[dict[str, Any]]]  # a video's entries; each has a `segment` [start, end] in seconds
    snippet_decimals: int | None  # decimals that its boundaries are rounded to, in snippets; None if not recorded
    simulated: bool  # whether it records that the data are simulated
    lengths: dict[str, float]  # seconds of the videos whose length it records


def parse_results(
    path: Path, on_error: Callable[[str], None] = raise_input_error, most: int | None = MAX_PER_VIDEO
) -> ResultFile:
    """Read a result file and check every segment.

    Args:
        path: `{"results": {video: [{"segment": [start, end], …}]}}`, seconds.
        on_error: takes errors about single entries, which are then left out.
        most: entries that a video may have; None for any number.

    Raises:
        InputError: the file has another form; a segment is not two finite numbers in rising order; a score is not
            finite; a video's name has control characters, or it has more than `most` entries.
    """
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise InputError(f'{path}: expected {{"results": {{video: [{{"segment": [start, end], …}}]}}}}')
    for video in [*results]:
        if has_control_characters(video):
            on_error(f"{path}: video {video!r}: the name has control characters")
            del results[video]
            continue
        try:
            results[video] = _entries(results[video], f"{path}: video {video}", on_error, most)
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


def _entries(entries: Any, where: str, on_error: Callable[[str], None], most: int | None) -> list[dict[str, Any]]:
    """Check the entries of a video; returns those that can be used."""
    if not isinstance(entries, list):
        raise InputError(f"{where}: expected a list of segments, found {type(entries).__name__}")
    if most is not None and len(entries) > most:
        raise InputError(
            f"{where}: {len(entries)} segments; at most {most} are allowed, so keep the best. Of proposals, --run_type "
            "proposals --overwrite --proposals_from, followed by all files that the dataset's proposals are in, does so"
        )
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
    """Read several result files with different videos, and return all their entries, however many a video has.

    Raises:
        InputError: two files have the same video, or a file is damaged.
    """
    merged: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        results = parse_results(path, most=None).results
        if both := sorted(results.keys() & merged.keys()):
            raise InputError(f"{path}: {shorten_list(both)} is also in an earlier file; give each video only once")
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
    """Check that videos are in a result file.

    Args:
        path: of the file, for messages.
        results: of the file.
        videos: that should be in it.
        missing: `error` if they must be; `empty` only logs those that are not.
        on_error: takes the error.
        most: absent videos to name; None names all.

    Raises:
        InputError: none of the videos is in the file; or some are not, and `missing` is `error`.
    """
    absent = [video for video in videos if video not in results]
    if results and videos and len(absent) == len(videos):
        on_error(
            f"{path}: none of the {len(videos)} videos has an entry; the file has other videos: "
            f"{shorten_list(sorted(results))}"
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


def ranked(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a video, highest score first; in file order if one has no score."""
    scores = [entry.get("score") for entry in entries]
    if not all(map(is_finite_number, scores)):
        return [*entries]
    return [entries[i] for i in np.argsort(-np.array(scores, dtype=np.float64), kind="stable")]


def ranked_segments(entries: Sequence[dict[str, Any]]) -> np.ndarray:
    """The segments of a video in seconds, `[M, 2]`, in the order of `ranked`."""
    return np.array([entry["segment"] for entry in ranked(entries)], dtype=np.float64).reshape(-1, 2)
