"""Samplers against exact solutions for Gaussians, a reference integrator for mixtures, and their papers' equations."""

import itertools

import gaussian_score as toys
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from genimg_jax.core import fold_in, normal, per_example_keys
from genimg_jax.objectives import interpolants, targets
from genimg_jax.samplers import ode, sde, sigma_schedules
from genimg_jax.samplers.guidance import guide

RNG = np.random.default_rng(0)
GAUSSIAN = toys.gaussian([0.7, -0.4], toys.random_covariance(RNG, 2))
MIXTURE = toys.mixture(
    [0.5, 0.3, 0.2], [[1.0, 0.5], [-1.0, 0.2], [0.1, -1.2]], [toys.random_covariance(RNG, 2, 0.2) for _ in range(3)]
)
KEYS = per_example_keys(jax.random.key(0), jnp.arange(4))
STEPS = (32, 64, 128)


def slope(errors):
    """The order of convergence: how fast the error falls with the number of steps, on logarithmic axes."""
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


def levels(steps, sigma_min=0.1, sigma_max=10.0):
    return sigma_schedules.karras()(steps + 1, sigma_min, sigma_max)[:-1]


def test_toy_denoiser_is_tweedie_of_its_density():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)), jnp.float32)
    level = jnp.array([0.2, 0.5, 1.0, 3.0, 10.0])
    score = jax.grad(lambda x: toys.log_density(MIXTURE, x, level).sum())(x)
    np.testing.assert_allclose(toys.denoiser(MIXTURE)(x, level), x + level[:, None] ** 2 * score, atol=2e-4)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
@pytest.mark.parametrize(("step", "order"), [(ode.euler, 1), (ode.heun, 2), (ode.dpm_solver, 2)])
def test_order_of_convergence(name, step, order):
    toy = GAUSSIAN if name == "gaussian" else MIXTURE
    denoise = toys.denoiser(toy)
    with jax.enable_x64(True):
        start = jnp.asarray(np.random.default_rng(2).normal(size=(4, 2)) * 10)
        found = [jax.jit(lambda z, n=n: ode.integrate(step, denoise, z, levels(n), KEYS))(start) for n in STEPS]
        if name == "gaussian":
            exact = toys.flow(toy, start, 10.0, 0.1)
        else:
            at = jax.jit(denoise)

            def field(log_level, z):
                z = z.reshape(start.shape)
                return np.ravel(z - at(jnp.asarray(z), jnp.full(4, np.exp(log_level))))

            ends = np.log([10.0, 0.1])
            exact = scipy.integrate.solve_ivp(field, ends, np.ravel(start), method="DOP853", rtol=1e-9, atol=1e-9).y[
                :, -1
            ]
            exact = exact.reshape(start.shape)
        errors = [np.abs(np.asarray(z) - exact).max() for z in found]
    assert abs(slope(errors) - order) < 0.25, errors


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda steps: sde.ancestral, 1),
        (lambda steps: sde.ddim(0.6), 1),
        (lambda steps: sde.stochastic(steps, 5.0, 0.2, 5.0, 1.0), 2),
    ],
    ids=["ancestral", "ddim", "stochastic"],
)
def test_order_of_convergence_of_the_covariance(make, order):
    """For a Gaussian a step is affine in image and noise, and so the sampler's covariance is known without sampling."""
    denoise = toys.denoiser(GAUSSIAN)
    mean, covariance = toys.moments(GAUSSIAN)
    with jax.enable_x64(True):

        def moments_after(steps):
            step, zeros = make(steps), jnp.zeros((1, 2))

            def visit(moments, ends):
                center, spread = moments

                def one(z, noise):
                    return step(denoise, ode.State(z, z, ends[0]), *ends, noise).noisy[0]

                of_image, of_noise = (jac[:, 0] for jac in jax.jacfwd(one, (0, 1))(center[None], zeros))
                spread = of_image @ spread @ of_image.T + of_noise @ of_noise.T
                return (one(center[None], zeros), spread), None

            grid = levels(steps)
            start = jnp.asarray(mean), jnp.asarray(covariance) + grid[0] ** 2 * jnp.eye(2)
            return jax.lax.scan(visit, start, (grid[:-1], grid[1:]))[0]

        found = [jax.jit(lambda n=n: moments_after(n))() for n in STEPS]
    exact = covariance + 0.1**2 * np.eye(2)
    assert abs(slope([np.abs(np.asarray(spread) - exact).max() for _, spread in found]) - order) < 0.25
    np.testing.assert_allclose(found[-1][0], mean, rtol=1e-9)


