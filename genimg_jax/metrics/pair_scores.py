"""The kernel distance and the manifold scores together, in half the time of one after the other: matrix products of
all pairs are nearly all of the work, and both are read off the same ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genimg_jax.metrics import kernel, manifold, neighbours
from genimg_jax.metrics.arrays import feature_set, feature_sets
from genimg_jax.metrics.kernel import KernelDistance
from genimg_jax.metrics.manifold import ManifoldScores
from genimg_jax.metrics.neighbours import Neighbours
from genimg_jax.metrics.pairs import BLOCK, centre, in_blocks, over_pairs


class SelfSimilarity(NamedTuple):
    """Kernel and nearest neighbours within one set. Those of a reference are reused for every generated set."""

    kernel: kernel.SelfKernel
    neighbours: Neighbours


class PairScores(NamedTuple):
    kernel: KernelDistance
    manifold: list[ManifoldScores]
    """One for every k that was asked for, in that order."""


def self_similarity(features: np.ndarray, largest: int, block: int = BLOCK) -> SelfSimilarity:  # [N, D]
    """The pairs of a set with itself, for scores of up to `largest` neighbours."""
    features = feature_set(features, "given", least=4)
    measures = [kernel.WITHIN, neighbours.within(largest, len(features))]
    rows = in_blocks(features, centre(features), block)
    return SelfSimilarity(*over_pairs(measures, rows, None, "pairs within a set"))


def pair_scores(
    generated: np.ndarray,
    reference: np.ndarray,
    ks: Sequence[int] = (3, 5),
    reference_pairs: SelfSimilarity | None = None,
    block: int = BLOCK,
    ties: str = "include",
) -> PairScores:
    """`kernel.kernel_distance` and `manifold.manifold_scores` for each k, of two sets [N, D] and [M, D].

    `reference_pairs`, of the same reference and at least the largest k, saves a quarter of the time.
    """
    generated, reference = feature_sets(least=4, generated=generated, reference=reference)
    real = reference_pairs or self_similarity(reference, max(ks), block)
    fake = self_similarity(generated, max(ks), block)
    middle = centre(reference)
    rows, columns = in_blocks(reference, middle, block), in_blocks(generated, middle, block)
    measures = [kernel.ACROSS, manifold.across(ks, real.neighbours, fake.neighbours, ties)]
    cross, scores = over_pairs(measures, rows, columns, "pairs across sets")
    return PairScores(kernel.distance(real.kernel, fake.kernel, cross), scores)
