"""What the parts of a diffusion model must make together, where the data is Gaussian and the network ideal."""

import gaussian_score
import ideal_network
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ideal_network import CLASSES, DATA_STD, NOTHING, SHAPE, check_denoise, check_log_prob, check_loss, check_moments
from scipy.stats import norm

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import denoising, diffusion, prediction
from genimg_jax.objectives import interpolants, targets, weightings

DDPM = {"noise_schedule": "discrete", "target": "epsilon", "weighting": "uniform", "times": "discrete_times"}
CHAIN = {
    **DDPM,
    "solver": "ancestral",
    "sigma_schedule": "schedule_times",
    "steps": 1000,
    "sigma_min": 1e-5,
    "sigma_max": 1000.0,
}
KEPT = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
UNIFORM = (np.arange(100_000) + 0.5) / 100_000


@pytest.fixture
def ideal(monkeypatch):
    ideal_network.install(monkeypatch, ideal_network.Network)


def edm_loss() -> float:
    """Karras et al. 2022, table 1, with the noise levels clipped to the path's."""
    level = np.clip(np.exp(-1.2 + 1.2 * norm.ppf(UNIFORM)), 0.002, 80)
    weight = (level**2 + DATA_STD**2) / (level * DATA_STD) ** 2
    return float((weight * ideal_network.image_error(level)).mean())


def ddpm_loss() -> float:
    """The error of the noise at the 1000 steps' levels."""
    level = np.sqrt((1 - KEPT) / KEPT)
    return float((ideal_network.image_error(level) / level**2).mean())


# --------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "stochastic", "steps": 300},
        {"solver": "dpm_solver", "sigma_schedule": "log_uniform", "noise_schedule": "linear_log_snr", "target": "v"},
        CHAIN,
    ],
    ids=["edm", "stochastic", "variational", "ddpm"],
)
def test_samples_have_the_moments_of_the_data(ideal, options):
    check_moments(diffusion, **{"steps": 60, **options})


# ---------------------------------------------------------------------------------------------------- loss, denoiser


def test_the_loss_of_the_ideal_denoiser(ideal):
    check_loss(diffusion, edm_loss())
    check_loss(diffusion, edm_loss(), target="epsilon")  # the weighting is of the image's error
    check_loss(diffusion, ddpm_loss(), **DDPM)


@pytest.mark.parametrize("path", [path for path in diffusion.NOISE_SCHEDULES if path != "learned"])
def test_targets_and_paths_are_the_same_denoiser(ideal, path):
    for target in diffusion.TARGETS:
        check_denoise(diffusion, noise_schedule=path, target=target)


@pytest.mark.parametrize(
    "options",
    [{}, {"likelihood_probes": 0}, {"likelihood_probes": 0, "likelihood_tolerance": 1e-4}],
    ids=["estimated", "exact", "adaptive"],
)
def test_the_likelihood_is_that_of_the_data_with_uniform_noise(ideal, options):
    check_log_prob(diffusion, **options)


def test_adaptive_steps_are_told_each_images_own_class(ideal):
    data = {**ideal_network.batch(4), "label": jnp.array([0, 1, 1, 0])}
    found = []
    for tolerance in (0.0, 1e-4):
        family, weights = ideal_network.made(diffusion, 2, likelihood_probes=0, likelihood_tolerance=tolerance)
        found.append(jax.jit(family.log_prob)(weights, data, jax.random.key(0)))
    np.testing.assert_allclose(*found, atol=0.05)
    turned = jax.jit(family.log_prob)(weights, {**data, "label": 1 - data["label"]}, jax.random.key(0))
    assert np.abs(turned - found[1]).min() > 0.1


# ----------------------------------------------------------------------------------------------------------- classes


def check_guidance() -> None:
    """Weight 0 is the denoiser that is told no class, 1 the one that is, and others lie on the line through them."""
    level = jnp.array([0.1, 0.5, 2.0, 2.0])
    label = jnp.array([0, 1, 0, 1])
    noisy = jnp.asarray(np.random.default_rng(3).normal(size=(4, *SHAPE)), jnp.float32)
    nothing = gaussian_score.denoiser(NOTHING)(noisy, level)
    told = jnp.stack([gaussian_score.denoiser(CLASSES[int(k)])(noisy, level)[i] for i, k in enumerate(label)])
    for weight in (0.0, 1.0, 2.5):
        family, weights = ideal_network.made(diffusion, classes=2, guidance=weight)
        found = family.denoise(weights, noisy, level, {"label": label})
        np.testing.assert_allclose(found, (1 - weight) * nothing + weight * told, atol=1e-4)


def test_guidance(ideal):
    check_guidance()


