"""The mixture of discretised logistics against enumeration, SciPy in float64, and its own samples."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import logsumexp, softmax

from genimg_jax.core import Spec, per_example_keys
from genimg_jax.objectives import likelihoods, mixtures
from genimg_jax.objectives.likelihoods import to_values
from genimg_jax.objectives.mixtures import discretized_logistic_mixture

COMPONENTS = 3


def parameters(count: int, channels: int, seed: int = 0) -> np.ndarray:
    """Ordinary pixels, and ones whose locations and scales are far out."""  # -> f32[count, 1, 1, channels of outputs]
    rng = np.random.default_rng(seed)
    size = (count, 1, 1, COMPONENTS)
    spread = rng.choice([0.5, 1.0, 20.0], size=(count, 1, 1, 1, 1))
    parts = (
        rng.normal(scale=3, size=(*size, 1)),
        spread * rng.normal(size=(*size, channels)),
        rng.uniform(-9, 4, size=(*size, channels)),
        rng.normal(scale=2, size=(*size, channels * (channels - 1) // 2)),
    )
    return np.concatenate(parts, axis=-1).reshape(count, 1, 1, -1).astype(np.float32)


def enumerated(outputs: np.ndarray, levels: int, channels: int, components: int = COMPONENTS) -> np.ndarray:
    """The log mass of every image of one pixel."""  # -> f64[count, levels^C]
    likelihood = discretized_logistic_mixture(Spec((1, 1, channels), 0, levels), components)
    images = enumeration.all_images(1, 1, levels, channels)
    pairs = np.repeat(outputs, len(images), axis=0), np.tile(images, (len(outputs), 1, 1, 1))
    return np.asarray(jax.jit(likelihood.log_prob)(*pairs), np.float64).reshape(len(outputs), -1)


@pytest.mark.parametrize(("levels", "channels"), [(256, 1), (2, 1), (4, 3), (17, 2)])
def test_masses_sum_to_one(levels, channels):
    log_masses = enumerated(parameters(40, channels), levels, channels)
    np.testing.assert_allclose(logsumexp(log_masses, axis=1), 0, atol=1e-5)


def without_tails(spec: Spec):
    """A discretised logistic whose end levels take their own bin and leave the tails out."""

    def log_prob(outputs, image):
        location, log_scale = jnp.split(outputs, 2, axis=-1)
        below, above = (jax.nn.sigmoid((image + s - location) * jnp.exp(-log_scale)) for s in (-half_bin, half_bin))
        return jnp.log(above - below).sum((1, 2, 3))

    half_bin = 1 / (spec.levels - 1)
    return likelihoods.discretized_logistic(spec)._replace(log_prob=log_prob)


def test_end_levels_without_tails_are_caught(monkeypatch):
    monkeypatch.setattr(mixtures, "discretized_logistic", without_tails)
    with pytest.raises(AssertionError):
        test_masses_sum_to_one(256, 1)


def test_matches_scipy():
    """Equation 2 of the paper and the linear autoregression of equation 3, written out for one pixel at a time."""
    levels, channels, rng = 17, 3, np.random.default_rng(1)
    outputs = parameters(30, channels, seed=1)
    image = rng.integers(levels, size=(30, channels)) * (2 / (levels - 1)) - 1
    likelihood = discretized_logistic_mixture(Spec((1, 1, channels), 0, levels), COMPONENTS)
    found = jax.jit(likelihood.log_prob)(outputs, image.reshape(30, 1, 1, 3).astype(np.float32))
    half, compared = 1 / (levels - 1), 0
    for pixel, x, value in zip(outputs.reshape(30, COMPONENTS, -1).astype(np.float64), image, found, strict=True):
        location, log_scale, a = pixel[:, 1:4].copy(), np.clip(pixel[:, 4:7], -7, 7), np.tanh(pixel[:, 7:])
        location[:, 1] += a[:, 0] * x[0]
        location[:, 2] += a[:, 1] * x[0] + a[:, 2] * x[1]
        edges = np.where(x < half - 1, -np.inf, x - half), np.where(x > 1 - half, np.inf, x + half)
        logistic = scipy.stats.logistic(location, np.exp(log_scale))
        # The survival function keeps the digits of the upper tail that the cdf loses.
        below, above = (np.diff([f(e) for e in edges], axis=0)[0] for f in (logistic.cdf, logistic.sf))
        mass = softmax(pixel[:, 0]) @ np.where(x > location, -above, below).prod(-1)
        if mass > 1e-200:
            np.testing.assert_allclose(value, np.log(mass), rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared > 15


def test_mean_is_the_expectation():
    outputs = parameters(20, 1)
    likelihood = discretized_logistic_mixture(Spec((1, 1, 1), 0, 256), COMPONENTS)
    expected = np.exp(enumerated(outputs, 256, 1)) @ np.linspace(-1, 1, 256)
    np.testing.assert_allclose(jax.jit(likelihood.mean)(outputs).ravel(), expected, atol=2e-4)


def test_mean_of_several_channels_is_the_expectation_away_from_the_ends():
    rng, levels = np.random.default_rng(2), 17
    location, log_scale = 0.2 * rng.normal(size=(8, 2)), np.full((8, 2), -3.0)
    coefficient = rng.normal(size=(8, 1))
    outputs = np.concatenate([np.zeros((8, 1)), location, log_scale, coefficient], axis=1).reshape(8, 1, 1, -1)
    outputs = outputs.astype(np.float32)
    likelihood = discretized_logistic_mixture(Spec((1, 1, 2), 0, levels), 1)
    expected = np.exp(enumerated(outputs, levels, 2, 1)) @ enumeration.all_images(1, 1, levels, 2).reshape(-1, 2)
    np.testing.assert_allclose(jax.jit(likelihood.mean)(outputs).reshape(-1, 2), expected, atol=0.01)


@pytest.mark.parametrize(("levels", "channels"), [(9, 1), (4, 2)])
def test_sample_frequencies_match_the_masses(levels, channels):
    likelihood, count = discretized_logistic_mixture(Spec((20, 20, channels), 0, levels), COMPONENTS), 50
    outputs = np.zeros((1, 1, 1, likelihood.channels), np.float32)
    parts = outputs.reshape(COMPONENTS, -1)
    parts[:, 0] = [0.3, -0.4, 0.1]
    parts[:, 1 : 1 + channels] = np.array([-1.1, 0.2, 0.9])[:, None]
    parts[:, 1 + channels : 1 + 2 * channels] = np.array([-1.5, -3.0, -0.5])[:, None]
    parts[:, 1 + 2 * channels :] = np.array([1.0, -2.0, 0.5])[:, None]
    keys = per_example_keys(jax.random.key(3), jnp.arange(count))
    images = jax.jit(likelihood.sample)(jnp.broadcast_to(outputs, (count, 20, 20, likelihood.channels)), keys)
    masses = np.exp(enumerated(outputs, levels, channels))[0]
    enumeration.check_frequencies(np.asarray(images).reshape(-1, 1, 1, channels), masses, levels)


def test_pixels_are_independent_and_components_are_the_pixel_s():
    """Channels of a pixel share their component: two narrow ones, far apart, never mix."""
    spec = Spec((4, 5, 2), 0, 256)
    likelihood = discretized_logistic_mixture(spec, 2)
    far = np.array([[0, -0.5, -0.5, -7, -7, 0], [0, 0.5, 0.5, -7, -7, 0]], np.float32).ravel()
    outputs = jnp.broadcast_to(jnp.asarray(far), (6, 4, 5, 12))
    images = np.asarray(jax.jit(likelihood.sample)(outputs, per_example_keys(jax.random.key(0), jnp.arange(6))))
    signs = np.sign(images)
    np.testing.assert_array_equal(signs[..., 0], signs[..., 1])
    assert len(np.unique(signs[..., 0].reshape(6, -1), axis=0)) == 6 and np.abs(signs.mean()) < 0.5
    np.testing.assert_allclose(to_values(likelihoods.to_levels(images, 256), 256), images, atol=1e-6)


def test_gradients_are_finite_at_extremes():
    likelihood = discretized_logistic_mixture(Spec((1, 1, 3), 0, 256), COMPONENTS)
    outputs = 1e3 * parameters(50, 3)
    for level in (0, 100, 255):
        image = jnp.full((50, 1, 1, 3), to_values(jnp.array(level), 256))
        value, gradient = jax.jit(jax.value_and_grad(lambda o, i=image: likelihood.log_prob(o, i).sum()))(outputs)
        assert np.isfinite(value) and np.isfinite(gradient).all()
