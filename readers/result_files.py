"""Reads result files, proposals or detections in ActivityNet's JSON format, and checks every entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from readers.facts import Facts
from readers.findings import Notices, say_notices
from readers.names import Spellings, other_form, readable_name, spelled
from readers.plausible import with_likely
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
    to_number,
    to_time,
    without_collection,
)

# Proposals of one video. Real files have hundreds or a few thousand; many more would need far too much memory and time
# in the network and in soft-NMS. A video has as many detections at most in each of its classes.
MAX_PER_VIDEO = 50_000
MAKE_PROPOSALS_AGAIN = (
    "make them again with --run_type proposals --overwrite (with --proposals_from FILE, times and labels stay)"
)


class ResultFile(NamedTuple):
    """The content of a result file."""

    results: dict[str, list[dict[str, Any]]]  # a video's entries; each has a `segment` [start, end] in seconds
    snippet_decimals: int | None  # decimals that its boundaries are rounded to, in snippets; None if not recorded
    simulated: bool  # whether it records that the data are simulated
    lengths: dict[str, float]  # seconds of the videos whose length it records
    facts: Facts  # that it depends on, by its own account
    notices: Notices  # what was read otherwise than it is stored, or may not be as intended
    left_out: tuple[str, ...] = ()  # videos that it records as left out, since they have no features


@without_collection()
def parse_results(
    path: Path,
    on_error: Callable[[str], None] = raise_input_error,
    most: int | None = MAX_PER_VIDEO,
    videos: Sequence[str] = (),
) -> ResultFile:
    """Read a result file and check every entry. Names are as people read them; times and scores may be text.

    Args:
        path: `{"results": {video: [{"segment": [start, end], …}]}}`, seconds.
        on_error: takes errors about single entries, which are then left out.
        most: entries that a video may have; None for any number.
        videos: of the dataset. Those that the file names with `v_` in front, or without, are found.

    Raises:
        InputError: the file has another form; a segment is not two finite numbers in rising order; a score is not a
            finite number, or a label no text; a video's name has control characters, or is there twice, or it has more
            than `most` entries; what it says that it depends on is damaged.
    """
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise InputError(f'{path}: expected {{"results": {{video: [{{"segment": [start, end], …}}]}}}}')
    listed = _by_name(results, path, on_error)
    other_names, notices = _other_names(listed, videos)
    labels = Spellings("labels")
    results = {}
    for name, entries in listed.items():
        video = other_names.get(name, name)
        try:
            results[video] = _entries(entries, f"{path}: video {video}", on_error, most, labels)
        except InputError as error:
            on_error(str(error))
            results[video] = []
    notices |= labels.notices() | _lacking(results, "score") | _lacking(results, "label")
    external = content.get("external_data")
    external = external if isinstance(external, dict) else {}
    facts = Facts.from_json(external, f"{path}: external_data", "correct it, or remove it")
    decimals = external.get("snippet_decimals")
    decimals = decimals if isinstance(decimals, int) and 0 <= decimals <= 15 else None

    def dataset_name(video: str) -> str:
        return other_names.get(readable_name(video), readable_name(video))

    seconds = external.get("video_seconds")
    seconds = seconds.items() if isinstance(seconds, dict) else ()
    lengths = {dataset_name(video): float(length) for video, length in seconds if is_time(length) and length > 0}
    left_out = external.get("videos_left_out")
    left_out = map(dataset_name, left_out) if _is_texts(left_out) else ()
    left_out = tuple(video for video in left_out if video not in results)
    simulated = "(simulated)" in str(content.get("version"))
    return ResultFile(results, decimals, simulated, lengths, facts, notices, left_out)


def _is_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _by_name(results: Mapping[str, Any], path: Path, on_error: Callable[[str], None]) -> dict[str, Any]:
    """What a file has of each video, by its name as people read it."""
    listed: dict[str, Any] = {}
    first: dict[str, str] = {}  # how each name is spelled
    for video, entries in results.items():
        name = readable_name(video)
        if has_control_characters(name):
            on_error(f"{path}: video {video!r}: the name has control characters")
        elif name in listed:
            on_error(f"{path}: video {name} is listed more than once, as {spelled(first[name])} and {spelled(video)}")
        else:
            listed[name], first[name] = entries, video
    return listed


def _other_names(listed: Mapping[str, Any], videos: Sequence[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Find the videos of a dataset that a file names with `v_` in front where the dataset does not, or the reverse.

    Returns:
        The dataset's name of each such video, by the file's; and notices of them.
    """
    known, found = set(videos), {}
    for video in videos:
        other = other_form(video)
        if video not in listed and other in listed and other not in known:
            found[other] = video
    notices: dict[str, list[str]] = {}
    for name in found:
        how = "with" if name.startswith("v_") else "without"
        notices.setdefault(f"videos named {how} v_ in front, unlike in the annotations", []).append(name)
    return found, notices


