"""What one-step models must come to where the data is Gaussian and the mean velocity known."""

import ideal_network
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ideal_network import CLASSES, DATA_STD, NOTHING, check_denoise, check_log_prob, check_loss, check_moments
from scipy.stats import norm

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import meanflow
from genimg_jax.objectives import one_step
from genimg_jax.objectives.interpolants import per_example

GUIDANCE = 1.7
KEYS = 16


def transport(toy, x, r, t):
    """Where the ODE of the straight path takes x from t to r: N((1 - t) m, (1 - t)^2 C + t^2) at every t."""
    # [B, D], [B, 1], [B, 1] -> [B, D]
    spectrum, basis = (jnp.asarray(a[0], x.dtype)[None] for a in (toy.spectra, toy.bases))
    mean = jnp.asarray(toy.means, x.dtype)
    scale = jnp.sqrt(((1 - r) ** 2 * spectrum + r**2) / ((1 - t) ** 2 * spectrum + t**2))
    return (1 - r) * mean + ((x - (1 - t) * mean) @ basis[0] * scale) @ basis[0].T


def mean_velocity(toy, x, r, t):
    """Its limit, the velocity, where r = t."""
    span, ones = t - r, jnp.ones_like(t)
    velocity = jax.jvp(lambda end: transport(toy, x, end, t), (t,), (ones,))[1]
    # Where the span is 0 the quotient is not looked at, but its gradient must be finite.
    return jnp.where(span > 1e-4, (x - transport(toy, x, r, t)) / jnp.maximum(span, 1e-4), velocity)


class Network:
    """Linen's two methods: the ideal mean velocity times 1 + a parameter; of a class, guided by `GUIDANCE`."""

    def __init__(self, classes: int):
        self.classes = classes

    def init(self, key, image, c_noise, condition):
        return {"params": {"excess": jnp.zeros(())}}

    def apply(self, variables, scaled, c_noise, condition):
        t, r = c_noise[:, :1], c_noise[:, :1] - c_noise[:, 1:]
        x = scaled.reshape(len(scaled), -1) * jnp.sqrt(t**2 + ((1 - t) * DATA_STD) ** 2)
        u = mean_velocity(NOTHING, x, r, t)
        if self.classes and condition is not None:
            label = ideal_network.told(condition, len(x), self.classes)
            told = jnp.stack([mean_velocity(toy, x, r, t) for toy in CLASSES])
            told = jnp.take_along_axis(told, jnp.minimum(label, 1).reshape(1, -1, 1), axis=0)[0]
            u = jnp.where((label < self.classes)[:, None], u + GUIDANCE * (told - u), u)
        return (1 + variables["params"]["excess"]) * u.reshape(scaled.shape)


