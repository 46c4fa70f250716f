"""Every metric over the checkpoints of a run."""

import io
import math
from collections.abc import Mapping

from genimg_jax import directions
from genimg_jax.evaluation.results import Report

COLUMNS = 4


def picture(reports: Mapping[int, Report]) -> bytes:
    """A PNG with a panel for each metric over steps, with shaded intervals if there are any."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    names = list(dict.fromkeys(name for report in reports.values() for name in report["metrics"]))
    rows = math.ceil(len(names) / COLUMNS)
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(3 * COLUMNS, 2 * rows), layout="constrained", dpi=120)
        for number, name in enumerate(names, 1):
            axes = figure.add_subplot(rows, COLUMNS, number, title=directions.arrow(name))
            entries = {s: r["metrics"][name] for s, r in sorted(reports.items()) if name in r["metrics"]}
            axes.plot(list(entries), [float(e["value"]) for e in entries.values()], marker="o", markersize=3)
            ends = {s: e["interval"] for s, e in entries.items() if e["interval"]}
            if ends:
                axes.fill_between(list(ends), *zip(*ends.values(), strict=True), alpha=0.2, linewidth=0)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        file = io.BytesIO()
        figure.savefig(file, format="png")
    return file.getvalue()
