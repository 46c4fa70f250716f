"""Posteriors over codes: a linear decoder, whose posterior is Gaussian, and one code, whose posterior is integrated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.samplers import latent_posterior
from genimg_jax.samplers.latent_posterior import SOLVERS, split_r_hat

CHAINS = ["langevin", "hamiltonian"]
STEPS = {"langevin": 400, "hamiltonian": 80}
NOISE = 0.3
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(3, 6)).astype(np.float32)  # codes of 3 values, images of 6
BIAS = RNG.normal(size=6).astype(np.float32)
FORWARD = RNG.normal(size=(6, 2)).astype(np.float32)  # sees 2 of the 3 dimensions of the codes
SYSTEM = (WEIGHT @ FORWARD).astype(np.float64)
COVARIANCE = np.linalg.inv(np.eye(3) + SYSTEM @ SYSTEM.T / NOISE**2)


def decode(codes):  # [B, 1, 1, 3] -> [B, 6]
    return codes.reshape(-1, 3) @ WEIGHT + BIAS[None]


LINEAR = latent_posterior.gaussian(lambda codes, data: decode(codes) @ FORWARD, NOISE)


def exact_mean(observed):  # [B, 2] -> [B, 3]
    return (observed - (BIAS @ FORWARD)[None]) @ SYSTEM.T @ COVARIANCE / NOISE**2


def joint(count):
    """Codes and their observations."""
    codes = RNG.normal(size=(count, 3))
    return codes, (decode(codes) @ FORWARD + NOISE * RNG.normal(size=(count, 2))).astype(np.float32)


def solve(name, log_likelihood, observed, shape, starts, steps, seed=0):
    solver = SOLVERS[name]

    @jax.jit
    def run(data, keys):
        start = solver.start(log_likelihood, data, shape, keys, starts)
        return solver.solve(log_likelihood, data, start, keys, steps)

    keys = core.per_example_keys(jax.random.key(seed), jnp.arange(len(observed)))
    return jax.tree.map(np.asarray, run({"observed": jnp.asarray(observed)}, keys))


# ---------------------------------------------------------------------------------------------- linear decoder


def test_optimum_is_ridge_regression():
    _, observed = joint(50)
    draws = solve("optimise", LINEAR, observed, (1, 1, 3), 8, 800)
    assert draws.codes.shape == (50, 1, 1, 3)
    np.testing.assert_allclose(draws.codes.reshape(-1, 3), exact_mean(observed), atol=1e-3)


@pytest.fixture(scope="module", params=CHAINS)
def sampled(request):
    """The solver's name, 150 codes of the prior, their observations, and 39 chains for each of these."""
    codes, observed = joint(150)
    draws = solve(request.param, LINEAR, np.repeat(observed, 39, axis=0), (1, 1, 3), 4, STEPS[request.param])
    return request.param, codes, observed, draws


def test_samples_of_a_linear_decoder_are_of_its_gaussian_posterior(sampled):
    """The standardised errors of exact samples are independent and N(0, 1): bounds are 4.5 standard errors. The moments
    of images follow, because they are linear in the codes; Cov[x | y] is compared too."""
    _, _, observed, draws = sampled
    mean, count = np.repeat(exact_mean(observed), 39, axis=0), len(draws.codes)
    standard = (draws.codes.reshape(count, 3) - mean) @ np.linalg.cholesky(np.linalg.inv(COVARIANCE))
    np.testing.assert_allclose(standard.mean(0), 0, atol=4.5 / np.sqrt(count))
    np.testing.assert_allclose(standard.T @ standard / count, np.eye(3), atol=4.5 * np.sqrt(2 / count))
    assert stats.kstest(np.square(standard).sum(1), stats.chi2(3).cdf).pvalue > 1e-3
    exact = WEIGHT.T @ COVARIANCE @ WEIGHT
    bound = 4.5 * exact.diagonal().max() * np.sqrt(2 / count)
    np.testing.assert_allclose(np.cov((decode(draws.codes) - decode(mean)).T), exact, atol=bound)


def test_credible_sets_cover_the_truth(sampled):
    """The truth and 39 exact samples are exchangeable: it lies between the least and the largest with probability
    38 / 40. The unit is the observation; the bound is 4 standard errors."""
    _, codes, _, draws = sampled
    for samples, truth in [(draws.codes, codes), (decode(draws.codes), decode(codes))]:
        samples = samples.reshape(len(codes), 39, -1)
        inside = ((samples.min(1) < truth) & (truth < samples.max(1))).mean(1)
        assert abs(inside.mean() - 0.95) < 4 * inside.std() / np.sqrt(len(codes))


