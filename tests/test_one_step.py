"""Targets of one-step models on a Gaussian, whose mean velocities are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from genimg_jax.objectives import one_step
from genimg_jax.objectives.couplings import optimal_transport
from genimg_jax.objectives.interpolants import per_example

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
    np.testing.assert_allclose(one_step.shortcut(mean_velocity, x, r, t, 0.0), mean_velocity(x, r, t), rtol=1e-9)


def test_the_finest_shortcut_is_two_steps_of_the_velocity(double):
    x, t = jnp.asarray(np.random.default_rng(2).normal(size=(2, 2))), jnp.array([0.75, 0.75])

    def learned(x, r, t):  # shorter steps than 1/8 are never trained
        span = per_example(t - r, x)
        return jnp.where((span > 0) & (span < 0.12), jnp.nan, network(1.3)(x, r, t))

    found = one_step.shortcut(learned, x, t - jnp.array([0.125, 0.25]), t, 0.125)
    u, half = network(1.3), 0.0625
    first = u(x, t, t)
    expected = 0.5 * (first + u(x - half * first, t - half, t - half))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    first = u(x, t - 2 * half, t)
    expected = 0.5 * (first + u(x - 2 * half * first, t - 4 * half, t - 2 * half))
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9)


def test_no_gradient_flows_through_targets():
    x, r, t = (x.astype(jnp.float32) for x in points())

    def targets(parameter):
        u = network(parameter)
        return one_step.mean_flow(u, x, r, t, x)[1].sum() + one_step.shortcut(u, x, r, t, 0.0).sum()

    value, gradient = jax.value_and_grad(targets)(jnp.float32(1.3))
    assert gradient == 0
    assert value != targets(jnp.float32(1.4))
    assert jax.grad(lambda p: one_step.mean_flow(network(p), x, r, t, x)[0].sum())(jnp.float32(1.3)) != 0


def test_coupling_is_the_best_assignment():
    rng = np.random.default_rng(1)
    image, noise = (rng.normal(size=(24, 3, 2, 1)).astype(np.float32) for _ in range(2))
    found = np.asarray(jax.jit(optimal_transport)(image, noise, {}))
    cost = ((image[:, None] - noise[None]) ** 2).sum(axis=(2, 3, 4))
    rows, columns = linear_sum_assignment(cost)
    np.testing.assert_array_equal(found[rows], noise[columns])
    assert ((image - found) ** 2).sum() < ((image - noise) ** 2).sum()
    label = rng.integers(3, size=24)
    within = np.asarray(jax.jit(optimal_transport)(image, noise, {"label": label}))
    for k in range(3):
        own = label == k
        rows, columns = linear_sum_assignment(cost[own][:, own])
        np.testing.assert_array_equal(within[own][rows], noise[own][columns])
