"""Interpolations between two latent codes, by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax.objectives.interpolants import per_example


def linear(first: jax.Array, second: jax.Array, t: jax.Array) -> jax.Array:
    """The straight line from t = 0 to t = 1."""  # [B, ...], [B, ...], f32[B] -> [B, ...]
    t = per_example(t, first)
    return (1 - t) * first + t * second


def spherical(first: jax.Array, second: jax.Array, t: jax.Array) -> jax.Array:
    """Along the great circle, which preserves the norm of standard normal codes (White 2016, section 2.1)."""
    # [B, ...], [B, ...], f32[B] -> [B, ...]
    flat = [codes.reshape(len(codes), -1) for codes in (first, second)]
    directions = [codes / jnp.linalg.norm(codes, axis=1, keepdims=True) for codes in flat]
    angle = jnp.arccos(jnp.clip((directions[0] * directions[1]).sum(1), -1 + 1e-6, 1 - 1e-6))
    parts = [(jnp.sin(s * angle) / jnp.sin(angle))[:, None] * codes for s, codes in zip((1 - t, t), flat, strict=True)]
    return (parts[0] + parts[1]).reshape(first.shape)


INTERPOLATIONS: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "linear": linear,
    "spherical": spherical,
}
