"""One page about a run: what it was, how it trained, what it draws, how it scores.

The page is a single file that fetches nothing, so that it can be mailed or archived. Whatever a run does not have
yet is said in its place, and everything read from the run is escaped.
"""

import base64
import datetime
import json
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any
from urllib.parse import quote

import numpy as np

from genimg_jax.commands import report_style
from genimg_jax.engine import config
from genimg_jax.engine import run as run_directory
from genimg_jax.engine.images import write_whole
from genimg_jax.errors import ConfigError, ResourceError

PARTS = ("config.json", "manifest.json", "metrics.jsonl", "samples", "evaluation", "checkpoints")
SAMPLE_GRIDS = 8
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOT_METRICS = ("step", "images", "split")
NOT_FINITE = ("nan", "inf", "-inf")  # as metrics.jsonl writes them, JSON having no such numbers


def run(workdir: pathlib.Path) -> pathlib.Path:
    """Write `report.html` into a run directory, complete or just started, and return its path.

    Raises ConfigError if the directory has nothing of a run in it, ResourceError if it cannot be written.
    """
    if not any((workdir / part).exists() for part in PARTS):
        raise ConfigError(f"{workdir} is no run directory: it has none of {', '.join(PARTS)}; make one by training.")
    path = workdir / "report.html"
    try:
        write_whole(path, page(workdir).encode())
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}; free space there or change its rights.") from error
    return path


def page(workdir: pathlib.Path) -> str:
    """The HTML of the report."""
    settings, settings_problem = _read_object(workdir / "config.json")
    manifest, manifest_problem = _read_object(workdir / "manifest.json")
    lines = [line for line in run_directory.read_metrics(workdir) if _is_record(line)]
    metrics = _series(lines)
    evaluations = {p.stem: _read_object(p) for p in sorted((workdir / "evaluation").glob("*.json"))}
    name = workdir.resolve().name
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    sections = {
        "Samples": _samples(workdir / "samples"),
        "Evaluation": _evaluations(evaluations),
        "Training": _curves(metrics),
        "Configuration": settings_problem or _configuration(settings),
        "Provenance": manifest_problem or _table(config.flatten(manifest).items()),
        "Files": _files(workdir),
    }
    family = settings.get("family", "")
    return report_style.PAGE.format(
        title=escape(f"{name} ({family})" if family else name),
        style=report_style.STYLE,
        heading=escape(name),
        command=escape(_text(manifest.get("command", ""))),
        cards=_headline(settings, manifest, lines, metrics, {n: e for n, (e, _) in evaluations.items()}),
        sections="\n".join(
            f'<section id="{title.lower()}">\n<h2>{title}</h2>\n{body}\n</section>' for title, body in sections.items()
        ),
        written=now,
    )


def _read_object(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    """The JSON object in a file and "", or {} and why there is none, as HTML."""
    if not path.is_file():
        return {}, _absent(f"There is no {path.name} yet.")
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return {}, _absent(f"{path.name} cannot be read: {error}.")
    return (content, "") if isinstance(content, dict) else ({}, _absent(f"{path.name} does not hold a JSON object."))


def _absent(sentence: str) -> str:
    return f'<p class="absent">{escape(sentence)}</p>'


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return "none" if value is None else str(value)


def _table(rows: Sequence[Sequence[Any]], header: Sequence[str] = (), marked: Mapping[str, str] | None = None) -> str:
    """`marked` gives, by a row's first cell, the reason why that row is highlighted."""
    head = f"<thead><tr>{''.join(f'<th>{escape(h)}</th>' for h in header)}</tr></thead>" if header else ""
    body = []
    for row in rows:
        reason = (marked or {}).get(row[0])
        note = "" if reason is None else f' class="marked" title="{escape(reason)}"'
        body.append(f"<tr{note}>{''.join(f'<td>{escape(_text(cell))}</td>' for cell in row)}</tr>")
    return f'<div class="scroll"><table>{head}<tbody>{"".join(body)}</tbody></table></div>'


def _headline(
    settings: Mapping, manifest: Mapping, lines: Sequence[Mapping], metrics: Mapping, evaluations: Mapping
) -> str:
    cards = [("family", _text(settings["family"]))] if "family" in settings else []
    parameters = manifest.get("parameters")
    if isinstance(parameters, Mapping):
        cards.append(("parameters", f"{sum(parameters.values()):,}"))
    for name, label in (("step", "steps"), ("images", "images seen")):
        reached = [line[name] for line in lines if name in line]
        if reached:
            cards.append((label, f"{max(reached):,}"))
    for split, series in metrics.items():
        if "images_per_second" in series:
            speed = median(value for _, value in series["images_per_second"])
            cards.append(("images a second, median", f"{speed:,.0f}"))
        if "loss" in series:
            cards.append((f"last {split} loss", _text(series["loss"][-1][1])))
    for title, evaluation in evaluations.items():
        for name, (value, _, unit) in list(_metric_cells(evaluation).items())[:2]:
            cards.append((f"{name.replace('_', ' ')} ({title})", f"{_text(value)} {unit}"))
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in cards)


# ------------------------------------------------------------------------------------------------------- curves


