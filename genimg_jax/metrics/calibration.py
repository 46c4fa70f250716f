"""Whether K samples for each image are samples of the posterior: ranks of the truth, proper scores, and spread.

Arrays are samples [K, N, ...] and truths [N, ...] on one scale, best rounded to the data's levels first: a pixel that
is -1 in the truth and -1 + 1e-7 in the samples is no tie. Entries that are False in `where` (it broadcasts to the
truths) are left out. Leave out the known pixels of inpainting: they are ties, and count as calibrated.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from genimg_jax.errors import DataError
from genimg_jax.metrics.restoration import (
    PSNR_PROTOCOL,
    Comparison,
    entries,
    entry_mean,
    measurement,
    psnr,
    root_mean_square,
    spec,
)
from genimg_jax.metrics.specs import Measurement

LEVELS = (0.5, 0.9, 0.95)  # of credible intervals
TINY = np.finfo(np.float64).eps  # added to variances that may be 0


def rank_histograms(samples: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """The share of each image's entries in which the truth has rank 0 to K: that many samples lie below it.

    The truth and K samples of its posterior are exchangeable, so that the rank is uniform (Anderson 1996; Talts et al.
    2018). Where e samples tie with the truth, each of the e + 1 ranks that the truth could take gets an equal part of
    the entry: the expectation over ties in random order (Czado, Gneiting and Held 2009), without a draw.
    """  # [K, N, ...], [N, ...] -> f64[N, K + 1]
    _check(samples, truth)
    count, images = samples.shape[:2]
    lowest = sum((x < truth).reshape(images, -1).astype(np.int64) for x in samples)
    ties = sum((x == truth).reshape(images, -1).astype(np.int64) for x in samples)
    share = entries(where, truth.shape).reshape(images, -1) / (ties + 1)
    # An entry adds its share from its lowest rank on, and takes it away after its highest.
    start = np.arange(images)[:, None] * (count + 2) + lowest
    steps = [np.bincount(x.ravel(), share.ravel(), images * (count + 2)) for x in (start, start + ties + 1)]
    totals = (steps[0] - steps[1]).reshape(images, count + 2)[:, :-1].cumsum(axis=1)
    return totals / totals.sum(axis=1, keepdims=True)


def credible_coverage(histograms: np.ndarray, level: float) -> np.ndarray:  # f64[N, K + 1] -> f64[N]
    """The share of an image's entries in the central credible interval of this level, from `rank_histograms`.

    A uniform number in place of the rank r, (r + U) / (K + 1) with U uniform in [0, 1], lies in the central interval
    with probability `level` exactly, for any K, if samples are exact. The weight of a rank is that probability given r:
    the part of [r, r + 1] in [t, K + 1 - t], where t = (K + 1)(1 - level) / 2. With t < 1 the outermost ranks count as
    partly covered, and no sampler scores less than 1 - t: levels 50, 90 and 95 % need K of 3, 19 and 39 to reach 0.
    Values at high levels are skewed: of 40 images whose pixels depend much on each other, 95 % intervals for the mean
    at level 90 % missed in 5 to 9 % of simulations.
    """
    count = histograms.shape[1]
    outside = count * (1 - level) / 2
    return histograms @ np.diff(np.clip(np.arange(count + 1), outside, count - outside))


class RankUniformity(NamedTuple):
    shares: np.ndarray
    """f64[K + 1], the share of each rank: high at both ends of overconfident samplers, high in the middle of others."""
    total_variation: float
    """Half the sum of absolute differences from 1 / (K + 1)."""
    chance: float
    """About the total variation that is expected of exact samples, for as many images."""
    p_value: float
    """Of the test that ranks are uniform."""


def rank_uniformity(histograms: np.ndarray) -> RankUniformity:  # f64[N, K + 1]
    """The mean rank histogram of at least two images, and its distance from uniform.

    The test compares the squared distance with the trace of the covariance between images, as F of the degrees of
    freedom that the covariance leaves (Box 1954), corrected for few images (Huynh and Feldt 1976). It needs no inverse,
    and allows any dependence within an image.
    """
    images, ranks = histograms.shape
    if images < 2:
        raise DataError("a rank histogram of one image has no error; give at least 2 images.")
    deviation = histograms.mean(axis=0) - 1 / ranks
    covariance = np.cov(histograms.T) / images
    trace = np.trace(covariance) + TINY
    box = trace**2 / (np.square(covariance).sum() + TINY**2)
    freedom = min((images * box - 2) / max(images - 1 - box, TINY), ranks - 1)
    p_value = scipy.stats.f.sf(deviation @ deviation / trace, freedom, freedom * (images - 1))
    # The mean absolute value of a normal number is sqrt(2 / pi) deviations.
    chance = np.sqrt(2 / np.pi * np.diag(covariance)).sum() / 2
    return RankUniformity(deviation + 1 / ranks, float(np.abs(deviation).sum() / 2), float(chance), float(p_value))


def crps(samples: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """The continuous ranked probability score of single entries, averaged (Gneiting and Raftery 2007, section 4.2).

    Fair (Ferro 2014): without bias for that of infinitely many samples. It may be below 0.
    """  # [K, N, ...], [N, ...] -> f64[N]
    return _energy(lambda difference: entry_mean(np.abs(difference), where), samples, truth)


def energy_score(samples: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """The energy score of whole images (Gneiting and Raftery 2007, section 4.3), fair as `crps` is.

    Distances are root mean squares over the entries, so that images of any size have one scale.
    """  # [K, N, ...], [N, ...] -> f64[N]
    return _energy(lambda difference: root_mean_square(difference, where), samples, truth)


def diversity(samples: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:  # [K, N, ...] -> f64[N]
    """The mean squared difference of two samples, an entry. Samples of the exact posterior differ from the truth by as
    much on average."""
    return 2 * entry_mean(samples.var(axis=0, ddof=1, dtype=np.float64), where)


def psnr_of_mean(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:  # f32[K, N, H, W, C], f32[N, H, W, C] -> f64[N]
    """The PSNR of the mean of the K samples, an estimate of the posterior mean, which has the least squared error.

    The mean of K exact samples has 1 + 1 / K times that error: 0.5 dB less at K = 8.
    """
    _check(samples, truth)
    return psnr(samples.mean(axis=0, dtype=np.float64), truth)


def measurements(
    samples: np.ndarray,
    truth: np.ndarray,
    comparison: Comparison,
    where: np.ndarray | None = None,
    levels: Sequence[float] = LEVELS,
) -> dict[str, Measurement]:  # f32[K, N, H, W, C], f32[N, H, W, C] in [-1, 1]
    """All scores of this file. `rank_deviation` is the total variation of `rank_uniformity`, without an interval."""
    _check(samples, truth)
    count, images = samples.shape[:2]
    protocol = {"entries": "all" if where is None else "selected"}
    histograms = rank_histograms(samples, truth, where)

    def mean(metric: str, values: np.ndarray, **more: str | float) -> Measurement:
        return measurement(metric, values, comparison, {**protocol, **more}, samples=count)

    measured = {
        f"credible_coverage/{100 * level:g}": mean(
            "credible_coverage",
            credible_coverage(histograms, level),
            interval="central",
            ties="equal parts",
            share=level,
        )
        for level in levels
    }
    measured["crps"] = mean("crps", crps(samples, truth, where), estimator="fair")
    measured["energy_score"] = mean("energy_score", energy_score(samples, truth, where), estimator="fair", norm="rms")
    measured["diversity"] = mean("diversity", diversity(samples, where), distance="mean square")
    of_mean = psnr_of_mean(samples, truth)
    measured["psnr_of_mean"] = measurement("psnr_of_mean", of_mean, comparison, PSNR_PROTOCOL, samples=count)
    if images > 1:
        described = spec("rank_deviation", images, comparison, {**protocol, "ties": "equal parts"}, samples=count)
        measured["rank_deviation"] = Measurement(rank_uniformity(histograms).total_variation, described)
    return measured


def _check(samples: np.ndarray, truth: np.ndarray) -> None:
    if samples.shape[1:] != truth.shape or len(samples) < 2 or not len(truth):
        raise DataError(
            f"samples of shape {samples.shape} and truths of shape {truth.shape} are not [K, N, ...] and [N, ...] with "
            "at least 2 samples for each image."
        )
    if not (np.isfinite(samples).all() and np.isfinite(truth).all()):
        raise DataError("some samples or truths are not finite.")


def _energy(distance: Callable, samples: np.ndarray, truth: np.ndarray) -> np.ndarray:  # [K, N, ...] -> f64[N]
    """E d(X, truth) - E d(X, X') / 2, over samples and over pairs of different samples."""
    _check(samples, truth)
    samples, truth = samples.astype(np.float64), truth.astype(np.float64)
    error = np.mean([distance(x - truth) for x in samples], axis=0)
    spread = np.mean([distance(x - y) for x, y in itertools.combinations(samples, 2)], axis=0)
    return error - spread / 2
