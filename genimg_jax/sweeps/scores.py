"""What the cells of a sweep came to: the metrics of one checkpoint of each, from its `evaluation/` directory."""

import json
import math
from collections.abc import Mapping
from typing import Any

from genimg_jax.sweeps.cells import Cell
from genimg_jax.sweeps.experiment import Measure


def evaluate(cell: Cell, measure: Measure) -> None:
    """Writes the evaluation of a trained cell. Raises a `Failure` where it cannot be made."""
    from genimg_jax.data import open_source
    from genimg_jax.engine import restored
    from genimg_jax.evaluation import likelihood, results

    program, weights, step, _ = restored.open_run(cell.workdir, cell.values, measure.checkpoint)
    options = program.config.data
    source = open_source(options, options.evaluate_split)
    found = likelihood.measure(program, weights, source, options)
    report = {
        "checkpoint": measure.checkpoint,
        "step": step,
        "split": options.evaluate_split,
        "examples": source.size,
        "metrics": {name: results.metric(value) for name, value in found.items()},
    }
    results.write(_path(cell, measure), report)


def _path(cell: Cell, measure: Measure):
    return cell.workdir / "evaluation" / f"{measure.checkpoint}.json"


def evaluation(cell: Cell, measure: Measure) -> Mapping[str, Any]:
    """The metrics of a cell, each with its value, interval and digest; {} where it has not been evaluated."""
    try:
        return json.loads(_path(cell, measure).read_text())["metrics"]
    except (OSError, ValueError, KeyError):
        return {}


def evaluated(cell: Cell, measure: Measure) -> bool:
    return bool(evaluation(cell, measure))


def value(metrics: Mapping[str, Any], name: str) -> float:
    """A metric's value; not a number where there is none."""
    return float(metrics[name]["value"]) if name in metrics else math.nan
