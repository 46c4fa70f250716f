"""Neighbours and the four manifold scores against brute force, and what each score is there to tell."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from genimg_jax.errors import DataError
from genimg_jax.metrics.manifold import manifold_scores
from genimg_jax.metrics.neighbours import nearest, nearest_within


def brute_force(generated, real, k, within=np.less_equal):
    """With `np.less`, the formulas of the package prdc 0.2."""
    radii = [np.sort(cdist(x, x, "sqeuclidean"), axis=1)[:, k] for x in (real, generated)]  # column 0 is itself
    distances = cdist(real, generated, "sqeuclidean")
    in_real, in_generated = within(distances, radii[0][:, None]), within(distances, radii[1][None, :])
    return in_real.any(0).mean(), in_generated.any(1).mean(), in_real.sum(0).mean() / k, in_real.any(1).mean()


@pytest.mark.parametrize(("n", "m", "k", "block"), [(50, 50, 3, 64), (70, 41, 5, 16), (33, 64, 1, 32)])
def test_scores_match_brute_force(n, m, k, block):
    rng = np.random.default_rng(n)
    generated, real = rng.normal(size=(n, 3)).astype(np.float32), (1 + rng.normal(size=(m, 3))).astype(np.float32)
    found = manifold_scores(generated, real, k, block)
    np.testing.assert_allclose(found[:4], brute_force(generated, real, k), rtol=1e-6)
    assert all(0 < score < 1 for score in found[:4])


@pytest.mark.parametrize("ties", ["include", "exclude"])
@pytest.mark.parametrize(("width", "offset", "k"), [(12, 0, 3), (30, 0, 5), (64, 0.25, 5)])
def test_tied_distances_follow_the_convention(ties, width, offset, k):
    """Binary images: most balls have elements on their edge, and which side they are on survives rounding."""
    rng = np.random.default_rng(width)
    generated, real = ((rng.random((n, width)) < p) + offset for n, p in ((150, 0.4), (120, 0.5)))
    within = {"include": np.less_equal, "exclude": np.less}
    found, other = (manifold_scores(generated, real, k, 64, one) for one in (ties, *(within.keys() - {ties})))
    np.testing.assert_allclose(found[:4], brute_force(generated, real, k, within[ties]), rtol=1e-6)
    assert all(abs(a - b) > 0.01 for a, b in zip(found[:4], other[:4], strict=True))


def test_without_edges_more_copies_than_neighbours_leave_empty_balls():
    features = np.repeat(np.random.default_rng(1).normal(size=(10, 4)), 6, axis=0)
    assert manifold_scores(features, features, 5, 64, "exclude")[:4] == (0, 0, 0, 0)
    assert manifold_scores(features, features, 6, 64, "exclude")[:2] == (1, 1)


@pytest.mark.parametrize(("k", "block"), [(1, 64), (4, 16), (7, 8)])
def test_neighbours_match_brute_force(k, block):
    rng = np.random.default_rng(k)
    queries, points = rng.normal(size=(30, 6)).astype(np.float32), rng.normal(size=(45, 6)).astype(np.float32)
    for found, distances in (
        (nearest(queries, points, k, block), cdist(queries, points)),
        (nearest_within(points, k, block), cdist(points, points) + np.diag(np.full(45, np.inf))),
    ):
        np.testing.assert_array_equal(found.indices, np.argsort(distances, axis=1)[:, :k])
        np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :k], rtol=1e-6)


def test_copies_far_from_the_origin_are_at_distance_zero():
    points = (1000 + np.random.default_rng(0).normal(size=(40, 300))).astype(np.float32)
    found = nearest(points[::-1], points, 1, 64)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(40)[::-1])
    np.testing.assert_array_equal(found.distances, 0)


def test_a_duplicate_is_a_neighbour_and_oneself_is_not():
    points = np.array([[0.0], [5.0], [5.0], [9.0]])
    found = nearest_within(points, 1, 4)
    np.testing.assert_array_equal(found.indices[:3, 0], [1, 2, 1])
    np.testing.assert_array_equal(found.distances[:, 0], [5, 0, 0, 4])


@pytest.mark.parametrize("copies", [1, 9])
def test_identical_sets_score_one(copies):
    """Also when they hold more copies than k, whose balls have no radius: the edge is inside, rounding or not."""
    some = (100 + np.random.default_rng(1).normal(size=(30, 40))).astype(np.float32)
    features = np.repeat(some, copies, axis=0)
    found = manifold_scores(features, features, 5, 64)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def modes(rng, count, which):  # -> f32[count, 4]: clusters far apart
    return (20.0 * rng.choice(which, size=count)[:, None] * np.eye(1, 4) + rng.normal(size=(count, 4))).astype(
        np.float32
    )


def test_dropped_modes_lower_recall_and_coverage_only():
    rng = np.random.default_rng(2)
    real = modes(rng, 400, range(4))
    whole, dropped = (manifold_scores(modes(rng, 400, kept), real, 5, 512) for kept in (range(4), range(2)))
    assert abs(dropped.precision - whole.precision) < 0.05
    assert 0.4 < dropped.recall / whole.recall < 0.6
    assert 0.4 < dropped.coverage / whole.coverage < 0.6


def test_noise_lowers_precision_and_density_only():
    """Half of the samples are replaced by noise far from every image."""
    rng = np.random.default_rng(3)
    real, good = modes(rng, 400, range(4)), modes(rng, 800, range(4))
    noisy = np.concatenate([good[:400], (200 + 50 * rng.normal(size=(400, 4))).astype(np.float32)])
    whole, damaged = (manifold_scores(one, real, 5, 512) for one in (good, noisy))
    assert 0.4 < damaged.precision / whole.precision < 0.6
    assert 0.4 < damaged.density / whole.density < 0.6
    assert abs(damaged.recall - whole.recall) < 0.05
    assert abs(damaged.coverage - whole.coverage) < 0.05


def test_density_of_one_distribution_is_near_one():
    rng = np.random.default_rng(4)
    found = manifold_scores(*rng.normal(size=(2, 600, 3)), 5, 1024)
    assert 0.9 < found.density < 1.1


def test_refusals():
    with pytest.raises(DataError, match="has 5 others"):
        nearest_within(np.eye(6), 6)
    with pytest.raises(DataError, match="width"):
        manifold_scores(np.eye(6), np.eye(7), 3)
