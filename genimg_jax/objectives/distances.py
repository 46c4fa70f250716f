"""Distances of a reconstruction from its image, in pixels."""

import jax
import jax.numpy as jnp


def squared_error(difference: jax.Array) -> jax.Array:  # [...] -> [...]
    return jnp.square(difference)


def peak_signal_to_noise_ratio(error: jax.Array) -> jax.Array:  # f32[...], mean squared errors -> f32[...]
    """PSNR in dB, for values in [-1, 1] (peak 2). Errors are at least 1e-10: at most 106 dB."""
    return 10 * jnp.log10(4 / jnp.maximum(error, 1e-10))


DISTANCES = {"squared_error": squared_error, "absolute_error": jnp.abs}
