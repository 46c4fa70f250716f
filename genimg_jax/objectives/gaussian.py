"""Diagonal Gaussians, parameterised by mean and log variance."""

import math

import jax
import jax.numpy as jnp

LOG_TWO_PI = math.log(2 * math.pi)


def _sum_examples(x: jax.Array) -> jax.Array:  # [B, ...] -> f32[B]
    return x.sum(axis=tuple(range(1, x.ndim)))


def kl_standard_normal(mean: jax.Array, log_variance: jax.Array) -> jax.Array:  # [B, ...], [B, ...] -> f32[B]
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, summed over every axis except the first.

    Kingma and Welling 2014, appendix B. `expm1` keeps precision for a posterior close to the prior.
    """
    mean, log_variance = mean.astype(jnp.float32), log_variance.astype(jnp.float32)
    return 0.5 * _sum_examples(jnp.square(mean) + jnp.expm1(log_variance) - log_variance)


def log_normal(
    x: jax.Array, mean: jax.Array | float, log_variance: jax.Array | float
) -> jax.Array:  # [B, ...] x 3 -> f32[B]
    """Log density of `x` in nats, summed over every axis except the first. Parameters may be scalars."""
    x, mean, log_variance = (jnp.asarray(a, jnp.float32) for a in (x, mean, log_variance))
    return -0.5 * _sum_examples(jnp.square(x - mean) * jnp.exp(-log_variance) + log_variance + LOG_TWO_PI)
