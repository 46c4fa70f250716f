"""The evaluation section of a run's report: a card for each file, as metrics of different protocols share no table."""

import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from genimg_jax.engine import config
from genimg_jax.reports.html import absent, picture, table, text

# Keys with their own part of the card; all others are listed in a line.
PARTS = (
    *("metrics", "trained_on", "selection", "protocol", "of_reference", "verdict", "classes", "memorisation"),
    *("left_out", "files"),
)


def metric_cells(evaluation: Mapping) -> dict[str, tuple[Any, Any, str]]:
    """{name: (value, interval or "", unit)}"""
    return {
        name: (m.get("value"), m.get("interval") or "", m.get("unit") or "") if isinstance(m, Mapping) else (m, "", "")
        for name, m in evaluation.get("metrics", {}).items()
    }


def evaluations(stored: Mapping[str, tuple[Mapping, str]], folder: pathlib.Path) -> str:
    """The section for {name: (content of its file, reason why it cannot be read)}; pictures are in `folder`."""
    cards = [_card(name, evaluation, problem, folder) for name, (evaluation, problem) in stored.items()]
    figures = [_figure(path) for path in sorted(folder.glob("trajectory*.png"))]
    if not cards and not figures:
        return absent("No evaluation has been made yet.")
    return f'<div class="tables">{"".join(cards)}</div>{"".join(figures)}'


def _card(name: str, evaluation: Mapping, problem: str, folder: pathlib.Path) -> str:
    about = ", ".join(f"{k} {text(v)}" for k, v in evaluation.items() if k not in PARTS)
    of_data = _mapping(evaluation, "of_reference")
    header = ("metric", "value", "interval", "unit", *["the data"] * bool(of_data))
    rows = [
        (metric, value, f"[{text(interval)}]" if interval else "", unit, *[of_data.get(metric, "")] * bool(of_data))
        for metric, (value, interval, unit) in metric_cells(evaluation).items()
    ]
    digests = {n: m["digest"] for n, m in evaluation.get("metrics", {}).items() if "digest" in _as_mapping(m)}
    folded = {
        "Classes": _classes(_mapping(evaluation, "classes")),
        "Left out": table(list(_mapping(evaluation, "left_out").items())),
        "Trained on": table([(metric,) for metric in evaluation.get("trained_on", ())]),
        "Selection": table(list(_mapping(evaluation, "selection").items())),
        "Protocol": table(list(config.flatten(evaluation.get("protocol", {})).items())),
        "Digests": table(list(digests.items())),
    }
    # Only names: a report must not refer to files outside its folder.
    files = [pathlib.PurePath(str(file)).name for file in evaluation.get("files", [])]
    parts = [
        f"<article><h3>{escape(name)}</h3>{problem}<p>{escape(about)}</p>",
        _verdict(_mapping(evaluation, "verdict")),
        table(rows, header) if rows else "",
        *(f"<p>{escape(features)}: {escape(sentence)}</p>" for features, sentence in _memorisation(evaluation)),
        *(_figure(folder / file) for file in files if file.endswith(".png") and (folder / file).is_file()),
        *(f"<details><summary>{title}</summary>{body}</details>" for title, body in folded.items() if "<td>" in body),
        "</article>",
    ]
    return "".join(parts)


def _as_mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _mapping(evaluation: Mapping, name: str) -> Mapping:
    return _as_mapping(evaluation.get(name))


def _verdict(verdict: Mapping) -> str:
    if not verdict:
        return ""
    status = text(verdict.get("status"))
    rows = [(finding.get("status"), finding.get("sentence")) for finding in verdict.get("findings", [])]
    kind = "" if status == "healthy" else ' class="warning"'
    return f"<p><b{kind}>{escape(status)}</b></p>{table(rows)}"


def _memorisation(evaluation: Mapping) -> list[tuple[str, str]]:
    results = _mapping(evaluation, "memorisation")
    return [(f"Memorisation in {name}", text(_as_mapping(part).get("sentence"))) for name, part in results.items()]


def _classes(read: Mapping) -> str:
    names = read.get("names", [])
    columns = {name: column for name, column in read.items() if isinstance(column, list) and len(column) == len(names)}
    return table(list(zip(*columns.values(), strict=True)), list(columns))


def _figure(path: pathlib.Path) -> str:
    return f"<figure><figcaption>{escape(path.stem)}</figcaption>{picture(path, path.stem)}</figure>"
