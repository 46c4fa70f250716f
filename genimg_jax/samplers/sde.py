"""Samplers that put noise back in: ancestral sampling, DDIM, and the stochastic sampler of EDM."""

import math

import jax
import jax.numpy as jnp

from genimg_jax.samplers.ode import Denoise, State, Step, denoise_all, heun


def ddim(eta: float | jax.Array) -> Step:
    """DDIM (Song et al. 2021, equations 12 and 16): of the noise at the following level, a part is drawn anew.

    At eta = 1 it is the part of the true posterior of z at the following level, given z now and the expected image,
    whose variance is following^2 (1 - following^2 / level^2) on every path; at eta = 0 it is Euler's method.
    """

    def step(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
        denoised = denoise_all(denoise, state.noisy, sigma)
        # 1 - (following / level)^2, keeping the digits of short steps.
        new = eta**2 * (sigma - following) * (sigma + following) / sigma**2
        kept = jnp.sqrt(1 - new) * (state.noisy - denoised) / sigma
        return State(denoised + following * (kept + jnp.sqrt(new) * noise), denoised, sigma)

    return step


ancestral: Step = ddim(1.0)
"""DDPM's own sampler, with the posterior's variance (Ho et al. 2020, equations 6 and 7, algorithm 2)."""


def stochastic(
    steps: int, S_churn: float = 40.0, S_min: float = 0.05, S_max: float = 50.0, S_noise: float = 1.003
) -> Step:
    """Raise the noise level by fresh noise, then take Heun's step from there (Karras et al. 2022, algorithm 2).

    `S_churn`, spread over the `steps`, is how much is added at levels from `S_min` to `S_max`; `S_noise` is that
    noise's standard deviation. The defaults are theirs for ImageNet (table 5); at S_churn 0 it is Heun's method.
    """
    factor = jnp.minimum(S_churn / steps, math.sqrt(2) - 1)

    def step(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
        rise = jnp.where((sigma >= S_min) & (sigma <= S_max), factor, 0.0)
        added = S_noise * sigma * jnp.sqrt(rise * (2 + rise))  # sqrt(raised^2 - level^2)
        raised = state._replace(noisy=state.noisy + added * noise)
        return heun(denoise, raised, sigma * (1 + rise), following, noise)

    return step
