"""What the networks of diffusion and flow models have in common: embeddings of noise levels and conditions, attention.

Such a network maps (image f32[B, H, W, C], c_noise, condition) to f32[B, H, W, out]. `c_noise` f32[B] is the noise
level on any scale of order one, such as ln(sigma) / 4 (Karras et al. 2022, table 1) or a time in [0, 1]; models of two
times give f32[B, K]. The condition may be dropped. The outputs are float32, and 0 at initialisation.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import backend
from genimg_jax.networks.attention import full_attention
from genimg_jax.networks.conditioning import SEGMENT, Condition, Fields, MapEncoder, VectorEncoder
from genimg_jax.networks.layers import Dense, Linear

LOWEST, HIGHEST = 1 / 32, 2.0  # cycles a unit of `c_noise`; faster ones would make derivatives by it explode


def fourier_features(x: jax.Array, features: int) -> jax.Array:
    """Cosines, then sines, of x times features / 2 frequencies from `LOWEST` to `HIGHEST`, a constant ratio apart.

    Tancik et al. 2020, with the frequencies of Vaswani et al. 2017 section 3.5 in place of random ones.
    """  # f32[...] -> f32[..., features]
    frequencies = 2 * np.pi * np.geomspace(LOWEST, HIGHEST, features // 2)
    angles = x[..., None] * frequencies.astype(np.float32).reshape((1,) * x.ndim + (-1,))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Modulator(nn.Module):
    """Noise levels and condition to the vector that modulates every block, after its activation."""

    features: int
    fields: Fields

    @nn.compact
    def __call__(self, c_noise: jax.Array, condition: Condition) -> jax.Array:
        # f32[B] or f32[B, K] -> [B, features]
        x = fourier_features(c_noise.astype(jnp.float32), self.features).reshape(c_noise.shape[0], -1)
        x = Dense(self.features, name="noise_in")(x)
        x = Dense(self.features, name="noise_out")(nn.silu(x))
        if self.fields:
            x = x + VectorEncoder(self.fields, self.features, nullable=True, name="fields")(condition, len(c_noise))
        return nn.silu(x)


class WithMaps(nn.Module):
    """The image with the maps and images of its condition as further channels."""

    fields: Fields

    @nn.compact
    def __call__(self, x: jax.Array, condition: Condition) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C or more]
        if not self.fields:
            return x
        encoder = MapEncoder(self.fields, SEGMENT, x.shape[1:3], nullable=True, name="fields")
        return jnp.concatenate([x, encoder(condition, len(x)).astype(x.dtype)], axis=-1)


def normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Variance 1 / fan in, for kernels [..., in, out]."""
    return 1 / math.sqrt(math.prod(shape[:-1])) * backend.normal(key, shape, dtype)


def split_heads(x: jax.Array, parts: int, head_size: int) -> list[jax.Array]:
    """Queries, keys or values for attention."""  # [B, S, parts F] -> parts x [B, heads, S, head_size]
    x = x.reshape(*x.shape[:2], parts, -1, head_size)
    return [x[:, :, i].swapaxes(1, 2) for i in range(parts)]


class SelfAttention(nn.Module):
    """Self-attention over all valid tokens, with heads of `head_size` features."""

    head_size: int
    out_init: nn.initializers.Initializer = normal
    forward_mode_ad: bool = False  # whether training takes derivatives in forward mode

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        # [B, S, F], bool[B, S] -> [B, S, F]
        parts = split_heads(Linear(3 * x.shape[-1], kernel_init=normal, name="heads_in")(x), 3, self.head_size)
        attended = full_attention(*parts, self.forward_mode_ad, valid)
        return Linear(x.shape[-1], kernel_init=self.out_init, name="heads_out")(
            attended.swapaxes(1, 2).reshape(x.shape)
        )


class CrossAttention(nn.Module):
    """Attention of x to the valid tokens of a condition, with heads of `head_size` features; 0 at first."""

    head_size: int
    forward_mode_ad: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array, valid: jax.Array) -> jax.Array:
        # [B, S, F], [B, T, E], bool[B, T] -> [B, S, F]
        features = x.shape[-1]
        queries = split_heads(Linear(features, kernel_init=normal, name="query")(x), 1, self.head_size)
        parts = split_heads(Linear(2 * features, kernel_init=normal, name="key_value")(tokens), 2, self.head_size)
        attended = full_attention(*queries, *parts, self.forward_mode_ad, valid)
        return Linear(features, kernel_init=nn.initializers.zeros, name="heads_out")(
            attended.swapaxes(1, 2).reshape(x.shape)
        )
