"""The training curves of a run's report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from genimg_jax.reports.drawing import drawing
from genimg_jax.reports.html import absent, text

NOT_METRICS = ("step", "images", "split")
NOT_FINITE = ("nan", "inf", "-inf")  # as in metrics.jsonl: JSON has no such numbers
POINTS = 1000  # of a curve, at most: more are invisible in a small panel
TRAIN, HELD_OUT = "#020202", "#030303"
COLORS = {TRAIN: "var(--train)", HELD_OUT: "var(--held-out)"}


def series(lines: Sequence[Mapping]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{split: {metric: [(step, value)]}}; if a resumed run repeats a step, the last line counts."""
    latest = {(line.get("split", "train"), line["step"]): line for line in lines}
    by_split: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for (split, step), line in sorted(latest.items(), key=lambda item: item[0][1]):
        for name, value in line.items():
            if name not in NOT_METRICS and (isinstance(value, (int, float)) or value in NOT_FINITE):
                by_split.setdefault(split, {}).setdefault(name, []).append((step, float(value)))
    return by_split


def is_record(line: Any) -> bool:
    return isinstance(line, dict) and isinstance(line.get("step"), int)


def curves(metrics: Mapping[str, Mapping]) -> str:
    if not metrics:
        return absent("No metrics have been logged yet.")
    split_count = Counter(name for series in metrics.values() for name in series)
    # First the metrics that are also measured on held-out images, last those of single parameter groups.
    names = sorted(split_count, key=lambda n: (-split_count[n], "/" in n, n))
    constant, panels = [], []
    for name in names:
        splits = {split: series[name] for split, series in metrics.items() if name in series}
        values = np.array([value for points in splits.values() for _, value in points])
        if len(values) > 2 and (values == values[0]).all():
            constant.append(f"{name} {text(float(values[0]))}")
            continue
        odd = np.sum(~np.isfinite(values))
        labels = [
            (f"{split} {text(points[-1][1])}", "train" if split == "train" else "held-out")
            for split, points in splits.items()
        ] + [(f"{odd} not finite", "warning")] * bool(odd)
        caption = " ".join(f'<span class="{kind}">{escape(label)}</span>' for label, kind in labels)
        drawing = panel(name, splits)
        panels.append(f"<figure><figcaption><b>{escape(name)}</b> {caption}</figcaption>{drawing}</figure>")
    note = f"<p>Constant throughout: {escape('; '.join(constant))}.</p>" if constant else ""
    return f'<div class="panels">{"".join(panels)}</div>{note}'


def panel(name: str, splits: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One metric as an inline SVG image: `splits` maps a split to its points (step, value).

    A training curve of 20 points or more is smoothed, and drawn over its raw values.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    def draw(axes):
        finite = []
        for split, points in splits.items():
            step, value = np.asarray(points, np.float64).T
            step, value = step[np.isfinite(value)], value[np.isfinite(value)]
            finite.append(value)
            thin = slice(None, None, max(1, len(step) // POINTS))
            if split != "train":
                axes.plot(step[thin], value[thin], color=HELD_OUT, linewidth=1.2, marker="o", markersize=2.5)
            elif len(step) < 20:
                axes.plot(step, value, color=TRAIN, linewidth=1.4)
            else:
                axes.plot(step[thin], value[thin], color=TRAIN, linewidth=0.6, alpha=0.35)
                smooth = gaussian_filter1d(value, sigma=len(value) / 50)
                axes.plot(step[thin], smooth[thin], color=TRAIN, linewidth=1.4)
        scale(axes, np.concatenate(finite))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return drawing(name, (3.4, 1.8), draw, COLORS)


def scale(axes, values: np.ndarray) -> None:
    """Makes the axis logarithmic if all values are positive and the middle 98 % span more than a factor of 50."""
    if len(values) and values.min() > 0 and np.divide(*np.percentile(values, [99, 1])) > 50:
        axes.set_yscale("log")
