"""Paths from images to noise: x_t = alpha(t) x_0 + sigma(t) n, with an image x_0 and standard normal noise n.

The noise level of x_t is sigma(t) / alpha(t). Divided by alpha, every path has the form z = x_0 + level n. Samplers and
`Family.denoise` use only this form.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Interpolant(NamedTuple):
    """A path as elementwise functions of time. They may close over traced arrays, so a path can be learned."""

    alpha: Callable[[jax.Array], jax.Array]
    """The factor of the image."""
    sigma: Callable[[jax.Array], jax.Array]
    """The factor of the noise."""
    log_snr: Callable[[jax.Array], jax.Array]
    """log(alpha^2 / sigma^2), decreasing in time; infinite where alpha or sigma is 0."""
    time: Callable[[jax.Array], jax.Array]
    """The inverse of `log_snr`."""
    bounds: tuple[float, float]
    """The first and last time, clean and noisy."""


def variance_preserving(
    log_snr: Callable[[jax.Array], jax.Array], time: Callable[[jax.Array], jax.Array], bounds: tuple[float, float]
) -> Interpolant:
    """alpha^2 + sigma^2 = 1, from its log signal-to-noise ratio alone (Kingma et al. 2021, section 3)."""

    def alpha(t: jax.Array) -> jax.Array:
        return jnp.sqrt(jax.nn.sigmoid(log_snr(t)))

    def sigma(t: jax.Array) -> jax.Array:
        return jnp.sqrt(jax.nn.sigmoid(-log_snr(t)))

    return Interpolant(alpha, sigma, log_snr, time, bounds)


def linear_beta(beta_min: float = 0.1, beta_max: float = 20.0, earliest: float = 1e-5) -> Interpolant:
    """The variance preserving diffusion whose rate beta(t) rises linearly (Song et al. 2021, equations 32 and 33).

    -2 log alpha(t) = beta_min t + (beta_max - beta_min) t^2 / 2. The path's derivative is infinite at t = 0.
    """
    rise = beta_max - beta_min

    def log_snr(t: jax.Array) -> jax.Array:
        decay = t * (beta_min + 0.5 * rise * t)
        return -decay - jnp.log(-jnp.expm1(-decay))

    def time(log_snr: jax.Array) -> jax.Array:
        # The root of the quadratic, in the form without a subtraction.
        decay = jax.nn.softplus(-log_snr)
        return 2 * decay / (beta_min + jnp.sqrt(beta_min**2 + 2 * rise * decay))

    return variance_preserving(log_snr, time, (earliest, 1.0))


DDPM_BETAS = np.linspace(1e-4, 0.02, 1000)  # Ho et al. 2020, section 4


def discrete(betas: np.ndarray = DDPM_BETAS) -> Interpolant:
    """DDPM's chain of T Gaussian steps, step k at t = k / T (Ho et al. 2020, equation 4).

    Between the steps the log signal-to-noise ratio is interpolated linearly, for other samplers.
    """
    betas = np.asarray(betas, np.float64)
    log_kept = np.cumsum(np.log1p(-betas))
    steps = len(betas)
    times = np.arange(1, steps + 1) / steps
    ratios = log_kept - np.log(-np.expm1(log_kept))

    def log_snr(t: jax.Array) -> jax.Array:
        table = jnp.asarray(ratios, t.dtype)
        before = jnp.clip(jnp.floor(t * steps), 1, steps - 1)
        index = before.astype(jnp.int32) - 1
        return table[index] + (t * steps - before) * (table[index + 1] - table[index])

    def time(log_snr: jax.Array) -> jax.Array:
        return jnp.interp(-log_snr, -ratios, times)

    return variance_preserving(log_snr, time, (1 / steps, 1.0))


def linear_log_snr(first: float | jax.Array = 13.3, last: float | jax.Array = -5.0) -> Interpolant:
    """The log signal-to-noise ratio falls linearly from `first` at t = 0 to `last` at t = 1, which may be learned.

    Kingma et al. 2021, appendix H; the defaults are the initial ends of their learned schedules.
    """

    def log_snr(t: jax.Array) -> jax.Array:
        return first + (last - first) * t

    def time(log_snr: jax.Array) -> jax.Array:
        return (log_snr - first) / (last - first)

    return variance_preserving(log_snr, time, (0.0, 1.0))


def cosine() -> Interpolant:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): Nichol and Dhariwal 2021, equation 17, without its offset."""

    def sine(t: jax.Array) -> jax.Array:
        return jnp.sin(0.5 * jnp.pi * t)

    def alpha(t: jax.Array) -> jax.Array:
        return sine(1 - t)  # precise near t = 1, where the cosine is not

    def log_snr(t: jax.Array) -> jax.Array:
        return 2 * (jnp.log(alpha(t)) - jnp.log(sine(t)))

    def time(log_snr: jax.Array) -> jax.Array:
        return jnp.arctan(jnp.exp(-0.5 * log_snr)) * (2 / jnp.pi)

    return Interpolant(alpha, sine, log_snr, time, (0.0, 1.0))


