"""Samplers of the posterior, in worlds whose posterior is known: Gaussians and their mixtures."""

import gaussian_score as toys
import jax
import jax.numpy as jnp
import numpy as np
import posterior_samplers as experiment
import pytest
import scipy.stats

from genimg_jax.core import fold_in, normal, per_example_keys
from genimg_jax.objectives import gaussian_mixture
from genimg_jax.samplers import ode, posterior, sde, sigma_schedules, twisted
from genimg_jax.samplers import posterior_observation as linear

RNG = np.random.default_rng(0)
MIXTURE = gaussian_mixture.Mixture(
    jnp.array([0.6, 0.4]),
    jnp.array([[0.8, 0.5, -0.2], [-0.7, -0.3, 0.4]]),
    jnp.asarray([toys.random_covariance(RNG, 3, 0.3) for _ in range(2)], jnp.float32),
)
MASK = jnp.array([[1.0, 0.0, 0.0]])
SUMS = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
FORWARD = {"mask": lambda image: image * MASK, "sums": lambda image: image @ SUMS.T}
NOISE = 0.3
SIGMAS = sigma_schedules.karras()(48, 0.02, 40.0)
KEYS = per_example_keys(jax.random.key(1), jnp.arange(4))


def images(count, shape, seed=3):
    return normal(per_example_keys(jax.random.key(seed), jnp.arange(count)), shape)


def standard_normal(noisy, sigma):
    """The denoiser of standard normal data."""
    return noisy / (1 + sigma.reshape(-1, *[1] * (noisy.ndim - 1)) ** 2)


# ------------------------------------------------------------------------------------------------- the exact world


def test_the_posterior_of_a_mixture_is_that_of_quadrature():
    """Bayes' rule on a grid of two dimensions, with SciPy's densities."""
    mixture = gaussian_mixture.Mixture(
        MIXTURE.weights, MIXTURE.means[:, :2], jnp.asarray([toys.random_covariance(RNG, 2, 0.3) for _ in range(2)])
    )
    matrix, observed, noise = np.array([[1.0, 0.4], [0.3, -0.5], [0.2, 0.1]]), np.array([0.3, -0.1, 0.2]), 0.4
    axis = np.linspace(-5, 5, 400)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    prior = sum(
        w * scipy.stats.multivariate_normal(m, c).pdf(grid) for w, m, c in zip(*map(np.asarray, mixture), strict=True)
    )
    weights = prior * np.exp(-0.5 * np.sum((observed - grid @ matrix.T) ** 2, axis=1) / noise**2)
    weights /= weights.sum()
    mean = weights @ grid
    exact = gaussian_mixture.posterior(mixture, jnp.asarray(matrix, jnp.float32), jnp.float32(observed), noise)
    found = gaussian_mixture.moments(exact)
    np.testing.assert_allclose(found[0], mean, atol=2e-5)
    np.testing.assert_allclose(found[1], (weights[:, None] * (grid - mean)).T @ (grid - mean), atol=2e-5)


def test_the_denoiser_of_a_mixture():
    """Another implementation, and Tweedie's formula on the density of `log_joint`."""
    noisy, sigma = images(6, (3,)), jnp.array([0.1, 0.3, 1.0, 2.0, 5.0, 20.0])
    found = jax.jit(gaussian_mixture.denoiser(MIXTURE))(noisy, sigma)
    np.testing.assert_allclose(found, toys.denoiser(toys.mixture(*MIXTURE))(noisy, sigma), atol=2e-5)

    def log_density(z, sigma):
        blurred = MIXTURE._replace(covariances=MIXTURE.covariances + sigma**2 * jnp.eye(3)[None])
        return jax.nn.logsumexp(gaussian_mixture.log_joint(blurred, z[None]))

    score = jax.jit(jax.vmap(jax.grad(log_density)))(noisy, sigma)
    np.testing.assert_allclose(found, noisy + sigma[:, None] ** 2 * score, atol=1e-3)


# ------------------------------------------------------------------------------------------------ linear algebra