@pytest.fixture
def ideal(monkeypatch):
    monkeypatch.setattr(
        meanflow.backbone, "build", lambda options, channels, fields, **_: Network(len(fields) and fields[0][1].size)
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_samples_have_the_moments_of_the_data(ideal, steps):
    check_moments(meanflow, steps=steps)


def test_denoise_and_likelihood(ideal):
    check_denoise(meanflow)
    check_log_prob(meanflow)


def test_without_spans_the_loss_is_that_of_the_ideal_velocity(ideal):
    times = 1 / (1 + np.exp(-(0.3 + 0.8 * norm.ppf((np.arange(100_000) + 0.5) / 100_000))))
    expected = float((ideal_network.image_error(times / (1 - times)) / times**2).mean())
    check_loss(meanflow, expected, shortcut_ratio=0.0, P_mean=0.3, P_std=0.8)


def check_fixed_point(excess: float = 0.0, toy=NOTHING, **options) -> None:
    """The ideal network's expected gradient is 0, within 5 standard errors."""
    optimizers = {"model": core.Optimizer(optax.sgd(1.0))}
    family, _ = ideal_network.made(meanflow, optimizers=optimizers, adaptivity=0.0, **options)
    data = ideal_network.batch(2048, toy, label=1)
    state = family.init(jax.random.key(0), data)
    state = state.replace(params={"model": {"excess": jnp.float32(excess)}})
    step = jax.jit(lambda key: family.train_step(state, data, key)[0].params["model"]["excess"] - excess)
    gradients = np.asarray([step(jax.random.key(k)) for k in range(KEYS)], np.float64)
    assert abs(gradients.mean()) < 5 * gradients.std(ddof=1) / np.sqrt(KEYS) + 1e-3, gradients


@pytest.mark.parametrize("objective", ["mean_flow", "shortcut"])
def test_the_mean_velocity_is_what_is_learned(ideal, objective):
    check_fixed_point(objective=objective, shortcut_ratio=0.75)
    with pytest.raises(AssertionError):
        check_fixed_point(0.1, objective=objective, shortcut_ratio=0.75)


GUIDED = {"classes": 2, "toy": CLASSES[1], "guidance": GUIDANCE, "condition_dropout": 1e-9, "shortcut_ratio": 0.0}


def test_guidance_is_learned(ideal):
    check_fixed_point(**GUIDED)
    family, _ = ideal_network.made(meanflow, classes=2, guidance=GUIDANCE)
    assert family.log_prob is None and family.log_prob_at_half is None
    with pytest.raises(ConfigError, match="condition_dropout=0"):
        ideal_network.made(meanflow, classes=2, guidance=GUIDANCE, condition_dropout=0.0)


def test_shortcuts_are_steps_of_samplers():
    uniform = (jnp.arange(4096) + 0.5) / 4096
    drawn = meanflow.shortcut_times(
        meanflow.Options(shortcut_ratio=1.0), uniform, core.per_example_keys(jax.random.key(0), jnp.arange(4096))
    )
    r, t = np.asarray(drawn["r"], np.float64), np.asarray(drawn["t"], np.float64)
    counts, found = np.unique(t - r, return_counts=True)
    np.testing.assert_array_equal(counts, 2.0 ** np.arange(-meanflow.FINEST, 1))
    assert found.min() > 0.7 * found.max()
    np.testing.assert_array_equal(t / (t - r), np.round(t / (t - r)))
    assert r.min() == 0 and t.max() == 1 and (t >= uniform - 1e-6).all() and (r <= uniform + 1e-6).all()


# ---------------------------------------------------------------------------------------------------- planted faults


@pytest.mark.parametrize("fault", ["sign", "span"])
def test_faults_of_the_objective_are_caught(ideal, monkeypatch, fault):
    plain = one_step.mean_flow

    def faulty(network, noisy, r, t, velocity):
        predicted, target = plain(network, noisy, r, t, velocity)
        return predicted, 2 * velocity - target if fault == "sign" else velocity

    monkeypatch.setattr(one_step, "mean_flow", faulty)
    with pytest.raises(AssertionError):
        check_fixed_point(objective="mean_flow", shortcut_ratio=0.75)


def test_faults_of_shortcuts_are_caught(ideal, monkeypatch):
    def faulty(network, noisy, r, t, finest):  # both halves from where the first begins
        middle = 0.5 * (r + t)
        return 0.5 * (network(noisy, middle, t) + network(noisy, r, middle))

    monkeypatch.setattr(one_step, "shortcut", faulty)
    with pytest.raises(AssertionError):
        check_fixed_point(objective="shortcut", shortcut_ratio=0.75)


def test_faults_of_guidance_are_caught(ideal):
    with pytest.raises(AssertionError):
        check_fixed_point(**{**GUIDED, "guidance": 1.0})


def test_faults_of_the_sampler_are_caught(ideal, monkeypatch):
    monkeypatch.setattr(meanflow, "per_example", lambda values, like: 0.9 * per_example(values, like))
    with pytest.raises(AssertionError):
        check_moments(meanflow, steps=1)