def _lacking(results: Mapping[str, Sequence[Mapping[str, Any]]], field: str) -> dict[str, list[str]]:
    """A notice of entries that lack a field which others have."""
    counts = {video: sum(entry.get(field) is None for entry in entries) for video, entries in results.items()}
    if sum(counts.values()) in (0, sum(map(len, results.values()))):
        return {}
    details = [f"{video}: {count} of {len(results[video])}" for video, count in counts.items() if count]
    return {f"videos with entries that have no {field}, beside others that have one": details}


def _entries(
    entries: Any, where: str, on_error: Callable[[str], None], most: int | None, labels: Spellings
) -> list[dict[str, Any]]:
    """Check the entries of a video; returns those that can be used, with their numbers as numbers."""
    if not isinstance(entries, list):
        raise InputError(f"{where}: expected a list of segments, found {type(entries).__name__}")
    if most is not None and len(entries) > most:
        raise InputError(
            f"{where}: {len(entries)} segments; at most {most} are allowed, so keep the best. Of proposals, --run_type "
            "proposals --overwrite --proposals_from, followed by all files that the dataset's proposals are in, does so"
        )
    good = []
    for entry in entries:
        if (problem := _problem(entry, labels)) is None:
            good.append(entry)
        else:
            on_error(f"{where}: {problem}")
    return good


def _problem(entry: Any, labels: Spellings) -> str | None:
    """Says why an entry cannot be used, if it cannot; else turns text in it into numbers, and its label into a name."""
    if not isinstance(entry, dict):
        return f'bad segment {short_repr(entry)}; expected {{"segment": [start, end], …}}'
    segment, score, label = entry.get("segment"), entry.get("score"), entry.get("label")
    if segment is None:
        return f'no segment in {short_repr(entry)}; expected {{"segment": [start, end], …}}, in seconds'
    if not _is_segment(segment):
        entry["segment"] = [to_time(time) for time in segment] if isinstance(segment, list) else None
        if not _is_segment(entry["segment"]):
            return f"bad segment {short_repr(segment)}; expected [start, end] seconds, start <= end"
    if isinstance(score, str):
        entry["score"] = to_number(score)
    if score is not None and not is_finite_number(entry["score"]):
        return f"score {short_repr(score)} is not a finite number"
    if label is not None:
        name = labels.read(label) if isinstance(label, str) else None
        if name is None or (not name.isprintable() and has_control_characters(name)):
            return f"label {short_repr(label)} is not a class name"
        entry["label"] = name
    return None


def _is_segment(segment: Any) -> bool:
    if not isinstance(segment, list) or len(segment) != 2:
        return False
    start, end = segment
    return is_time(start) and is_time(end) and start <= end


def unknown_labels(results: Mapping[str, Sequence[Mapping[str, Any]]], class_names: Sequence[str]) -> Notices:
    """A notice of the labels of proposals that are no class; empty if there are none."""
    labels = Counter(entry.get("label") for entries in results.values() for entry in entries)
    known = {None, *class_names}
    unknown = [f"{label}: {count}" for label, count in labels.most_common() if label not in known]
    return {"labels of proposals that are no class, taken as without one": unknown} if unknown else {}


def merge_results(paths: Sequence[Path], rate: float, videos: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Read several result files with different videos, and return all their entries, however many a video has.

    Args:
        paths: of the files.
        rate: snippets per second of the data. A file that was made at another is taken as it is, with a notice: its
            times are in seconds.
        videos: see `parse_results`.

    Raises:
        InputError: two files have the same video, or a file is damaged.
    """
    merged: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        content = parse_results(path, most=None, videos=videos)
        say_notices(content.notices, f"{path}: ")
        if (other := content.facts.other_rate(rate)) is not None:
            log.info(f"notice: {path}: {other}; its times, which are in seconds, are taken as they are")
        results = content.results
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
        others = [with_likely(name, videos) for name in sorted(results)[:6]]
        on_error(
            f"{path}: none of the {len(videos)} videos has an entry; the file has other videos: "
            f"{shorten_list(others)}; check whose file it is (another "
            "dataset's, or that of the other part), and take the right one, or make it again"
        )
        return
    names = shorten_list(absent, most)
    if absent and missing == "error":
        on_error(
            f"{path}: {len(absent)} of {len(videos)} videos have no entry: {names}; add them, make all "
            "again with --run_type proposals --overwrite, or pass --missing_proposals empty"
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
