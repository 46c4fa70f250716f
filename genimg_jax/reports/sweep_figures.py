"""The figures of a sweep's report."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from genimg_jax.engine import run
from genimg_jax.reports.curves import is_record, scale, series
from genimg_jax.reports.drawing import INK, drawing
from genimg_jax.sweeps.findings import Configuration, Findings
from genimg_jax.sweeps.grid import written
from genimg_jax.sweeps.plan import Sweep

LINES = 8  # configurations in one figure: more colours cannot be distinguished
POINTS = 200  # of a curve
PLACES = [f"#0400{i:02d}" for i in range(LINES)]  # placeholders, replaced by the page's colours
COLORS = {place: f"var(--configuration-{i})" for i, place in enumerate(PLACES)}
# Okabe and Ito's colours, which colour-blind readers can distinguish, and lighter ones on dark.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a4bb5", "#555b66")
DARK = ("#5aa9e6", "#ff8c4b", "#34c79b", "#e79cc4", "#e6c34a", "#9bd4f5", "#b493ea", "#aab2bd")
STYLE = "".join(
    f"{opening} {{ {' '.join(f'--configuration-{i}: {color};' for i, color in enumerate(colors))} }}{closing}\n"
    for opening, colors, closing in (
        (":root", LIGHT, ""),
        ("@media (prefers-color-scheme: dark) { :root", DARK, " }"),
    )
)


def chosen(sweep: Sweep, findings: Findings) -> list[Configuration]:
    """The baseline and the best configurations, at most `LINES` in all, in the plan's order."""
    sign = 1 if sweep.measure.better == "lower" else -1
    order = sorted(
        findings.configurations,
        key=lambda s: (s.name != sweep.baseline, sign * s.summary.mean if s.summary else math.inf),
    )
    names = {configuration.name for configuration in order[:LINES]}
    return [configuration for configuration in findings.configurations if configuration.name in names]


def scores(sweep: Sweep, findings: Findings) -> str:
    """Scores of each configuration and paired differences from the baseline: all seeds, means and intervals."""
    metric = sweep.measure.primary
    scored = [s for s in findings.configurations if s.summary]
    rows = [(s.name, list(s.values[metric].values()), s.summary.interval, s.summary.too_few_seeds) for s in scored]
    base = next((s for s in scored if s.name == sweep.baseline), None)
    line = base.summary.mean if base else None
    parts = [("scores", f"{metric}, {sweep.measure.better} is better", rows, line)]
    pairs = [
        (
            s.name,
            [v - base.values[metric][seed] for seed, v in s.values[metric].items() if seed in base.values[metric]],
            s.comparison.interval,
            s.comparison.too_few_seeds,
        )
        for s in scored
        if s.comparison
    ]
    if pairs:
        parts.append(("differences", f"{metric} less that of {sweep.baseline}, in pairs of equal seed", pairs, 0.0))
    figures = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>{_dots(name, rows, line, sweep.baseline)}</figure>"
        for name, caption, rows, line in parts
    )
    return f'<div class="tables">{figures}</div>'


