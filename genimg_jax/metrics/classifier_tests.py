"""The mathematics of GAN-train and GAN-test (Shmelkov et al. 2018) and of conditional accuracy.

GAN-train: a classifier trained on generated images, tested on real ones. GAN-test: one trained on real images, tested
on generated ones. Both mean something only beside the control, trained and tested on real images by the same recipe.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

from genimg_jax.errors import DataError
from genimg_jax.metrics.intervals import Interval, normal


def _labels(values: np.ndarray, name: str) -> np.ndarray:  # [N] -> int[N]
    values = np.asarray(values)
    if values.ndim != 1 or len(values) == 0 or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{name} must be a list of class numbers; found {values.dtype} of shape {values.shape}.")
    return values


def _correct(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:  # [N], [N] -> bool[N]
    predictions, labels = _labels(predictions, "predictions"), _labels(labels, "labels")
    if len(predictions) != len(labels):
        raise DataError(f"there are {len(predictions)} predictions for {len(labels)} labels.")
    return predictions == labels


def proportion(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a probability, whose coverage is `level` on average."""
    low, high = scipy.stats.binomtest(int(successes), int(trials)).proportion_ci(level, "wilson")
    share = successes / trials
    return Interval(share, float(low), float(high), float(np.sqrt(share * (1 - share) / trials)), level)


def accuracy(predictions: np.ndarray, labels: np.ndarray, level: float = 0.95) -> Interval:
    """The probability that the classifier is right about an image like these."""  # [N], [N]
    correct = _correct(predictions, labels)
    return proportion(correct.sum(), len(correct), level)


def class_accuracies(
    predictions: np.ndarray, labels: np.ndarray, classes: int, level: float = 0.95
) -> list[Interval | None]:  # [N], [N] -> [classes]
    """The accuracy within each true (or asked-for) class; None where there is no image of it."""
    correct = _correct(predictions, labels)
    hits, totals = np.bincount(labels[correct], minlength=classes), np.bincount(labels, minlength=classes)
    return [proportion(h, n, level) if n else None for h, n in zip(hits, totals, strict=True)]


def accuracy_difference(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, level: float = 0.95
) -> Interval:  # [N] x 3
    """How much more accurate the first classifier is than the second, both tested on the same images: GAN-train less
    its control. Paired, so that images which both find hard do not widen it.

    Bonett and Price 2012, equation 3: one image more is counted on which only the first is right, and one on which only
    the second is. Without them the interval has no width where the two never differ, and is too narrow where they
    seldom do.
    """
    first, second = _correct(first, labels), _correct(second, labels)
    count = len(first) + 2
    ahead, behind = (np.sum(a & ~b) + 1 for a, b in ((first, second), (second, first)))
    shifted = normal(
        (ahead - behind) / count,
        np.sqrt((ahead + behind) / count - ((ahead - behind) / count) ** 2) / np.sqrt(count),
        level,
    )
    estimate = (ahead - behind) / len(first)
    return shifted._replace(estimate=float(estimate), low=max(shifted.low, -1.0), high=min(shifted.high, 1.0))


def independent_difference(first: Interval, second: Interval) -> Interval:
    """The difference of two accuracies on different images: GAN-test less its control.

    Newcombe 1998, method 10: the distances of both estimates from the ends of their Wilson intervals add as squares.
    """
    if first.level != second.level:
        raise DataError(f"intervals of {first.level} and {second.level} confidence cannot be subtracted.")
    estimate = first.estimate - second.estimate
    below = np.hypot(first.estimate - first.low, second.high - second.estimate)
    above = np.hypot(first.high - first.estimate, second.estimate - second.low)
    error = np.hypot(first.standard_error, second.standard_error)
    return Interval(estimate, float(estimate - below), float(estimate + above), float(error), first.level)


class ClassBalance(NamedTuple):
    shares: np.ndarray
    """f64[K], of generated images read as each class."""
    expected: np.ndarray
    """f64[K], of reference images."""
    total_variation: float
    """Half the sum of absolute differences: the share of images that would have to change class. 0 to 1."""
    chance: float
    """About the total variation that is expected between two sets of these sizes from one distribution."""
    p_value: float
    """That of the chi-squared test that both sets of labels come from one distribution."""


def class_balance(predictions: np.ndarray, reference: np.ndarray, classes: int) -> ClassBalance:  # [N], [M]
    """Compare how often each class is read in generated and in reference images, best by the same classifier: its own
    errors then cancel."""
    counts = []
    for name, values in (("predictions", predictions), ("reference classes", reference)):
        values = _labels(values, name)
        if values.min() < 0 or values.max() >= classes:
            raise DataError(f"the {name} hold class {values.min()} to {values.max()}; there are {classes} classes.")
        counts.append(np.bincount(values, minlength=classes))
    shares, expected = (count / count.sum() for count in counts)
    table = np.stack(counts)[:, np.sum(counts, axis=0) > 0]
    p_value = scipy.stats.chi2_contingency(table, correction=False).pvalue if table.shape[1] > 1 else 1.0
    # Each class's difference is nearly normal, with this variance and mean absolute value sqrt(2 variance / pi).
    pooled = np.sum(counts, axis=0) / np.sum(counts)
    variances = pooled * (1 - pooled) * sum(1 / count.sum() for count in counts)
    chance = np.sqrt(2 * variances / np.pi).sum() / 2
    return ClassBalance(shares, expected, float(np.abs(shares - expected).sum() / 2), float(chance), float(p_value))
