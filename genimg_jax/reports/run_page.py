"""One page about a run: its samples, evaluation, training curves, configuration and provenance.

The page is a single file without external resources, so it can be mailed or archived. It says what a run does not have
yet. Everything that is read from the run is escaped.
"""

import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any
from urllib.parse import quote

import numpy as np

from genimg_jax.engine import config, run
from genimg_jax.errors import ConfigError
from genimg_jax.reports import run_edits, run_evaluation
from genimg_jax.reports.curves import curves, is_record, series
from genimg_jax.reports.html import PAGE, STYLE, absent, picture, table, text

SAMPLE_GRIDS = 8


def page(workdir: pathlib.Path) -> str:
    """The HTML of the report."""
    settings, settings_problem = _read_object(workdir / "config.json")
    manifest, manifest_problem = _read_object(workdir / "manifest.json")
    lines = [line for line in run.read_metrics(workdir) if is_record(line)]
    metrics = series(lines)
    evaluations = {p.stem: _read_object(p) for p in sorted((workdir / "evaluation").glob("*.json"))}
    name = workdir.resolve().name
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    sections = {
        "Samples": _samples(workdir / "samples"),
        "Evaluation": run_evaluation.evaluations(evaluations, workdir / "evaluation"),
        **({"Edits": edits} if (edits := run_edits.gallery(workdir / "edited")) else {}),
        "Training": curves(metrics),
        "Configuration": settings_problem or _configuration(settings),
        "Provenance": manifest_problem or _provenance(manifest),
        "Files": _files(workdir),
    }
    family = settings.get("family", "")
    return PAGE.format(
        title=escape(f"{name} ({family})" if family else name),
        style=STYLE,
        heading=escape(name),
        command=escape(text(manifest.get("command", ""))),
        cards=_headline(settings, manifest, lines, metrics, {n: e for n, (e, _) in evaluations.items()}),
        sections="\n".join(
            f'<section id="{title.lower()}">\n<h2>{title}</h2>\n{body}\n</section>' for title, body in sections.items()
        ),
        written=now,
    )


def _read_object(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    """The JSON object in a file and "", or {} and the reason why there is none, as HTML."""
    if not path.is_file():
        return {}, absent(f"There is no {path.name} yet.")
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return {}, absent(f"{path.name} cannot be read: {error}.")
    return (content, "") if isinstance(content, dict) else ({}, absent(f"{path.name} does not hold a JSON object."))


def _headline(
    settings: Mapping, manifest: Mapping, lines: Sequence[Mapping], metrics: Mapping, evaluations: Mapping
) -> str:
    cards = [("family", text(settings["family"]))] if "family" in settings else []
    if "parameters" in manifest:
        cards.append(("parameters", f"{sum(manifest['parameters'].values()):,}"))
    for name, label in (("step", "steps"), ("images", "images seen")):
        reached = [line[name] for line in lines if name in line]
        if reached:
            cards.append((label, f"{max(reached):,}"))
    for split, logged in metrics.items():
        if "images_per_second" in logged:
            speed = median(value for _, value in logged["images_per_second"])
            cards.append(("images a second, median", f"{speed:,.0f}"))
        if "loss" in logged:
            cards.append((f"last {split} loss", text(logged["loss"][-1][1])))
    in_curves = metrics.get("evaluation", {})
    for title, evaluation in evaluations.items():
        cells = run_evaluation.metric_cells(evaluation)
        # First metrics that training did not log, such as a likelihood.
        for name in sorted(cells, key=lambda n: n in in_curves)[:2]:
            value, _, unit = cells[name]
            cards.append((f"{name.replace('_', ' ')} ({title})", f"{text(value)} {unit}"))
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in cards)


def _samples(folder: pathlib.Path) -> str:
    """At most `SAMPLE_GRIDS` grids, evenly spaced, with the first and the latest."""
    paths = sorted((p for p in folder.glob("*.png") if p.stem.isdecimal()), key=lambda p: int(p.stem))
    if not paths:
        return absent("No sample grids have been drawn yet.")
    selected = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), SAMPLE_GRIDS)).round().astype(int))
    figures = []
    for path in (paths[i] for i in reversed(selected)):
        label = f"step {int(path.stem):,}"
        figures.append(f"<figure><figcaption>{label}</figcaption>{picture(path, f'samples at {label}')}</figure>")
    left_out = len(paths) - len(selected)
    note = f"<p>{left_out} more, evenly left out, in samples/.</p>" if left_out else ""
    return f'<div class="samples">{"".join(figures)}</div>{note}'


def _configuration(settings: Mapping[str, Any]) -> str:
    """The values that differ from the family's defaults, and all values, with those rows highlighted."""
    try:
        defaults = config.flatten(config.experiment(settings.get("family", "")).to_dict())
    except ConfigError:  # a family that this version does not know
        return table(config.flatten(settings).items())
    flat = config.flatten(settings)
    marked = {key: f"default: {text(defaults.get(key))}" for key, value in flat.items() if value != defaults.get(key)}
    changed = [(key, flat[key], text(defaults.get(key))) for key in marked]
    summary = table(changed, ("key", "value", "default")) if changed else "<p>All values are the defaults.</p>"
    everything = table(flat.items(), marked=marked)
    return f"{summary}<details><summary>All {len(flat)} values</summary>{everything}</details>"


def _provenance(manifest: Mapping[str, Any]) -> str:
    """The manifest. Lists of records, such as those of resumptions, are collapsed."""
    flat = config.flatten(manifest)
    records = {k: v for k, v in flat.items() if isinstance(v, list) and v and all(isinstance(r, Mapping) for r in v)}
    folded = "".join(
        f"<details><summary>{escape(key)} {i} of {len(v)}</summary>{table(config.flatten(record).items())}</details>"
        for key, v in records.items()
        for i, record in enumerate(v, 1)
    )
    return table([row for row in flat.items() if row[0] not in records]) + folded


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
