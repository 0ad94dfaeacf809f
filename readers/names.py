"""Names of videos, classes and subsets in files, compared as people read them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Any

from utils import has_control_characters, short_repr

MAX_NAME_LENGTH = 200  # of a class or subset
# Characters that nobody sees: soft hyphen, grapheme joiner, spaces and operators of no width, byte order mark.
_INVISIBLE = r"\u00ad\u034f\u200b\u2060-\u2064\ufeff"
# The joiner and the non-joiner of zero width change how letters of these scripts (Arabic, Indic, Mongolian, …) and
# pictographs look. Elsewhere, and at the ends of a word, nobody sees them either.
_JOINED = r"\u0590-\u1cff\u2190-\u2bff\ua800-\uabff\ufe0f\U00010800-\U00011fff\U0001f000-\U0001faff"
_UNSEEN = re.compile(f"[{_INVISIBLE}]|(?<![{_JOINED}])[\u200c\u200d]|[\u200c\u200d](?![{_JOINED}])")
_BLANKS = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# Marks of the direction of writing, which come along when a name is copied from a page or a window. Not those two that
# override the direction, which change what is read.
_AROUND = " \r\n\u061c\u200e\u200f\u202a-\u202c\u2066-\u2069"
_ENDS = re.compile(f"^[{_AROUND}]+|[{_AROUND}]+$")


def readable_name(text: str) -> str:
    """A name as people read it, so that names which look the same are the same.

    Accents are composed (Unicode's NFC); blanks of any kind become one space, and none at the ends; characters that
    nobody sees are left out. Upper and lower case stay apart. Other control characters stay, to be refused.
    """
    if text.isascii() and text.isprintable() and "  " not in text:  # nearly all are
        return text.strip()
    return _ENDS.sub("", _BLANKS.sub(" ", _UNSEEN.sub("", unicodedata.normalize("NFC", text))))


def is_name(text: Any) -> bool:
    """Whether a value can be the name of a class or subset: text, not too long, and without control characters."""
    return isinstance(text, str) and len(text) <= MAX_NAME_LENGTH and not has_control_characters(text)


def is_ambiguous(label: str) -> bool:
    """Whether a label marks segments in which detections do not count, as in THUMOS14; it is then no class."""
    return label.casefold() == "ambiguous"


def letters_of(name: str) -> str:
    """The letters, digits and symbols of a name, with no regard to case, width and ligatures."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(one for one in plain if unicodedata.category(one)[0] not in "PZ") or name


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