@pytest.mark.parametrize("name", list(experiment.FORWARD))
def test_linear_systems_of_an_observation(name):
    """Against NumPy. Rows of other scales are solved as well, each as it would be by itself."""
    forward = experiment.FORWARD[name]
    matrix = np.asarray(forward(jnp.eye(64).reshape(64, 8, 8, 1)).reshape(64, -1), np.float64).T
    observed = forward(images(3, experiment.SHAPE)) * jnp.array([1.0, 1e-3, 0.0]).reshape(3, 1, 1, 1)
    observation = linear.Observation(forward, observed, 0.0, experiment.SHAPE)
    right = np.asarray(observed, np.float64).reshape(3, -1)
    found = linear.solve(observation, 0.01, 0.5, observed)
    exact = np.linalg.solve(0.01 * np.eye(len(matrix)) + 0.5 * matrix @ matrix.T, right.T).T
    scale = np.abs(exact).max(axis=1, keepdims=True) + 1e-30
    np.testing.assert_allclose(np.asarray(found).reshape(3, -1) / scale, exact / scale, atol=1e-4)
    alone = observation._replace(observed=observed[1:2])
    np.testing.assert_allclose(linear.solve(alone, 0.01, 0.5, observed[1:2])[0], found[1], rtol=1e-5, atol=1e-9)
    if name != "blur":  # whose smallest singular values are 0 in float32
        inverse = linear.adjoint(observation)(linear.solve(observation, 0.0, 1.0, observed)).reshape(3, -1)
        np.testing.assert_allclose(inverse, right @ np.linalg.pinv(matrix).T, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_the_likelihood_is_exact_for_standard_normal_data(sigma):
    noisy, observed = images(4, (3,)), images(4, (2,), 4)
    observation = linear.Observation(FORWARD["sums"], observed, NOISE, (3,))
    found = linear.likelihood(standard_normal, observation, noisy, jnp.float32(sigma))
    covariance = NOISE**2 * np.eye(2) + sigma**2 / (1 + sigma**2) * np.asarray(SUMS @ SUMS.T)

    def log_prob(z):
        residual = observed - z / (1 + sigma**2) @ SUMS.T
        return -0.5 * jnp.einsum("bi,ij,bj->b", residual, jnp.linalg.inv(jnp.float32(covariance)), residual)

    np.testing.assert_allclose(found.log_prob, log_prob(noisy), rtol=1e-4)
    np.testing.assert_allclose(found.score, jax.grad(lambda z: log_prob(z).sum())(noisy), rtol=1e-3, atol=1e-6)


def test_the_ancestral_step_is_that_of_the_other_samplers():
    noisy, noise = images(4, (3,)), images(4, (3,), 5)
    state = ode.State(noisy, noisy, jnp.inf)
    for following in (0.4, 0.0):
        ends = jnp.float32(0.7), jnp.float32(following)
        denoised = ode.denoise_all(standard_normal, noisy, ends[0])
        expected = sde.ancestral(standard_normal, state, *ends, noise).noisy
        np.testing.assert_allclose(linear.ancestral(noisy, denoised, *ends, noise), expected, atol=1e-6)


# ----------------------------------------------------------------------------------------------------- resampling


def test_systematic_resampling_is_unbiased_and_rounds():
    weights = np.random.default_rng(5).dirichlet(np.ones(7))
    keys = per_example_keys(jax.random.key(2), jnp.arange(4000))
    log_weights = jnp.broadcast_to(jnp.log(jnp.float32(weights))[:, None], (7, 4000))
    chosen = np.asarray(twisted.systematic(keys, log_weights))
    counts = np.stack([(chosen == i).sum(axis=0) for i in range(7)])
    assert (counts >= np.floor(7 * weights)[:, None]).all() and (counts <= np.ceil(7 * weights)[:, None]).all()
    # The standard error of a share of 4,000 is at most 0.008.
    np.testing.assert_allclose(counts.mean(axis=1), 7 * weights, atol=0.032)
    np.testing.assert_allclose(twisted.effective_size(log_weights), 1 / np.sum(weights**2), rtol=1e-5)


# ----------------------------------------------------------------------------------------------- the whole solvers


def small_world(name, count, mixture=MIXTURE):
    return experiment.world(mixture, FORWARD[name], (3,), NOISE, count)


SLOW = pytest.mark.slow


def test_the_twisted_sampler_converges_to_the_posterior():
    """All particles: the mean's error falls as 1 / sqrt(particles)."""
    errors = [experiment.by_particles(small_world("sums", 16), count, SIGMAS).mean_error for count in (16, 1024)]
    # Expected is 8; the ratio of root mean squares over 16 observations of 3 values has a standard error of about 0.2.
    assert 4.5 < errors[0] / errors[1] < 14, errors


@SLOW
@pytest.mark.parametrize("name", list(FORWARD))
def test_the_mean_of_the_twisted_sampler_is_within_two_percent(name):
    assert experiment.by_particles(small_world(name, 32), 4096, SIGMAS).mean_error < 0.02


@pytest.mark.parametrize(
    ("name", "count", "margin"), [("sums", 200, 0.04), *(pytest.param(x, 800, 0.02, marks=SLOW) for x in FORWARD)]
)
def test_intervals_of_the_twisted_sampler_cover(name, count, margin):
    """The standard error of the coverage of `count` images is at most sqrt(0.0475 / count), 0.015 and 0.008."""
    row = experiment.by_particles(small_world(name, count), 128, SIGMAS)
    assert abs(row.pixels - 0.95) < margin and abs(row.projections - 0.95) < margin, row
    assert abs(row.deviation - 1) < 0.03, row


@pytest.mark.parametrize(("particles", "count"), [(8, 16), pytest.param(64, 100, marks=SLOW)])
def test_one_particle_of_the_twisted_sampler_is_a_sample(particles, count):
    """Independent runs. Of exact samples the mean's error is 1 / sqrt(39) in the posterior's deviations."""
    row = experiment.by_samples(small_world("sums", count), twisted.twisted(particles), SIGMAS)
    assert abs(row.mean_error_in_deviations - 39**-0.5) < 0.04, row
    assert abs(row.pixels - 0.95) < 0.05 and abs(row.deviation - (38 / 39) ** 0.5) < 0.04, row


def test_the_prior_of_the_twisted_sampler_is_the_data():
    """Without an observation its variance is within 1 %; the ancestral step's would be 9 / 48 = 19 % too small."""
    mixture = gaussian_mixture.Mixture(jnp.ones(1), jnp.zeros((1, 3)), 0.5 * jnp.eye(3)[None])
    count = 4000
    observation = linear.Observation(jnp.zeros_like, jnp.zeros((count, 3)), 1.0, (3,))
    keys = per_example_keys(jax.random.key(8), jnp.arange(count))
    image = jax.jit(lambda keys: twisted.twisted(1)(experiment.denoiser(mixture), observation, SIGMAS, keys))(keys)
    # The standard error of the variance of 12,000 values is 1.3 %.
    assert abs(float(jnp.var(image)) / 0.5 - 1) < 0.04


def test_pigdm_is_exact_for_standard_normal_data():
    sigmas = sigma_schedules.karras()(400, 0.02, 40.0)
    standard = gaussian_mixture.Mixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.eye(3)[None])
    row = experiment.by_samples(small_world("sums", 60, standard), posterior.pigdm, sigmas)
    assert abs(row.mean_error_in_deviations - 39**-0.5) < 0.03, row
    # The ancestral step leaves out 9 / 400 of the variance.
    assert abs(row.deviation - (38 / 39 * (1 - 9 / 400)) ** 0.5) < 0.02, row