def test_guidance_guides_samples_and_no_likelihood(ideal):
    keys = core.per_example_keys(jax.random.key(0), jnp.arange(8))
    data = ideal_network.batch(8)

    def run(weight, label):
        family, weights = ideal_network.made(diffusion, classes=2, guidance=weight, steps=4, likelihood_steps=4)
        told = {**data, "label": jnp.full(8, label)}
        drawn = family.sample(weights, keys, {"label": told["label"]})
        return drawn, family.log_prob(weights, told, jax.random.key(1))

    (ignored, plain), (same, other), (guided, still) = run(0.0, 0), run(0.0, 1), run(2.0, 0)
    np.testing.assert_array_equal(ignored, same)
    assert np.abs(guided - ignored).mean() > 0.05
    np.testing.assert_array_equal(plain, still)
    assert np.abs(plain - other).mean() > 1


class Tells(ideal_network.Network):
    """Predicts a parameter where the class is hidden, else 0."""

    def init(self, key, image, c_noise, condition):
        return {"params": {"hidden": jnp.zeros(())}}

    def apply(self, variables, scaled, c_noise, condition):
        hidden = ideal_network.told(condition, len(scaled), self.classes) == self.classes
        return jnp.broadcast_to(hidden.reshape(-1, 1, 1, 1), scaled.shape) * variables["params"]["hidden"]


def check_dropout() -> None:
    """With images of -1, the gradient of that parameter at 0 is twice the share of hidden classes."""
    optimizers, count, rate = {"model": core.Optimizer(optax.sgd(0.5))}, 20_000, 0.15
    family, _ = ideal_network.made(
        diffusion, 2, optimizers=optimizers, condition_dropout=rate, target="x0", weighting="uniform"
    )
    data = {**ideal_network.batch(count, label=1), "image": jnp.full((count, *SHAPE), -1.0)}
    state, _ = jax.jit(family.train_step)(family.init(jax.random.key(0), data), data, jax.random.key(1))
    share = -float(state.params["model"]["hidden"])
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / count), share
    # Evaluation hides none: there the parameter, now far from 0, plays no part.
    np.testing.assert_allclose(family.evaluate(core.weights(state), data, jax.random.key(2))["loss"], 1.0, rtol=1e-5)


def test_as_many_classes_are_hidden_as_asked_for(monkeypatch):
    ideal_network.install(monkeypatch, Tells)
    check_dropout()


class Width(ideal_network.Network):
    """As wide as it is asked for, and telling the class by so much."""

    def __init__(self, width: int):
        self.width = width

    def init(self, key, image, c_noise, condition):
        return {"params": {"bias": jnp.zeros(())}}

    def apply(self, variables, scaled, c_noise, condition):
        told = self.width * (1 + condition["label"]).reshape(-1, 1, 1, 1)
        return variables["params"]["bias"] + jnp.broadcast_to(told, scaled.shape).astype(jnp.float32)


