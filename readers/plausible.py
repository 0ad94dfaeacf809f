"""Whether what was read can be right: labels, lengths, times. Pure functions that add to `Findings`.

`check` and the runs use the same ones, so that a run says in a line what `check` lists. What cannot be used at all is
an error of the readers, not a finding.

Features are looked at while they are read, see `readers.feature_checks`.

Axes: T snippets, V videos.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from readers.annotation_files import AMBIGUOUS_FILE
from readers.annotations import Annotations, are_doubled, uninformative_labels, untrained_classes
from readers.feature_checks import LENGTH_TOLERANCE
from readers.findings import DOUBTFUL, NOTED, USELESS, Findings
from readers.names import letters_of

# Times are taken for another unit than seconds if in this share of the videos some end after their video, the last ones
# by this factor or more. Real annotations and detections have some that end later, and durations may be a little off.
MIN_OUTSIDE, MIN_REACH = 0.25, 1.15
# Or if all of them lie in a first part of their videos that a smaller unit explains, and chance does not.
MAX_CHANCE = 0.01
MAX_FRAME_RATE = 60

# ------------------------------------------------------------------------------------------- labels


def check_labels(annotations: Annotations, parts: Mapping[str, Sequence[str]], findings: Findings) -> None:
    """Warn of videos without labels, labels that differ from the instances, and labels that cannot be learnt.

    Args:
        annotations: of the dataset.
        parts: the videos of each part that is used, `train` and `test`.
        findings: takes the warnings.
    """
    row_of = {video: i for i, video in enumerate(annotations.videos)}
    classes_shown, names = _classes_shown(annotations), annotations.class_names

    def as_text(classes: set[int]) -> str:
        return ", ".join(names[i] for i in sorted(classes)) or "none"

    for part, videos in parts.items():
        labels = {video: set(np.flatnonzero(annotations.labels[row_of[video]]).tolist()) for video in videos}
        expected = part == "train" or any(labels.values())
        for video, classes in labels.items():
            if expected and not classes and not findings.mentions(video):  # an error about its labels is enough
                remedy = "in training they are taken as background only"
                findings.warn("videos without a label", f"{video} ({part})", remedy)
            if video in classes_shown and classes_shown[video] != classes:
                detail = f"{video}: {as_text(classes)} against {as_text(classes_shown[video])}"
                findings.warn("video-level labels differ from those of instances", detail)
    same_letters = Counter(map(letters_of, names))
    for name in names:
        if same_letters[letters_of(name)] > 1:
            findings.warn("classes whose names differ only in case, blanks, punctuation or width of letters", name)
    if not (training := parts.get("train")):
        return
    if (text := uninformative_labels(annotations, training)) is not None:
        findings.warn("labels that nearly all training videos have", text, weight=USELESS)
    for name in untrained_classes(annotations, training):
        findings.warn("classes without a training video, so without a descriptor", name)


def check_evaluated(annotations: Annotations, videos: Sequence[str], findings: Findings) -> None:
    """Warn of test videos without an instance.

    Args:
        annotations: of the dataset.
        videos: the test videos.
        findings: takes the warnings.
    """
    classes_shown = _classes_shown(annotations)
    without = [video for video in videos if video not in classes_shown]
    if videos and len(without) == len(videos):
        findings.warn("mAP cannot be computed", f"none of the {len(videos)} test videos has an instance")
        return
    for video in without:
        findings.warn("test videos without an instance, so every detection in them counts as wrong", video)


def _classes_shown(annotations: Annotations) -> dict[str, set[int]]:
    """The classes of each video's instances, also of those that are left out of the ground truth."""
    instances = pd.concat([annotations.instances, annotations.empty_instances])
    classes: dict[str, set[int]] = {}
    for video, class_idx in zip(instances["video"].tolist(), instances["class_idx"].tolist(), strict=True):
        classes.setdefault(video, set()).add(class_idx)
    return classes


# -------------------------------------------------------------------------------------------- times


