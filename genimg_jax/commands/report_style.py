"""How the report looks: its page, its colours, its curves."""

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

POINTS = 1000  # of a curve, at most: more are not seen in a small panel
# Placeholder colours of the drawing, each replaced by one that follows the page's light or dark scheme.
INK, TRAIN, HELD_OUT = "#010101", "#020202", "#030303"
COLORS = {INK: "currentColor", TRAIN: "var(--train)", HELD_OUT: "var(--held-out)"}

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


def panel(name: str, splits: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One metric as an inline SVG image: `splits` maps a split to its points (step, value).

    A training curve of 20 points and more is smoothed, over its raw values. The axis is logarithmic where all values
    are positive and the middle 98 % of them span more than a factor of 50.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    # Text stays text; the salt makes the same metrics give the same file.
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 8}
    settings |= {f"{part}color": INK for part in ("text.", "axes.edge", "axes.label", "xtick.", "ytick.")}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(3.4, 1.8), layout="constrained")
        axes = figure.add_subplot()
        drawn = []
        for split, points in splits.items():
            step, value = np.asarray(points, np.float64).T
            step, value = step[np.isfinite(value)], value[np.isfinite(value)]
            drawn.append(value)
            thin = slice(None, None, max(1, len(step) // POINTS))
            if split != "train":
                axes.plot(step[thin], value[thin], color=HELD_OUT, linewidth=1.2, marker="o", markersize=2.5)
            elif len(step) < 20:
                axes.plot(step, value, color=TRAIN, linewidth=1.4)
            else:
                axes.plot(step[thin], value[thin], color=TRAIN, linewidth=0.6, alpha=0.35)
                smooth = gaussian_filter1d(value, sigma=len(value) / 50)
                axes.plot(step[thin], smooth[thin], color=TRAIN, linewidth=1.4)
        values = np.concatenate(drawn)
        if len(values) and values.min() > 0 and np.divide(*np.percentile(values, [99, 1])) > 50:
            axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.12, linewidth=0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    opening, rest = svg.split(">", maxsplit=1)
    # Without a size of its own the drawing fills its panel, in the proportions of its view box.
    svg = re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest
    return re.sub("|".join(COLORS), lambda match: COLORS[match[0]], svg)
