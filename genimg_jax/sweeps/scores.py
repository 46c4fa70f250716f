"""The scores of a sweep's trials: the metrics of one checkpoint of each, from its `evaluation/` directory."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import results
from genimg_jax.options import nearest
from genimg_jax.sweeps.experiment import Measure
from genimg_jax.sweeps.trials import Trial, last_checkpoint


def evaluate(trial: Trial, measure: Measure) -> None:
    """Writes the evaluation of a trained trial. Raises a `Failure` if that is not possible."""
    from genimg_jax.evaluation import runs

    runs.evaluate_run(trial.workdir, trial.values, measure.checkpoint, measure.suite)


def path(trial: Trial, measure: Measure) -> pathlib.Path:
    return trial.workdir / "evaluation" / f"{results.file_name(measure.checkpoint, measure.suite)}.json"


def report(trial: Trial, measure: Measure) -> Mapping[str, Any]:
    """A trial's evaluation; {} if it has not been evaluated since its training ended."""
    file = path(trial, measure)
    try:
        since = last_checkpoint(trial).stat().st_mtime
        stored = json.loads(file.read_text()) if file.stat().st_mtime >= since else {}
    except (OSError, ValueError):
        return {}
    return results.recounted(stored, trial.workdir) if isinstance(stored, dict) and "metrics" in stored else {}


def evaluation(trial: Trial, measure: Measure) -> Mapping[str, Any]:
    """The metrics of a trial's report, each with its value and the digest of its protocol; {} without a report."""
    return report(trial, measure).get("metrics", {})


def evaluated(trial: Trial, measure: Measure) -> bool:
    return bool(evaluation(trial, measure))


def check_measured(measure: Measure, measured: Iterable[str]) -> None:
    """Raises `ConfigError` if an evaluation has metrics, but not those of the experiment."""
    measured = list(measured)
    for name in (measure.primary, *measure.also):
        if measured and name not in measured:
            raise ConfigError(
                f"the experiment looks at {name}, which the evaluation {measure.suite!r} of its trials does not measure"
                f"{nearest(name, measured)} Measured: {', '.join(measured)}."
            )


def value(metrics: Mapping[str, Any], name: str) -> float:
    """A metric's value; NaN if there is none."""
    return float(metrics[name]["value"]) if name in metrics else math.nan
