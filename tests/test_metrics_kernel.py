"""The kernel distance against the definition in float64, and its standard error against the spread of repetitions."""

import numpy as np
import pytest
import scipy.stats

from genimg_jax.errors import DataError
from genimg_jax.metrics.intervals import kernel_interval
from genimg_jax.metrics.kernel import kernel_distance


def gram(x, y):  # [N, D], [M, D] -> f64[N, M]
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def definition(x, y):
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (gram(x, x), gram(y, y))]
    return sum(within) - 2 * gram(x, y).mean()


@pytest.mark.parametrize(("n", "m", "block"), [(40, 40, 64), (33, 70, 16), (5, 64, 64), (64, 17, 64)])
def test_matches_the_definition(n, m, block):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 12)).astype(np.float32), (0.3 + rng.normal(size=(m, 12))).astype(np.float32)
    np.testing.assert_allclose(kernel_distance(x, y, block).estimate, definition(x, y), rtol=1e-5, atol=1e-6)


def test_blocks_change_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 8)).astype(np.float32), 1.2 * rng.normal(size=(70, 8)).astype(np.float32)
    found = [kernel_distance(x, y, block) for block in (13, 32, 128)]
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-5, atol=1e-7)


def test_is_not_clipped():
    rng = np.random.default_rng(1)
    found = [kernel_distance(*rng.normal(size=(2, 30, 5)), 32).estimate for _ in range(20)]
    assert min(found) < 0 < max(found)


def polynomial_means(mean, variance):
    """E x, E x^2, E x^3 of a Gaussian in one dimension."""
    return mean, mean**2 + variance, mean**3 + 3 * mean * variance


def test_is_unbiased_for_gaussians_in_closed_form():
    """In one dimension (x y + 1)^3 = 1 + 3 x y + 3 x^2 y^2 + x^3 y^3, so the distance is one of three moments."""
    target = sum(
        weight * (a - b) ** 2
        for weight, a, b in zip((3, 3, 1), polynomial_means(0, 1), polynomial_means(0.5, 0.64), strict=True)
    )
    rng = np.random.default_rng(2)
    found = [
        kernel_distance(rng.normal(0, 1, size=(60, 1)), rng.normal(0.5, 0.8, size=(50, 1)), 64) for _ in range(300)
    ]
    estimates = np.array([one.estimate for one in found])
    assert abs(estimates.mean() - target) < 4 * estimates.std() / np.sqrt(len(estimates))


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.9, 1.4), (0.4, 0.85, 1.2)])
def test_standard_error_is_the_spread_of_repetitions(shift, least, most):
    """Away from no distance its square is the variance on average; there, no less."""
    rng = np.random.default_rng(3)
    found = [kernel_distance(rng.normal(size=(100, 16)), shift + rng.normal(size=(60, 16)), 128) for _ in range(400)]
    estimates, errors = np.array(found).T[:2]
    assert least < np.mean(errors**2) / np.var(estimates) < most


def test_variance_is_that_of_the_squared_length_of_a_difference_of_means():
    """With the kernel's features written out, d the difference of their means and C the covariance of its error."""
    rng = np.random.default_rng(5)
    sets = [shift + rng.exponential(size=(count, 1)) for count, shift in ((40, 0), (30, 0.5))]
    features = [np.concatenate([np.sqrt(3) * x, np.sqrt(3) * x**2, x**3], axis=1) for x in sets]
    d = features[0].mean(axis=0) - features[1].mean(axis=0)
    c = sum(np.cov(one.T) / len(one) for one in features)
    found = kernel_distance(*sets, 16)
    np.testing.assert_allclose(found.estimate, d @ d - np.trace(c), rtol=1e-4)
    np.testing.assert_allclose(found.slope, 4 * d @ c @ d / (d @ d), rtol=1e-4)
    np.testing.assert_allclose(found.constant, 2 * np.trace(c @ c), rtol=0.15)


def test_interval_is_the_set_of_distances_that_the_estimate_agrees_with():
    rng = np.random.default_rng(6)
    found = kernel_distance(rng.exponential(size=(60, 4)), 1.2 * rng.exponential(size=(50, 4)), 64)
    interval = kernel_interval(found, 0.9)
    t = scipy.stats.t.ppf(0.95, found.freedom)
    for end in (interval.low, interval.high):
        expected = t**2 * (found.slope * end + found.constant)
        np.testing.assert_allclose((found.estimate - end) ** 2, expected, rtol=1e-6)
    assert interval.low < found.estimate < interval.high
    assert interval.high - found.estimate > found.estimate - interval.low


@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_interval_of_a_set_with_itself_has_width(far):
    x = (far + np.random.default_rng(8).normal(size=(30, 3))).astype(np.float32)
    interval = kernel_interval(kernel_distance(x, x, 64))
    assert interval.low < 0 < interval.high < np.inf


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(500, 500), (400, 1000)])
def test_interval_covers(n, m):
    """Nominal 95 %: between 93 and 97, for the populations' distance, estimated beforehand from sets of 20,000."""
    rng = np.random.default_rng(n)
    target = kernel_distance(rng.normal(size=(20_000, 32)), 0.25 + rng.normal(size=(20_000, 32))).estimate
    hits = []
    for _ in range(1000):
        interval = kernel_interval(kernel_distance(rng.normal(size=(n, 32)), 0.25 + rng.normal(size=(m, 32)), 512))
        hits.append(interval.low <= target <= interval.high)
    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.slow
def test_interval_of_equal_distributions_covers_zero():
    rng = np.random.default_rng(7)
    found = [kernel_interval(kernel_distance(*rng.normal(size=(2, 200, 32)), 256)) for _ in range(1000)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.95


def test_refuses_sets_without_pairs_to_spare():
    with pytest.raises(DataError, match="at least 4"):
        kernel_distance(np.zeros((3, 2)), np.zeros((9, 2)))
