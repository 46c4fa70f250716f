"""How much of each set lies in the other's support, read as the union of balls to each element's k-th neighbour.

Precision and recall (Kynkaanniemi et al. 2019, equation 2), density and coverage (Naeem et al. 2020, equations 4
and 5). The published defaults are k = 3 for the first two and k = 5 for the others; here k is always the caller's.

An element at exactly a ball's radius is on its edge. `ties` says whether it is inside: "include" as equation 2 of
Kynkaanniemi et al. has it, "exclude" as the package `prdc` of Naeem et al. does. Real-valued features never tie, but
pixels of few values do: two binary images differ in a whole number of pixels.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.metrics import neighbours as nearest_neighbours
from genimg_jax.metrics.arrays import feature_sets
from genimg_jax.metrics.neighbours import Neighbours
from genimg_jax.metrics.pairs import (
    BLOCK,
    Block,
    Measure,
    Rows,
    centre,
    flat,
    in_blocks,
    laid_out,
    over_pairs,
    squared_distances,
)

# Matrix products in float32 leave a squared distance uncertain by a few of these fractions of the squared norms.
ROUNDING = 8 * np.finfo(np.float32).eps


class ManifoldScores(NamedTuple):
    """Each but `density` is a fraction."""

    precision: float
    """Of generated elements, those inside some real element's ball."""
    recall: float
    """Of real elements, those inside some generated element's ball."""
    density: float
    """The mean number of real balls that hold a generated element, over k: near 1 for the same distribution."""
    coverage: float
    """Of real balls, those that hold a generated element."""
    neighbours: int


class _Balls(NamedTuple):
    """The balls of one k: radii, and counts so far. Rows are real, columns generated."""

    real: jax.Array  # f32[blocks, B]: squared radii
    generated: jax.Array  # f32[blocks, C]
    holding: jax.Array  # i32[blocks, C]: real balls that hold a generated element
    covered: jax.Array  # bool[blocks, B]: a real ball holds a generated element
    inside: jax.Array  # bool[blocks, B]: a real element is inside a generated ball


def _count(sign: int, state: list[_Balls], block: Block) -> list[_Balls]:
    # Distances that equal the radius up to rounding are moved to the side that `sign` says.
    first, second = (sign * ROUNDING * norms for norms in block.norms)
    squared = squared_distances(block) + (first[:, None] + second[None, :])
    within = jnp.less_equal if sign < 0 else jnp.less

    def count_block(balls: _Balls) -> _Balls:
        in_real = within(squared, balls.real[block.row][:, None])
        in_generated = within(squared, balls.generated[block.column][None, :])
        return balls._replace(
            holding=balls.holding.at[block.column].add(in_real.sum(axis=0)),
            covered=balls.covered.at[block.row].set(balls.covered[block.row] | in_real.any(axis=1)),
            inside=balls.inside.at[block.row].set(balls.inside[block.row] | in_generated.any(axis=1)),
        )

    return [count_block(balls) for balls in state]


VISITS = {"include": partial(_count, -1), "exclude": partial(_count, 1)}


def _start(ks: Sequence[int], radii: tuple[np.ndarray, np.ndarray], real: Rows, generated: Rows) -> list[_Balls]:
    def squared(distances: np.ndarray, k: int, like: Rows) -> np.ndarray:
        return laid_out(np.square(distances[:, k - 1]).astype(np.float32), like)

    shapes = real.norms.shape, generated.norms.shape
    counts = np.zeros(shapes[1], np.int32), np.zeros(shapes[0], bool), np.zeros(shapes[0], bool)
    return [_Balls(squared(radii[0], k, real), squared(radii[1], k, generated), *counts) for k in ks]


def _finish(ks: Sequence[int], state: list[_Balls], real: Rows, generated: Rows) -> list[ManifoldScores]:
    scores = []
    for k, balls in zip(ks, state, strict=True):
        holding = flat(balls.holding, generated)
        scores.append(
            ManifoldScores(
                precision=float(np.mean(holding > 0)),
                recall=float(np.mean(flat(balls.inside, real))),
                density=float(np.mean(holding) / k),
                coverage=float(np.mean(flat(balls.covered, real))),
                neighbours=k,
            )
        )
    return scores


def across(ks: Sequence[int], real: Neighbours, generated: Neighbours, ties: str) -> Measure:
    """The scores for every k, of real rows paired with generated columns; either set's own neighbours must reach the
    largest k."""
    return Measure(partial(_start, ks, (real.distances, generated.distances)), VISITS[ties], partial(_finish, ks))


def manifold_scores(
    generated: np.ndarray, reference: np.ndarray, neighbours: int, block: int = BLOCK, ties: str = "include"
) -> ManifoldScores:
    """The four scores of two sets [N, D] and [M, D]; `block` bounds the memory, nothing else.

    All four depend on N, M, k and `ties` ("include" or "exclude" the balls' edges): compare them at equal ones only.
    With "exclude" the ball of an element with k duplicates is empty, and does not hold the element itself.
    """
    generated, reference = feature_sets(generated=generated, reference=reference)
    real, fake = (nearest_neighbours.nearest_within(features, neighbours, block) for features in (reference, generated))
    middle = centre(generated)
    rows, columns = in_blocks(reference, middle, block), in_blocks(generated, middle, block)
    ((scores,),) = over_pairs([across([neighbours], real, fake, ties)], rows, columns, "precision and recall")
    return scores
