"""Names of videos, classes and subsets in files, compared as people read them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

from utils import has_control_characters, readable_name, short_repr

MAX_NAME_LENGTH = 200  # of a class or subset


def is_name(text: Any) -> bool:
    """Whether a value can be the name of a class or subset: text, not too long, and without control characters."""
    return isinstance(text, str) and len(text) <= MAX_NAME_LENGTH and not has_control_characters(text)


def is_ambiguous(label: str) -> bool:
    """Whether a label marks segments in which detections do not count, as in THUMOS14; it is then no class."""
    return label.casefold() == "ambiguous"


def other_form(video: str) -> str:
    """A video's name without the `v_` that ActivityNet's files have in front, or with it where there is none."""
    return video.removeprefix("v_") if video.startswith("v_") else f"v_{video}"


class Spellings:
    """Counts the spellings of names in files.

    Args:
        what: they name, in the plural.
        any_case: whether upper and lower case are the same.
    """

    def __init__(self, what: str, *, any_case: bool = False) -> None:
        self.what, self._any_case = what, any_case
        self._counts: Counter[str] = Counter()
        self._names: dict[str, str] = {}

    def read(self, text: str) -> str:
        """Count a name as it is in a file; returns it as people read it."""
        self._counts[text] += 1
        if text not in self._names:
            self._names[text] = readable_name(text)
        return self._names[text]

    def usual(self) -> dict[str, str]:
        """The name to use for each that `read` returned: where case does not matter, the most frequent."""
        first: dict[str, str] = {}
        for text, _ in self._counts.most_common():
            first.setdefault(self._key(text), self._names[text])
        return {name: first[self._key(name)] for name in self._names.values()}

    def shown(self, name: str) -> str:
        """All spellings of a name, the rarest first, so that what differs is seen."""
        return self._joined([text for text in self._counts if self._key(text) == self._key(name)])

    def notices(self) -> dict[str, list[str]]:
        """What to say if there are names with several spellings."""
        spellings: dict[str, list[str]] = {}
        for text in self._counts:
            spellings.setdefault(self._key(text), []).append(text)
        details = []
        for texts in (texts for texts in spellings.values() if len(texts) > 1):
            counts = sorted(self._counts[text] for text in texts)
            details.append(f"{self._joined(texts)} ({sum(counts[:-1])} of {sum(counts)})")
        case = "upper and lower case, " if self._any_case else ""
        differing = f"{case}blanks, invisible characters or how accents are stored"
        kind = f"{self.what} that differ only in {differing}, taken as one"
        return {kind: details} if details else {}

    def _joined(self, texts: list[str]) -> str:
        return " and ".join(map(spelled, sorted(texts, key=lambda text: self._counts[text])))

    def _key(self, text: str) -> str:
        name = readable_name(text)
        return name.casefold() if self._any_case else name


def spelled(text: str) -> str:
    """Text in quotes, with what is not seen as escapes, and with accents that are characters of their own as these."""
    return short_repr(text) if unicodedata.is_normalized("NFC", text) else ascii(text)
