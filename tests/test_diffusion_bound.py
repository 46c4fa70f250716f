"""The variational bound of diffusion models, against exact log masses; planted faults are caught."""

import ideal_network
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ideal_network import DATA_STD, SHAPE

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import diffusion, prediction
from genimg_jax.objectives import interpolants, weightings

LEVELS, MASSES = 5, np.array([0.5, 0.05, 0.1, 0.05, 0.3])  # of each pixel by itself
VDM = {"noise_schedule": "learned", "target": "epsilon", "weighting": "variational", "times": "uniform_times"}


class Discrete(ideal_network.Network):
    """The ideal prediction of the noise in pixels of few levels, whose expected value is a sum."""

    shrink = 1.0

    def init(self, key, image, c_noise, condition):
        return {"params": {"unused": jnp.zeros(1)}}

    def apply(self, variables, scaled, c_noise, condition):
        level = jnp.exp(4 * c_noise).reshape(-1, 1, 1, 1)
        noisy = scaled * jnp.sqrt(level**2 + DATA_STD**2)  # as x / alpha
        values = jnp.linspace(-1.0, 1.0, LEVELS).reshape(1, 1, 1, -1)
        logits = jnp.log(MASSES.astype(np.float32)).reshape(1, 1, 1, -1) - 0.5 * ((noisy - values) / level) ** 2
        clean = self.shrink * (jax.nn.softmax(logits) * values).sum(-1, keepdims=True)
        return (noisy - clean) / level


def discrete_batch(count: int) -> core.Batch:
    levels = np.random.default_rng(5).choice(LEVELS, size=(count, *SHAPE), p=MASSES)
    return {"image": jnp.asarray(levels / 2 - 1, jnp.float32), "index": jnp.arange(count)}


def check_bound(steps=None, below: float = 0.0, **options) -> None:
    """The mean bound is the mean of the exact log masses, less `below` at least, within 5 standard errors."""
    family, weights = ideal_network.made(diffusion, levels=LEVELS, **{**VDM, "likelihood_steps": 32, **options})
    assert family.likelihood_kind == "lower bound"
    if steps is not None:
        weights.params["model"]["schedule"]["steps"] = steps
    data = discrete_batch(4096)
    found = np.asarray(jax.jit(family.log_prob)(weights, data, jax.random.key(7)), np.float64)
    exact = np.log(MASSES)[np.asarray(2 * data["image"] + 2, int)].sum((1, 2, 3))
    error = 5 * (found - exact).std() / np.sqrt(len(exact))
    assert (found - exact).mean() < error - below
    assert below or (found - exact).mean() > -error - 0.02, (found - exact).mean()


@pytest.mark.parametrize("path", ["learned", "linear_log_snr", "linear_beta"])
def test_the_bound_is_tight_for_the_ideal_network(monkeypatch, path):
    ideal_network.install(monkeypatch, Discrete)
    check_bound(noise_schedule=path)


def test_a_path_begins_where_levels_can_be_told_apart():
    for levels in (2, 17, 256):
        path = diffusion.NOISE_SCHEDULES["learned"](diffusion.Options(), levels)
        deviations = 2 / (levels - 1) / interpolants.noise_level(path, jnp.zeros(1))
        np.testing.assert_allclose(deviations, 2 / 255 * np.exp(13.3 / 2), rtol=1e-4)


def test_the_bound_does_not_depend_on_the_shape_of_the_path(monkeypatch):
    ideal_network.install(monkeypatch, Discrete)
    check_bound(jnp.asarray(np.random.default_rng(0).normal(size=prediction.SEGMENTS), jnp.float32))


def test_the_bound_stays_below(monkeypatch):
    ideal_network.install(monkeypatch, Discrete)
    monkeypatch.setattr(Discrete, "shrink", 0.9)
    check_bound(below=0.1)


def test_the_terms_add_up_to_the_loss(monkeypatch):
    ideal_network.install(monkeypatch, Discrete)
    family, weights = ideal_network.made(diffusion, levels=LEVELS, **VDM)
    found = family.evaluate(weights, discrete_batch(16), jax.random.key(0))
    assert set(found) == {"loss", "diffusion", "prior", "reconstruction"}
    total = found["diffusion"] + found["prior"] + found["reconstruction"]
    np.testing.assert_allclose(found["loss"], total, rtol=1e-6)


def test_a_path_is_learned_that_lowers_the_variance_of_the_bound(monkeypatch):
    ideal_network.install(monkeypatch, Discrete)
    optimizers = {"model": core.Optimizer(optax.adam(0.02))}
    options = {**VDM, "evaluate_times": 1}
    family, _ = ideal_network.made(diffusion, levels=LEVELS, optimizers=optimizers, **options)
    data, step = discrete_batch(256), jax.jit(family.train_step)
    state = start = family.init(jax.random.key(0), data)
    for i in range(60):
        state, _ = step(state, data, core.stream(0, "train", i))
    measure, data = jax.jit(family.evaluate), discrete_batch(4096)
    before, after = (measure(core.weights(s), data, jax.random.key(1))["diffusion"] for s in (start, state))
    assert np.std(after) < 0.95 * np.std(before)
    assert abs(np.mean(after) - np.mean(before)) < 5 * np.hypot(np.std(before), np.std(after)) / np.sqrt(4096)
    assert not np.array_equal(start.params["model"]["schedule"]["ends"], state.params["model"]["schedule"]["ends"])


@pytest.mark.parametrize("wrong", [{"noise_schedule": "cosine"}, {"times": "log_normal_levels"}, {"dequantize": True}])
def test_what_is_no_bound_is_refused(wrong):
    with pytest.raises(ConfigError, match="weighting=variational"):
        ideal_network.made(diffusion, **{**VDM, **wrong})


def test_real_numbers_have_no_levels():
    with pytest.raises(ConfigError, match="dequantize"):
        ideal_network.made(diffusion, levels=0, dequantize=True)


def test_a_learned_path_needs_its_bound():
    with pytest.raises(ConfigError, match="learned"):
        ideal_network.made(diffusion, noise_schedule="learned")
    with pytest.raises(ConfigError, match="precision=float32"):
        optimizers = {"model": core.Optimizer(optax.sgd(0.1), compute_dtype=jnp.bfloat16)}
        ideal_network.made(diffusion, optimizers=optimizers, **VDM)


@pytest.mark.parametrize("fault", ["weighting", "prior"])
def test_faults_of_the_bound_are_caught(monkeypatch, fault):
    ideal_network.install(monkeypatch, Discrete)
    if fault == "weighting":
        monkeypatch.setitem(diffusion.WEIGHTINGS, "variational", lambda options: weightings.uniform)
        with pytest.raises(AssertionError):
            check_bound(target="x0")
    else:
        monkeypatch.setattr(prediction.variational, "prior_divergence", lambda path, image: jnp.ones(len(image)))
        with pytest.raises(AssertionError):
            check_bound()
