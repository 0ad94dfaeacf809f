"""What all pages share: their style, and how text becomes HTML."""

from __future__ import annotations

import html

from utils import printable

STYLE = """
:root { color-scheme: light; --ink: #222; --soft: #595959; --line: #d9d9d9; --mark: #b34700;
  --paper: #fff; --tint: #fdf1ea; --link: #00558a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1.2rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { max-width: 46rem; margin: .5rem 0; }
nav { font-size: .9rem; margin: .8rem 0; }
nav a { color: var(--link); margin-right: 1rem; overflow-wrap: anywhere; display: inline-block; padding: .15rem 0; }
.banner { border-left: .3rem solid var(--mark); background: var(--tint); color: var(--mark); padding: .5rem .8rem;
  margin: .8rem 0; font-weight: 600; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0 1.4rem; break-inside: avoid; }
figure img { display: block; width: 100%; max-width: 50rem; height: auto; }
figcaption { max-width: 46rem; margin-top: .3rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--soft); font-weight: 600; }
tbody th { font-weight: 400; white-space: normal; min-width: 9rem; }
tr.strong th, tr.strong td { font-weight: 600; }
.long { max-height: 30rem; overflow-y: auto; border: 1px solid var(--line); }
.long thead th { position: sticky; top: 0; background: var(--paper); }
pre { font: .8rem/1.4 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; border: 1px solid var(--line);
  padding: .6rem; max-height: 24rem; overflow-y: auto; }
@media (max-width: 30rem) { tbody th { min-width: 6rem; } table { font-size: .8rem; } }
@page { margin: 15mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .scroll, .long, pre { overflow: visible; max-height: none; }
  table { font-size: 7.5pt; }
  th, td { padding: .12rem .3rem; }
  thead { display: table-header-group; }
  tr, h2, h3, div:not(.long) > table { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll + p { break-before: avoid; }
  .banner { border: 1px solid var(--mark); }
}
"""


def escape(text: object) -> str:
    """Escape text for HTML, also within attributes."""
    return html.escape(printable(str(text)))