def drawn(step, grid, keys):
    return ode.from_noise(step, toys.denoiser(MIXTURE), grid, normal(fold_in(keys, 0), (2,)), keys)


@pytest.mark.parametrize(
    ("step", "steps"),
    [
        (ode.euler, 200),
        (ode.heun, 40),
        (ode.dpm_solver, 40),
        (sde.ddim(0.5), 200),
        (sde.ancestral, 200),
        (sde.stochastic(60, 20.0, 0.05, 50.0, 1.0), 60),
    ],
    ids=["euler", "heun", "dpm_solver", "ddim", "ancestral", "stochastic"],
)
def test_samples_have_the_mean_and_covariance_of_the_data(step, steps):
    count = 4096
    keys = per_example_keys(jax.random.key(1), jnp.arange(count))
    grid = sigma_schedules.karras()(steps, 0.002, 80.0)
    found = jax.jit(lambda keys: drawn(step, grid, keys))(keys)
    found = np.asarray(found, np.float64)
    mean, covariance = toys.moments(MIXTURE)
    scores = (found.mean(axis=0) - mean) / np.sqrt(np.diagonal(covariance) / count)
    products = np.einsum("bd,be->bde", found - mean, found - mean)
    more = (products.mean(axis=0) - covariance) / (products.std(axis=0) / np.sqrt(count))
    assert np.abs(scores).max() < 3.5
    assert np.abs(more).max() < 3.5


def test_ancestral_and_ddim_match_their_papers():
    """Ho et al. 2020, algorithm 2, and Song et al. 2021, equation 12, in the variables of the papers."""
    betas = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - betas)
    path = interpolants.discrete(betas)
    ks = np.arange(1000, 0, -1)
    denoise = targets.denoiser(path, targets.epsilon_target, lambda x, t: jnp.tanh(x + interpolants.per_example(t, x)))
    at_steps = jnp.append(interpolants.noise_level(path, jnp.asarray(ks / 1000, jnp.float32)), 0.0)
    start = np.random.default_rng(3).normal(size=(4, 2))

    def reference(chain, eta):
        x = start.copy()
        for number, (k, following) in enumerate(zip(chain, [*chain[1:], 0], strict=True), 1):
            noise = np.asarray(ode.core.normal(ode.core.fold_in(KEYS, number), (2,)), np.float64)
            predicted = np.tanh(x + k / 1000)
            now, then = kept[k - 1], kept[following - 1] if following else 1.0
            if eta is None:
                x = (x - betas[k - 1] / np.sqrt(1 - now) * predicted) / np.sqrt(1 - betas[k - 1])
                x += np.sqrt((1 - then) / (1 - now) * betas[k - 1]) * noise
            else:
                std = eta * np.sqrt((1 - then) / (1 - now)) * np.sqrt(1 - now / then)
                clean = (x - np.sqrt(1 - now) * predicted) / np.sqrt(now)
                x = np.sqrt(then) * clean + np.sqrt(1 - then - std**2) * predicted + std * noise
        return x

    for step, chain, eta in ((sde.ancestral, ks, None), (sde.ddim(0.4), ks[::50], 0.4), (ode.euler, ks[::50], 0.0)):
        grid = jnp.append(at_steps[:-1][1000 - chain], 0.0)
        z = jnp.asarray(start / np.sqrt(kept[chain[0] - 1]), jnp.float32)
        found = jax.jit(lambda z, step=step, grid=grid: ode.integrate(step, denoise, z, grid, KEYS))(z)
        expected = reference(chain, eta)
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


