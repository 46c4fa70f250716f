"""Regression targets of models that sample in one or a few steps: mean flows and shortcuts, for any network.

Networks are callbacks over a whole batch, each example by itself. Times are f32[B]. The ODE dx/dt = velocity(x, t)
goes from noise at later times to images at the earliest. No gradient flows through a regression target.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax.objectives.interpolants import per_example

AverageVelocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(x_t [B, ...], r f32[B], t f32[B]) -> the mean velocity [B, ...] of the ODE between r <= t, through x_t at t."""


def mean_flow(
    network: AverageVelocity, noisy: jax.Array, r: jax.Array, t: jax.Array, velocity: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The predicted mean velocity u, and its target v - (t - r) du/dt (Geng et al. 2025, equations 6 to 11).

    du/dt is along the path, by one Jacobian-vector product. `velocity` is v of the example's path, such as
    noise - image, or its guided form. For r = t this is conditional flow matching.
    """  # [B, ...], [B], [B], [B, ...] -> [B, ...], [B, ...]
    tangents = velocity, jnp.zeros_like(r), jnp.ones_like(t)
    predicted, derivative = jax.jvp(network, (noisy, r, t), tangents)
    return predicted, jax.lax.stop_gradient(velocity - per_example(t - r, noisy) * derivative)


def shortcut(network: AverageVelocity, noisy: jax.Array, r: jax.Array, t: jax.Array, finest: float) -> jax.Array:
    """The target for the mean velocity from t to r: two steps of half the size (Frans et al. 2025, section 3).

    Their network takes t and the size of the step, ours takes t and the end of the step. `finest` is the smallest step
    whose mean velocity is learned: a half step smaller than that uses the velocity, which is the network at size 0.
    """  # [B, ...], [B], [B] -> [B, ...]
    half = 0.5 * (t - r)
    size = jnp.where(half < 0.75 * finest, 0.0, half)
    first = network(noisy, t - size, t)
    second = network(noisy - per_example(half, noisy) * first, t - half - size, t - half)
    return jax.lax.stop_gradient(0.5 * (first + second))