def _series(lines: Sequence[Mapping]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{split: {metric: [(step, value)]}}; where a resumed run repeats a step, its last line counts."""
    latest = {(line.get("split", "train"), line["step"]): line for line in lines}
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for (split, step), line in sorted(latest.items(), key=lambda item: item[0][1]):
        for name, value in line.items():
            if name not in NOT_METRICS and (isinstance(value, (int, float)) or value in NOT_FINITE):
                series.setdefault(split, {}).setdefault(name, []).append((step, float(value)))
    return series


def _is_record(line: Any) -> bool:
    return isinstance(line, dict) and isinstance(line.get("step"), int)


def _curves(metrics: Mapping[str, Mapping]) -> str:
    if not metrics:
        return _absent("No metrics have been logged yet.")
    drawn_in = Counter(name for series in metrics.values() for name in series)
    # First what is also measured on held-out images, last the diagnostics of single groups.
    names = sorted(drawn_in, key=lambda n: (-drawn_in[n], "/" in n, n))
    constant, panels = [], []
    for name in names:
        splits = {split: series[name] for split, series in metrics.items() if name in series}
        values = np.array([value for points in splits.values() for _, value in points])
        if len(values) > 2 and (values == values[0]).all():
            constant.append(f"{name} {_text(float(values[0]))}")
            continue
        odd = np.sum(~np.isfinite(values))
        labels = [
            (f"{split} {_text(points[-1][1])}", "train" if split == "train" else "held-out")
            for split, points in splits.items()
        ] + [(f"{odd} not finite", "warning")] * bool(odd)
        caption = " ".join(f'<span class="{kind}">{escape(label)}</span>' for label, kind in labels)
        drawing = report_style.panel(name, splits)
        panels.append(f"<figure><figcaption><b>{escape(name)}</b> {caption}</figcaption>{drawing}</figure>")
    note = f"<p>Constant throughout: {escape('; '.join(constant))}.</p>" if constant else ""
    return f'<div class="panels">{"".join(panels)}</div>{note}'


# ---------------------------------------------------------------------------------------------- the other sections


def _samples(folder: pathlib.Path) -> str:
    """At most `SAMPLE_GRIDS` pictures, evenly thinned; the first and the latest always stay."""
    paths = sorted((p for p in folder.glob("*.png") if p.stem.isdecimal()), key=lambda p: int(p.stem))
    if not paths:
        return _absent("No sample grids have been drawn yet.")
    shown = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), SAMPLE_GRIDS)).round().astype(int))
    figures = []
    for path in (paths[i] for i in reversed(shown)):
        content, label = path.read_bytes(), f"step {int(path.stem):,}"
        picture = _absent(f"{path.name} is not a PNG file.")
        if content.startswith(PNG_SIGNATURE):
            source = base64.b64encode(content).decode()
            picture = f'<img alt="samples at {label}" src="data:image/png;base64,{source}">'
        figures.append(f"<figure><figcaption>{label}</figcaption>{picture}</figure>")
    left_out = len(paths) - len(shown)
    note = f"<p>{left_out} more, evenly left out, in samples/.</p>" if left_out else ""
    return f'<div class="samples">{"".join(figures)}</div>{note}'


def _metric_cells(evaluation: Mapping) -> dict[str, tuple[Any, Any, str]]:
    """{name: (value, interval or "", unit)}"""
    return {
        name: (m.get("value"), m.get("interval") or "", m.get("unit") or "") if isinstance(m, Mapping) else (m, "", "")
        for name, m in evaluation.get("metrics", {}).items()
    }


def _evaluations(evaluations: Mapping[str, tuple[Mapping, str]]) -> str:
    """A table for each file: numbers of different protocols never share one."""
    parts = []
    for name, (evaluation, problem) in evaluations.items():
        about = {k: v for k, v in evaluation.items() if k not in ("metrics", "protocol")}
        protocol = config.flatten(evaluation.get("protocol", {}))
        rows = [
            (metric, value, f"[{_text(interval)}]" if interval else "", unit)
            for metric, (value, interval, unit) in _metric_cells(evaluation).items()
        ]
        described = ", ".join(f"{k} {_text(v)}" for k, v in about.items())
        parts.append(
            f"<article><h3>{escape(name)}</h3>{problem}<p>{escape(described)}</p>"
            + (_table(rows, ("metric", "value", "interval", "unit")) if rows else "")
            + (f"<details><summary>Protocol</summary>{_table(protocol.items())}</details>" if protocol else "")
            + "</article>"
        )
    return f'<div class="tables">{"".join(parts)}</div>' if parts else _absent("No evaluation has been made yet.")


def _configuration(settings: Mapping[str, Any]) -> str:
    """What differs from the family's defaults, and everything, with those rows highlighted."""
    try:
        defaults = config.flatten(config.experiment(settings.get("family", "")).to_dict())
    except ConfigError:  # a family that this version does not know
        return _table(config.flatten(settings).items())
    flat = config.flatten(settings)
    marked = {
        key: f"default: {_text(defaults.get(key))}"
        for key, value in flat.items()
        if key != "family" and value != defaults.get(key)
    }
    changed = [(key, flat[key], _text(defaults.get(key))) for key in marked]
    summary = _table(changed, ("key", "value", "default")) if changed else "<p>All values are the defaults.</p>"
    everything = _table(flat.items(), marked=marked)
    return f"{summary}<details><summary>All {len(flat)} values</summary>{everything}</details>"


def _files(workdir: pathlib.Path) -> str:
    rows = []
    for path in sorted(p for p in workdir.iterdir() if not p.name.startswith(".") and p.name != "report.html"):
        inside = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        size = sum(p.stat().st_size for p in inside)
        count = f"{len(inside)} file{'s' * (len(inside) != 1)}" if path.is_dir() else ""
        link = f'<a href="{escape(quote(path.name))}">{escape(path.name)}{"/" if path.is_dir() else ""}</a>'
        rows.append(f"<tr><td>{link}</td><td>{count}</td><td>{size / 1024:,.1f} KiB</td></tr>")
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal())
    checkpoints = f"<p>Checkpoints at steps {', '.join(f'{s:,}' for s in steps)}.</p>" if steps else ""
    return f'{checkpoints}<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>'