def test_a_narrower_network_guides(monkeypatch):
    """Both are told the class, and each is trained on its own loss alone."""
    monkeypatch.setattr(prediction.backbone, "build", lambda options, channels, fields, width=0: Width(width or 8))
    optimizers = {"model": core.Optimizer(optax.sgd(0.5))}
    options = {"target": "x0", "weighting": "uniform", "autoguidance_width": 2, "condition_dropout": 0.0}
    family, weights = ideal_network.made(diffusion, 2, optimizers=optimizers, guidance=3.0, **options)
    label = jnp.array([0, 1])
    found = family.denoise(weights, jnp.zeros((2, *SHAPE)), jnp.ones(2), {"label": label})
    np.testing.assert_allclose(found[:, 0, 0, 0], (3.0 * 8 - 2.0 * 2) * (1 + label), rtol=1e-6)
    data = {**ideal_network.batch(4, label=1), "image": jnp.zeros((4, *SHAPE))}
    state, metrics = family.train_step(family.init(jax.random.key(0), data), data, jax.random.key(1))
    assert (metrics["loss"], metrics["loss_guide"]) == (16.0**2, 4.0**2)
    assert (state.params["model"]["bias"], state.params["model"]["guide"]["bias"]) == (-16.0, -4.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 2.0}, "nothing to be guided by"),
        ({"guidance": 2.0, "classes": 2, "condition_dropout": 0.0}, "learns no images without a condition"),
        ({"sigma_min": 1.0, "sigma_max": 1.0}, "not below model.sigma_max"),
        ({**DDPM, "noise_schedule": "cosine"}, "discrete_times needs"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ideal_network.made(diffusion, **options)


def test_guidance_has_an_interval_of_noise_levels(ideal):
    found = []
    for options in ({}, {"guidance": 3.0, "guidance_sigma_min": 0.5, "guidance_sigma_max": 5.0}, {"guidance": 3.0}):
        family, weights = ideal_network.made(diffusion, classes=2, **options)
        noisy, level = ideal_network.batch(3)["image"], jnp.array([0.5, 5.0, 5.1])
        found.append(np.asarray(family.denoise(weights, noisy, level, {"label": jnp.zeros(3, jnp.int32)})))
    plain, inside, always = found
    np.testing.assert_array_equal(inside[[0, 2]], plain[[0, 2]])
    np.testing.assert_array_equal(inside[1], always[1])
    assert np.abs(always - plain).min(axis=(1, 2, 3)).all()


def test_the_options_are_what_they_are_named():
    """Each against its formula at one noise level of another path's."""
    options, path = diffusion.Options(), interpolants.linear_log_snr()
    t, snr, s = jnp.array([0.3]), np.exp(13.3 - 18.3 * 0.3), 0.5
    expected = {"edm": snr + 1 / s**2, "uniform": 1.0, "noise_error": snr, "variational": snr, "min_snr": min(snr, 5)}
    for name, value in expected.items():
        found = diffusion.WEIGHTINGS[name](options)(path, targets.x0_target, t)
        np.testing.assert_allclose(found, value, rtol=1e-5)
    assert set(expected) == set(diffusion.WEIGHTINGS)
    warps = {
        "karras": lambda level: level ** (1 / 7),
        "linear": lambda level: level / (1 + level),
        "cosine": np.arctan,
        "log_uniform": np.log,
        "schedule_times": lambda level: (13.3 + 2 * np.log(level)) / 18.3,
    }
    for name, warp in warps.items():
        found = warp(np.asarray(diffusion.SIGMA_SCHEDULES[name](path)(9, 0.1, 10.0), np.float64)[:-1])
        np.testing.assert_allclose(found, np.linspace(warp(10.0), warp(0.1), 9), rtol=1e-5, atol=1e-5)
    assert set(warps) == set(diffusion.SIGMA_SCHEDULES)


def test_the_grid_of_ddpm_is_its_chain():
    options = diffusion.Options(**CHAIN)
    path = diffusion.NOISE_SCHEDULES["discrete"](options, 256)
    found = diffusion.SIGMA_SCHEDULES["schedule_times"](path)(1000, *denoising.level_range(options, path))
    np.testing.assert_allclose(found, np.append(np.sqrt((1 - KEPT) / KEPT)[::-1], 0.0), rtol=2e-4)


# ---------------------------------------------------------------------------------------------------- planted faults


@pytest.mark.parametrize("fault", ["weighting", "times", "evaluation"])
def test_faults_of_the_loss_are_caught(ideal, monkeypatch, fault):
    if fault == "weighting":
        monkeypatch.setitem(diffusion.WEIGHTINGS, "edm", lambda options: weightings.noise_error)
    elif fault == "times":
        monkeypatch.setitem(diffusion.TIMES, "log_normal_levels", lambda options: weightings.uniform_times)
    else:  # every range's lower end
        monkeypatch.setattr(denoising, "independent", lambda keys: jnp.full(len(keys), 0.01))
    with pytest.raises(AssertionError):
        check_loss(diffusion, edm_loss())


def test_a_wrong_scale_is_caught(ideal, monkeypatch):
    monkeypatch.setattr(targets, "input_scale", lambda path, t, sigma_data: jnp.ones_like(t))
    with pytest.raises(AssertionError):
        check_denoise(diffusion, target="epsilon")


@pytest.mark.parametrize("fault", ["noise", "steps"])
def test_faults_of_the_sampler_are_caught(ideal, monkeypatch, fault):
    if fault == "noise":  # too much of it is put back in
        monkeypatch.setitem(prediction.SOLVERS, "heun", lambda steps: prediction.sde.ddim(1.05))
    else:
        monkeypatch.setitem(
            diffusion.SIGMA_SCHEDULES,
            "karras",
            lambda path: lambda *ends: diffusion.sigma_schedules.karras()(*ends)[:-10],
        )
    with pytest.raises(AssertionError):
        check_moments(diffusion, steps=60)


def test_faults_of_the_likelihood_are_caught(ideal, monkeypatch):
    signs = denoising.rademacher
    monkeypatch.setattr(denoising, "rademacher", lambda *arguments: 0.9 * signs(*arguments))
    with pytest.raises(AssertionError):
        check_log_prob(diffusion)


def test_faults_of_guidance_are_caught(ideal, monkeypatch):
    guide = prediction.guide
    monkeypatch.setattr(prediction, "guide", lambda better, worse, *rest: guide(worse, better, *rest))
    with pytest.raises(AssertionError):
        check_guidance()


def test_faults_of_condition_dropout_are_caught(monkeypatch):
    ideal_network.install(monkeypatch, Tells)
    independent = denoising.independent
    monkeypatch.setattr(denoising, "independent", lambda keys: 1 - independent(keys) ** 2)
    with pytest.raises(AssertionError):
        check_dropout()
