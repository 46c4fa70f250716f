"""Restores given images by a run, several times each, and scores the results."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from genimg_jax import core, directions
from genimg_jax.engine.program import Program, run
from genimg_jax.engine.tasks import given_batches
from genimg_jax.metrics import calibration, restoration
from genimg_jax.metrics.restoration import Comparison
from genimg_jax.metrics.specs import Measurement
from genimg_jax.tasks.restoration import Restoration


class Restorations(NamedTuple):
    """N images, each restored K times from one observation."""

    original: np.ndarray
    """f32[N, H, W, C] in [-1, 1]"""
    shown: np.ndarray
    """What is observed, in the images' size: f32[N, H, W, c]."""
    results: np.ndarray
    """f32[K, N, H, W, C] in [-1, 1]"""
    residual: np.ndarray
    """f32[K, N], see `tasks.restoration.Restored`."""
    known: np.ndarray
    """bool[N, H, W], pixels that are known exactly."""


def restore(
    program: Program,
    weights: core.Weights,
    images: np.ndarray,
    task: Restoration,
    count: int,
    seed: int,
    conditions_of: Callable[[np.ndarray], core.Batch] = lambda index: {},
) -> Restorations:
    """`count` restorations of each image u8[N, H, W, C], in the levels of the run's data."""
    batches = given_batches(program, images, conditions_of, count)
    rows = run(program, task, weights, batches, count * len(images), seed)
    original, image, shown, residual, known = (x.reshape(len(images), count, *x.shape[1:]).swapaxes(0, 1) for x in rows)
    return Restorations(original[0], shown[0], image, residual, known[0])


def measure(restored: Restorations, levels: int, comparison: Comparison) -> dict[str, Measurement]:
    """Scores of the first restoration of each image and, with several, of all of them together.

    Calibration is that of pixels that are not known; images rounded to the `levels` of the data have ties.
    """
    first = restored.results[0]
    measured = restoration.measurements(first, restored.original, comparison)
    protocol = {"mean": "root mean square", "unit": "[-1, 1]", "of": "what is observed"}
    measured["residual"] = restoration.measurement("residual", restored.residual[0], comparison, protocol)
    if len(restored.results) == 1:
        return measured
    hidden = ~restored.known[..., None]
    some = hidden.any((1, 2, 3))
    rounded = (_rounded(x, levels) for x in (restored.results[:, some], restored.original[some]))
    return measured | calibration.measurements(*rounded, comparison, hidden[some])


def _rounded(images: np.ndarray, levels: int) -> np.ndarray:
    return np.round((images + 1) * (levels - 1) / 2) * (2 / (levels - 1)) - 1


def table(measured: Mapping[str, Measurement]) -> str:
    """A line for each score, with its interval of 95 % over images."""
    names = {name: directions.arrow(name) for name in measured}
    width = max(map(len, names.values()))
    lines = []
    for name, each in measured.items():
        interval = "" if each.low is None else f"  [{each.low:.4g}, {each.high:.4g}]"
        lines.append(f"{names[name]:{width}}  {each.value:8.4g}{interval}")
    return "\n".join(lines)
