"""What made features, where their files say it, as those of `--run_type features` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from readers.facts import Facts
from readers.feature_files import made_by
from readers.features import Features
from readers.findings import DOUBTFUL, USELESS, Findings
from utils import InputError, short_repr

SETTINGS = ("feature_fps", "snippet_frames", "crop", "weights")  # that features share which may be compared
AGAIN = "make the features again with --run_type features"


def origin(features: Features, i: int) -> dict[str, Any] | None:
    """The settings that made the features of a video; None if its file does not say.

    Raises:
        InputError: the file is damaged.
    """
    files = features.files(i) if features.in_memory is None else []
    made = made_by(files[0]) if files and files[0].is_file() else None
    return None if made is None else {name: made.get(name) for name in SETTINGS}


def common_origin(features: Features, chosen: Sequence[int], rate: float, findings: Findings) -> dict[str, Any] | None:
    """The settings that made the features of videos, those of the first; None if its file does not say.

    Args:
        features: of the dataset.
        chosen: the indices of the videos.
        rate: snippets per second of the run.
        findings: takes videos whose features were made in another way, and features that mean little.

    Raises:
        InputError: features were made at another rate, or a file is damaged.
    """
    first = origin(features, chosen[0])
    for i in chosen if first else ():
        made = origin(features, i)
        require_rate(made, features.where(i), rate)
        if differing := difference(made, first):
            detail = f"{features.videos[i]} ({differing})"
            findings.warn("videos whose features were made in another way", detail, weight=DOUBTFUL)
    if first and is_random(first):
        kind = "features of an I3D with random weights, which say little of what happens"
        findings.warn(kind, "--i3d_weights random", weight=USELESS)
    return first


def require_rate(made: Mapping[str, Any] | None, where: str, rate: float) -> None:
    """Check that features were made at a number of snippets per second; raises InputError if they say another."""
    facts = Facts.from_json(made or {}, where, AGAIN)
    if (other := facts.other_rate(rate)) is not None:
        raise InputError(f"{where}: {other}; pass {facts.rate_options}, or {AGAIN}")


def difference(made: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None) -> str | None:
    """Says in what two settings differ; None where they agree, or one of them is not known."""
    if made is None or wanted is None:
        return None
    pairs = {name: (made.get(name), wanted.get(name)) for name in SETTINGS}
    differing = (
        f"{name} {short_repr(here)}, not {short_repr(there)}" for name, (here, there) in pairs.items() if here != there
    )
    return "; ".join(differing) or None


def is_random(made: Mapping[str, Any]) -> bool:
    """Whether features are of networks with random weights."""
    weights = made.get("weights")
    return isinstance(weights, Mapping) and any(str(name).startswith("random") for name in weights.values())
