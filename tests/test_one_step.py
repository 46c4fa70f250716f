"""Targets of one-step models on a Gaussian, whose mean velocities and consistency function are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from genimg_jax.objectives import one_step
from genimg_jax.objectives.couplings import optimal_transport
from genimg_jax.objectives.paths import per_example

MEAN, VARIANCE = np.array([[0.8, -0.5]]), np.array([[0.3, 2.0]])


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def transport(x, r, t):
    """Where the rectified path's ODE takes x from t to r: each marginal is N((1 - t) m, (1 - t)^2 C + t^2)."""
    r, t = per_example(r, x), per_example(t, x)
    scale = jnp.sqrt(((1 - r) ** 2 * VARIANCE + r**2) / ((1 - t) ** 2 * VARIANCE + t**2))
    return (1 - r) * MEAN + scale * (x - (1 - t) * MEAN)


def mean_velocity(x, r, t):
    return (x - transport(x, r, t)) / per_example(t - r, x)


def velocity(x, t):
    return jax.jvp(lambda r: transport(x, r, t), (t,), (jnp.ones_like(t),))[1]


def points():
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(6, 2)), rng.uniform(0.3, 1.0, size=6)
    return jnp.asarray(x), jnp.asarray(t * rng.uniform(0.1, 0.9, size=6)), jnp.asarray(t)


def network(parameter):
    """Anything smooth."""

    def apply(x, r, t):
        return jnp.sin(parameter * x) * jnp.exp(-per_example(r, x)) + x * per_example(t**2 - r * t, x)

    return apply


def test_mean_velocity_is_a_fixed_point_of_mean_flow(double):
    x, r, t = points()
    predicted, target = one_step.mean_flow(mean_velocity, x, r, t, velocity(x, t))
    np.testing.assert_allclose(target, predicted, rtol=1e-9)


def test_mean_flow_derivative_matches_finite_differences(double):
    x, r, t = points()
    u, v, h = network(1.3), velocity(x, t), 1e-5
    slope = (u(x + h * v, r, t + h) - u(x - h * v, r, t - h)) / (2 * h)
    predicted, target = one_step.mean_flow(u, x, r, t, v)
    np.testing.assert_allclose(predicted, u(x, r, t), rtol=1e-12)
    np.testing.assert_allclose(target, v - per_example(t - r, x) * slope, rtol=1e-7)
    np.testing.assert_allclose(one_step.mean_flow(u, x, t, t, v)[1], v, rtol=1e-12)


def test_mean_velocity_is_a_fixed_point_of_shortcut(double):
    x, r, t = points()
    np.testing.assert_allclose(one_step.shortcut(mean_velocity, x, r, t), mean_velocity(x, r, t), rtol=1e-9)


def consistent(z, level):
    """Where the ODE of the noise level ends, at the level 0.01."""
    end = jnp.sqrt((VARIANCE + 0.01**2) / (VARIANCE + per_example(level, z) ** 2))
    return MEAN + end * (z - MEAN)


def denoise(z, level):
    return MEAN + VARIANCE / (VARIANCE + per_example(level, z) ** 2) * (z - MEAN)


def test_consistency_targets_approach_the_consistency_function(double):
    """At the rate of their ODE step: a step of Heun errs by its cube, and one of Euler, in the mean, by its square."""
    x, _, level = points()
    noise = (x - denoise(x, level)) / per_example(level, x)
    wrong = []
    for width in (0.02, 0.01):
        distilled = one_step.consistency_distillation(consistent, denoise, x, level, level * (1 - width))
        trained = one_step.consistency_training(consistent, denoise(x, level), noise, level * (1 - width))
        wrong.append([np.abs(found - consistent(x, level)).max() for found in (distilled, trained)])
    distilled, trained = np.log2(np.divide(*wrong))
    assert abs(distilled - 3) < 0.25
    assert abs(trained - 2) < 0.25


def test_consistency_function_is_the_identity_at_the_least_level():
    z = jax.random.normal(jax.random.key(0), (3, 2))
    function = one_step.consistency_function(lambda z, level: jnp.tanh(z), 0.5, 0.002)
    np.testing.assert_array_equal(function(z, jnp.full(3, 0.002)), z)
    level = 1.5  # Song et al. 2023, appendix C
    skip, out = 0.25 / ((level - 0.002) ** 2 + 0.25), 0.5 * (level - 0.002) / np.sqrt(level**2 + 0.25)
    np.testing.assert_allclose(function(z, jnp.full(3, level)), skip * z + out * np.tanh(z), rtol=1e-5)


def test_no_gradient_flows_through_targets():
    x, r, t = (x.astype(jnp.float32) for x in points())

    def targets(parameter):
        u = network(parameter)
        f = lambda z, level: u(z, level, level)  # noqa: E731
        return (
            one_step.mean_flow(u, x, r, t, x)[1].sum()
            + one_step.shortcut(u, x, r, t).sum()
            + one_step.consistency_training(f, x, x, r).sum()
            + one_step.consistency_distillation(f, f, x, t, r).sum()
        )

    value, gradient = jax.value_and_grad(targets)(jnp.float32(1.3))
    assert gradient == 0
    assert value != targets(jnp.float32(1.4))
    assert jax.grad(lambda p: one_step.mean_flow(network(p), x, r, t, x)[0].sum())(jnp.float32(1.3)) != 0


def test_coupling_is_the_best_assignment():
    rng = np.random.default_rng(1)
    image, noise = (rng.normal(size=(24, 3, 2, 1)).astype(np.float32) for _ in range(2))
    found = np.asarray(jax.jit(optimal_transport)(image, noise))
    cost = ((image[:, None] - noise[None]) ** 2).sum(axis=(2, 3, 4))
    rows, columns = linear_sum_assignment(cost)
    np.testing.assert_array_equal(found[rows], noise[columns])
    assert ((image - found) ** 2).sum() < ((image - noise) ** 2).sum()
