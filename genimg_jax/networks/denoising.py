"""What the networks of diffusion and flow models have in common: how they are told noise levels and classes.

Such a network maps (image f32[B, H, W, C], c_noise, label, training) to f32[B, H, W, out]. `c_noise` f32[B] says how
noisy the image is on any scale of order one, such as ln(sigma) / 4 (Karras et al. 2022, table 1) or a time in [0, 1];
f32[B, K] says several such numbers, for models of two times. `label` i32[B] is a class or `num_classes`, the null
class that stands for none, and None is the null class for all. The outputs are float32 and 0 at first.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.networks.attention import full_attention
from genimg_jax.networks.conditioning import ClassEmbedding
from genimg_jax.networks.layers import Dense, flat_normal

LOWEST, HIGHEST = 1 / 32, 2.0  # cycles a unit of `c_noise`; faster ones make derivatives with respect to it explode


def fourier_features(x: jax.Array, features: int) -> jax.Array:
    """Cosines, then sines, of x times features / 2 frequencies from `LOWEST` to `HIGHEST`, a constant ratio apart.

    Tancik et al. 2020, with the frequencies of Vaswani et al. 2017 section 3.5 in place of random ones.
    """  # f32[...] -> f32[..., features]
    frequencies = 2 * np.pi * np.geomspace(LOWEST, HIGHEST, features // 2)
    angles = x[..., None] * frequencies.astype(np.float32).reshape((1,) * x.ndim + (-1,))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Condition(nn.Module):
    """Noise levels and class to the vector that every block of the network is given, its activation already applied."""

    features: int
    num_classes: int  # 0: unconditional

    @nn.compact
    def __call__(self, c_noise: jax.Array, label: jax.Array | None, training: bool) -> jax.Array:
        # f32[B] or f32[B, K], i32[B] -> [B, features]
        x = fourier_features(c_noise.astype(jnp.float32), self.features).reshape(c_noise.shape[0], -1)
        x = Dense(self.features, name="noise_in")(x, training)
        x = Dense(self.features, name="noise_out")(nn.silu(x), training)
        if self.num_classes:
            label = or_null(label, self.num_classes, c_noise.shape[0])
            x = x + ClassEmbedding(self.num_classes + 1, self.features, name="label")(label)
        return nn.silu(x)


def or_null(label: jax.Array | None, num_classes: int, count: int) -> jax.Array:  # -> i32[B]
    return jnp.full(count, num_classes, jnp.int32) if label is None else label


def normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Variance 1 / fan in, for kernels [..., in, out]."""
    return 1 / math.sqrt(math.prod(shape[:-1])) * flat_normal(key, shape, dtype)


class SelfAttention(nn.Module):
    """Every token to every token, with as many heads as `head_size` goes into their features."""

    head_size: int
    out_init: nn.initializers.Initializer = normal
    forward_mode_ad: bool = False  # whether derivatives of forward mode are taken, in training

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, S, F] -> [B, S, F]
        parts = nn.Dense(3 * x.shape[-1], kernel_init=normal, name="heads_in")(x)
        parts = parts.reshape(*x.shape[:2], 3, -1, self.head_size)
        attended = full_attention(*(parts[:, :, i].swapaxes(1, 2) for i in range(3)), self.forward_mode_ad)
        return nn.Dense(x.shape[-1], kernel_init=self.out_init, name="heads_out")(
            attended.swapaxes(1, 2).reshape(x.shape)
        )