def check_lengths(
    annotations: Annotations, num_snippets: Mapping[str, int], rate: float, findings: Findings
) -> dict[str, float]:
    """Warn of features whose length differs from the duration of the video.

    Args:
        annotations: of the dataset.
        num_snippets: T of the videos whose features can be used.
        rate: snippets per second.
        findings: takes the warnings.

    Returns:
        The length of each video in seconds: its duration, else that of its features, else nan.
    """
    lengths = annotations.duration_of()
    pairs = [(count, lengths[video]) for video, count in num_snippets.items() if lengths[video] > 0]
    of_features, durations = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    usual = float(np.median(of_features / durations)) if len(pairs) else np.nan  # snippets a second
    if (unit := _unit_of_durations(rate / usual)) is not None:
        detail = f"{len(pairs)} videos have about {1 / usual:g} of them to a snippet of {1 / rate:g} s"
        how = _HOW[unit].format(rate=rate)
        remedy = f"convert them to seconds ({how}), or correct --feature_fps and --snippet_frames"
        findings.warn(f"durations look like {unit}, not seconds", detail, remedy, weight=DOUBTFUL)
        return lengths | {video: count / rate for video, count in num_snippets.items()}
    for video, count in num_snippets.items():
        expected = lengths[video] * rate
        if abs(count - expected) > max(1, LENGTH_TOLERANCE * expected):  # False for nan
            seconds = f"{count} snippets are {count / rate:.2f} s, but the duration is {lengths[video]:.2f} s"
            findings.warn("features and duration disagree", f"{video}: {seconds}")
        elif np.isnan(expected):
            lengths[video] = count / rate
    if abs(usual / rate - 1) > 0.1:
        detail = f"most videos have about {usual:.3f}; see --feature_fps and --snippet_frames, or the durations"
        if len(pairs) > 1 and len(set(of_features)) == 1:
            detail += "; or, since all videos have as many snippets, are they stored as [D, T]? [T, D] is read"
        findings.warn(f"features do not have {rate:g} snippets a second", detail, weight=DOUBTFUL)
    return lengths


def _unit_of_durations(factor: float) -> str | None:
    """The unit of durations that are `factor` times the seconds of the features; None if they may be seconds.

    Named are units that differ from seconds by more than forgotten options make them differ.
    """
    if 23 <= factor <= MAX_FRAME_RATE + 1:
        return "frames"
    return next((unit for unit, one in (("milliseconds", 1000), ("minutes", 1 / 60)) if 0.9 < factor / one < 1.1), None)


def segment_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """The entries of a result file as `check_segments` takes them: `video, start_sec, end_sec, label`."""
    entries = [entry for listed in results.values() for entry in listed]
    segments = np.array([entry["segment"] for entry in entries], dtype=np.float64).reshape(-1, 2)
    videos = np.repeat(np.array([*results], dtype=object), [len(listed) for listed in results.values()])
    table = pd.DataFrame({"video": videos, "start_sec": segments[:, 0], "end_sec": segments[:, 1]})
    return table.assign(label=np.array([entry.get("label") for entry in entries], dtype=object))


def check_scores(scores: Mapping[str, Sequence[float | None]], findings: Findings) -> None:
    """Warn of proposals with negative scores, which `eval.postprocess.fuse_scores` cannot tell apart.

    Args:
        scores: of the proposals of each video; None or nan where unknown.
        findings: takes the warning.
    """
    kind = "videos with negative scores of proposals, which all count as 1e-6"
    for video, listed in scores.items():
        if negative := sum(score is not None and score < 0 for score in listed):
            findings.warn(kind, f"{video}: {negative} of {len(listed)}", "turn logits into probabilities")


def check_segments(
    what: str,
    table: pd.DataFrame,
    lengths: Mapping[str, float],
    rate: float,
    findings: Findings,
    instances: pd.DataFrame | None = None,
) -> None:
    """Warn of segments in another unit, empty, duplicate, or outside the video by more than a snippet.

    Args:
        what: `instances`, `proposals` or `detections`.
        table: a row for each: `video`, `start_sec`, `end_sec`, `class_idx` of instances, and other columns in which
            duplicates agree; its index is unique.
        lengths: seconds of each video; nan, or no entry, where unknown.
        rate: snippets per second.
        findings: takes the warnings.
        instances: of proposals or detections, the ground truth in seconds, where it is known.
    """
    length = table["video"].map(lengths).astype(np.float64)
    kinds = {f"{what} of length <= 0": table["end_sec"] <= table["start_sec"]}
    reach = None if instances is None else (instances["end_sec"] / instances["video"].map(lengths)).max()
    if not check_unit_of(what, table, length, rate, findings, reach):
        before, after = table["start_sec"] < -1 / rate, table["end_sec"] > length + 1 / rate
        kinds[f"{what} outside the video"] = before | after
    kinds[f"duplicate {what}"] = are_doubled(table) if what == "instances" else table.duplicated()
    counts = table["video"].value_counts()
    for kind, which in kinds.items():
        for video, rows in table[which].groupby("video", sort=False):
            assert isinstance(video, str)
            first = rows[["start_sec", "end_sec"]].iloc[0].round(3).tolist()
            context = f", which has {lengths[video]:.2f} s" if "outside" in kind else ""
            findings.warn(kind, f"{video}: {len(rows)} of {counts[video]}, the first {first} s{context}")


