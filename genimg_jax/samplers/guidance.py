"""Denoisers made of two denoisers."""

import jax
import jax.numpy as jnp

from genimg_jax.samplers.ode import Denoise


def guide(
    model: Denoise,
    guide_model: Denoise,
    weight: float | jax.Array,
    interval: tuple[float | jax.Array, float | jax.Array] = (0.0, jnp.inf),
) -> Denoise:
    """(1 - weight) worse + weight better: 0 is the worse, 1 the better, and beyond 1 away from the worse.

    With a model that knows the condition and one that does not, classifier-free guidance (Ho and Salimans 2022; their
    equation 6 counts from 0 where this counts from 1). With a model and a smaller or less trained one, both knowing
    the condition, autoguidance (Karras et al. 2024, Guiding a diffusion model with a bad version of itself). The weight
    is 1 at noise levels outside the interval (low, high], as in Kynkäänniemi et al. 2024.
    """
    low, high = interval

    def denoise(noisy: jax.Array, sigma: jax.Array) -> jax.Array:  # [B, ...], f32[B] -> [B, ...]
        here = jnp.where((sigma > low) & (sigma <= high), weight, 1.0).reshape(-1, *[1] * (noisy.ndim - 1))
        return (1 - here) * guide_model(noisy, sigma) + here * model(noisy, sigma)

    return denoise
