"""The variational bound against the exact log mass of one pixel, whose ideal denoiser is a sum over its levels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from genimg_jax.objectives import interpolants, targets, variational

LEVELS = 5
VALUES = np.linspace(-1, 1, LEVELS)
TIMES = (np.arange(400) + 0.5) / 400
NOISES = np.linspace(-6, 6, 121)
NOISE_WEIGHTS = scipy.stats.norm.pdf(NOISES) / scipy.stats.norm.pdf(NOISES).sum()


def pixels(values):  # [...] -> f32[N, 1, 1, 1]
    return jnp.asarray(np.ravel(values), jnp.float32).reshape(-1, 1, 1, 1)


@functools.partial(jax.jit, static_argnums=(0, 4))
def terms(path, masses, image, shrink, steps):  # -> prior, reconstruction and loss of one pixel
    """Quadrature over times and noise; `shrink` spoils the ideal denoiser; `steps` are the model's, 0 for infinite."""
    t = jnp.asarray((np.arange(steps) + 1) / steps if steps else TIMES, jnp.float32)
    grid_t, noise = (x.ravel() for x in jnp.meshgrid(t, jnp.asarray(NOISES, jnp.float32), indexing="ij"))
    noise = noise.reshape(-1, 1, 1, 1)
    images = jnp.broadcast_to(image, noise.shape)

    def predict(x, t):  # the noise that the expected level leaves
        distances = interpolants.per_example(path.alpha(t), x) * jnp.asarray(VALUES, jnp.float32).reshape(1, 1, 1, -1)
        deviations = (x - distances) / interpolants.per_example(path.sigma(t), x)
        shares = jax.nn.softmax(jnp.log(masses).reshape(1, 1, 1, -1) - 0.5 * deviations**2)
        clean = shrink * jnp.sum(shares * jnp.asarray(VALUES, jnp.float32).reshape(1, 1, 1, -1), -1, keepdims=True)
        return targets.convert(path, t, x, clean, targets.x0_target, targets.epsilon_target)

    error = jnp.sum((noise - predict(interpolants.mix(path, grid_t, images, noise), grid_t)) ** 2, axis=(1, 2, 3))
    if steps:
        losses = variational.discrete_diffusion_loss(path, grid_t, error, steps)
    else:
        losses = variational.diffusion_loss(path, grid_t, error)
    weights = jnp.asarray(NOISE_WEIGHTS, jnp.float32)
    first = noise[: len(NOISES)]
    return (
        variational.prior_divergence(path, images[:1])[0],
        variational.reconstruction(path, images[: len(first)], first, LEVELS) @ weights,
        losses.reshape(len(t), -1).mean(axis=0) @ weights,
    )


def bound(path, masses, shrink=1.0, steps=0):  # -> f64[LEVELS]: a lower bound of the log mass of each level
    rows = [terms(path, jnp.asarray(masses, jnp.float32), image, shrink, steps) for image in pixels(VALUES)]
    prior, reconstruction, loss = np.asarray(rows, np.float64).T
    return reconstruction - prior - loss


SKEWED = np.array([0.5, 0.05, 0.1, 0.05, 0.3])
CLEAN = interpolants.linear_log_snr(10.0, -10.0)


def test_bound_is_tight_for_the_ideal_denoiser():
    np.testing.assert_allclose(bound(CLEAN, SKEWED), np.log(SKEWED), atol=3e-3)


def test_bound_is_tight_whatever_the_reconstruction_pays():
    """Equally likely levels have the posterior that `reconstruction` assumes, so that no x_0 need be clean."""
    path = interpolants.linear_log_snr(1.0, -10.0)
    found = bound(path, np.full(LEVELS, 0.2))
    np.testing.assert_allclose(found, np.log(0.2), atol=3e-3)
    image = pixels(VALUES[2])[0]
    assert terms(path, jnp.full(LEVELS, 0.2), image, 1.0, 0)[1] < -0.5


def test_bound_stays_below():
    """With a wrong denoiser and with few steps."""
    exact = np.log(SKEWED)
    assert bound(CLEAN, SKEWED, shrink=0.9) @ SKEWED < exact @ SKEWED - 0.05
    few, more, many = (bound(CLEAN, SKEWED, steps=n) @ SKEWED for n in (10, 40, 400))
    assert few < more < many < exact @ SKEWED
    assert exact @ SKEWED - many < 0.05


def test_bound_lacks_what_the_noisiest_images_keep():
    """Where they are not yet standard normal, the mean bound is low by their divergence from it alone."""
    alpha = sigma = np.sqrt(0.5)
    z = np.linspace(-8, 8, 2001)
    density = scipy.stats.norm.pdf(z[:, None], alpha * VALUES, sigma) @ SKEWED
    divergence = scipy.integrate.trapezoid(density * (np.log(density) - scipy.stats.norm.logpdf(z)), z)
    found = bound(interpolants.linear_log_snr(10.0, 0.0), SKEWED)
    np.testing.assert_allclose((np.log(SKEWED) - found) @ SKEWED, divergence, atol=2e-3)
    assert divergence > 0.015


def test_prior_divergence_is_that_of_its_gaussians():
    path, image = interpolants.linear_log_snr(10.0, -1.0), np.random.default_rng(0).normal(size=(3, 2, 2, 1))
    alpha, variance = 1 / np.sqrt(1 + np.exp(1)), 1 / (1 + np.exp(-1))
    expected = 0.5 * (variance - 1 - np.log(variance) + (alpha * image) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(variational.prior_divergence(path, jnp.asarray(image, jnp.float32)), expected, rtol=1e-5)


def test_reconstruction_is_the_enumerated_softmax():
    path = interpolants.linear_log_snr(3.0, -5.0)
    rng = np.random.default_rng(1)
    image, noise = rng.choice(VALUES, size=(2, 3, 1, 2)), rng.normal(size=(2, 3, 1, 2))
    alpha, sigma = 1 / np.sqrt(1 + np.exp(-3)), 1 / np.sqrt(1 + np.exp(3))
    log_densities = scipy.stats.norm.logpdf((alpha * image + sigma * noise)[..., None], alpha * VALUES, sigma)
    chosen = scipy.stats.norm.logpdf(sigma * noise, 0, sigma)
    expected = (chosen - scipy.special.logsumexp(log_densities, axis=-1)).sum(axis=(1, 2, 3))
    found = variational.reconstruction(path, *(jnp.asarray(x, jnp.float32) for x in (image, noise)), LEVELS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "path", [interpolants.linear_log_snr(), interpolants.cosine()], ids=["linear_log_snr", "cosine"]
)
def test_loss_is_the_fall_of_the_signal_to_noise_ratio(path):
    """Kingma et al. 2021, equations 13 and 15: the same losses in terms of the image's error."""
    with jax.enable_x64(True):
        t = jnp.linspace(0.1, 0.9, 9)
        snr = lambda t: np.exp(np.asarray(path.log_snr(t)))  # noqa: E731
        image_error = np.linspace(1, 2, 9)
        slope = (snr(t + 1e-6) - snr(t - 1e-6)) / 2e-6
        found = variational.diffusion_loss(path, t, jnp.asarray(snr(t) * image_error))
        np.testing.assert_allclose(found, -0.5 * slope * image_error, rtol=1e-6)
        found = variational.discrete_diffusion_loss(path, t, jnp.asarray(snr(t) * image_error), 20)
        np.testing.assert_allclose(found, 10 * (snr(t - 0.05) - snr(t)) * image_error, rtol=1e-9)
