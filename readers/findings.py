"""What is noticed about a dataset: errors and warnings by kind, and how `check` and runs say them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from utils import InputError, log

# How much a warning matters: what was read as meant; what is worth a look; what makes figures doubtful, or useless.
TOLD, NOTED, DOUBTFUL, USELESS = range(4)
MOST_LINES = 10  # of a problem in `check`
MOST_TEXT = 1000  # characters of an error in `check`
EXAMPLES_TEXT = 160  # characters of the examples in a run's line

Notices = Mapping[str, Sequence[str]]  # what was read otherwise than it is stored: a kind, and a text for each case


@dataclass
class Problem:
    """The warnings of a kind."""

    weight: int  # TOLD, NOTED, DOUBTFUL or USELESS
    remedy: str  # may be empty
    details: list[str] = field(default_factory=list)  # a line each, mostly of one video


class Findings:
    """Collects errors, as the readers word them, and warnings by kind with a line for each video.

    `report` is for `check`, which shows all; `say` is for runs, which stop at errors and say a line for each kind.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: dict[str, Problem] = {}

    def error(self, message: str) -> None:
        """Add an error; readers take this as `on_error`."""
        self.errors.append(message)

    def mentions(self, video: str) -> bool:
        """Whether an error names a video."""
        return any(f"video {video}:" in message for message in self.errors)

    def warn(self, kind: str, detail: str, remedy: str = "", *, weight: int = NOTED) -> None:
        """Add a warning; remedy and weight are those of its kind."""
        self.warnings.setdefault(kind, Problem(weight, remedy)).details.append(detail)

    def notice(self, notices: Notices, where: str = "") -> None:
        """Add what a reader noticed as warnings; `where` goes in front of each detail."""
        for kind, details in notices.items():
            for detail in details:
                self.warn(kind, where + detail, weight=TOLD)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add the error that ends this block early."""
        try:
            yield
        except InputError as error:
            self.error(str(error))

    def say(self) -> None:
        """Log a line for each kind of warning: what it is, how often, a few examples, and what to do."""
        for kind, problem in self.warnings.items():
            word = "warning" if problem.weight == USELESS else "notice"
            count = f" ({len(problem.details)})" if len(problem.details) > 1 else ""
            remedy = f"; {problem.remedy}" if problem.remedy else ""
            log.info(f"{word}: {kind}{count}: {_examples(problem.details)}{remedy}")

    def report(self, *, verbose: bool = False) -> str:
        """All findings as text, at most `MOST_LINES` of a problem unless `verbose`, and what to do first."""
        most = None if verbose else MOST_LINES
        lines = []
        for kind, problem in self.warnings.items():
            lines += [f"warning: {kind} ({len(problem.details)}):", *_shortened(problem.details, most, "  ")]
            lines += [f"  remedy: {problem.remedy}"] if problem.remedy else []
        for messages in _alike(self.errors):
            shown = messages if verbose else [_cut(message) for message in messages]
            lines += _shortened(shown, most, "error: ")
        verdict = "a run would stop" if self.errors else "a run would accept this dataset"
        counts = f"errors: {len(self.errors)}, warnings: {sum(len(one.details) for one in self.warnings.values())}"
        return "\n".join([*lines, f"{counts}; {verdict}", *self._first_step()])

    def _first_step(self) -> list[str]:
        """A line on what to do first, if there is anything to do."""
        if self.errors:
            first = _alike(self.errors)[0]
            lines = " ".join(line.strip() for line in first[0].splitlines()[:2])  # of a list the first, with its remedy
            others = f", and {len(first) - 1} more like it" if len(first) > 1 else ""
            return [f"to do first: this error{others}: {_cut(lines, 300)}"]
        to_do = [item for item in self.warnings.items() if item[1].weight > TOLD]
        if not to_do:
            return []
        kind, problem = max(to_do, key=lambda item: item[1].weight)  # of equal ones the first
        return [f"to do first: {kind}: {problem.remedy or _cut(problem.details[0], 300)}"]


def say_notice(kind: str, detail: str) -> None:
    """Log what a reader noticed at once; `check` passes `Findings.warn` instead."""
    say_notices({kind: [detail]})


def say_notices(notices: Notices, where: str = "") -> None:
    """Log a line for each kind of what a reader noticed; `where` goes in front of the kind."""
    findings = Findings()
    findings.notice({where + kind: details for kind, details in notices.items()})
    findings.say()


def _examples(details: list[str]) -> str:
    """The first details, up to five, as far as they fit."""
    shown = details[:1]
    for detail in details[1:5]:
        if sum(map(len, shown)) + len(detail) > EXAMPLES_TEXT:
            break
        shown.append(detail)
    return "; ".join(shown) + ("; …" if len(shown) < len(details) else "")


def _shortened(details: list[str], most: int | None, prefix: str) -> list[str]:
    """A line each; if there are more than `most`, the last says how many are left out."""
    if most is None or len(details) <= most:
        return [prefix + detail for detail in details]
    left = len(details) - most + 1
    return [*(prefix + detail for detail in details[: most - 1]), f"{prefix}… and {left} more like these (--verbose)"]


def _alike(errors: list[str]) -> list[list[str]]:
    """Errors that differ only in the video, in numbers and in what they quote, together; in order."""
    groups: dict[str, list[str]] = {}
    for message in errors:
        words = re.sub(r"^.*?\bvideo .*?: ", "", message, count=1, flags=re.DOTALL)
        groups.setdefault(re.sub(r"\S*[\d/'\[\]]\S*", "", words), []).append(message)
    return list(groups.values())


def _cut(message: str, most: int = MOST_TEXT) -> str:
    """A long message without its middle: it begins with what is wrong and ends with what to do."""
    return message if len(message) <= most else f"{message[: most // 2]} … {message[-most // 2 :]}"
