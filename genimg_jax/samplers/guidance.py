"""Guidance: a denoiser that extrapolates from one model away from another."""

import jax
import jax.numpy as jnp

from genimg_jax.samplers.ode import Denoise


def guide(
    model: Denoise,
    guide_model: Denoise,
    weight: float | jax.Array,
    interval: tuple[float | jax.Array, float | jax.Array] = (0.0, jnp.inf),
) -> Denoise:
    """(1 - weight) guide_model + weight model.

    Weight 0 is the guide model, 1 the model, and a weight above 1 extrapolates away from the guide model. If only the
    model is conditioned, this is classifier-free guidance (Ho and Salimans 2022, equation 6, with w = weight - 1).
    If the guide model is conditioned too, but smaller or less trained, it is autoguidance (Karras et al. 2024, Guiding
    a diffusion model with a bad version of itself). At noise levels outside the interval (low, high] the weight is 1
    (Kynkäänniemi et al. 2024).
    """
    low, high = interval

    def denoise(noisy: jax.Array, sigma: jax.Array) -> jax.Array:  # [B, ...], f32[B] -> [B, ...]
        w = jnp.where((sigma > low) & (sigma <= high), weight, 1.0).reshape(-1, *[1] * (noisy.ndim - 1))
        return (1 - w) * guide_model(noisy, sigma) + w * model(noisy, sigma)

    return denoise