PUBLISHED_STOCHASTIC = (
    40.0,
    0.05,
    50.0,
    1.003,
)  # Karras et al. 2022, table 5, ImageNet: S_churn, S_tmin, S_tmax, S_noise


@pytest.mark.parametrize(
    ("step", "steps", "settings"),
    [
        (sde.stochastic(5, 1.5, 0.3, 20.0, 1.1), 5, (1.5, 0.3, 20.0, 1.1)),
        (sde.stochastic(5), 5, PUBLISHED_STOCHASTIC),
        (sde.stochastic(256), 256, PUBLISHED_STOCHASTIC),
    ],
    ids=["given", "defaults_capped", "defaults"],
)
def test_the_stochastic_sampler_is_that_of_its_paper(step, steps, settings):
    """Karras et al. 2022, algorithm 2, with levels on both sides of each limit, and a churn above its cap and below."""
    levels = np.array([50.5, 49.5, 8.0, 2.0, 0.5, 0.1, 0.0505, 0.0495, 0.0])
    churn, sigma_min, sigma_max, inflation = settings
    x = start = 50 * np.random.default_rng(8).normal(size=(4, 2))

    def clean(x, level):
        return np.tanh(x) / (1 + level)

    def denoise(x, level):
        return jnp.tanh(x) / (1 + level[:, None])

    for i, (now, then) in enumerate(itertools.pairwise(levels)):
        noise = np.asarray(ode.core.normal(ode.core.fold_in(KEYS, i + 1), (2,)), np.float64)
        gamma = min(churn / steps, np.sqrt(2) - 1) if sigma_min <= now <= sigma_max else 0.0
        raised = now + gamma * now
        x = x + np.sqrt(raised**2 - now**2) * inflation * noise
        slope = (x - clean(x, raised)) / raised
        following = x + (then - raised) * slope
        if then:
            slope = 0.5 * (slope + (following - clean(following, then)) / then)
            following = x + (then - raised) * slope
        x = following
    found = ode.integrate(step, denoise, jnp.asarray(start, jnp.float32), jnp.asarray(levels, jnp.float32), KEYS)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


def test_euler_on_the_linear_grid_is_eulers_method_for_rectified_flow():
    path = interpolants.rectified()

    def velocity(x, t):
        return jnp.tanh(2 * x) - x * interpolants.per_example(t, x)

    grid = sigma_schedules.linear(20, 1 / 19, 1e4)  # t = 0.9999 to 1 / 20, and 0
    x = start = np.random.default_rng(4).normal(size=(4, 2)).astype(np.float32)
    times = np.append(np.linspace(0.9999, 1 / 20, 20), 0)
    for t, following in itertools.pairwise(times):
        x = x + (following - t) * np.asarray(velocity(jnp.asarray(x, jnp.float32), jnp.full(4, t, jnp.float32)))
    denoise = targets.denoiser(path, targets.flow_velocity_target, velocity)
    found = jax.jit(lambda x: ode.integrate(ode.euler, denoise, x * (1 + grid[0]), grid, KEYS))(start)
    np.testing.assert_allclose(found, x, atol=1e-3)


