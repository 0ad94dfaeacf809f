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
AGAIN = "make the features again with --run_type features --overwrite"


def origin(features: Features, i: int) -> dict[str, Any] | None:
    """The settings that made the features of a video; None if its file does not say.

    Raises:
        InputError: the file is damaged.
    """
    files = features.files(i) if features.in_memory is None else []
    made = made_by(files[0]) if files and files[0].is_file() else None
    return None if made is None else {name: made.get(name) for name in SETTINGS}


def check_origins(features: Features, chosen: Sequence[int], rate: float, findings: Findings) -> None:
    """Check that the features of videos were made in one way, so far as their files say it.

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


def require_rate(made: Mapping[str, Any] | None, where: str, rate: float, of_model: str = "") -> None:
    """Check the rate at which features were made.

    Args:
        made: what made them; None if unknown.
        where: they are, for messages.
        rate: snippets per second that are needed.
        of_model: the options that give this rate, if it is that of a model, and no option of the run changes it.

    Raises:
        InputError: they say that they were made at another.
    """
    facts = Facts.from_json(made or {}, where, AGAIN)
    if (other := facts.other_rate(rate)) is not None:
        remedy = f"{AGAIN} {of_model}" if of_model else f"pass {facts.rate_options}, or {AGAIN}"
        raise InputError(f"{where}: {other}; {remedy}")


def difference(made: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None) -> str | None:
    """Says in which of the wanted settings features were made otherwise; None if in none, or if either is not known."""
    if made is None or wanted is None:
        return None
    differing = (
        f"{name} {short_repr(made.get(name))}, not {short_repr(value)}"
        for name, value in wanted.items()
        if made.get(name) != value
    )
    return "; ".join(differing) or None


def is_random(made: Mapping[str, Any]) -> bool:
    """Whether features are of networks with random weights."""
    weights = made.get("weights")
    return isinstance(weights, Mapping) and any(str(name).startswith("random") for name in weights.values())
