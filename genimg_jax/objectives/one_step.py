"""What models of one or a few steps regress: mean flows and shortcuts, for any network.

Networks are callbacks over a whole batch, each example by itself. Times are f32[B] and fall towards the images: an
ODE dx/dt = velocity(x, t) leads from noise at its later times to images at its earliest. No gradient flows through a
regression target.
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
    """The mean velocity u predicted, and its target v - (t - r) du/dt (Geng et al. 2025, equations 6 to 11).

    du/dt is along the path, by one Jacobian-vector product. `velocity` is that of the example's own path, such as
    noise - image, or of guidance; where r = t this is conditional flow matching.
    """  # [B, ...], [B], [B], [B, ...] -> [B, ...], [B, ...]
    tangents = velocity, jnp.zeros_like(r), jnp.ones_like(t)
    predicted, derivative = jax.jvp(network, (noisy, r, t), tangents)
    return predicted, jax.lax.stop_gradient(velocity - per_example(t - r, noisy) * derivative)


def shortcut(network: AverageVelocity, noisy: jax.Array, r: jax.Array, t: jax.Array, finest: float) -> jax.Array:
    """The target of the mean velocity from t to r: that of two steps of half the size (Frans et al. 2025, section 3).

    Their network is told t and the size of the step; here it is told where the step ends. Steps half of which would be
    shorter than the `finest`, of which no mean velocity is learned, are anchored to the velocity itself.
    """  # [B, ...], [B], [B] -> [B, ...]
    half = 0.5 * (t - r)
    told = jnp.where(half < 0.75 * finest, 0.0, half)
    first = network(noisy, t - told, t)
    second = network(noisy - per_example(half, noisy) * first, t - half - told, t - half)
    return jax.lax.stop_gradient(0.5 * (first + second))
