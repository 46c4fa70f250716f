"""Tests of differences that are measured in pairs: of equal seed, or of the same image.

Every function takes its values along the last axis. The other axes hold simulations, by which error rates are tested.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats

from genimg_jax.metrics import intervals
from genimg_jax.metrics.intervals import Interval


class Paired(NamedTuple):
    """The differences of one pair of models or settings."""

    pairs: int
    difference: float  # their mean
    interval: Interval | None  # of the mean, Student's; None for a single pair, and for differences that are not finite
    p_value: float  # see `p_value`
    adjusted: float  # the same after Holm's correction over all that are compared at once


def paired(differences: Mapping[str, np.ndarray]) -> dict[str, Paired]:  # {name: [N]}
    """Each set of differences against 0."""
    values = {name: np.asarray(d, np.float64) for name, d in differences.items()}
    p_values = np.array([float(p_value(d)) for d in values.values()])
    return {
        name: Paired(
            len(d),
            float(d.mean()),
            intervals.mean(d) if len(d) > 1 and np.isfinite(d).all() else None,
            float(p),
            float(adjusted),
        )
        for (name, d), p, adjusted in zip(values.items(), p_values, holm(p_values), strict=True)
    }


def shown(result: Paired) -> str:
    """The mean difference, and its interval in brackets."""
    ends = "" if result.interval is None else f" [{result.interval.low:+.4g}, {result.interval.high:+.4g}]"
    return f"{result.difference:+.4g}{ends}"


def p_value(differences: np.ndarray) -> np.ndarray:
    """Student's paired test, two-sided: how likely a mean this far from 0 is where there is no difference.

    Differences that are all 0 give 1, and other equal differences 0. A single difference, or one that is not finite,
    gives NaN.
    """  # [..., N] -> f64[...]
    differences = np.asarray(differences, np.float64)
    count = differences.shape[-1]
    if count < 2:
        return np.full(differences.shape[:-1], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, error = differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / np.sqrt(count)
        p = 2 * scipy.stats.t.sf(np.abs(mean / error), count - 1)
    alike = np.where(mean == 0, 1.0, 0.0)
    return np.where(error == 0, alike, p)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm 1979: the smallest level at which each would be rejected while the chance of rejecting any true hypothesis
    stays below it, however they depend on one another. NaNs do not count as hypotheses, and stay NaN."""
    # [..., M] -> f64[..., M]
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, axis=-1)  # not a number: last
    count = np.isfinite(p_values).sum(axis=-1, keepdims=True)
    factors = np.maximum(count - np.arange(p_values.shape[-1]), 1)
    steps = np.minimum(factors * np.take_along_axis(p_values, order, axis=-1), 1.0)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(steps, axis=-1), axis=-1)
    return adjusted