@pytest.mark.parametrize("name", ["replacement", "dps"])
def test_replacement_and_dps_are_not_exact(name):
    """Pixels with correlation 0.95: replacement ignores how the known pixel weighs on the others at high sigma."""
    covariance = jnp.full((1, 3, 3), 0.95) + 0.05 * jnp.eye(3)[None]
    correlated = gaussian_mixture.Mixture(jnp.ones(1), jnp.zeros((1, 3)), covariance)
    sigmas = sigma_schedules.karras()(200, 0.02, 40.0)
    row = experiment.by_samples(small_world("mask", 60, correlated), posterior.SOLVERS[name].solve, sigmas)
    assert row.mean_error > 0.05 and (row.mean_error_in_deviations > 0.25 or not 0.93 < row.pixels < 0.97), row


@pytest.mark.parametrize("name", list(posterior.SOLVERS))
def test_a_row_depends_on_its_key_and_observation_alone(name):
    solver = posterior.SOLVERS[name]
    denoise = gaussian_mixture.denoiser(MIXTURE)
    observed = images(4, (3,)) * MASK
    solve = jax.jit(
        lambda observed, keys: solver.solve(
            denoise, linear.Observation(FORWARD["mask"], observed, 0.1, (3,)), SIGMAS[::4], keys
        )
    )
    found = solve(observed, KEYS)
    np.testing.assert_allclose(solve(observed[2:3], KEYS[2:3])[0], found[2], atol=2e-4)
    other = solve(observed.at[0].add(1.0), KEYS.at[1].set(KEYS[0]))
    np.testing.assert_allclose(other[2:], found[2:], atol=2e-4)
    assert (jnp.abs(other[:2] - found[:2]).max(axis=1) > 1e-2).all()


@pytest.mark.parametrize("name", ["replacement", "repaint", "ddnm", "twisted"])
def test_an_observation_without_noise_is_met(name):
    """Exactly where pixels are replaced or projected, and by the twisted sampler to its last sigma."""
    denoise, observed = gaussian_mixture.denoiser(MIXTURE), images(4, (3,)) * MASK
    observation = linear.Observation(FORWARD["mask"], observed, 0.0, (3,))
    image = jax.jit(lambda keys: posterior.SOLVERS[name].solve(denoise, observation, SIGMAS, keys))(KEYS)
    atol = {"replacement": 0, "repaint": 0, "ddnm": 1e-5, "twisted": 4 * float(SIGMAS[-2])}[name]
    np.testing.assert_allclose(observation.forward(image), observed, atol=atol)
    assert jnp.isfinite(image).all()


def test_the_noise_of_ddnm_adds_up():
    """Of a constant denoised image, observation noise and added noise together have the step's covariance."""
    count, sigma, following = 40_000, 1.0, 0.4
    sigmas = jnp.array([sigma, following])
    keys = per_example_keys(jax.random.key(7), jnp.arange(count))
    observed = NOISE * images(count, (2,))
    observation = linear.Observation(FORWARD["sums"], observed, NOISE, (3,))
    found = np.asarray(posterior.ddnm(lambda z, sigma: jnp.zeros_like(z), observation, sigmas, keys))
    start = sigma * np.asarray(normal(fold_in(keys, 0), (3,)))
    share = 1 - (following / sigma) ** 2
    residual = found - (1 - share) * start
    # The standard error of a covariance of 40,000 is at most 0.71 % of the variance.
    np.testing.assert_allclose(np.cov(residual.T), following**2 * share * np.eye(3), atol=0.03 * following**2 * share)
