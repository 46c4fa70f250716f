"""One pass over all pairs gives what a pass for each measure gives, and what brute force gives."""

import numpy as np
import pytest
from test_metrics_kernel import definition
from test_metrics_manifold import brute_force

from genimg_jax.errors import DataError
from genimg_jax.metrics.pair_scores import pair_scores, self_similarity
from genimg_jax.metrics.pairs import centre, flat, in_blocks, laid_out

KS = (3, 5)


@pytest.fixture(scope="module")
def sets():
    """Two sizes that fill no block; far enough from the origin that products of uncentred features lose digits."""
    rng = np.random.default_rng(0)
    return [(20 + shift + rng.normal(size=(n, 6))).astype(np.float32) for n, shift in ((70, 0.5), (41, 0))]


def test_one_pass_is_every_measure(sets):
    found = pair_scores(*sets, KS, block=32)
    # The kernel's values are near 70 million, and the distance 300 thousand.
    np.testing.assert_allclose(found.kernel.estimate, definition(*sets), rtol=1e-3)
    for k, scores in zip(KS, found.manifold, strict=True):
        np.testing.assert_allclose(scores[:4], brute_force(*sets, k), rtol=1e-6)
        assert scores.neighbours == k


def test_ties_reach_the_manifold_scores():
    binary = [np.random.default_rng(n).integers(2, size=(n, 12)) for n in (60, 50)]
    found = [pair_scores(*binary, KS, block=32, ties=ties).manifold for ties in ("include", "exclude")]
    for scores, within in zip(found, (np.less_equal, np.less), strict=True):
        np.testing.assert_allclose(scores[1][:4], brute_force(*binary, 5, within), rtol=1e-6)


def test_a_references_own_pairs_can_be_kept(sets):
    """And are used: those of another set give other scores."""
    kept, other = self_similarity(sets[1], 5, block=32), self_similarity(sets[1] ** 2, 5, block=32)
    found = pair_scores(*sets, KS, block=32)
    assert pair_scores(*sets, KS, kept, block=32) == found
    assert pair_scores(*sets, KS, other, block=32) != found


@pytest.mark.parametrize(
    ("count", "block", "blocks", "size"), [(50_000, 2048, 25, 2000), (5, 2048, 1, 16), (70, 32, 3, 32)]
)
def test_blocks_are_as_full_as_can_be(count, block, blocks, size):
    features = np.random.default_rng(1).normal(size=(count, 2)).astype(np.float32)
    rows = in_blocks(features, centre(features), block)
    assert rows.rows.shape == (blocks, size, 2)
    np.testing.assert_array_equal(flat(laid_out(features, rows), rows), features)
    whole = features.astype(np.float64)
    restored = flat(rows.rows, rows).astype(np.float64) @ flat(rows.rows, rows)[0] + flat(rows.offsets, rows)
    np.testing.assert_allclose(restored + np.asarray(rows.offsets)[0, 0], whole @ whole[0], atol=1e-5)


def test_refuses_more_neighbours_than_there_are():
    with pytest.raises(DataError, match="has 5 others"):
        self_similarity(np.eye(6), 6)
