"""Finds fonts for the names in pictures, in whatever script these are.

matplotlib comes with DejaVu Sans, which has the Latin, Greek, Cyrillic, Georgian and a few other scripts. For other
characters it can fall back on fonts of the system, but has to be told which. Since version 3.11 it joins and orders the
letters of a font as their script needs; before, Arabic and Hebrew come out from left to right.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib as mpl
from matplotlib.font_manager import FontEntry, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

from utils import log, shorten_list

SUPPLIED = "DejaVu Sans"  # comes with matplotlib
_GENERIC = ("serif", "sans-serif", "cursive", "fantasy", "monospace")
_BOX = "\N{WHITE SQUARE}"
# These have boxes, nothing, or pictures in place of outlines.
_USELESS = ("Last Resort", "LastResort", "Adobe Blank", "Color Emoji")
_LESS_READABLE = ("Mono", "Serif", "Display", "Unifont", "Condensed", "Script")
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")


class Font(NamedTuple):
    """A font that is installed."""

    name: str  # of its family
    path: str


@dataclass(frozen=True)
class Fonts:
    """The fonts to draw names with."""

    families: tuple[str, ...] = (SUPPLIED,)
    missing: frozenset[str] = frozenset()  # characters that no font has

    def drawable(self, text: str) -> str:
        """The text with a box for each character that no font has; what is not seen anyway is left out."""
        unseen = ("Cf", "Mn")
        return text.translate({ord(c): "" if unicodedata.category(c) in unseen else _BOX for c in self.missing})


SUPPLIED_FONT = Fonts()


def find_fonts(names: Iterable[str]) -> Fonts:
    """Find the fonts for names; a notice says which names have characters that no font has, and what to install.

    Those of matplotlib's own settings come first, then the one that is supplied with it. Others are looked for only if
    these lack characters.
    """
    names, families = list(names), _usual_families()
    usual = [Font(name, entry.fname) for name, entry in _regular_faces(fontManager.ttflist).items() if name in families]
    characters = {c for name in names for c in name if not c.isascii()}
    _, missing = choose_fonts(characters, usual, characters_of)
    if not missing:
        return Fonts(families)
    found, missing = choose_fonts(missing, _installed_fonts(), characters_of)
    fonts = Fonts((*families, *found), frozenset(missing))
    if lacking := [name for name in dict.fromkeys(names) if _BOX in fonts.drawable(name) and _BOX not in name]:
        log.info(
            f"notice: pictures show boxes where no font has the characters of names ({len(lacking)}): "
            f"{shorten_list(lacking)}; install {what_to_install(missing.intersection(''.join(lacking)))}"
        )
    return fonts


def choose_fonts(
    characters: Iterable[str], fonts: Iterable[Font], characters_of: Callable[[Font], Container[int]]
) -> tuple[list[str], set[str]]:
    """Choose few fonts that have all characters between them.

    Args:
        characters: to be drawn.
        fonts: to choose from, the preferred ones first.
        characters_of: tells the code points that a font has; asked only until one font has all characters.

    Returns:
        The families, and the characters that no font has.
    """
    left = set(characters)
    coverage: list[tuple[str, set[str]]] = []
    for font in fonts if left else ():
        codes = characters_of(font)
        coverage.append((font.name, {character for character in left if ord(character) in codes}))
        if coverage[-1][1] == left:
            return [font.name], set()
    chosen = []
    while left and coverage:
        name, most = max(coverage, key=lambda pair: len(pair[1] & left))
        if not most & left:
            break
        chosen.append(name)
        left -= most
    return chosen, left


def characters_of(font: Font) -> Container[int]:
    """The code points that a font can draw."""
    try:
        face = FT2Font(font.path)
        return face.get_charmap() if face.scalable else ()
    except (OSError, RuntimeError):  # damaged, or of a kind that matplotlib cannot read
        return ()


def what_to_install(characters: Iterable[str]) -> str:
    """The fonts that have characters, and the Debian packages with them."""
    needed: dict[str, str] = {}
    for character in sorted(characters):
        if unicodedata.name(character, "").startswith(_CJK):
            needed["Noto Sans CJK"] = "fonts-noto-cjk"
        elif unicodedata.category(character) == "So":
            needed["Symbola"] = "fonts-symbola"
        else:
            needed["Noto Sans"] = "fonts-noto-core fonts-noto-extra"
    return f"{' and '.join(needed)} (Debian, Ubuntu: apt-get install {' '.join(needed.values())})"


def _usual_families() -> tuple[str, ...]:
    """The fonts that matplotlib's settings name, if these are not its defaults, and the one that comes with it."""
    # matplotlib's types know only keys that are written out
    settings = cast("tuple[Mapping[str, Any], ...]", (mpl.rcParams, mpl.rcParamsDefault))
    own, default = (
        [name for family in rc["font.family"] for name in (rc[f"font.{family}"] if family in _GENERIC else [family])]
        for rc in settings
    )
    installed = {entry.name for entry in fontManager.ttflist}
    return tuple(dict.fromkeys([*(name for name in own if own != default and name in installed), SUPPLIED]))


def _installed_fonts() -> list[Font]:
    """The fonts of the system, also those that were installed after matplotlib listed them; the most readable first."""
    listed = {Path(entry.fname) for entry in fontManager.ttflist}
    for path in findSystemFonts():
        if Path(path) not in listed:
            with suppress(OSError, RuntimeError, ValueError):  # damaged, or of a kind that matplotlib cannot read
                fontManager.addfont(path)
    faces = _regular_faces(fontManager.ttflist)
    names = [name for name in faces if not name.startswith(".") and not any(word in name for word in _USELESS)]
    names.sort(key=lambda name: (any(word in name for word in _LESS_READABLE), "Noto" not in name, name))
    return [Font(name, faces[name].fname) for name in names]


def _regular_faces(entries: Iterable[FontEntry]) -> dict[str, FontEntry]:
    """The face of each family that is drawn unless another is asked for."""
    faces: dict[str, FontEntry] = {}
    for entry in sorted(entries, key=_distance_from_regular):
        faces.setdefault(entry.name, entry)
    return faces


def _distance_from_regular(entry: FontEntry) -> tuple[bool, int]:
    weights = {"light": 300, "normal": 400, "regular": 400, "medium": 500, "bold": 700}
    weight = weights.get(entry.weight, 400) if isinstance(entry.weight, str) else int(entry.weight)
    return entry.style != "normal", abs(weight - 400)
