"""Statistics of a sweep: means over seeds, and paired differences from the baseline by seed."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from genimg_jax.metrics import intervals, significance
from genimg_jax.metrics.intervals import Interval

ENOUGH = 3  # seeds: with fewer, no configuration is called better
LEVEL = 0.05
POWER = 0.8


class Summary(NamedTuple):
    """A configuration's values over its seeds."""

    count: int
    mean: float
    deviation: float  # over seeds; NaN for a single seed
    interval: Interval | None  # of the mean, Student's; None for a single seed
    too_few_seeds: bool


class Comparison(NamedTuple):
    """A configuration minus the baseline, over the seeds that both have."""

    pairs: int
    difference: float
    interval: Interval | None  # of the mean difference, Student's; None for a single pair
    p_value: float  # of no difference, two-sided; NaN for a single pair
    adjusted: float  # p after Holm's correction over all comparisons of the sweep
    effect: float  # see `effect_size`
    detectable: float  # see `detectable_difference`, in the metric's unit
    too_few_seeds: bool


def summarize(values: np.ndarray) -> Summary:  # [N]
    """The summary of N > 0 finite values, one per seed."""
    values = np.asarray(values, np.float64)
    several = len(values) > 1
    return Summary(
        len(values),
        float(values.mean()),
        float(values.std(ddof=1)) if several else np.nan,
        intervals.mean(values) if several else None,
        len(values) < ENOUGH,
    )


def compare(configurations: Mapping[str, Mapping[int, float]], baseline: str) -> dict[str, Comparison]:
    """Compares each other configuration with the baseline, from finite {configuration: {seed: value}}.

    Skips a configuration that has no seed in common with the baseline.
    """
    base = configurations.get(baseline, {})
    pairs: dict[str, np.ndarray] = {}
    for name, values in configurations.items():
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
    """The mean difference over the standard deviation of the differences, corrected for its small-sample bias.

    Hedges 1981, eq. 6e. NaN for fewer than 3 pairs, where the correction is not defined, and for zero deviation.
    """  # [..., N] -> f64[...]
    differences = np.asarray(differences, np.float64)
    freedom = differences.shape[-1] - 1
    if freedom < 2:
        return np.full(differences.shape[:-1], np.nan)
    gamma = scipy.special.gammaln
    correction = np.exp(gamma(freedom / 2) - gamma((freedom - 1) / 2)) / np.sqrt(freedom / 2)
    deviation = differences.std(axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = correction * differences.mean(axis=-1) / deviation
    return np.where(deviation > 0, effect, np.nan)


def detectable_difference(deviation: float, pairs: int, level: float = LEVEL, power: float = POWER) -> float:
    """The true difference that this many pairs detect with the given power, if `deviation` is that of the differences.

    For one two-sided test, without correction. Infinite for one pair.
    """
    if pairs < 2:
        return np.inf
    freedom = pairs - 1
    critical = scipy.stats.t.ppf(1 - level / 2, freedom)
    # The ratio of the estimated deviation to the true one. SciPy's noncentral t is NaN for few degrees of freedom.
    quantiles = (np.arange(4096) + 0.5) / 4096
    deviations = scipy.stats.chi.ppf(quantiles, freedom) / np.sqrt(freedom)

    def excess(shift: float) -> float:  # of power over the wanted power
        normal = scipy.special.ndtr
        return float(np.mean(normal(shift - critical * deviations) + normal(-shift - critical * deviations))) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return deviation * scipy.optimize.brentq(excess, 0, high) / np.sqrt(pairs)