def check_unit_of(
    what: str, table: pd.DataFrame, length: pd.Series, rate: float, findings: Findings, instances_reach: float | None
) -> bool:
    """Warn of times that are not in seconds, going by how far into their videos they reach.

    Args:
        what: see `check_segments`, likewise `table` and `rate`.
        table: as there.
        length: seconds of the video of each row; nan where unknown.
        rate: as there.
        findings: takes the warning.
        instances_reach: how far into its video the ground truth reaches, as a share of it; None if it is not known.

    Returns:
        Whether there is one.
    """
    used = (table["end_sec"] > 0) & (length > 0)
    table, length = table[used], length[used]
    if table.empty:
        return False
    end = table["end_sec"]
    outside = end > (1 + LENGTH_TOLERANCE) * length + 1 / rate
    by_video = pd.DataFrame({"reach": end / length, "outside": outside, "end": end, "length": length})
    by_video = by_video.groupby(table["video"], sort=False).max()
    unit, factor = _larger_unit(reach := float(by_video["reach"].quantile(0.9)), rate)
    enough = max(min(2, len(by_video)), MIN_OUTSIDE * len(by_video))
    # Of times that are spread evenly over videos, 1 - 1 / factor end after the seconds of theirs.
    if by_video["outside"].sum() >= enough and reach >= MIN_REACH and outside.mean() >= 0.5 * (1 - 1 / factor):
        first = int(outside.to_numpy().argmax())
        says = f"{int(outside.sum())} of {len(table)} end after their video"
    elif smaller := _smaller_unit(by_video["end"].to_numpy(), by_video["length"].to_numpy(), rate, instances_reach):
        unit, first = smaller, 0
        says = f"all {len(table)} end by {end.max():g}"
    else:
        return False
    row = table.iloc[first]
    detail = f"{says}, the first [{row['start_sec']:g}, {row['end_sec']:g}] in video {row['video']}"
    detail += f", which has {length.iloc[first]:.2f} s"
    kind = f"{what} are not in seconds" if unit is None else f"{what} look like {unit}, not seconds"
    how = "" if unit is None else f" ({_HOW[unit].format(rate=rate)})"
    findings.warn(kind, detail, f"convert the {what} to seconds{how}, or correct the durations", weight=DOUBTFUL)
    return True


_HOW = {  # to convert a unit to seconds
    "snippets": "divide by {rate:g}, the snippets a second",
    "frames": "divide by the frame rate of the video",
    "hundredths of a second": "divide by 100",
    "milliseconds": "divide by 1000",
    "shares of the video": "multiply by its duration",
    "percent of the video": "multiply by its duration, and divide by 100",
    "minutes": "multiply by 60",
}


def _larger_unit(reach: float, rate: float) -> tuple[str | None, float]:
    """The closest unit in which times lie within their video that reach `reach` of its lengths as seconds; a second."""
    factors = {"snippets": rate, "frames": MAX_FRAME_RATE, "hundredths of a second": 100, "milliseconds": 1000}
    fitting = {unit: factor for unit, factor in factors.items() if reach <= 1.05 * factor}
    return min(fitting.items(), key=lambda item: item[1], default=(None, math.inf))


