"""Matplotlib figures as SVG inside a page, in the page's colours."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

INK = "#010101"  # of everything except data and background


def drawing(name: str, size: tuple[float, float], draw: Callable[[Any], None], colors: Mapping[str, str]) -> str:
    """What `draw` draws on Matplotlib axes, as an inline SVG image; `size` is width and height in inches.

    `colors` maps placeholder colours, used by `draw`, to CSS colours, which follow the page's light or dark scheme. The
    name must be unique on the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # Text is not converted to paths; the salt makes the output deterministic.
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
    # Without a size the image fills its panel, with the aspect ratio of its view box.
    svg = re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest
    replacements = {INK: "currentColor", **colors}
    return re.sub("|".join(replacements), lambda match: replacements[match[0]], svg)
