"""What flow matching must come to where the data is Gaussian and the network ideal, and how couplings are used."""

import ideal_network
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ideal_network import check_denoise, check_log_prob, check_loss, check_moments
from scipy.stats import norm

from genimg_jax import core
from genimg_jax.families import flow, prediction

UNIFORM = (np.arange(100_000) + 0.5) / 100_000


@pytest.fixture
def ideal(monkeypatch):
    ideal_network.install(monkeypatch, ideal_network.Network)


def velocity_error(t: np.ndarray) -> float:
    """noise - image is (x_t - image) / t: its error is that of the image over t."""
    return float((ideal_network.image_error(t / (1 - t)) / t**2).mean())


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_samples_have_the_moments_of_the_data(ideal, solver):
    check_moments(flow, solver=solver, steps=500 if solver == "euler" else 50)


def test_the_loss_of_the_ideal_velocity(ideal):
    check_loss(flow, velocity_error(UNIFORM))
    logistic = 1 / (1 + np.exp(-(0.3 + 0.8 * norm.ppf(UNIFORM))))
    check_loss(flow, velocity_error(logistic), times="logit_normal_times", P_mean=0.3, P_std=0.8)


def test_denoise_and_likelihood(ideal):
    check_denoise(flow)
    check_log_prob(flow)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_are_equally_long_in_time(steps):
    levels = np.asarray(flow.equal_steps(steps, 1000.0), np.float64)
    times = levels / (1 + levels)
    np.testing.assert_allclose(times, np.linspace(1000 / 1001, 0, steps + 1), atol=1e-5)


class Nothing(ideal_network.Network):
    """Predicts a parameter that is 0, so that the loss is the mean square of noise - image."""

    def init(self, key, image, c_noise, condition):
        return {"params": {"velocity": jnp.zeros(ideal_network.SHAPE)}}

    def apply(self, variables, scaled, c_noise, condition):
        return jnp.broadcast_to(variables["params"]["velocity"][None], scaled.shape)


def step(coupling: str, microbatches: int = 1) -> tuple[float, np.ndarray]:
    """The loss of a step, and the parameter after it."""
    optimizers = {"model": core.Optimizer(optax.sgd(0.5), microbatches=microbatches)}
    family, _ = ideal_network.made(flow, optimizers=optimizers, coupling=coupling)
    data = ideal_network.batch(64)
    state, metrics = jax.jit(family.train_step)(family.init(jax.random.key(0), data), data, jax.random.key(1))
    return float(metrics["loss"]), np.asarray(state.params["model"]["velocity"])


def check_coupling() -> None:
    """Pairs come closer; each noise is used once; pairs are of the whole batch, however it is cut."""
    (apart, velocity), (paired, same) = step("independent"), step("optimal_transport")
    assert paired < 0.9 * apart
    np.testing.assert_allclose(same, velocity, atol=1e-5)
    for microbatches in (2, 4):
        cut, also = step("optimal_transport", microbatches)
        np.testing.assert_allclose(cut, paired, rtol=1e-5)
        np.testing.assert_allclose(also, same, atol=1e-5)


def test_noise_is_paired_with_images_over_the_whole_batch(monkeypatch):
    ideal_network.install(monkeypatch, Nothing)
    check_coupling()


# ---------------------------------------------------------------------------------------------------- planted faults


@pytest.mark.parametrize("fault", ["unpaired", "repeated", "halves"])
def test_faults_of_the_coupling_are_caught(monkeypatch, fault):
    ideal_network.install(monkeypatch, Nothing)
    pair = flow.COUPLINGS["optimal_transport"]

    def alone(image, noise, condition):
        return noise

    def cheap(image, noise, condition):  # every image takes the nearest noise
        squares = ((image[:, None] - noise[None]) ** 2).sum((2, 3, 4))
        return noise[squares.argmin(1)]

    if fault == "halves":  # each microbatch pairs its own
        value_and_grad = core.value_and_grad

        def pairing(optimizer, loss):
            return value_and_grad(
                optimizer,
                lambda p, part, key: loss(p, {**part, "noise": pair(part["image"], part["noise"], {})}, key),
            )

        monkeypatch.setattr(core, "value_and_grad", pairing)
    faulty = {"unpaired": alone, "repeated": cheap, "halves": alone}
    monkeypatch.setitem(flow.COUPLINGS, "optimal_transport", faulty[fault])
    with pytest.raises(AssertionError):
        check_coupling()


def test_faults_of_the_sampler_are_caught(ideal, monkeypatch):
    monkeypatch.setitem(prediction.SOLVERS, "heun", lambda steps: prediction.ode.euler)
    with pytest.raises(AssertionError):  # ten steps of first order are too few
        check_moments(flow, solver="heun", steps=10)
