"""The kernel distance (KID, Binkowski et al. 2018): the squared maximum mean discrepancy under a cubic kernel.

k(x, y) = (x.y / D + 1)^3. The estimate is the unbiased one over all pairs (Gretton et al. 2012, equation 3), not
clipped: it is negative about half the time when two sets have one distribution.

Its variance follows from the distance being a squared length. Let d be the difference of the sets' mean embeddings,
and C the covariance of its error. The variance is 4 d'C d + 2 tr C^2: `slope` * |d|^2 + `constant`, where the slope is
4 u'C u along the unit vector u of d. All of these are sums of kernel values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.metrics.arrays import feature_sets
from genimg_jax.metrics.pairs import BLOCK, Block, Measure, Rows, centre, flat, in_blocks, inner_products, over_pairs


class KernelDistance(NamedTuple):
    """The unbiased estimate, whose variance over draws of both sets is `slope` * distance + `constant`.

    `intervals.kernel_interval` makes an interval of it.
    """

    estimate: float
    standard_error: float
    slope: float
    constant: float
    freedom: float  # degrees of freedom of the estimated slope: few where a few elements make most of it


class SelfKernel(NamedTuple):
    """The kernel of a set with itself."""

    means: np.ndarray  # f64[N]: of each element with the others
    diagonal: np.ndarray  # f64[N]: of each element with itself
    square: float  # the mean square of the doubly centred kernel


class Cross(NamedTuple):
    """The kernel of one set with another."""

    means: np.ndarray  # f64[N]: of each element of the one with the other set
    back: np.ndarray  # f64[M]
    square: float


def _cubic(product):
    return product * (product * (product + 3) + 3)


def _values(block: Block) -> jax.Array:  # -> f32[B, C]
    """The kernel minus 1. The constant cancels in every estimate, and would cost small values digits."""
    return jnp.where(block.pairs, _cubic(inner_products(block) / block.width), 0)


def _across(state, block: Block):
    rows, columns, squares = state
    values = _values(block)
    rows = rows.at[block.row].add(values.sum(axis=1))
    columns = columns.at[block.column].add(values.sum(axis=0))
    return rows, columns, squares.at[block.row].add(jnp.square(values).sum(axis=1))


def _within(state, block: Block):
    values = _values(block)
    mirrored = jnp.where(block.row == block.column, 0.0, 1.0)

    def add(sums, values):
        return sums.at[block.row].add(values.sum(axis=1)).at[block.column].add(mirrored * values.sum(axis=0))

    return tuple(map(add, state, (values, values**2)))


def _zeros(*sets: Rows) -> tuple[np.ndarray, ...]:  # -> f32[blocks, B] ...
    return tuple(np.zeros(rows.norms.shape, np.float32) for rows in sets)


def _self_kernel(state, features: Rows, _: Rows) -> SelfKernel:
    sums, squares = (flat(sums_by_block, features).astype(np.float64) for sums_by_block in state)
    count = len(sums)
    means = sums / (count - 1)
    square = squares.sum() / (count * (count - 1))
    norms = flat(features.norms + 2 * features.offsets, features).astype(np.float64)
    return SelfKernel(
        means, _cubic(norms / features.features.shape[1]), max(square - 2 * np.mean(means**2) + np.mean(means) ** 2, 0)
    )


def _cross(state, generated: Rows, reference: Rows) -> Cross:
    n, m = len(generated.features), len(reference.features)
    means = flat(state[0], generated).astype(np.float64) / m
    back = flat(state[1], reference).astype(np.float64) / n
    square = flat(state[2], generated).astype(np.float64).sum() / (n * m)
    return Cross(means, back, max(square - np.mean(means**2) - np.mean(back**2) + means.mean() ** 2, 0))


WITHIN = Measure(lambda rows, columns: _zeros(rows, rows), _within, _self_kernel)
ACROSS = Measure(lambda rows, columns: _zeros(rows, columns, rows), _across, _cross)


def distance(first: SelfKernel, second: SelfKernel, cross: Cross) -> KernelDistance:
    """The distance from the kernels within and across two sets."""
    n, m = len(cross.means), len(cross.back)
    estimate = first.means.mean() + second.means.mean() - 2 * cross.means.mean()
    constant = 2 * first.square / (n * (n - 1)) + 2 * second.square / (m * (m - 1)) + 4 * cross.square / (n * m)
    trace = (first.diagonal - first.means).mean() / n + (second.diagonal - second.means).mean() / m
    spread, uncertainty = 0.0, 0.0  # d'C d for the sampled d, and its variance
    for within, across in ((first, cross.means), (second, cross.back)):
        count = len(across)
        along = within.means + (within.diagonal - within.means) / count - across  # element . d, up to a constant
        spread += along.var(ddof=1) / count
        uncertainty += np.square(along - along.mean()).var() / count**3
    length = estimate + trace  # squared, of the sampled d; C along any direction is at most its trace
    slope = 4 * (min(spread / length, trace) if length > 0 else trace)
    freedom = 2 * spread**2 / uncertainty if uncertainty else np.inf
    error = np.sqrt(slope * max(estimate, 0) + constant)
    return KernelDistance(*map(float, (estimate, error, slope, constant, freedom)))


def kernel_distance(generated: np.ndarray, reference: np.ndarray, block: int = BLOCK) -> KernelDistance:
    """The distance of two sets [N, D] and [M, D], over all pairs of them; `block` bounds the memory, nothing else."""
    generated, reference = feature_sets(least=4, generated=generated, reference=reference)
    middle = centre(reference)
    rows, columns = in_blocks(generated, middle, block), in_blocks(reference, middle, block)
    (first,), (second,) = (over_pairs([WITHIN], features, None, "kernel distance") for features in (rows, columns))
    (cross,) = over_pairs([ACROSS], rows, columns, "kernel distance")
    return distance(first, second, cross)
