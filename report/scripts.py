"""Text in scripts that are written from right to left, in the order and the forms in which it is drawn.

matplotlib draws one character after another from the left, each as it is alone: Hebrew would come out back to front,
Arabic also in single letters. This is the part of Unicode's rules (UAX 9, and Arabic joining) that names need. Scripts
of India, whose letters join in other ways, are drawn letter by letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import groupby

_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_LAM, _ALEFS = "\u0644", "\u0622\u0623\u0625\u0627"  # are drawn as one


def as_drawn(text: str) -> str:
    """The text with its characters from left to right, and Arabic letters in the forms that they have in a word."""
    if "R" not in map(_direction, text):
        return text
    clusters: list[str] = []  # characters with their marks
    for character in join(text):
        if clusters and unicodedata.category(character) == "Mn":
            clusters[-1] += character
        else:
            clusters.append(character)
    pairs = list(zip(_levels([_direction(cluster[0]) for cluster in clusters]), clusters, strict=True))
    pairs = [(level, cluster.translate(_MIRRORED) if level == 1 else cluster) for level, cluster in pairs]
    for least in (2, 1):
        runs = [(turned, list(run)) for turned, run in groupby(pairs, key=lambda pair: pair[0] >= least)]
        pairs = [pair for turned, run in runs for pair in (run[::-1] if turned else run)]
    return "".join(cluster for _, cluster in pairs)


def _direction(character: str) -> str:
    """`L` or `R` for letters, `1` for digits, `.` for what separates these, `(` for brackets, nothing for others."""
    if unicodedata.mirrored(character):
        return "("
    kind = unicodedata.bidirectional(character)
    return {"L": "L", "R": "R", "AL": "R", "EN": "1", "AN": "1", "ES": ".", "CS": "."}.get(kind, "")


def _levels(kinds: Sequence[str]) -> list[int]:
    """The embedding level of each character: odd ones are read from the right, even ones from the left."""
    base = last = next(kind for kind in kinds if kind in ("L", "R"))
    settled = []
    for i, kind in enumerate(kinds):
        if kind in ("L", "R"):
            last = kind
        elif kind == "." and kinds[i - 1 : i] == ["1"] == kinds[i + 1 : i + 2]:
            kind = "1"
        elif kind == "(":
            kind = base
        settled.append("L" if kind == "1" and last == "L" else kind.strip("."))
    levels = []
    around = ["R" if kind == "1" else kind for kind in settled]
    for i, kind in enumerate(settled):
        if not kind:  # as on both sides, or as the text
            before = next((one for one in reversed(around[:i]) if one), base)
            after = next((one for one in around[i:] if one), base)
            kind = before if before == after else base
        levels.append(1 if kind == "R" else 2 if kind == "1" or base == "R" else 0)
    return levels


def join(text: str) -> str:
    """The text with Arabic letters in the forms that they have in a word, which Unicode has as characters, too."""
    forms = _forms()
    letters = re.findall(f"{_LAM}[{_ALEFS}]|.", text, re.DOTALL)
    places = [i for i, letter in enumerate(letters) if unicodedata.category(letter[0]) != "Mn"]
    joined_after = False
    for before, i, after in zip([None, *places], places, [*places[1:], None], strict=False):
        own = forms.get(letters[i], {})
        joins_before = before is not None and "final" in own and joined_after
        joins_after = after is not None and "initial" in own and "final" in forms.get(letters[after], {})
        kind = ("isolated", "initial", "final", "medial")[2 * joins_before + joins_after]
        letters[i], joined_after = own.get(kind, letters[i]), joins_after
    return "".join(letters)


@cache
def _forms() -> dict[str, dict[str, str]]:
    """The forms of each Arabic letter, and of lam with alef: `isolated`, `final`, `initial`, `medial`."""
    forms: dict[str, dict[str, str]] = {}
    for code in (*range(0xFB50, 0xFE00), *range(0xFE70, 0xFEFD)):
        kind, *codes = unicodedata.decomposition(chr(code)).split() or [""]
        letter = "".join(chr(int(one, 16)) for one in codes)
        if len(letter) == 1 or (len(letter) == 2 and letter[0] == _LAM and letter[1] in _ALEFS):
            forms.setdefault(letter, {})[kind.strip("<>")] = chr(code)
    return forms