def _smaller_unit(end: np.ndarray, length: np.ndarray, rate: float, instances_reach: float | None) -> str | None:
    """The unit in which times take up their videos, if as seconds they lie in a part of them too small for chance.

    Args:
        end: `[V]` the last time of each video.
        length: `[V]` seconds.
        rate: snippets per second.
        instances_reach: see `check_unit_of`. Units not much smaller than a second are named only where the ground truth
            reaches farther: in some datasets all actions are at the beginning.
    """
    factors = {
        "snippets": np.full(len(end), rate),
        "minutes": np.full(len(end), 1 / 60),
        "shares of the video": 1 / length,
        "percent of the video": 100 / length,
    }
    best, closest = None, 0.0
    for unit, factor in factors.items():
        filled = float((end / (factor * length)).max())  # of a video, in this unit
        unlikely = np.log(np.minimum(factor, 1)).sum() <= np.log(MAX_CHANCE)
        refuted = instances_reach is not None and instances_reach > 1.2 * float((end / length).max())
        if unlikely and closest < filled <= 1.05 and (refuted or unit in ("minutes", "shares of the video")):
            best, closest = unit, filled
    return best


def check_rounding(findings: Findings, nothing: int, one: int, total: int, *, chosen_by: str) -> None:
    """Warn of instances that the snippet protocol rounds to nothing or to one snippet, see `eval.segments.Rounding`.

    Args:
        findings: takes the warning.
        nothing: how many it rounds to nothing.
        one: to one snippet.
        total: number of instances.
        chosen_by: the protocol that epochs are compared by.
    """
    if nothing or one:
        detail = f"{nothing} of {total} become nothing, which no detection can match, and {one} one snippet"
        lost = chosen_by == "seconds"
        remedy = "so many are short that the best epoch is chosen by the seconds protocol; compare methods by it, too"
        kind = "instances that the snippet protocol rounds to nothing or to one snippet"
        findings.warn(kind, detail, remedy if lost else "", weight=DOUBTFUL if lost else NOTED)


def check_truth(
    annotations: Annotations, videos: Sequence[str], lengths: Mapping[str, float], rate: float, findings: Findings
) -> None:
    """Warn of what is odd in the ground truth of the test videos: the parts are `check_evaluated` and what follows it.

    The arguments are those of `check_ambiguous`.
    """
    check_evaluated(annotations, videos, findings)
    check_segments("instances", annotations.instances_of(videos), lengths, rate, findings)
    check_ambiguous(annotations, videos, lengths, rate, findings)


def check_ambiguous(
    annotations: Annotations, videos: Sequence[str], lengths: Mapping[str, float], rate: float, findings: Findings
) -> None:
    """Warn of ambiguous segments of unknown videos, of no length, outside their video, or in another unit.

    Args:
        annotations: of the dataset.
        videos: the test videos.
        lengths: seconds of each video; nan, or no entry, where unknown.
        rate: snippets per second.
        findings: takes the warnings.
    """
    known = set(annotations.videos)
    for video in annotations.ambiguous:
        if video not in known:
            detail = f"{AMBIGUOUS_FILE}: {with_likely(video, annotations.videos)}"
            findings.warn("ambiguous segments of videos that the annotations do not have", detail)
    rows = [(video, *row) for video in videos for row in annotations.ambiguous.get(video, np.empty((0, 2))).tolist()]
    if rows:
        table = pd.DataFrame(rows, columns=["video", "start_sec", "end_sec"])
        check_segments("ambiguous segments", table, lengths, rate, findings)


def with_likely(name: str, known: Iterable[str]) -> str:
    """An unknown name, and what was probably meant."""
    likely = likely_name(name, known)
    return name if likely is None else f"{name} (did you mean {likely}?)"


def likely_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that a name was probably meant to be: without a folder, an ending or `v_`, or a similar one."""
    known = list(known)
    plain = {_plain(one): one for one in known}
    if _plain(name) in plain:
        return plain[_plain(name)]
    numbers = re.findall(r"\d+", name)  # another number is another video, not another spelling
    alike = [one for one in known if re.findall(r"\d+", one) == numbers]
    return next(iter(difflib.get_close_matches(name, alike, n=1, cutoff=0.8)), None)


def _plain(name: str) -> str:
    name = name.rsplit("/", 1)[-1].casefold().removeprefix("v_")
    stem, dot, ending = name.rpartition(".")
    return letters_of(stem if dot and ending.isalnum() and len(ending) <= 4 else name)
