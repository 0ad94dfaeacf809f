"""A self-contained HTML page of text, tables and pictures, without scripts and external files, ready to print.

All text is escaped, see `report.markup`. As a second defence, the page's content security policy forbids scripts and
connections.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from report.markup import STYLE, escape
from report.pictures import as_files

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page:
    """A page that is filled from top to bottom.

    Args:
        title: of the page.
        simulated: whether the data are simulated; the page then opens with a warning.

    Attributes:
        pngs: the pictures as PNG files, by file name.
    """

    def __init__(self, title: str, *, simulated: bool) -> None:
        self.title, self.simulated = title, simulated
        self.pngs: dict[str, bytes] = {}
        self._parts: list[str] = []
        self._sections: list[str] = []

    def section(self, title: str) -> None:
        """Start a section."""
        self._sections.append(title)
        self._parts.append(f'<h2 id="section-{len(self._sections)}">{escape(title)}</h2>')

    def heading(self, text: str) -> None:
        """A heading within a section."""
        self._parts.append(f"<h3>{escape(text)}</h3>")

    def text(self, text: str, *, soft: bool = False) -> None:
        """A paragraph."""
        kind = ' class="soft"' if soft else ""
        self._parts.append(f"<p{kind}>{escape(text)}</p>")

    def listing(self, text: str) -> None:
        """Preformatted text."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(
        self,
        headers: Sequence[object],
        rows: Iterable[Sequence[object]],
        *,
        caption: str = "",
        strong: Iterable[int] = (),
    ) -> None:
        """A table. Floats are shown with one decimal, None as a dash; the first cell of a row is its header.

        Args:
            headers: of the columns.
            rows: of cells.
            caption: below the table.
            strong: indices of the rows in bold.
        """
        rows, strong = list(rows), set(strong)
        lines = []
        for i, (first, *others) in enumerate(rows):
            cells = "".join(f"<td>{_cell(value)}</td>" for value in others)
            kind = ' class="strong"' if i in strong else ""
            lines.append(f'<tr{kind}><th scope="row">{_cell(first)}</th>{cells}</tr>')
        heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in headers)
        kind = "scroll long" if len(rows) > 25 else "scroll"
        below = f'<p class="soft">{escape(caption)}</p>' if caption else ""
        self._parts.append(
            f'<div class="{kind}"><table>'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{below}"
        )

    def picture(self, name: str, figure: Figure, caption: str) -> None:
        """A picture: as SVG in the page, and as `<name>.png` beside it."""
        svg, self.pngs[f"{name}.png"] = as_files(figure)
        content = base64.b64encode(svg).decode()
        alt = escape(caption)
        self._parts.append(
            f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{content}">'
            f"<figcaption>{alt} <em>({escape(name)}.png)</em></figcaption></figure>"
        )

    def html(self) -> str:
        """The page as HTML."""
        links = "".join(f'<a href="#section-{i}">{escape(title)}</a>' for i, title in enumerate(self._sections, 1))
        banner = '<p class="banner">Simulated data: no figure on this page says anything about real videos.</p>'
        return "\n".join(
            [
                '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f'<title>{escape(self.title)}</title>\n<link rel="icon" href="data:,">',
                f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(self.title)}</h1>",
                banner if self.simulated else "",
                f"<nav>{links}</nav>",
                *self._parts,
                "</body>\n</html>\n",
            ]
        )


def signed(value: float) -> str:
    """A difference with one decimal and its sign."""
    text = f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text[1:] == "0.0" else text


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else escape(value)
