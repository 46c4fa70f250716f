"""Samplers that add noise: ancestral sampling, DDIM, and the stochastic sampler of EDM."""

import math

import jax
import jax.numpy as jnp

from genimg_jax.samplers.ode import Denoise, State, Step, denoise_all, heun


def ddim(eta: float | jax.Array) -> Step:
    """DDIM (Song et al. 2021, equations 12 and 16): a part of the noise at the following sigma is sampled anew.

    For eta = 1 its variance is following^2 (1 - following^2 / sigma^2): that of the posterior of z at the following
    sigma, given z now and the expected image, on every path. For eta = 0 there is no new noise: Euler's method.
    """

    def step(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
        denoised = denoise_all(denoise, state.noisy, sigma)
        # eta^2 (1 - (following / sigma)^2), in a form that is precise for short steps.
        new_share = eta**2 * (sigma - following) * (sigma + following) / sigma**2
        kept = jnp.sqrt(1 - new_share) * (state.noisy - denoised) / sigma
        return State(denoised + following * (kept + jnp.sqrt(new_share) * noise), denoised, sigma)

    return step


ancestral: Step = ddim(1.0)
"""DDPM's own sampler, with the posterior's variance (Ho et al. 2020, equations 6 and 7, algorithm 2)."""


def stochastic(
    steps: int, S_churn: float = 40.0, S_min: float = 0.05, S_max: float = 50.0, S_noise: float = 1.003
) -> Step:
    """Raise the noise level by fresh noise, then take Heun's step from there (Karras et al. 2022, algorithm 2).

    `S_churn` is the amount of noise over all `steps`, added at noise levels from `S_min` to `S_max`; `S_noise` is the
    noise's standard deviation. The defaults are theirs for ImageNet (table 5). For S_churn = 0 it is Heun's method.
    """
    factor = jnp.minimum(S_churn / steps, math.sqrt(2) - 1)

    def step(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
        rise = jnp.where((sigma >= S_min) & (sigma <= S_max), factor, 0.0)
        added = S_noise * sigma * jnp.sqrt(rise * (2 + rise))  # sqrt(raised sigma^2 - sigma^2)
        raised = state._replace(noisy=state.noisy + added * noise)
        return heun(denoise, raised, sigma * (1 + rise), following, noise)

    return step