def _dots(name: str, rows: Sequence[tuple], line: float | None, baseline: str) -> str:
    def draw(axes: Any) -> None:
        for at, (configuration, values, interval, too_few_seeds) in enumerate(rows):
            color = PLACES[0] if configuration == baseline else INK
            axes.plot(values, [at] * len(values), "o", color=color, markersize=4.5, alpha=0.35, markeredgewidth=0)
            if interval and not too_few_seeds:
                axes.plot([interval.low, interval.high], [at, at], color=color, linewidth=1.2)
            axes.plot([np.mean(values)], [at], "|", color=color, markersize=9, markeredgewidth=1.8)
        if line is not None:
            axes.axvline(line, color=PLACES[0], linewidth=0.9, linestyle=":")
        axes.set_yticks(range(len(rows)), [configuration for configuration, *_ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)

    return drawing(name, (5.0, 0.6 + 0.24 * len(rows)), draw, COLORS)


def against(sweep: Sweep, findings: Findings, key: str) -> str:
    """The primary metric over the one swept option, which is a number."""
    configurations = sorted((s for s in findings.configurations if s.summary), key=lambda s: s.options[key])
    where = np.array([s.options[key] for s in configurations], np.float64)

    def draw(axes: Any) -> None:
        means = np.array([s.summary.mean for s in configurations])
        axes.plot(where, means, color=PLACES[0], linewidth=1.2, marker="o", markersize=3.5)
        for x, configuration in zip(where, configurations, strict=True):
            values = list(configuration.values[sweep.measure.primary].values())
            axes.plot([x] * len(values), values, "o", color=INK, markersize=2.5, alpha=0.4, markeredgewidth=0)
        sure = [
            (x, s.summary.interval) for x, s in zip(where, configurations, strict=True) if not s.summary.too_few_seeds
        ]
        for x, interval in sure:
            axes.plot([x, x], [interval.low, interval.high], color=PLACES[0], linewidth=1.2)
        if where.min() > 0 and where.max() / where.min() > 10:
            axes.set_xscale("log")
        axes.set_xticks(where, [written(s.options[key]) for s in configurations])
        axes.minorticks_off()
        axes.set_xlabel(key)
        axes.set_ylabel(sweep.measure.primary)

    return drawing(f"against {key}", (5.2, 2.6), draw, COLORS)


def heat_maps(sweep: Sweep, findings: Findings) -> str:
    """Tables of the primary metric over two swept options, one for each combination of the others."""
    across, down = _axes(findings)
    rest = [key for key in findings.swept if key not in (across, down)]
    groups: dict[tuple, list[Configuration]] = {}
    for configuration in findings.configurations:
        groups.setdefault(tuple(written(configuration.options[key]) for key in rest), []).append(configuration)
    means = [s.summary.mean for s in findings.configurations if s.summary]
    sign = 1 if sweep.measure.better == "lower" else -1
    ranks = {mean: i / max(len(means) - 1, 1) for i, mean in enumerate(sorted(means, key=lambda m: -sign * m))}
    tables = []
    for values, group in groups.items():
        title = ", ".join(f"{key}={value}" for key, value in zip(rest, values, strict=True))
        cells = {(written(s.options[down]), written(s.options[across])): s for s in group}
        columns = list(dict.fromkeys(column for _, column in cells))
        body = "".join(
            f"<tr><th>{escape(row)}</th>{''.join(_heat(cells.get((row, c)), ranks) for c in columns)}</tr>"
            for row in dict.fromkeys(row for row, _ in cells)
        )
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        tables.append(
            f"<figure><figcaption>{escape(title)} {escape(down)} down, {escape(across)} across</figcaption>"
            f'<div class="scroll"><table class="heat"><tr><th></th>{head}</tr>{body}</table></div></figure>'
        )
    return f'<div class="tables">{"".join(tables)}</div>'


def _axes(findings: Findings) -> tuple[str, str]:
    """The options of columns and rows: the two with the most values."""
    count = {key: len({written(s.options[key]) for s in findings.configurations}) for key in findings.swept}
    most = sorted(findings.swept, key=lambda key: -count[key])[:2]
    down, across = (key for key in findings.swept if key in most)
    return across, down


def _heat(configuration: Configuration | None, ranks: Mapping[float, float]) -> str:
    if configuration is None or configuration.summary is None:
        return "<td></td>"
    summary = configuration.summary
    half = "" if summary.interval is None else f" ± {(summary.interval.high - summary.interval.low) / 2:.2g}"
    shade = f"background: color-mix(in srgb, var(--configuration-2) {70 * ranks[summary.mean]:.0f}%, transparent)"
    return f'<td style="{shade}" title="{escape(configuration.name)}">{summary.mean:.4g}<small>{half}</small></td>'


def curves(sweep: Sweep, findings: Findings) -> str:
    """A panel for each metric: the mean and range over seeds of each of the `chosen` configurations."""
    configurations = chosen(sweep, findings)
    logged = {s.name: [_logged(trial) for trial in s.trials] for s in configurations}
    splits = {
        name: split
        for split in ("train", "evaluation")  # held-out metrics replace those of training with the same name
        for runs in logged.values()
        for logged_metrics in runs
        for name in logged_metrics.get(split, {})
        if "/" not in name and name != "images_per_second"
    }
    color = {s.name: PLACES[i] for i, s in enumerate(configurations)}
    panels, constant = [], []
    for name, split in sorted(splits.items(), key=lambda item: (item[1] == "train", item[0])):
        lines = {
            configuration: [r.get(split, {}).get(name, []) for r in runs] for configuration, runs in logged.items()
        }
        values = [[value for _, value in points] for runs in lines.values() for points in runs if points]
        if all(len(v) > 1 and len(set(v)) == 1 for v in values):
            constant.append(name)
            continue
        title = f"<figcaption><b>{escape(name)}</b> {'held-out' if split != 'train' else 'training'}</figcaption>"
        panels.append(f"<figure>{title}{_band_panel(name, lines, color)}</figure>")
    legend = " ".join(
        f'<span style="color: {COLORS[color[s.name]]}">&#9632; {escape(s.name)}</span>' for s in configurations
    )
    left_out = len(findings.configurations) - len(configurations)
    note = f" The {left_out} others scored worse and are left out." if left_out else ""
    note += f" Constant in every run: {escape(', '.join(constant))}." if constant else ""
    about = f'<p>Mean and range over seeds.{note}</p><p class="legend">{legend}</p>'
    return f'{about}<div class="panels">{"".join(panels)}</div>'


def _logged(trial) -> dict[str, dict[str, list[tuple[float, float]]]]:
    return series([line for line in run.read_metrics(trial.workdir) if is_record(line)])


def _band_panel(name: str, lines: Mapping[str, Sequence[Sequence]], color: Mapping[str, str]) -> str:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    def draw(axes: Any) -> None:
        bounds = [np.zeros(0)]
        for configuration, runs in lines.items():
            steps, low, mean, high = band(runs)
            thin = slice(None, None, max(1, len(steps) // POINTS))
            axes.fill_between(steps[thin], low[thin], high[thin], color=color[configuration], alpha=0.18, linewidth=0)
            axes.plot(steps[thin], mean[thin], color=color[configuration], linewidth=1.2)
            bounds += [low, high]
        scale(axes, np.concatenate(bounds))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return drawing(f"curves {name}", (3.4, 2.0), draw, COLORS)


def band(runs: Sequence[Sequence[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and the lowest, mean and highest finite value of all runs at each step."""
    # -> f64[S], f64[S], f64[S], f64[S]
    by_step: dict[float, list[float]] = {}
    for points in runs:
        for step, value in points:
            if math.isfinite(value):
                by_step.setdefault(step, []).append(value)
    rows = [(step, min(v), sum(v) / len(v), max(v)) for step, v in sorted(by_step.items())]
    return tuple(np.array(rows, np.float64).reshape(-1, 4).T)


def swept(sweep: Sweep, findings: Findings) -> str:
    """A figure for the swept options: a curve for a single numeric option, heat maps for two or more options."""
    scored = [s for s in findings.configurations if s.summary]
    if not scored:
        return ""
    if len(findings.swept) >= 2:
        return heat_maps(sweep, findings)
    numbers = [s.options[key] for key in findings.swept for s in scored]
    if len(numbers) > 1 and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        return f'<figure class="options">{against(sweep, findings, findings.swept[0])}</figure>'
    return ""