def test_step_sizes_bring_the_acceptance_to_its_target(sampled):
    """A Hamiltonian chain's is higher: where trajectories turn unstable, acceptance falls from above 0.9 to 0, and the
    average of the step sizes that are tried is on the stable side."""
    name, _, _, draws = sampled
    low, high = {"langevin": (0.5, 0.7), "hamiltonian": (0.7, 0.96)}[name]
    assert low < draws.acceptance.mean() < high


@pytest.mark.parametrize("name", SOLVERS)
def test_a_row_depends_on_its_own_key_and_data(name):
    """Row 2 is row 0 with another key, and row 3 is row 0 again."""
    _, observed = joint(2)
    observed, index = jnp.asarray(observed[[0, 1, 0, 0]]), jnp.array([0, 1, 2, 0])

    @jax.jit
    def run(observed, index):
        data, keys = {"observed": observed}, core.per_example_keys(jax.random.key(1), index)
        start = SOLVERS[name].start(LINEAR, data, (1, 1, 3), keys, 4)
        return SOLVERS[name].solve(LINEAR, data, start, keys, 10).codes

    codes = np.asarray(run(observed, index))
    np.testing.assert_allclose(codes[3], codes[0], rtol=1e-5, atol=1e-6)
    order = np.array([2, 1, 0, 3])
    np.testing.assert_allclose(run(observed[order], index[order]), codes[order], rtol=1e-5, atol=1e-6)
    assert np.abs(codes[2] - codes[0]).max() > 1e-3


# --------------------------------------------------------------------------------------------------- two modes


def bent(codes):  # [B, 1] -> [B]
    return codes[:, 0] ** 2 + 0.1 * codes[:, 0]


BENT = latent_posterior.gaussian(lambda codes, data: bent(codes)[:, None], 0.2)
GRID = np.linspace(-5, 5, 20001)
DENSITY = np.exp(-0.5 * GRID**2 - 0.5 * ((1.5 - bent(GRID[:, None])) / 0.2) ** 2)
DENSITY /= DENSITY.sum()
ABOVE = DENSITY[GRID > 0].sum()  # probability of the mode at the positive codes


def chains_of_two_modes(name, start, count):
    data = {"observed": jnp.full((count, 1), 1.5)}
    keys = core.per_example_keys(jax.random.key(3), jnp.arange(count))
    return jax.jit(lambda keys: SOLVERS[name].solve(BENT, data, start(data, keys), keys, STEPS[name]))(keys)


@pytest.mark.parametrize("name", CHAINS)
def test_importance_resampling_gives_each_mode_its_probability(name):
    """Integrated on a grid. Kolmogorov's test sees an error of about 0.03 of the distribution with 3000 samples."""

    def start(data, keys):
        return latent_posterior.resample_prior(BENT, data, (1,), keys, 50)

    codes = np.asarray(chains_of_two_modes(name, start, 3000).codes)[:, 0]
    assert 0.2 < ABOVE < 0.8
    assert abs((codes > 0).mean() - ABOVE) < 4 * np.sqrt(ABOVE * (1 - ABOVE) / 3000)
    cumulative = DENSITY.cumsum()
    assert stats.kstest(codes, lambda x: np.interp(x, GRID, cumulative)).pvalue > 1e-3


@pytest.mark.parametrize("name", CHAINS)
def test_chains_miss_the_mode_that_they_did_not_start_in_and_r_hat_shows_it(name):
    def start(data, keys):
        return jnp.where(jnp.arange(len(keys)) < 8, 1.2, -1.2)[:, None]

    draws = chains_of_two_modes(name, start, 16)
    assert (np.asarray(draws.trace[:8]) > 0).all() and (np.asarray(draws.trace[8:]) < 0).all()
    assert split_r_hat(draws.trace[4:12]).item() > 1.5
    assert split_r_hat(draws.trace[:8]).item() < 1.1


def test_resampling_is_by_likelihood():
    """With many draws the start alone is a sample of the posterior, and the best draw is near its largest mode."""
    data = {"observed": jnp.full((2000, 1), 1.5)}
    keys = core.per_example_keys(jax.random.key(4), jnp.arange(2000))
    codes = np.asarray(latent_posterior.resample_prior(BENT, data, (1,), keys, 400))[:, 0]
    assert stats.kstest(codes, lambda x: np.interp(x, GRID, DENSITY.cumsum())).pvalue > 1e-3
    best = np.asarray(latent_posterior.best_of_prior(BENT, data, (1,), keys, 400))[:, 0]
    assert np.abs(best - GRID[DENSITY.argmax()]).mean() < 0.05


def test_without_noise_there_is_no_density():
    for noise in (0, 0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="needs noise above 0"):
            latent_posterior.gaussian(lambda codes, data: codes, noise)
