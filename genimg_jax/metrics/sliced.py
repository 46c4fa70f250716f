"""The sliced Wasserstein distance: exact optimal transport along many random directions (Rabin et al. 2012)."""

from typing import NamedTuple

import numpy as np

from genimg_jax.metrics.arrays import feature_sets

DIRECTIONS = 64  # projected at a time


class SlicedDistance(NamedTuple):
    """The root of the mean squared distance over directions. The standard error is that of sampling the directions; it
    does not include the sampling noise of the two sets."""

    estimate: float
    standard_error: float
    directions: int


def _levels(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # -> i64[L], i64[L], f64[L]
    """Where the steps of two empirical quantile functions lie: pieces of constant value, which order statistic of
    either set holds on each, and how long each is."""
    steps = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m), so exact
    return (steps - 1) // m, (steps - 1) // n, np.diff(steps, prepend=0) / (n * m)


def sliced_distance(
    generated: np.ndarray, reference: np.ndarray, directions: int = 512, seed: int = 0
) -> SlicedDistance:  # [N, D], [M, D]
    """The sliced Wasserstein-2 distance of two empirical distributions, of any two sizes.

    A direction is uniform on the sphere; along it, the squared distance is the integral of the squared difference of
    the quantile functions (Bonneel et al. 2015, equation 10). It grows as 1/sqrt(D) of a distance in the whole space.
    """
    generated, reference = feature_sets(least=1, generated=generated, reference=reference)
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(directions, generated.shape[1]))
    axes = (axes / np.linalg.norm(axes, axis=1, keepdims=True)).astype(np.float32)
    shift = reference.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = [features - shift for features in (generated, reference)]  # so that float32 is spent on differences
    first, second, lengths = _levels(len(generated), len(reference))
    squared = []
    for start in range(0, directions, DIRECTIONS):
        part = axes[start : start + DIRECTIONS]
        ours, theirs = (np.sort(part @ features.T, axis=1) for features in centred)
        squared.append(np.square(ours[:, first] - theirs[:, second], dtype=np.float64) @ lengths)
    squared = np.concatenate(squared)
    estimate = np.sqrt(squared.mean())
    error = squared.std(ddof=1) / np.sqrt(directions) / (2 * estimate) if estimate else 0.0
    return SlicedDistance(float(estimate), float(error), directions)