def test_stochastic_without_churn_and_ddim_without_eta_are_the_ode():
    denoise, start = toys.denoiser(MIXTURE), jax.random.normal(jax.random.key(5), (4, 2)) * 80
    grid = sigma_schedules.karras()(12, 0.002, 80.0)
    for step, same in ((sde.stochastic(12, 0.0), ode.heun), (sde.ddim(0.0), ode.euler)):
        found, expected = (
            jax.jit(lambda z, s=s: ode.integrate(s, denoise, z, grid, KEYS))(start) for s in (step, same)
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "steps", "tolerance"), [(ode.euler, 400, 0.05), (ode.heun, 80, 0.01), (ode.dpm_solver, 80, 0.01)]
)
def test_noise_is_where_the_ode_takes_an_image_and_leads_back(step, steps, tolerance):
    image = jnp.asarray(toys.draw(GAUSSIAN, np.random.default_rng(3), 16), jnp.float32)
    grid, keys = sigma_schedules.karras()(steps, 0.002, 80.0), per_example_keys(jax.random.key(0), jnp.arange(16))
    noise = jax.jit(lambda x: ode.to_noise(step, toys.denoiser(GAUSSIAN), grid, x))(image)
    np.testing.assert_allclose(noise, toys.flow(GAUSSIAN, image, 0.0, 80.0) / 80, atol=tolerance)
    again = jax.jit(lambda n: ode.from_noise(step, toys.denoiser(GAUSSIAN), grid, n, keys))(noise)
    np.testing.assert_allclose(again, image, atol=tolerance)


@pytest.mark.parametrize("step", [ode.dpm_solver, sde.ancestral, sde.stochastic(6)], ids=["ode", "ddpm", "edm"])
def test_an_image_depends_on_its_own_key_alone(step):
    grid = sigma_schedules.karras()(6, 0.01, 80.0)
    run = jax.jit(lambda keys: drawn(step, grid, keys))
    keys, order = per_example_keys(jax.random.key(6), jnp.arange(4)), np.array([2, 0, 3, 1])
    images = np.asarray(run(keys))
    np.testing.assert_allclose(run(keys[order]), images[order], rtol=1e-6)
    assert len(np.unique(images[:, 0])) == 4


@pytest.mark.parametrize(
    ("grid", "warp"),
    [
        (sigma_schedules.karras(7.0), lambda s: s ** (1 / 7)),
        (sigma_schedules.linear, lambda s: s / (1 + s)),
        (sigma_schedules.cosine, np.arctan),
        (sigma_schedules.log_uniform, np.log),
    ],
    ids=["karras", "linear", "cosine", "log_uniform"],
)
def test_grids_match_their_formulas(grid, warp):
    found = np.asarray(grid(18, 0.002, 80.0), np.float64)
    assert found.shape == (19,)
    assert found[-1] == 0
    np.testing.assert_allclose(found[[0, -2]], [80.0, 0.002], rtol=2e-5)
    np.testing.assert_allclose(warp(found[:-1]), np.linspace(warp(80.0), warp(0.002), 18), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grid(1, 0.002, 80.0), [80.0, 0.0], rtol=2e-5)


def test_karras_levels_are_the_published_ones_by_default():
    """Karras et al. 2022, equation 5 with rho = 7, N = 18, sigma_min = 0.002 and sigma_max = 80."""
    found = np.asarray(sigma_schedules.karras()(18, 0.002, 80.0))
    np.testing.assert_allclose(found[[0, 1, 8, 9, 17]], [80.0, 57.586, 3.2568, 1.9233, 0.002], rtol=1e-4)
    np.testing.assert_allclose(sigma_schedules.karras()(3, 0.002, 80.0)[1], 2.5152, rtol=1e-4)


def test_guidance_at_0_and_1_and_its_interval():
    better, worse = toys.denoiser(GAUSSIAN), toys.denoiser(MIXTURE)
    z, level = jax.random.normal(jax.random.key(7), (3, 2)), jnp.array([0.1, 1.0, 10.0])
    good, bad = np.asarray(better(z, level)), np.asarray(worse(z, level))
    np.testing.assert_array_equal(guide(better, worse, 0.0)(z, level), bad)
    np.testing.assert_array_equal(guide(better, worse, 1.0)(z, level), good)
    guided = guide(better, worse, 3.0, (0.5, 5.0))(z, level)
    np.testing.assert_array_equal(guided[::2], good[::2])
    np.testing.assert_allclose(guided[1], bad[1] + 3 * (good - bad)[1], rtol=1e-5)
