"""Path-length regularisation of a generator (Karras et al. 2020, section 3.2 and appendix B)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from genimg_jax.objectives.gradients import of_input_gradient


def path_lengths(synthesize: Callable[[jax.Array], jax.Array], w: jax.Array, direction: jax.Array) -> jax.Array:
    """|J^T y| of each code w, where J is the Jacobian of the image by w and y, the `direction`, is N(0, 1) noise.

    Each image must depend on its own code alone.
    """  # [B, D], f32[B, H, W, C] -> f32[B]

    def projection(w: jax.Array) -> jax.Array:
        return (synthesize(w).astype(jnp.float32) * direction).sum((1, 2, 3))

    def norm(gradient: jax.Array) -> jax.Array:
        return optax.safe_norm(gradient, 1e-12, axis=1)  # its own gradient is finite at 0

    return of_input_gradient(norm, projection, w)


def path_length_scale(height: int, width: int) -> float:
    """gamma_pl = ln 2 / (r^2 (ln r - ln 2)), the weight of (|J^T y| - a)^2 for images of r x r pixels."""
    pixels = height * width
    return math.log(2) / (pixels * (math.log(pixels) / 2 - math.log(2)))
