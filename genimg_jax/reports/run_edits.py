"""What `genimg edit` made of images with a run, as a part of its page: every task's grid, method and scores."""

import json
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from genimg_jax import directions
from genimg_jax.reports.html import picture, table, text

RECORD, SCORES = "edit.json", "scores.json"
SCORE = ("score", "mean", "95 % interval")


def gallery(folder: pathlib.Path) -> str:
    """A figure for each directory of `folder`, by name, with the grid that it holds; "" if there is none."""
    figures = "".join(map(_figure, sorted(path.parent for path in folder.glob("*/grid.png"))))
    return figures and f'<div class="samples">{figures}</div>'


def _figure(place: pathlib.Path) -> str:
    record, scores = (_read(place / name) for name in (RECORD, SCORES))
    task, options = text(record.get("task", place.name)), record.get("options") or {}
    asked = "".join(f" --task.{name}={value}" for name, value in options.items())
    rows = [_row(name, each) for name, each in (scores.get("scores") or {}).items()]
    about = f"{text(record.get('method', ''))}, step {text(record.get('step', ''))}" if record else ""
    return (
        f"<figure><figcaption><div><code>genimg edit {escape(task + asked)}</code></div>{escape(about)}</figcaption>"
        + picture(place / "grid.png", f"results of {task}")
        + (f"<details><summary>Scores</summary>{table(rows, SCORE)}</details>" if rows else "")
        + "</figure>"
    )


def _row(name: str, score: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = score.get("low"), score.get("high")
    interval = "" if low is None else f"{text(low)} to {text(high)}"
    return directions.arrow(name), text(score.get("value")), interval


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
