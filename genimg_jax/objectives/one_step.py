"""What models of one or a few steps regress: mean flows, shortcuts and consistency, for any network.

Networks are callbacks over a whole batch, each example by itself. Times are f32[B] and fall towards the images: an
ODE dx/dt = velocity(x, t) leads from noise at its later times to images at its earliest. No gradient flows through a
regression target.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax.objectives.paths import per_example

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


def shortcut(network: AverageVelocity, noisy: jax.Array, r: jax.Array, t: jax.Array) -> jax.Array:
    """The target of the mean velocity from t to r: that of two steps of half the size (Frans et al. 2025, section 3).

    Their network is told t and the size of the step; here it is told where the step ends.
    """  # [B, ...], [B], [B] -> [B, ...]
    middle = 0.5 * (r + t)
    first = network(noisy, middle, t)
    second = network(noisy - per_example(t - middle, noisy) * first, r, middle)
    return jax.lax.stop_gradient(0.5 * (first + second))


Consistency = Callable[[jax.Array, jax.Array], jax.Array]
"""(z [B, ...], level f32[B]) -> the image [B, ...] at the end of the ODE through z."""


def consistency_function(network: Consistency, data_std: float, least: float) -> Consistency:
    """A network made to return z itself at the least noise level (Song et al. 2023, equation 5 and appendix C)."""

    def function(noisy: jax.Array, level: jax.Array) -> jax.Array:
        above = level - least
        skip = data_std**2 / (above**2 + data_std**2)
        out = data_std * above / jnp.sqrt(level**2 + data_std**2)
        return per_example(skip, noisy) * noisy + per_example(out, noisy) * network(noisy, level)

    return function


def consistency_training(function: Consistency, image: jax.Array, noise: jax.Array, following: jax.Array) -> jax.Array:
    """The target at any level: the image found from the same image and noise at the `following`, lower level.

    Consistency training, without a teacher (Song et al. 2023, equation 10): exact as the levels approach each other.
    """  # [B, ...], [B, ...], [B] -> [B, ...]
    return jax.lax.stop_gradient(function(image + per_example(following, image) * noise, following))


def consistency_distillation(
    function: Consistency, denoise: Consistency, noisy: jax.Array, level: jax.Array, following: jax.Array
) -> jax.Array:
    """The target at `level`: the image found from where one Heun step of the teacher's ODE leads.

    Song et al. 2023, equations 6 and 7. `denoise` is the teacher; the following level is above 0.
    """  # [B, ...], [B], [B] -> [B, ...]
    from_level, to_level = per_example(level, noisy), per_example(following, noisy)
    slope = (noisy - denoise(noisy, level)) / from_level
    predicted = noisy + (to_level - from_level) * slope
    slope = 0.5 * (slope + (predicted - denoise(predicted, following)) / to_level)
    return jax.lax.stop_gradient(function(noisy + (to_level - from_level) * slope, following))
