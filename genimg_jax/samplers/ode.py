"""From noise to images by the probability-flow ODE, and the loop over noise levels of every sampler.

A model is one callback, the denoiser: (z [B, ...], sigma f32[B]) -> the expected x_0 given z = x_0 + sigma n. Time is
the noise level sigma. Every other path is a change of variables of this one (`objectives.targets.denoiser`), so each
solver is written once: Euler's method in sigma is DDIM, and on the linear schedule it is Euler's method for rectified
flow.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
"""(z [B, ...], sigma f32[B]) -> f32[B, ...], the expected clean image."""


class State(NamedTuple):
    """The current image of a sampler, and the denoiser's last output."""

    noisy: jax.Array  # [B, ...]
    denoised: jax.Array  # [B, ...]
    sigma: jax.Array  # f32[]: the noise level of `denoised`, infinite before the first step


Step = Callable[[Denoise, State, jax.Array, jax.Array, jax.Array], State]
"""(denoise, state, sigma f32[], following sigma f32[], standard normal noise [B, ...]) -> state.

In sampling the following sigma is lower, and 0 in the last step. Noise that a step ignores is not computed.
"""


def integrate(step: Step, denoise: Denoise, noisy: jax.Array, sigmas: jax.Array, keys: jax.Array) -> jax.Array:
    """The images at the last of the `sigmas`, from those at the first, in one compiled loop.

    Step i, counted from 1, draws the noise of each example from its key with i folded in.
    """  # [B, ...], f32[steps + 1], key[B] -> [B, ...]

    def advance(state: State, at: tuple[jax.Array, jax.Array, jax.Array]):
        number, sigma, following = at
        noise = core.normal(core.fold_in(keys, number), noisy.shape[1:])
        return step(denoise, state, sigma, following, noise), None

    start = State(noisy, jnp.zeros_like(noisy), jnp.full((), jnp.inf, sigmas.dtype))
    state, _ = jax.lax.scan(advance, start, (jnp.arange(1, len(sigmas)), sigmas[:-1], sigmas[1:]))
    return state.noisy


def from_noise(step: Step, denoise: Denoise, sigmas: jax.Array, noise: jax.Array, keys: jax.Array) -> jax.Array:
    """Images from standard normal noise, scaled to the first sigma, which must be far above the data's scale."""
    # f32[steps + 1], [B, ...], key[B] -> [B, ...]
    return integrate(step, denoise, sigmas[0] * noise, sigmas, keys)


def to_noise(step: Step, denoise: Denoise, sigmas: jax.Array, image: jax.Array) -> jax.Array:
    """The noise that `from_noise` maps to the image, by the same steps backwards (Song et al. 2021, section 4.3).

    For steps that ignore noise. An approximation: it has the solver's error, and it starts from the clean image as if
    that had the last noise level above 0.
    """  # f32[steps + 1], [B, ...] -> [B, ...]
    unused = core.per_example_keys(jax.random.key(0), jnp.arange(len(image)))
    return integrate(step, denoise, image, sigmas[-2::-1], unused) / sigmas[0]


def denoise_all(denoise: Denoise, noisy: jax.Array, sigma: jax.Array) -> jax.Array:
    """The expected images of a batch at one noise level."""  # [B, ...], f32[] -> [B, ...]
    return denoise(noisy, jnp.broadcast_to(sigma, noisy.shape[:1]))


def _scale_noise(noisy: jax.Array, denoised: jax.Array, sigma: jax.Array, following: jax.Array) -> jax.Array:
    """The same image with the same noise at another sigma; exactly the denoised image at sigma 0."""
    return denoised + (following / sigma) * (noisy - denoised)


def euler(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
    """First order; DDIM with eta = 0 (Song et al. 2021, equation 13)."""
    denoised = denoise_all(denoise, state.noisy, sigma)
    return State(_scale_noise(state.noisy, denoised, sigma, following), denoised, sigma)


def heun(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
    """Second order: two evaluations per step, one in the last (Karras et al. 2022, algorithm 1)."""
    denoised = denoise_all(denoise, state.noisy, sigma)
    predicted = _scale_noise(state.noisy, denoised, sigma, following)

    def correct() -> jax.Array:
        again = denoise_all(denoise, predicted, following)
        slope = 0.5 * ((state.noisy - denoised) / sigma + (predicted - again) / following)
        return state.noisy + (following - sigma) * slope

    return State(jax.lax.cond(following > 0, correct, lambda: predicted), denoised, sigma)


def dpm_solver(denoise: Denoise, state: State, sigma: jax.Array, following: jax.Array, noise: jax.Array) -> State:
    """DPM-Solver++(2M): second order, one evaluation per step (Lu et al. 2022, DPM-Solver++, algorithm 2).

    The expected image is extrapolated by half a step of log sigma from its last two values. The first step has no
    second value and a last step to sigma 0 has an infinite logarithm: they do not extrapolate.
    """
    denoised = denoise_all(denoise, state.noisy, sigma)
    ratio = jnp.log(sigma / following) / jnp.log(state.sigma / sigma)
    weight = jnp.where(following > 0, 0.5 * ratio, 0.0)
    extrapolated = denoised + weight * (denoised - state.denoised)
    return State(_scale_noise(state.noisy, extrapolated, sigma, following), denoised, sigma)
