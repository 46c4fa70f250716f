"""Matplotlib's drawings as SVG within a page, in the page's own colours."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

INK = "#010101"  # what is neither data nor background


def drawing(name: str, size: tuple[float, float], draw: Callable[[Any], None], colors: Mapping[str, str]) -> str:
    """What `draw` draws on Matplotlib axes, as an inline SVG image of this width and height in inches.

    `colors` maps the colours that are drawn with, which stand for others, to CSS ones: those follow the page's light or
    dark scheme. The name must be one of its own on the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text; the salt makes the same drawing give the same file.
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 8}
    settings |= {f"{part}color": INK for part in ("text.", "axes.edge", "axes.label", "xtick.", "ytick.")}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.12, linewidth=0.5)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    opening, rest = svg.split(">", maxsplit=1)
    # Without a size of its own the drawing fills its panel, in the proportions of its view box.
    svg = re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest
    shown = {INK: "currentColor", **colors}
    return re.sub("|".join(shown), lambda match: shown[match[0]], svg)
