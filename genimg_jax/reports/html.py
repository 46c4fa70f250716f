"""The page and colours of reports, and the pieces of HTML that their sections share."""

import base64
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{heading}</h1>
<p><code>{command}</code></p>
<dl class="cards">{cards}</dl>
</header>
<main>
{sections}
</main>
<footer>Written {written}</footer>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --surface: #fff; --ink: #1b1f24; --faint: #626a75;
  --line: #dfe3e8; --train: #2f6fde; --held-out: #c2570c; --marked: #fff6d6; --warning: #b42318; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --surface: #1d2127; --ink: #e4e7eb; --faint: #99a2ad;
  --line: #333a43; --train: #7aa7ff; --held-out: #f2a65a; --marked: #3a3420; --warning: #ff8f85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 1.5rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .7rem; font-size: 1.15rem; }
h3 { margin: 0; font-size: 1rem; }
p { margin: .3rem 0 .7rem; color: var(--faint); overflow-wrap: anywhere; }
a { color: var(--train); }
code { font-size: .85rem; }
figure, article, .cards div { margin: 0; padding: .7rem .8rem; background: var(--surface);
  border: 1px solid var(--line); border-radius: 8px; min-width: 0; }
figcaption { font-size: .85rem; color: var(--faint); margin-bottom: .3rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); margin-right: .5em; }
figcaption span { margin-right: .5em; white-space: nowrap; }
.train { color: var(--train); } .held-out { color: var(--held-out); } .warning { color: var(--warning); }
.cards, .panels, .samples, .tables { display: grid; gap: .7rem; }
.cards { margin: 1rem 0 0; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); }
.cards dt { font-size: .8rem; color: var(--faint); overflow-wrap: anywhere; }
.cards dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); }
.samples { grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
.tables { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); align-items: start; }
@media (max-width: 600px) { .cards, .samples { grid-template-columns: 1fr 1fr; } }
svg { display: block; width: 100%; height: auto; }
img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line); }
td:first-child { white-space: nowrap; }
th, td:first-child { color: var(--faint); font-weight: normal; }
.marked td { background: var(--marked); }
details { margin-top: .7rem; } summary { cursor: pointer; color: var(--faint); }
.absent { font-style: italic; } footer { margin-top: 2.5rem; font-size: .8rem; color: var(--faint); }
"""


def absent(sentence: str) -> str:
    return f'<p class="absent">{escape(sentence)}</p>'


def picture(path: pathlib.Path, alternative: str) -> str:
    """An inline PNG image."""
    content = path.read_bytes()
    if not content.startswith(PNG_SIGNATURE):
        return absent(f"{path.name} is not a PNG file.")
    source = base64.b64encode(content).decode()
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{source}">'


def text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    return "none" if value is None else str(value)


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] = (), marked: Mapping[str, str] | None = None) -> str:
    """A table. `marked` maps the first cell of a highlighted row to the reason, which is its tooltip."""
    head = f"<thead><tr>{''.join(f'<th>{escape(h)}</th>' for h in header)}</tr></thead>" if header else ""
    body = []
    for row in rows:
        reason = (marked or {}).get(row[0])
        note = "" if reason is None else f' class="marked" title="{escape(reason)}"'
        body.append(f"<tr{note}>{''.join(f'<td>{escape(text(cell))}</td>' for cell in row)}</tr>")
    return f'<div class="scroll"><table>{head}<tbody>{"".join(body)}</tbody></table></div>'
