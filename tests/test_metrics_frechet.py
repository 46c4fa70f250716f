"""The Frechet distance against closed forms, SciPy in float64 and itself; its moments against NumPy."""

import numpy as np
import pytest
import scipy.linalg

from genimg_jax.errors import DataError
from genimg_jax.metrics.frechet import Moments, frechet_distance, frechet_replicates, merge, moments, without


def gaussian(rng, width, scale=1.0):  # -> Moments of a Gaussian known exactly
    root = scale * rng.normal(size=(width, width))
    return Moments(2, rng.normal(size=width), root @ root.T)


def reference(first, second):
    """Straight from the formula: the square root of the product of the covariances, by SciPy."""
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance).real
    shift = np.square(first.mean - second.mean).sum()
    return shift + np.trace(first.covariance + second.covariance - 2 * root)


@pytest.mark.parametrize("width", [1, 2, 17])
def test_matches_the_matrix_square_root(width):
    rng = np.random.default_rng(width)
    first, second = gaussian(rng, width), gaussian(rng, width, 2.0)
    np.testing.assert_allclose(frechet_distance(first, second), reference(first, second), rtol=1e-9)


def test_commuting_covariances_have_a_closed_form():
    """With common axes the distance is the sum over them of (m1 - m2)^2 + (s1 - s2)^2."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    deviations, means = rng.uniform(0.01, 10, size=(2, 6)), rng.normal(size=(2, 6))
    first, second = (Moments(2, m, (axes * np.square(s)) @ axes.T) for m, s in zip(means, deviations, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    np.testing.assert_allclose(frechet_distance(first, second), expected, rtol=1e-10)


@pytest.mark.parametrize("samples", [5, 300])
def test_identical_sets_are_at_no_distance(samples):
    """5 samples of 40 features have covariances of rank 4: the root of their product has no inverse to lean on."""
    features = np.random.default_rng(1).lognormal(size=(samples, 40)).astype(np.float32)
    one = moments(features)
    assert 0 <= frechet_distance(one, one) < 1e-7 * np.trace(one.covariance)


def test_covariances_of_low_rank_keep_their_distance():
    """Two sets in planes at a known angle, embedded in 50 dimensions; SciPy sees only their common space."""
    rng = np.random.default_rng(2)
    small = [moments(rng.normal(size=(9, 12)).astype(np.float32)) for _ in range(2)]
    basis = np.linalg.qr(rng.normal(size=(50, 12)))[0]
    embedded = [Moments(m.count, basis @ m.mean, basis @ m.scatter @ basis.T) for m in small]
    roots = [scipy.linalg.sqrtm(m.covariance).real for m in small]
    nuclear = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    shift = np.square(small[0].mean - small[1].mean).sum()
    expected = shift + sum(np.trace(m.covariance) for m in small) - 2 * nuclear
    np.testing.assert_allclose(frechet_distance(*embedded), expected, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(*embedded[::-1]), expected, rtol=1e-6)


def test_one_covariance_of_low_rank():
    """The product is singular, and rounding makes some of its eigenvalues negative."""
    rng = np.random.default_rng(8)
    full, low = (moments(rng.normal(size=(n, 30)).astype(np.float32)) for n in (200, 6))
    values, vectors = np.linalg.eigh(low.covariance)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    nuclear = np.linalg.svd(scipy.linalg.sqrtm(full.covariance).real @ factor, compute_uv=False).sum()
    shift = np.square(full.mean - low.mean).sum()
    expected = shift + np.trace(full.covariance + low.covariance) - 2 * nuclear
    np.testing.assert_allclose(frechet_distance(full, low), expected, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(low, full), expected, rtol=1e-6)


def test_a_feature_that_is_there_twice_counts_as_one_longer_one():
    """More samples than features, and yet a singular covariance, that rounding may leave positive."""
    rng = np.random.default_rng(9)
    sets = [(scale * rng.normal(size=(200, 20)) @ np.diag(np.arange(1, 21))).astype(np.float32) for scale in (1, 2)]
    twice = [moments(np.concatenate([one, one], axis=1)) for one in sets]
    # Of float32, by a number that is exact: four copies are twice as long.
    often = [moments(np.concatenate([one] * 4, axis=1)) for one in sets]
    longer = [moments(2 * one) for one in sets]
    assert frechet_distance(*often) == pytest.approx(frechet_distance(*longer), rel=1e-9)
    assert frechet_distance(*twice) == pytest.approx(frechet_distance(*longer) / 2, rel=1e-9)


def test_a_set_without_spread_is_a_point():
    rng = np.random.default_rng(3)
    point, spread = moments(np.full((4, 3), 2.0, np.float32)), gaussian(rng, 3)
    expected = np.square(spread.mean - 2).sum() + np.trace(spread.covariance)
    np.testing.assert_allclose(frechet_distance(point, spread), expected, rtol=1e-12)
    np.testing.assert_allclose(frechet_distance(spread, point), expected, rtol=1e-12)


def test_moments_match_numpy_far_from_the_origin():
    features = (1000 + np.random.default_rng(4).normal(size=(2500, 7))).astype(np.float32)
    found = moments(features)
    assert found.count == 2500
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64).T), rtol=1e-10, atol=1e-10)


def test_moments_are_the_same_bits_whatever_the_batches():
    features = np.random.default_rng(5).normal(size=(2500, 3)).astype(np.float32)
    whole = moments(features)
    for size in (1, 64, 1000, 2499):
        batched = moments(features[i : i + size] for i in range(0, 2500, size))
        for one, other in zip(whole, batched, strict=True):
            np.testing.assert_array_equal(one, other)


def test_merge_and_without_undo_each_other():
    rng = np.random.default_rng(6)
    first, second = 3 + rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(11, 4)).astype(np.float32)
    union = moments(np.concatenate([first, second]))
    for found, expected in (
        (merge(moments(first), moments(second)), union),
        (without(union, moments(second)), moments(first)),
    ):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10)


def test_replicates_leave_out_each_row_once():
    """With one feature a replicate is (m1 - m2)^2 + (s1 - s2)^2, and the left-out means average to the whole's."""
    rng = np.random.default_rng(7)
    generated, constant = rng.normal(size=(40, 1)).astype(np.float32), np.zeros((60, 1), np.float32)
    whole, replicates = frechet_replicates(generated, constant, blocks=40)
    x = generated[:, 0].astype(np.float64)
    expected = [np.mean(rest) ** 2 + np.var(rest, ddof=1) for rest in (np.delete(x, i) for i in range(40))]
    np.testing.assert_allclose(whole, np.mean(x) ** 2 + np.var(x, ddof=1), rtol=1e-10)
    np.testing.assert_allclose(np.sort(replicates), np.sort(expected), rtol=1e-10)


def test_refusals_say_what_was_found():
    good = np.zeros((30, 3), np.float32)
    bad = good.copy()
    bad[17, 1] = np.nan
    with pytest.raises(DataError, match="index 17"):
        moments(bad)
    with pytest.raises(DataError, match="at least 2"):
        frechet_distance(moments(good[:1]), moments(good))
    with pytest.raises(DataError, match="width"):
        frechet_distance(moments(good), moments(good[:, :2]))
    with pytest.raises(DataError, match="3 dimensions needs at least 2 samples, and more than 3"):
        frechet_replicates(good[:4], good, blocks=2)
