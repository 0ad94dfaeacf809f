"""Pages to look at what was found in videos: each video beside a timeline of its proposals, attention and detections.

A page holds its data, style and script, and shows the video file from where it lies; it needs no network. What runs
in the browser is in the folder `web`. Text from files reaches the pages as JSON, which their scripts show as plain
text, and their content security policy allows no other script.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np

from report.markup import STYLE, escape
from runs.detected import DetectedVideo
from runs.subtitles import LEAST_OF_BEST
from utils import as_json, printable, whole_file

INDEX = "index.html"
MAX_DETECTIONS = 5000  # of a page; they are drawn and listed as the slider asks for them
MAX_CLASSES_LISTED = 20  # of a video, in the index
MAX_MOMENTS = 2000  # of the curves of proposals and attention
COLOURS = 7  # of `web/pages.css`
SCRIPTS = {"video": ("shared", "player", "timeline", "video"), "index": ("shared", "index")}  # of each kind of page
_UNSAFE = r"""[<>:"/\\|?*#%&'`]|[^\S ]|^[.\s]+|[.\s]+$"""  # in names of files, on some system or in an address
_RESERVED = r"(?i)(con|prn|aux|nul|com\d|lpt\d|index)(\..*)?"


def write_video_pages(
    folder: Path, videos: Iterable[DetectedVideo], class_names: Sequence[str], title: str, *, warning: str = ""
) -> Path:
    """Write a page for each video, and an index of them. Videos are taken one at a time and not kept.

    Args:
        folder: for the pages.
        videos: with their detections.
        class_names: C names; a class has the same colour on all pages, unless a better one of the video has it.
        title: of the index.
        warning: a line that opens every page, for example that the data are simulated.

    Returns:
        The path of the index.

    Raises:
        CannotWrite: a file cannot be written.
    """
    names, rows = _FileNames(), []
    labels = {label: i for i, label in enumerate(class_names)}
    for video in videos:
        file = names.new(video.name)
        listed = _classes(video)
        page = _video_data(video, _colours([labels.setdefault(label, len(labels)) for label in listed]), folder)
        _write(folder / file, "video", printable(video.name), page, title, warning)
        best = [
            [labels[label], _short(row.score), _seconds(row.start_sec), _seconds(row.end_sec)]
            for label, row in [*listed.items()][:MAX_CLASSES_LISTED]
        ]
        row = [printable(video.name), quote(file), _seconds(video.seconds), len(video.detections), best]
        rows.append(as_json(row))  # as text: takes a tenth of the memory
    data = f'{{"classes": {as_json([printable(label) for label in labels])}, "videos": [{",".join(rows)}]}}'
    _write(folder / INDEX, "index", title, data, title, warning)
    return folder / INDEX


def _classes(video: DetectedVideo) -> dict[str, Any]:
    """The best detection of each class that was found in a video, the best of all first."""
    return {str(row.label): row for row in video.detections.drop_duplicates("label").itertuples()}


def _video_data(video: DetectedVideo, colours: Sequence[int], folder: Path) -> str:
    """What the page of a video shows, as JSON."""
    best = video.detections.head(MAX_DETECTIONS)
    place = {label: i for i, label in enumerate(_classes(video))}
    columns = (best[name].tolist() for name in ("label", "start_sec", "end_sec", "score"))
    count, attention = proposal_curves(video.proposals, video.attention, video.seconds)
    return as_json(
        {
            "name": printable(video.name),
            "seconds": _seconds(video.seconds),
            "media": None if video.media is None else media_url(video.media, folder),
            "file": None if video.media is None else printable(video.media.name),
            "classes": [[printable(label), colour] for label, colour in zip(place, colours, strict=True)],
            "detections": [
                [place[label], _seconds(start), _seconds(end), _short(score)]
                for label, start, end, score in zip(*columns, strict=True)
            ],
            "leftOut": len(video.detections) - len(best),
            "least": LEAST_OF_BEST,
            "proposals": len(video.proposals),
            "count": count.tolist(),
            "attention": [None if np.isnan(value) else round(value, 3) for value in attention.tolist()],
        }
    )


def proposal_curves(segments: np.ndarray, attention: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """How many proposals cover each moment of a video, and their mean attention.

    Args:
        segments: `[M, 2]` seconds.
        attention: `[M]`.
        seconds: length of the video.

    Returns:
        `[N]` and `[N]` at the middles of N equal parts of the video, about four a second but at most `MAX_MOMENTS`;
        the attention is NaN where no proposal is.
    """
    parts = int(np.clip(4 * seconds, 100, MAX_MOMENTS))
    moments = (np.arange(parts) + 0.5) * seconds / parts
    count, total = np.zeros(parts, dtype=np.int64), np.zeros(parts)
    for edge, sign in ((0, 1), (1, -1)):  # what has begun by a moment, less what has ended
        order = np.argsort(segments[:, edge], kind="stable")
        passed = np.searchsorted(segments[order, edge], moments, side="right")
        count += sign * passed
        total += sign * np.concatenate([[0.0], np.cumsum(attention[order], dtype=np.float64)])[passed]
    with np.errstate(invalid="ignore", divide="ignore"):
        return count, np.where(count > 0, (total / count).clip(0, None), np.nan)


def media_url(media: Path, folder: Path) -> str:
    """The address of a file, seen from a page in a folder."""
    media, folder = Path(os.path.abspath(media)), Path(os.path.abspath(folder))  # noqa: PTH100 (keeps links)
    try:
        relative = Path(os.path.relpath(media, folder))
    except ValueError:  # on another drive
        return media.as_uri()
    return "/".join(quote(os.fsencode(part), safe="") for part in relative.parts)


class _FileNames:
    """Names for the pages of videos: those of the videos, if these can name files everywhere, and no two the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, video: str) -> str:
        safe = re.sub(_UNSAFE, "_", re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200b-\u200f\u2028-\u202e]", "_", video))
        safe = unicodedata.normalize("NFC", safe).encode()[:180].decode(errors="ignore") or "_"
        digest = hashlib.sha256(video.encode(errors="surrogatepass")).hexdigest()
        stem, more = safe, 0
        while re.fullmatch(_RESERVED, stem) or stem.casefold() in self._taken or (not more and stem != video):
            more += 1
            stem = f"{safe}-{digest[:8]}" + (f"-{more}" if more > 1 else "")
        self._taken.add(stem.casefold())
        return f"{stem}.html"


def _colours(class_idx: Sequence[int]) -> list[int]:
    """The colour of each class: its own, or the next that no class before it has, as long as there are any."""
    taken: list[int] = []
    for i in class_idx:
        free = [colour for colour in range(i, i + COLOURS) if colour % COLOURS not in taken]
        taken.append((free or [i])[0] % COLOURS)
    return taken


def _write(path: Path, kind: str, name: str, data: str, title: str, warning: str) -> None:
    """Write a page of a kind of `SCRIPTS`, with its data as JSON."""
    frame, style, script = _web(kind)
    content = frame.substitute(
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        script=script,
        style=style,
        name=escape(name),
        title=escape(title),
        warning=f'<p class="banner">{escape(warning)}</p>' if warning else "",
        # In JSON these stand in strings only; so no text can end the element.
        data=data.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"),
    )
    with whole_file(path, durable=False) as file:
        file.write(content)


@cache
def _web(kind: str) -> tuple[Template, str, str]:
    """The frame, the style and the script of a kind of page."""

    def read(name: str) -> str:
        return (Path(__file__).parent / "web" / name).read_text(encoding="utf-8")

    script = "\n".join(read(f"{part}.js") for part in SCRIPTS[kind])
    return Template(read(f"{kind}.html")), STYLE + read("pages.css"), script


def _seconds(value: float) -> float:
    return round(float(value), 3)


def _short(score: float) -> float:
    return float(f"{score:.5g}")
