"""How much of each set lies in the other's support, read as the union of balls to each element's k-th neighbour.

Precision and recall (Kynkaanniemi et al. 2019, equation 2), density and coverage (Naeem et al. 2020, equations 4
and 5). The published defaults are k = 3 for the first two and k = 5 for the others; here k is always the caller's.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from genimg_jax.metrics.arrays import feature_sets
from genimg_jax.metrics.neighbours import centred, nearest_within, squared_distances, squared_norms
from genimg_jax.metrics.pairs import BLOCK, Block, blocked, flat, over_pairs

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


def _count(state, block: Block):
    real_norms, generated_norms, real_radii, generated_radii, holding, covered, inside = state
    squared = squared_distances(block, real_norms, generated_norms)
    size = squared.shape
    # On the edge counts as inside, and equality must survive rounding: an element is always in its duplicate's ball.
    slack = ROUNDING * jnp.broadcast_to(real_norms[block.row][:, None], size)
    squared = squared - slack - ROUNDING * jnp.broadcast_to(generated_norms[block.column][None, :], size)
    in_real = squared <= jnp.broadcast_to(real_radii[block.row][:, None], size)
    in_generated = squared <= jnp.broadcast_to(generated_radii[block.column][None, :], size)
    return (
        real_norms,
        generated_norms,
        real_radii,
        generated_radii,
        holding.at[block.column].add(in_real.sum(axis=0)),
        covered.at[block.row].set(covered[block.row] | in_real.any(axis=1)),
        inside.at[block.row].set(inside[block.row] | in_generated.any(axis=1)),
    )


def manifold_scores(
    generated: np.ndarray, reference: np.ndarray, neighbours: int, block: int = BLOCK
) -> ManifoldScores:
    """The four scores of two sets [N, D] and [M, D]; `block` bounds the memory, nothing else.

    All four depend on N, M and k: compare them at equal ones only.
    """
    generated, reference = feature_sets(generated=generated, reference=reference)
    real, fake = centred(reference, generated)
    radii = [
        blocked(np.square(nearest_within(one, neighbours, block).distances[:, -1]).astype(np.float32), block)
        for one in (reference, generated)
    ]
    norms = squared_norms(real, block), squared_norms(fake, block)
    counts = np.zeros(norms[1].shape, np.int32), np.zeros(norms[0].shape, bool), np.zeros(norms[0].shape, bool)
    *_, holding, covered, inside = over_pairs(
        _count, (*norms, *radii, *counts), real, fake, block, "precision and recall"
    )
    held = flat(holding, len(fake))
    return ManifoldScores(
        precision=float(np.mean(held > 0)),
        recall=float(np.mean(flat(inside, len(real)))),
        density=float(np.mean(held) / neighbours),
        coverage=float(np.mean(flat(covered, len(real)))),
        neighbours=neighbours,
    )
