"""The Frechet distance between Gaussians fitted to two sets of features (Dowson and Landau 1982; FID, Heusel et al.
2017, equation 6), from moments accumulated in float64.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg

from genimg_jax.errors import DataError
from genimg_jax.metrics.arrays import feature_set, feature_sets

ROWS = 1024  # rows added at a time


class Moments(NamedTuple):
    """Count, mean f64[D], and the sum of squared deviations from the mean, f64[D, D]."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def covariance(self) -> np.ndarray:  # -> f64[D, D]
        """The unbiased covariance, as every published FID uses."""
        return self.scatter / (self.count - 1)


def _moments(rows: np.ndarray) -> Moments:  # [n, D]
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    deviations = rows - mean
    return Moments(len(rows), mean, deviations.T @ deviations)


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of the union of two disjoint sets (Chan, Golub and LeVeque 1983, equation 2.1)."""
    count = first.count + second.count
    shift = second.mean - first.mean
    scatter = first.scatter + second.scatter + np.outer(shift, shift * (first.count * second.count / count))
    return Moments(count, first.mean + shift * (second.count / count), scatter)


def without(whole: Moments, part: Moments) -> Moments:
    """The moments of a set less a part of it: the inverse of `merge`."""
    count = whole.count - part.count
    mean = whole.mean + (whole.mean - part.mean) * (part.count / count)
    shift = part.mean - mean
    scatter = whole.scatter - part.scatter - np.outer(shift, shift * (part.count * count / whole.count))
    return Moments(count, mean, scatter)


def _regrouped(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:  # [n, D] ... -> [ROWS, D] ...
    """The same rows in the same order, `ROWS` at a time."""
    pending, count = [], 0
    for batch in batches:
        while len(batch):
            pending.append(batch[: ROWS - count])
            batch, count = batch[ROWS - count :], count + len(pending[-1])
            if count == ROWS:
                yield np.concatenate(pending)
                pending, count = [], 0
    if pending:
        yield np.concatenate(pending)


def moments(features: np.ndarray | Iterable[np.ndarray], name: str = "given") -> Moments:
    """The moments of a set, or of a stream of batches too large to hold, to the last bit whatever the batches' sizes.

    `name` is what errors call the set. Raises `DataError` on values that are not finite, or no samples.
    """
    batches = [features] if isinstance(features, np.ndarray) else features
    total = None
    for rows in _regrouped(feature_set(batch, name, least=0) for batch in batches):
        total = _moments(rows) if total is None else merge(total, _moments(rows))
    if total is None:
        raise DataError(f"there are no {name} samples.")
    return total


def _factor(covariance: np.ndarray) -> np.ndarray:  # f64[D, D] -> f64[D, R]
    """F of full column rank with F F' the covariance, by Cholesky's decomposition with pivots (Higham 1990): directions
    that hold only rounding are cut, and a low rank is cheap."""
    tolerance = len(covariance) * np.finfo(np.float64).eps * np.diag(covariance).max(initial=0)
    lower, pivots, rank, _ = scipy.linalg.lapack.dpstrf(covariance, tol=tolerance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared Frechet (Wasserstein-2) distance of the two fitted Gaussians: what FID reports. At least 0.

    Covariances of any rank will do. With F F' = S1, the trace of the square root is that of F' S2 F, symmetric and of
    the size of S1's rank: a symmetric eigenvalue problem. That is five times faster than a square root of S1 S2, and
    never complex. What is cut of S1 weighs at most sqrt(D eps) of the traces, 1e-6 at 2,048 features, and that only
    where S2 is large in just those directions. The distance is biased upwards by order 1/N, see
    `intervals.frechet_interval`.
    """
    if first.mean.shape != second.mean.shape:
        raise DataError(
            f"the feature sets differ in width, {len(first.mean)} and {len(second.mean)}; "
            "take both from one feature network."
        )
    if min(first.count, second.count) < 2:
        raise DataError("a covariance needs at least 2 samples, and a set has 1.")
    factor, covariance = _factor(first.covariance), second.covariance
    values = np.linalg.eigvalsh(factor.T @ covariance @ factor)
    overlap = np.sqrt(np.maximum(values, 0)).sum()
    shift = np.square(first.mean - second.mean).sum()
    return float(max(shift + np.square(factor).sum() + np.trace(covariance) - 2 * overlap, 0))


def fewest(width: int, blocks: int) -> int:
    """How many samples of `width` features a jackknife of so many blocks needs: more than features in all but one."""
    return max(-(-(width + 1) * blocks // (blocks - 1)), blocks)


def frechet_replicates(
    generated: np.ndarray, reference: np.ndarray, blocks: int = 20, seed: int = 0
) -> tuple[float, np.ndarray]:  # [N, D], [M, D] -> f64[], f64[blocks]
    """The distance of two whole sets, and without block b of each of them in turn, for a jackknife.

    Rows are dealt to blocks at random, from the seed and a set's size alone: a set sorted by class does no harm.
    Raises `DataError` where the smaller set without a block has no more samples than features: a covariance that is
    singular only for want of samples has a bias that no extrapolation removes.
    """
    generated, reference = feature_sets(generated=generated, reference=reference)
    smallest, width = min(len(generated), len(reference)), generated.shape[1]
    if smallest < fewest(width, blocks):
        raise DataError(
            f"an interval of a Frechet distance in {width} dimensions needs at least {blocks} samples, and more than "
            f"{width} after leaving out one of {blocks} blocks; the smaller set has {smallest}; use more samples, or "
            "fewer features."
        )

    def random_blocks(features: np.ndarray) -> list[np.ndarray]:
        return np.array_split(np.random.default_rng(seed).permutation(len(features)), blocks)

    whole = moments(generated), moments(reference)
    replicates = [
        frechet_distance(
            without(whole[0], moments(generated[generated_rows])), without(whole[1], moments(reference[reference_rows]))
        )
        for generated_rows, reference_rows in zip(random_blocks(generated), random_blocks(reference), strict=True)
    ]
    return frechet_distance(*whole), np.array(replicates)
