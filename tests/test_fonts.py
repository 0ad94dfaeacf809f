"""Fonts for names in any script: which are chosen, and what is said where none has the characters."""

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.font_manager import FontEntry

from report import fonts
from report.fonts import SUPPLIED, SUPPLIED_FONT, Font, choose_fonts, find_fonts, what_to_install
from report.pictures import as_pixels, new_figure, short, styled

COVERAGE = {"Latin": "abc", "Hangul": "한국", "Kana": "かな", "All Kana": "かなカ跳", "Empty": ""}


def choose(text, names=tuple(COVERAGE)):
    asked = []

    def characters_of(font):
        asked.append(font.name)
        return set(map(ord, COVERAGE[font.name]))

    families, missing = choose_fonts(text, [Font(name, "") for name in names], characters_of)
    return families, missing, asked


def test_one_font_with_all_characters_goes_before_others_with_some():
    assert choose("かな跳") == (["All Kana"], set(), ["Latin", "Hangul", "Kana", "All Kana"])
    assert choose("かな") == (["Kana"], set(), ["Latin", "Hangul", "Kana"])  # the first that will do
    assert choose("") == ([], set(), [])


def test_several_fonts_and_characters_that_none_has():
    assert choose("かな跳한한")[:2] == (["All Kana", "Hangul"], set())
    assert choose("aक")[:2] == (["Latin"], {"क"})
    assert choose("क", ()) == ([], {"क"}, [])


def test_scripts_that_the_supplied_font_has(monkeypatch):
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: pytest.fail("no other font is needed"))
    assert find_fonts(["Jump", "Übung", "Άλμα", "Прыжок", "ქართული", "نشان"]) == SUPPLIED_FONT


def test_fonts_of_the_system(monkeypatch, caplog):
    caplog.set_level("INFO")
    supplied = next(entry.fname for entry in fonts.fontManager.ttflist if entry.name == SUPPLIED)
    own = {"Kana": set(map(ord, "かな"))}
    real = fonts.characters_of
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: [Font("Kana", "")])
    monkeypatch.setattr(fonts, "characters_of", lambda font: own.get(font.name) or real(font))
    assert Path(supplied).is_file() and find_fonts(["かな", "Jump"]).families == (SUPPLIED, "Kana") and not caplog.text
    found = find_fonts(["かな", "Jump 跳", "跳\u200d🤾"])
    assert found.families == (SUPPLIED, "Kana") and found.missing == {"跳", "🤾"}
    assert "characters of names (2)" in caplog.text and "Jump 跳, " in caplog.text and "fonts-noto-cjk" in caplog.text
    with styled(found):
        assert mpl.rcParams["font.family"] == [SUPPLIED, "Kana"] and short("Jump 跳") == "Jump □"
    assert short("Jump 跳") == "Jump 跳"


def test_names_without_a_font_are_drawn_without_warnings(monkeypatch):
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: [])
    with warnings.catch_warnings(), styled(find_fonts(["投げる क्षि"])):
        warnings.simplefilter("error")
        figure = new_figure(1, simulated=False)
        figure.text(0.5, 0.5, short("投げる क्षि"))
        assert np.ptp(as_pixels(figure)) > 0


def test_the_users_own_fonts_come_first(monkeypatch):
    with mpl.rc_context({"font.family": ["STIXGeneral", "no such font"]}):
        assert find_fonts(["Jump"]).families == ("STIXGeneral", SUPPLIED)
    with mpl.rc_context({"font.sans-serif": ["DejaVu Serif", SUPPLIED]}):
        assert find_fonts(["Jump"]).families == ("DejaVu Serif", SUPPLIED)
    assert find_fonts(["Jump"]).families == (SUPPLIED,)


def test_fonts_that_draw_no_names_are_not_taken(monkeypatch):
    names = ("Noto Color Emoji", "Last Resort", ".hidden", "Zen Serif", "Zen", "Noto Sans CJK JP")
    entries = [FontEntry(name=name, fname=name, weight=w) for name in names for w in (700, "regular")]
    monkeypatch.setattr(fonts.fontManager, "ttflist", entries)
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: ["none"])  # which is no font
    assert [font.name for font in fonts._installed_fonts()] == ["Noto Sans CJK JP", "Zen", "Zen Serif"]
    assert fonts._regular_faces(entries)["Zen"].weight == "regular"
    assert fonts.characters_of(Font("Zen", "none")) == ()


@pytest.mark.parametrize(
    ("text", "packages"),
    [("跳", "fonts-noto-cjk"), ("ヘ한", "fonts-noto-cjk"), ("क", "fonts-noto-core"), ("🤾", "fonts-symbola")],
)
def test_what_to_install(text, packages):
    assert packages in what_to_install(text)
