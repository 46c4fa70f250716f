"""From noise to images by the probability-flow ODE, and the one loop that every sampler of noise levels runs in.

A model is one callback, the denoiser: (z [B, ...], level f32[B]) -> the expected x_0 given z = x_0 + level n. Noise
levels are the only clock. Every other path is a change of variables of this one (`objectives.targets.denoiser`), so
that a solver is written once: with these steps Euler's method is DDIM, and on the linear schedule it is Euler's
method for rectified flow.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
"""(z [B, ...], level f32[B]) -> f32[B, ...], the expected clean image."""


class State(NamedTuple):
    """Where a sampler is, and what the denoiser last said."""

    noisy: jax.Array  # [B, ...]
    denoised: jax.Array  # [B, ...]
    sigma: jax.Array  # f32[]: the noise level of `denoised`, infinite before there was one


Step = Callable[[Denoise, State, jax.Array, jax.Array, jax.Array], State]
"""(denoise, state, level f32[], following level f32[], standard normal noise [B, ...]) -> state.

The following level is lower, and 0 at the end. Steps that need no noise ignore it, and then none is computed.
"""


def integrate(step: Step, denoise: Denoise, noisy: jax.Array, sigmas: jax.Array, keys: jax.Array) -> jax.Array:
    """The images at the last of the falling `sigmas`, given those at the first. One compiled loop.

    Step i draws the noise of each example from its key with i, from 1, folded in.
    """  # [B, ...], f32[steps + 1], key[B] -> [B, ...]

    def advance(state: State, at: tuple[jax.Array, jax.Array, jax.Array]):
        number, sigma, following = at
        noise = core.normal(core.fold_in(keys, number), noisy.shape[1:])
        return step(denoise, state, sigma, following, noise), None

    start = State(noisy, jnp.zeros_like(noisy), jnp.full((), jnp.inf, sigmas.dtype))
    state, _ = jax.lax.scan(advance, start, (jnp.arange(1, len(sigmas)), sigmas[:-1], sigmas[1:]))
    return state.noisy


def from_noise(step: Step, denoise: Denoise, sigmas: jax.Array, noise: jax.Array, keys: jax.Array) -> jax.Array:
    """Images from standard normal noise, scaled to the first level, which must drown the data."""
    # f32[steps + 1], [B, ...], key[B] -> [B, ...]
    return integrate(step, denoise, sigmas[0] * noise, sigmas, keys)


def to_noise(step: Step, denoise: Denoise, sigmas: jax.Array, image: jax.Array) -> jax.Array:
    """The noise that `from_noise` takes to the image, by the same steps backwards (Song et al. 2021, section 4.3).

    For steps that draw no noise. An approximation: up to the solver's error, and since the image is taken for its own
    noisy version at the last level above 0.
    """  # f32[steps + 1], [B, ...] -> [B, ...]
    unused = core.per_example_keys(jax.random.key(0), jnp.arange(len(image)))
    return integrate(step, denoise, image, sigmas[-2::-1], unused) / sigmas[0]


def denoise_all(denoise: Denoise, noisy: jax.Array, sigma: jax.Array) -> jax.Array:
    """The expected images of a batch at one noise level."""  # [B, ...], f32[] -> [B, ...]
    return denoise(noisy, jnp.broadcast_to(sigma, noisy.shape[:1]))


def _scale_noise(noisy: jax.Array, denoised: jax.Array, sigma: jax.Array, following: jax.Array) -> jax.Array:
    """The same image with the same noise at another level; without rounding at level 0."""
    return denoised + (following / sigma) * (noisy - denoised)


def euler(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
    """First order; DDIM with eta = 0 (Song et al. 2021, equation 13)."""
    denoised = denoise_all(denoise, state.noisy, sigma)
    return State(_scale_noise(state.noisy, denoised, sigma, following), denoised, sigma)


def heun(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
    """Second order, two evaluations a step and one in the last (Karras et al. 2022, algorithm 1)."""
    denoised = denoise_all(denoise, state.noisy, sigma)
    predicted = _scale_noise(state.noisy, denoised, sigma, following)

    def correct() -> jax.Array:
        again = denoise_all(denoise, predicted, following)
        slope = 0.5 * ((state.noisy - denoised) / sigma + (predicted - again) / following)
        return state.noisy + (following - sigma) * slope

    return State(jax.lax.cond(following > 0, correct, lambda: predicted), denoised, sigma)


def dpm_solver(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
    """DPM-Solver++(2M): second order from one evaluation a step (Lu et al. 2022, DPM-Solver++, algorithm 2).

    The expected image is extrapolated over half a step of the log noise level from its last two values; it is taken as
    it is in the first step, for lack of another, and in a last step to level 0, whose logarithm is infinite.
    """
    denoised = denoise_all(denoise, state.noisy, sigma)
    ratio = jnp.log(sigma / following) / jnp.log(state.sigma / sigma)
    weight = jnp.where(following > 0, 0.5 * ratio, 0.0)
    extrapolated = denoised + weight * (denoised - state.denoised)
    return State(_scale_noise(state.noisy, extrapolated, sigma, following), denoised, sigma)
