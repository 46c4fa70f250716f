"""Likelihoods against SciPy in float64, against their own enumeration, and at the extremes of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import log_softmax, logsumexp

from genimg_jax.core import Spec, per_example_keys
from genimg_jax.errors import ConfigError
from genimg_jax.objectives.gaussian import kl_standard_normal, log_normal
from genimg_jax.objectives.likelihoods import (
    LIKELIHOODS,
    MAX_LOG_SCALE,
    MIN_LOG_SCALE,
    bernoulli,
    categorical,
    discretized_logistic,
    to_levels,
    to_values,
)

CASES = [("bernoulli", 2), *((name, n) for name in ("discretized_logistic", "categorical") for n in (2, 17, 256))]
LOCATIONS = (-1e4, -3.0, -1.0, -0.996, -0.31, 0.0, 1 / 255, 0.5, 0.9999, 1.0, 40.0)
LOG_SCALES = (-100.0, MIN_LOG_SCALE, -5.0, -2.0, 0.0, 3.0, MAX_LOG_SCALE, 100.0)


def pixel_outputs(name, levels):  # -> f32[P, 1, 1, channels]
    """Outputs for one pixel of one channel: ordinary ones and extreme ones."""
    rng = np.random.default_rng(0)
    if name == "discretized_logistic":
        rows = np.stack(np.meshgrid(LOCATIONS, LOG_SCALES), axis=-1).reshape(-1, 2)
    elif name == "bernoulli":
        rows = np.array([-1e4, -50, -1, 0, 0.3, 20, 1e4])[:, None]
    else:
        rows = np.concatenate([scale * rng.normal(size=(4, levels)) for scale in (0, 1, 30, 1e4)])
    return jnp.asarray(rows[:, None, None, :], jnp.float32)


def enumerated(likelihood, outputs, levels):  # -> f64[P, levels]: the log mass of every level
    """One image for every pair of outputs and level."""
    values = to_values(jnp.arange(levels), levels)
    images = jnp.tile(values, len(outputs)).reshape(-1, 1, 1, 1)
    log_masses = jax.jit(likelihood.log_prob)(jnp.repeat(outputs, levels, axis=0), images)
    return np.asarray(log_masses, np.float64).reshape(-1, levels)


@pytest.mark.parametrize(("name", "levels"), CASES)
def test_masses_sum_to_one(name, levels):
    log_masses = enumerated(LIKELIHOODS[name](Spec((1, 1, 1), 0, levels)), pixel_outputs(name, levels), levels)
    np.testing.assert_allclose(logsumexp(log_masses, axis=1), 0, atol=1e-4)


@pytest.mark.parametrize(("name", "levels"), CASES)
def test_mean_is_the_enumerated_expectation(name, levels):
    likelihood, outputs = LIKELIHOODS[name](Spec((1, 1, 1), 0, levels)), pixel_outputs(name, levels)
    expected = np.exp(enumerated(likelihood, outputs, levels)) @ np.linspace(-1, 1, levels)
    np.testing.assert_allclose(jax.jit(likelihood.mean)(outputs).ravel(), expected, atol=2e-4)


@pytest.mark.parametrize(("name", "levels"), CASES)
def test_gradients_are_finite_at_extremes(name, levels):
    likelihood, outputs = LIKELIHOODS[name](Spec((1, 1, 1), 0, levels)), pixel_outputs(name, levels)
    for level in sorted({0, levels // 2, levels - 1}):
        images = jnp.full((len(outputs), 1, 1, 1), to_values(jnp.array(level), levels))
        value, gradient = jax.jit(jax.value_and_grad(lambda o, i=images: likelihood.log_prob(o, i).sum()))(outputs)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_matches_scipy_cdf_differences(levels):
    location, log_scale = (a.ravel() for a in np.meshgrid((-1.2, -1.0, -0.3, 0.4, 1.1), (-4.0, -2.0, 0.0, 2.0, 6.0)))
    outputs = jnp.asarray(np.stack([location, log_scale], axis=-1)[:, None, None], jnp.float32)
    log_masses = enumerated(discretized_logistic(Spec((1, 1, 1), 0, levels)), outputs, levels)
    edges = np.concatenate([[-np.inf], (np.arange(levels - 1) + 0.5) * 2 / (levels - 1) - 1, [np.inf]])
    logistic = scipy.stats.logistic(location[:, None], np.exp(log_scale)[:, None])
    # The survival function keeps the digits of the upper tail that the cdf loses.
    upper = edges[None, :-1] > location[:, None]
    masses = np.where(upper, -np.diff(logistic.sf(edges)), np.diff(logistic.cdf(edges)))
    np.testing.assert_allclose(log_masses, np.log(masses), rtol=2e-5, atol=2e-5)


def test_far_logistic_keeps_a_slope():
    """The mass, e^-2000, underflows even float64; its logarithm and gradient must not."""
    likelihood = discretized_logistic(Spec((1, 1, 1), 0, 256))
    outputs, image = jnp.array([1.8, -7.0]).reshape(1, 1, 1, 2), jnp.full((1, 1, 1, 1), to_values(jnp.array(10), 256))
    gradient = jax.grad(lambda o: likelihood.log_prob(o, image).sum())(outputs).ravel()
    np.testing.assert_allclose(gradient[0], -np.exp(7.0), rtol=1e-5)  # d/dlocation of (x - location) / scale


def test_categorical_is_a_softmax_per_channel():
    levels, shape = 5, (3, 4, 2)
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, *shape, levels))
    level = rng.integers(levels, size=(2, *shape))
    expected = np.take_along_axis(log_softmax(logits, axis=-1), level[..., None], axis=-1).sum(axis=(1, 2, 3, 4))
    likelihood = categorical(Spec(shape, 0, levels))
    outputs = jnp.asarray(logits.reshape(2, 3, 4, likelihood.channels), jnp.float32)
    log_prob = likelihood.log_prob(outputs, to_values(jnp.asarray(level), levels))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)


def test_logistic_outputs_are_all_locations_then_all_log_scales():
    likelihood = discretized_logistic(Spec((2, 2, 3), 0, 256))
    location, log_scale = jnp.array([-0.5, 0.0, 0.5]), jnp.full(3, -6.0)
    outputs = jnp.broadcast_to(jnp.concatenate([location, log_scale]), (1, 2, 2, likelihood.channels))
    image = jnp.broadcast_to(location, (1, 2, 2, 3))
    np.testing.assert_allclose(likelihood.mean(outputs), image, atol=1e-3)


def test_bernoulli_refuses_grey_images():
    with pytest.raises(ConfigError, match=r"256.*binarize"):
        bernoulli(Spec((8, 8, 1), 0, 256))


@pytest.mark.parametrize(
    ("name", "levels", "outputs"),
    [
        ("bernoulli", 2, [0.7]),
        ("discretized_logistic", 9, [0.6, -1.0]),
        ("discretized_logistic", 9, [-1.1, -2.5]),
        ("categorical", 4, [0.0, 1.5, -1.0, 0.5]),
    ],
)
def test_sample_frequencies_match_the_masses(name, levels, outputs):
    """A chi-squared test at one in ten thousand, on a fixed key."""
    likelihood, count = LIKELIHOODS[name](Spec((10, 10, 1), 0, levels)), 100
    outputs = jnp.broadcast_to(jnp.array(outputs), (count, 10, 10, len(outputs)))
    images = jax.jit(likelihood.sample)(outputs, per_example_keys(jax.random.key(3), jnp.arange(count)))
    np.testing.assert_array_equal(images, to_values(to_levels(images, levels), levels))
    observed = np.bincount(np.ravel(to_levels(images, levels)), minlength=levels)
    masses = np.exp(enumerated(likelihood, outputs[:1, :1, :1], levels))[0]
    frequent = masses * images.size >= 5
    observed, expected = (np.append(a[frequent], a[~frequent].sum()) for a in (observed, masses * images.size))
    assert observed[-1] <= expected[-1] + 20  # the bins too rare for the test, pooled
    statistic = np.sum(np.square(observed[:-1] - expected[:-1]) / expected[:-1])
    assert statistic < scipy.stats.chi2.isf(1e-4, max(frequent.sum() - 1, 1))


@pytest.mark.parametrize(("name", "levels"), [("bernoulli", 2), ("discretized_logistic", 17), ("categorical", 17)])
def test_examples_are_independent_and_samples_follow_their_keys(name, levels):
    likelihood = LIKELIHOODS[name](Spec((2, 3, 2), 0, levels))
    sample, log_prob = jax.jit(likelihood.sample), jax.jit(likelihood.log_prob)
    outputs = np.random.default_rng(0).normal(size=(4, 2, 3, likelihood.channels)).astype(np.float32)
    keys, order = per_example_keys(jax.random.key(1), np.arange(4)), np.array([2, 0, 3, 1])
    images = np.asarray(sample(outputs, keys))
    np.testing.assert_array_equal(sample(outputs[order], keys[order]), images[order])
    assert len(np.unique(sample(outputs[:1].repeat(4, axis=0), keys), axis=0)) > 1
    expected = np.asarray(log_prob(outputs, images))
    np.testing.assert_allclose(log_prob(outputs[order], images[order]), expected[order], rtol=1e-6)


@pytest.mark.parametrize(("name", "levels"), [("bernoulli", 2), ("discretized_logistic", 17), ("categorical", 17)])
def test_half_precision_outputs_are_computed_in_float32(name, levels):
    likelihood = LIKELIHOODS[name](Spec((2, 3, 1), 0, levels))
    outputs = jax.random.normal(jax.random.key(0), (1, 2, 3, likelihood.channels), jnp.bfloat16)
    keys = per_example_keys(jax.random.key(1), jnp.arange(1))
    image = likelihood.sample(outputs, keys)
    for found, expected in (
        (image, likelihood.sample(outputs.astype(jnp.float32), keys)),
        (likelihood.mean(outputs), likelihood.mean(outputs.astype(jnp.float32))),
        (likelihood.log_prob(outputs, image), likelihood.log_prob(outputs.astype(jnp.float32), image)),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_survive_the_image_scale(levels):
    level = jnp.arange(levels)
    np.testing.assert_array_equal(to_levels(to_values(level, levels), levels), level)
    np.testing.assert_allclose(to_values(level, levels), np.linspace(-1, 1, levels), atol=1e-6)


def test_log_normal_matches_scipy():
    rng = np.random.default_rng(2)
    x, mean, log_variance = rng.normal(size=(3, 5, 2, 7))
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(log_variance / 2)).sum(axis=(1, 2))
    arrays = (jnp.asarray(a, jnp.float32) for a in (x, mean, log_variance))
    np.testing.assert_allclose(log_normal(*arrays), expected, rtol=1e-5)
    standard = scipy.stats.norm.logpdf(x).sum(axis=(1, 2))
    np.testing.assert_allclose(log_normal(jnp.asarray(x, jnp.float32), 0.0, 0.0), standard, rtol=1e-5)


def test_kl_is_the_expected_log_ratio():
    """Gauss-Hermite quadrature integrates the log ratio of two Gaussians, a quadratic, exactly."""
    rng = np.random.default_rng(3)
    mean, log_variance = rng.normal(size=(2, 6, 4))
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(5)
    deviation = np.exp(log_variance / 2)[..., None]
    z = mean[..., None] + deviation * nodes
    log_ratio = scipy.stats.norm.logpdf(z, mean[..., None], deviation) - scipy.stats.norm.logpdf(z)
    expected = (log_ratio @ (node_weights / node_weights.sum())).sum(axis=1)
    found = kl_standard_normal(jnp.asarray(mean, jnp.float32), jnp.asarray(log_variance, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_kl_near_the_prior_keeps_its_digits():
    log_variance = np.full((1, 1), 1e-3)
    expected = 0.5 * (np.expm1(log_variance) - log_variance).sum()
    found = kl_standard_normal(jnp.zeros((1, 1)), jnp.asarray(log_variance, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
