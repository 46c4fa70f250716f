"""How sure a sweep is: means over seeds, and differences from the baseline in pairs of equal seed."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from genimg_jax.metrics import intervals, significance
from genimg_jax.metrics.intervals import Interval

ENOUGH = 3  # seeds: with fewer nothing is claimed
LEVEL = 0.05
POWER = 0.8


class Summary(NamedTuple):
    """A setting's values over its seeds."""

    count: int
    mean: float
    deviation: float  # of one seed; not a number for a single one
    interval: Interval | None  # of the mean, Student's; None for a single seed
    too_few_seeds: bool


class Comparison(NamedTuple):
    """A setting less the baseline, over the seeds that both have."""

    pairs: int
    difference: float
    interval: Interval | None  # of the mean difference, Student's; None for a single pair
    p_value: float  # of no difference, two-sided; not a number for a single pair
    adjusted: float  # the same after Holm's correction over all comparisons of the sweep
    effect: float  # see `effect_size`
    detectable: float  # see `detectable_difference`, in the metric's unit
    too_few_seeds: bool


def summarize(values: np.ndarray) -> Summary:  # [N]
    """Of N > 0 finite values, one a seed."""
    values = np.asarray(values, np.float64)
    several = len(values) > 1
    return Summary(
        len(values),
        float(values.mean()),
        float(values.std(ddof=1)) if several else np.nan,
        intervals.mean(values) if several else None,
        len(values) < ENOUGH,
    )


def compare(settings: Mapping[str, Mapping[int, float]], baseline: str) -> dict[str, Comparison]:
    """Each setting but the baseline against it, from {setting: {seed: value}} with finite values alone.

    A setting without a seed in common with the baseline is left out.
    """
    base = settings.get(baseline, {})
    pairs: dict[str, np.ndarray] = {}
    for name, values in settings.items():
        shared = sorted(base.keys() & values.keys())
        if name != baseline and shared:
            pairs[name] = np.array([values[seed] - base[seed] for seed in shared], np.float64)
    tested = significance.paired(pairs)
    return {
        name: Comparison(
            *tested[name],
            float(effect_size(d)),
            detectable_difference(float(d.std(ddof=1)), len(d)) if len(d) > 1 else np.nan,
            len(d) < ENOUGH,
        )
        for name, d in pairs.items()
    }


def effect_size(differences: np.ndarray) -> np.ndarray:
    """The mean difference in standard deviations of one pair's, less its bias in small samples (Hedges 1981, eq. 6e).

    Not a number for fewer than 3 pairs, where that correction is not defined, and without any spread.
    """  # [..., N] -> f64[...]
    differences = np.asarray(differences, np.float64)
    freedom = differences.shape[-1] - 1
    if freedom < 2:
        return np.full(differences.shape[:-1], np.nan)
    gamma = scipy.special.gammaln
    correction = np.exp(gamma(freedom / 2) - gamma((freedom - 1) / 2)) / np.sqrt(freedom / 2)
    deviation = differences.std(axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = correction * differences.mean(axis=-1) / deviation
    return np.where(deviation > 0, found, np.nan)


def detectable_difference(deviation: float, pairs: int, level: float = LEVEL, power: float = POWER) -> float:
    """The true difference that this many pairs would find with the given power, were `deviation` that of one pair.

    That is one two-sided test, before any correction. Infinite for one pair.
    """
    if pairs < 2:
        return np.inf
    freedom = pairs - 1
    critical = scipy.stats.t.ppf(1 - level / 2, freedom)
    # The estimated deviation over the true one. SciPy's noncentral t is not a number for few degrees of freedom.
    quantiles = (np.arange(4096) + 0.5) / 4096
    deviations = scipy.stats.chi.ppf(quantiles, freedom) / np.sqrt(freedom)

    def missing(shift: float) -> float:  # of the power
        normal = scipy.special.ndtr
        return float(np.mean(normal(shift - critical * deviations) + normal(-shift - critical * deviations))) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return deviation * scipy.optimize.brentq(missing, 0, high) / np.sqrt(pairs)