def learned(ends: jax.Array, steps: jax.Array) -> Interpolant:
    """A variance preserving path from parameters (Kingma et al. 2021, section 3.1 and appendix H), at times 0 to 1.

    `ends` f32[2] are the log signal-to-noise ratios at times 0 and 1; the first must be higher. Between them the ratio
    is piecewise linear with K equal time intervals: interval k has the share softmax(`steps`)[k] of the fall, `steps`
    f32[K].
    """
    falls = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jax.nn.softmax(steps))])
    knots, ratios = jnp.linspace(0.0, 1.0, len(falls)), ends[0] + (ends[1] - ends[0]) * falls

    def log_snr(t: jax.Array) -> jax.Array:
        return jnp.interp(t, knots, ratios)

    def time(log_snr: jax.Array) -> jax.Array:
        return jnp.interp(log_snr, ratios[::-1], knots[::-1])

    return variance_preserving(log_snr, time, (0.0, 1.0))


def rectified() -> Interpolant:
    """alpha = 1 - t, sigma = t: the straight lines of rectified flow (Liu et al. 2023), with the noise at t = 1."""

    def alpha(t: jax.Array) -> jax.Array:
        return 1 - t

    def sigma(t: jax.Array) -> jax.Array:
        return t

    def log_snr(t: jax.Array) -> jax.Array:
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    def time(log_snr: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(-0.5 * log_snr)

    return Interpolant(alpha, sigma, log_snr, time, (0.0, 1.0))


def variance_exploding(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Interpolant:
    """alpha = 1, sigma = t: time is the noise level (Karras et al. 2022, table 1, last column)."""

    def sigma(t: jax.Array) -> jax.Array:
        return t

    def log_snr(t: jax.Array) -> jax.Array:
        return -2 * jnp.log(t)

    def time(log_snr: jax.Array) -> jax.Array:
        return jnp.exp(-0.5 * log_snr)

    return Interpolant(jnp.ones_like, sigma, log_snr, time, (sigma_min, sigma_max))


def derivatives(interpolant: Interpolant, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """d alpha / dt and d sigma / dt."""  # [B] -> [B], [B]
    ones = jnp.ones_like(t)
    return jax.jvp(interpolant.alpha, (t,), (ones,))[1], jax.jvp(interpolant.sigma, (t,), (ones,))[1]


def noise_level(interpolant: Interpolant, t: jax.Array) -> jax.Array:
    """sigma(t) / alpha(t)."""  # [B] -> [B]
    return jnp.exp(-0.5 * interpolant.log_snr(t))


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
    """One number for each example, in a shape that broadcasts with `like`."""  # [B], [B, ...] -> [B, 1, ...]
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def mix(interpolant: Interpolant, t: jax.Array, image: jax.Array, noise: jax.Array) -> jax.Array:
    """x_t = alpha(t) image + sigma(t) noise."""  # [B], [B, ...], [B, ...] -> [B, ...]
    return per_example(interpolant.alpha(t), image) * image + per_example(interpolant.sigma(t), image) * noise
