"""Paths, targets, weightings and times against their papers' formulas in NumPy float64, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from genimg_jax.core import per_example_keys
from genimg_jax.objectives import interpolants, targets, weightings

PATHS = {
    "linear_beta": interpolants.linear_beta(),
    "discrete": interpolants.discrete(),
    "linear_log_snr": interpolants.linear_log_snr(),
    "cosine": interpolants.cosine(),
    "rectified": interpolants.rectified(),
    "variance_exploding": interpolants.variance_exploding(),
}
LEARNED = interpolants.learned(
    jnp.array([9.0, -6.0]), jnp.asarray(np.random.default_rng(0).normal(size=6), jnp.float32)
)
EDM = targets.edm_target(0.5)
TARGETS = (
    targets.x0_target,
    targets.epsilon_target,
    targets.v_target,
    targets.flow_velocity_target,
    EDM,
)


WEIGHTINGS = (weightings.noise_error, weightings.edm(0.5), weightings.min_snr())


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def published(name, t):  # -> alpha, sigma in float64
    if name == "linear_beta":  # Karras et al. 2022, table 1, column VP: the scale, and the scale times the level
        growth = np.exp(0.5 * 19.9 * t**2 + 0.1 * t)
        return 1 / np.sqrt(growth), np.sqrt(growth - 1) / np.sqrt(growth)
    if name == "discrete":  # Ho et al. 2020, section 4, at the steps
        kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.round(t * 1000).astype(int) - 1]
        return np.sqrt(kept), np.sqrt(1 - kept)
    if name == "linear_log_snr":  # Kingma et al. 2021, section 3.2
        gamma = -13.3 + 18.3 * t
        return 1 / np.sqrt(1 + np.exp(gamma)), 1 / np.sqrt(1 + np.exp(-gamma))
    if name == "cosine":
        return np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
    return (1 - t, t) if name == "rectified" else (np.ones_like(t), t)


def times(name):
    """Ordinary times and those near the ends, as float32 has them."""
    if name == "discrete":
        return np.arange(1, 1001) / 1000
    first, last = PATHS[name].bounds
    near = np.array([1e-5, 1e-3, 0.1, 0.37, 0.5, 0.83, 0.99, 0.9999])
    return (first + (last - first) * near).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("name", PATHS)
def test_paths_match_their_papers(name):
    t = times(name)
    alpha, sigma = published(name, t)
    path, t = PATHS[name], jnp.asarray(t, jnp.float32)
    np.testing.assert_allclose(path.alpha(t), alpha, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(path.sigma(t), sigma, rtol=2e-6)
    np.testing.assert_allclose(path.log_snr(t), 2 * np.log(alpha / sigma), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(interpolants.noise_level(path, t), sigma / alpha, rtol=5e-6)


@pytest.mark.parametrize("name", [*PATHS, "learned"])
def test_time_is_the_inverse_of_the_noise_level(name):
    path = PATHS.get(name, LEARNED)
    ends = interpolants.noise_level(path, jnp.asarray(path.bounds))
    levels = jnp.geomspace(jnp.maximum(ends[0], 1e-3), jnp.minimum(ends[1], 1e3), 200)
    found = interpolants.noise_level(path, path.time(-2 * jnp.log(levels)))
    np.testing.assert_allclose(found, levels, rtol=2e-4)


def example(seed, dtype):
    rng = np.random.default_rng(seed)
    return (jnp.asarray(rng.normal(size=(8, 3, 2, 1)), dtype) for _ in range(2))


@pytest.mark.parametrize("name", PATHS)
def test_every_target_gives_every_other(name, double):
    path, t = PATHS[name], jnp.asarray(times(name)[-8:])

    @jax.jit
    def conversions(image, noise):  # -> converted and direct, of each source and target
        noisy = interpolants.mix(path, t, image, noise)
        values = [targets.value(target, path, t, image, noise) for target in TARGETS]
        return values, [
            [targets.convert(path, t, noisy, value, source, target) for target in TARGETS]
            for source, value in zip(TARGETS, values, strict=True)
        ]

    expected, found = conversions(*example(0, float))
    for converted in found:
        for value, direct in zip(converted, expected, strict=True):
            np.testing.assert_allclose(value, direct, rtol=1e-6, atol=1e-6 * np.abs(direct).max())


@pytest.mark.parametrize("name", PATHS)
def test_conversions_are_stable_in_float32_where_the_target_determines_the_image(name):
    """At the very ends, an error of rounding in the prediction stays one in image and noise."""
    path = PATHS[name]
    t = jnp.asarray(np.repeat(path.bounds, 4), jnp.float32)
    image, noise = example(1, jnp.float32)
    noisy = interpolants.mix(path, t, image, noise)
    steep = path.bounds[1] > 1 or name == "linear_beta"  # alone at its end, a velocity there is lost in rounding
    for source in (targets.v_target, EDM) if steep else (*TARGETS[2:4], EDM):
        prediction = targets.value(source, path, t, image, noise)
        found = targets.convert(path, t, noisy, prediction, source, targets.x0_target)
        scale = 1 + interpolants.noise_level(path, t)[:4].max()
        np.testing.assert_allclose(found[:4], image[:4], atol=1e-5)
        found = targets.convert(path, t, noisy, prediction, source, targets.epsilon_target)
        np.testing.assert_allclose(found[4:], noise[4:], atol=2e-5 * float(scale))


def test_velocities_are_derivatives(double):
    """v by the angle, and the flow velocity by time, against finite differences of the path itself."""
    image, noise = example(2, float)
    t, h = jnp.linspace(0.1, 0.9, 8), 1e-6
    for name in ("linear_beta", "linear_log_snr", "cosine", "rectified"):
        path = PATHS[name]
        slope = (interpolants.mix(path, t + h, image, noise) - interpolants.mix(path, t - h, image, noise)) / (2 * h)
        np.testing.assert_allclose(
            targets.value(targets.flow_velocity_target, path, t, image, noise), slope, rtol=1e-6, atol=1e-6
        )
        if name != "rectified":
            angle = [jnp.arctan(interpolants.noise_level(path, x)) for x in (t - h, t + h)]
            by_angle = slope * interpolants.per_example(2 * h / (angle[1] - angle[0]), slope)
            v = targets.value(targets.v_target, path, t, image, noise)
            np.testing.assert_allclose(by_angle, v, rtol=1e-5, atol=1e-5)


def test_edm_preconditioning_matches_table_1():
    """Karras et al. 2022, table 1, column EDM: what the network is given, and what is made of what it returns."""
    sigma_data, level = 0.5, np.geomspace(0.002, 80, 8)
    image, noise = (np.asarray(x, np.float64) for x in example(3, jnp.float32))
    z = image + level.reshape(-1, 1, 1, 1) * noise
    skip = sigma_data**2 / (level**2 + sigma_data**2)
    out = level * sigma_data / np.sqrt(sigma_data**2 + level**2)
    scale = 1 / np.sqrt(level**2 + sigma_data**2)

    def raw(x):
        return np.tanh(x) + 0.3 * x

    expected = skip.reshape(-1, 1, 1, 1) * z + out.reshape(-1, 1, 1, 1) * raw(scale.reshape(-1, 1, 1, 1) * z)
    path = PATHS["variance_exploding"]

    def predict(x, t):
        scaled = interpolants.per_example(targets.input_scale(path, t, sigma_data), x) * x
        return jnp.tanh(scaled) + 0.3 * scaled

    denoise = targets.denoiser(path, EDM, predict)
    np.testing.assert_allclose(
        denoise(jnp.asarray(z, jnp.float32), jnp.asarray(level, jnp.float32)), expected, atol=1e-6
    )
    t = jnp.asarray(level, jnp.float32)
    np.testing.assert_allclose(weightings.edm(sigma_data)(path, targets.x0_target, t), 1 / out**2, rtol=1e-6)
    np.testing.assert_allclose(weightings.edm(sigma_data)(path, EDM, t), 1, rtol=2e-6)


def test_noise_prediction_matches_table_1():
    """Karras et al. 2022, table 1, column VP: expected image = z - level F(z / sqrt(level^2 + 1))."""
    level = np.geomspace(0.01, 100, 8).reshape(-1, 1, 1, 1)
    z = np.random.default_rng(4).normal(size=(8, 2, 2, 1)) * level
    expected = z - level * np.tanh(z / np.sqrt(level**2 + 1))
    denoise = targets.denoiser(PATHS["linear_beta"], targets.epsilon_target, lambda x, t: jnp.tanh(x))
    found = denoise(jnp.asarray(z, jnp.float32), jnp.asarray(level.ravel(), jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * level.max())


@pytest.mark.parametrize("name", ["linear_beta", "discrete", "cosine"])
def test_min_snr_matches_its_paper(name):
    """Hang et al. 2023, section 3.4: the weight of image, noise and velocity predictions."""
    path, t = PATHS[name], jnp.asarray(times(name)[1:-1:7], jnp.float32)
    snr = np.exp(np.asarray(path.log_snr(t), np.float64))
    weighting, limited = weightings.min_snr(5.0), np.minimum(snr, 5)
    for target, expected in zip(TARGETS[:3], (limited, limited / snr, limited / (snr + 1)), strict=True):
        np.testing.assert_allclose(weighting(path, target, t), expected, rtol=1e-5)
    np.testing.assert_allclose(weightings.noise_error(path, targets.epsilon_target, t), 1, rtol=1e-5)


@pytest.mark.parametrize("name", PATHS)
def test_a_weighting_of_the_image_does_not_depend_on_the_target(name, double):
    """A wrong image counts the same, whichever prediction said so."""
    path, t = PATHS[name], jnp.asarray(times(name)[-7:-1])

    @jax.jit
    def losses(image, noise):  # -> of each target and weighting
        noisy, found = interpolants.mix(path, t, image, noise), []
        for target in TARGETS:
            wrong = targets.convert(path, t, noisy, image + 0.1, targets.x0_target, target)
            error = jnp.sum((wrong - targets.value(target, path, t, image, noise)) ** 2, axis=(1, 2, 3))
            found.append(jnp.stack([weighting(path, target, t) * error for weighting in WEIGHTINGS]))
        return jnp.stack(found)

    found = np.asarray(losses(*(x[:6] for x in example(5, float))))
    np.testing.assert_allclose(found[1:], np.broadcast_to(found[0], found[1:].shape), rtol=1e-6)


UNIFORM = (np.arange(999) + 1) / 1000


@pytest.mark.parametrize("name", PATHS)
def test_times_have_their_distributions(name):
    path, u = PATHS[name], jnp.asarray(UNIFORM, jnp.float32)
    first, last = path.bounds
    t = jax.jit(lambda u: weightings.log_normal_levels(-1.2, 0.4)(path, u))(u)
    levels = np.clip(
        np.exp(-1.2 + 0.4 * scipy.stats.norm.ppf(UNIFORM)), *interpolants.noise_level(path, jnp.asarray(path.bounds))
    )
    np.testing.assert_allclose(interpolants.noise_level(path, t), levels, rtol=2e-4)
    t = jax.jit(lambda u: weightings.logit_normal_times(0.3, 0.8)(path, u))(u)
    logit = scipy.special.logit((np.asarray(t, np.float64) - first) / (last - first))
    np.testing.assert_allclose(scipy.stats.norm.cdf((logit - 0.3) / 0.8), UNIFORM, atol=2e-5)


def test_cosine_times_are_the_published_map():
    """Esser et al. 2024, equation 21: t = 1 - 1 / (tan(pi u / 2) + 1)."""
    t = weightings.cosine_times(PATHS["rectified"], jnp.asarray(UNIFORM, jnp.float32))
    np.testing.assert_allclose(t, 1 - 1 / (np.tan(np.pi * UNIFORM / 2) + 1), atol=1e-6)


def test_discrete_times_are_equally_frequent():
    t = weightings.discrete_times(10)(PATHS["discrete"], jnp.asarray((np.arange(1000) + 0.5) / 1000, jnp.float32))
    found, counts = np.unique(np.asarray(t), return_counts=True)
    np.testing.assert_allclose(found, np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_array_equal(counts, 100)


def test_uniform_numbers_are_spread_and_inside():
    index = jnp.arange(4096)
    keys = per_example_keys(jax.random.key(0), index)
    spread, alone = (np.asarray(u) for u in (weightings.stratified(keys[0], index), weightings.independent(keys)))
    for u in (spread, alone):
        assert 0 < u.min() < u.max() < 1
        assert np.isfinite(jax.scipy.special.ndtri(jnp.asarray(u))).all()
    # The largest gap from the uniform distribution: about log(n) / n if spread, and 1 / sqrt(n) if not.
    assert scipy.stats.kstest(spread[1000:2000], "uniform").statistic < 3e-3
    assert scipy.stats.kstest(alone, "uniform").pvalue > 1e-3
    starts = jax.vmap(weightings.stratified, (0, None))(keys[:500], jnp.array(3))
    assert scipy.stats.kstest(starts, "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(weightings.stratified(keys[0], index[2048:]), spread[2048:])


def test_learned_ends_have_gradients():
    def loss(ends):
        path = interpolants.linear_log_snr(*ends)
        t = jnp.array([0.25])
        return jnp.sum(path.sigma(t) + path.time(path.log_snr(t)))

    ends = jnp.array([10.0, -4.0])
    log_snr = 10 - 14 * 0.25
    slope = -0.5 * np.sqrt(1 / (1 + np.exp(log_snr))) / (1 + np.exp(-log_snr))  # of sqrt(sigmoid(-x)) by x
    np.testing.assert_allclose(jax.grad(loss)(ends), slope * np.array([0.75, 0.25]), rtol=1e-5, atol=1e-7)
