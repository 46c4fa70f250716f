"""The kernel distance (KID, Binkowski et al. 2018): the squared maximum mean discrepancy under a cubic kernel.

k(x, y) = (x.y / D + 1)^3. The estimate is the unbiased one over all pairs (Gretton et al. 2012, equation 3), not
clipped: it is negative about half the time when two sets have one distribution.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.metrics.arrays import feature_sets
from genimg_jax.metrics.pairs import BLOCK, Block, flat, over_pairs


class KernelDistance(NamedTuple):
    """The unbiased estimate, and its standard error over draws of both sets."""

    estimate: float
    standard_error: float


def _values(block: Block, width: jax.Array) -> jax.Array:  # -> f32[B, B]
    """The kernel less 1, a constant that all the estimates are blind to and that would cost small values digits."""
    product = block.products / width
    return jnp.where(block.pairs, product * (product * (product + 3) + 3), 0)


def _across(state, block: Block):
    width, rows, columns, squares = state
    values = _values(block, width)
    rows = rows.at[block.row].add(values.sum(axis=1))
    columns = columns.at[block.column].add(values.sum(axis=0))
    return width, rows, columns, squares.at[block.row].add(jnp.square(values).sum(axis=1))


def _within(state, block: Block):
    width, rows, squares = state
    values = _values(block, width)
    mirrored = jnp.where(block.row == block.column, 0.0, 1.0)

    def add(sums, values):
        return sums.at[block.row].add(values.sum(axis=1)).at[block.column].add(mirrored * values.sum(axis=0))

    return width, add(rows, values), add(squares, values**2)


def _zeros(count: int, block: int) -> np.ndarray:  # -> f32[blocks, block]
    return np.zeros((-(-count // block), block), np.float32)


def _self_means(features: np.ndarray, block: int) -> tuple[np.ndarray, float]:  # [N, D] -> f64[N], f64[]
    """Each element's mean kernel with the others, and the mean square of the doubly centred kernel."""
    count, width = features.shape
    state = np.float32(width), _zeros(count, block), _zeros(count, block)
    _, sums, squares = over_pairs(_within, state, features, None, block, "kernel distance")
    means = flat(sums, count).astype(np.float64) / (count - 1)
    square = flat(squares, count).astype(np.float64).sum() / (count * (count - 1))
    return means, max(square - 2 * np.mean(means**2) + np.mean(means) ** 2, 0)


def kernel_distance(generated: np.ndarray, reference: np.ndarray, block: int = BLOCK) -> KernelDistance:
    """The distance of two sets [N, D] and [M, D], over all pairs of them; `block` bounds the memory, nothing else.

    The standard error is that of a two-sample U-statistic of degree two, by Hoeffding's decomposition into a part that
    depends on one element at a time (variance of order 1/N) and one that depends on pairs (1/N^2). Row means carry the
    noise of what they are means over, so their variance, which is also the jackknife's, holds the second part twice;
    it is taken off once, which leaves the variance unbiased to order 1/N^2. The second part is all there is where both
    distributions are the same, and never more than the whole: the estimate is kept from falling below it, so there the
    error is some 10 % too large and a 95 % interval covers 98 %.
    """
    generated, reference = feature_sets(least=4, generated=generated, reference=reference)
    n, (m, width) = len(generated), reference.shape
    own, own_pairs = _self_means(generated, block)
    others, other_pairs = _self_means(reference, block)
    state = np.float32(width), _zeros(n, block), _zeros(m, block), _zeros(n, block)
    _, rows, columns, squares = over_pairs(_across, state, generated, reference, block, "kernel distance")
    across = flat(rows, n).astype(np.float64) / m
    back = flat(columns, m).astype(np.float64) / n
    middle = across.mean()
    cross_square = flat(squares, n).astype(np.float64).sum() / (n * m)
    cross_pairs = max(cross_square - np.mean(across**2) - np.mean(back**2) + middle**2, 0)
    estimate = own.mean() + others.mean() - 2 * middle
    naive = 4 * np.var(own - across, ddof=1) / n + 4 * np.var(others - back, ddof=1) / m
    second = 2 * own_pairs / (n * (n - 1)) + 2 * other_pairs / (m * (m - 1)) + 4 * cross_pairs / (n * m)
    return KernelDistance(float(estimate), float(np.sqrt(max(naive - second, second))))
