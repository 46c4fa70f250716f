"""A U-Net in the manner of DDPM++ (Song et al. 2021), as Karras et al. 2022 use it (table 7, left column).

The noise level and the condition modulate each residual block by a scale and a shift after its second normalisation.
Blocks halve the resolution by averaging pixels and double it by repeating them. Every block on the way down has a skip
connection to one on the way up. Where pixels attend to each other, they also attend to the words of a caption (Rombach
et al. 2022, section 3.3). With a `patch` above 1 the first level takes each patch of pixels as one, which costs less
(Hoogeboom et al. 2023, section 2.4). `denoising` describes inputs and outputs.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax import backend
from genimg_jax.errors import ConfigError
from genimg_jax.networks.conditioning import (
    Condition,
    Fields,
    TokenEncoder,
    map_fields,
    sequence,
    valid_tokens,
    vector_fields,
)
from genimg_jax.networks.denoising import CrossAttention, Modulator, SelfAttention, WithMaps, normal
from genimg_jax.networks.dit import patchify
from genimg_jax.networks.layers import Conv, Dense, Linear, Normalization, PlainConv, unpatchify

HEAD = 64  # features of an attention head, or fewer if they do not divide the block's


def avg_pool(x: jax.Array) -> jax.Array:
    """The mean of each 2x2 pixels."""  # [B, 2h, 2w, C] -> [B, h, w, C]
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(x: jax.Array) -> jax.Array:
    """Repeats every pixel as 2x2 pixels."""  # [B, h, w, C] -> [B, 2h, 2w, C]
    batch, height, width, channels = x.shape
    spread = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return backend.materialize(spread.reshape(batch, 2 * height, 2 * width, channels))


def group_norm(name: str) -> Callable[[jax.Array], jax.Array]:
    return functools.partial(Normalization("group", name=name), training=False)  # the same in training


class ResidualBlock(nn.Module):
    """Two convolutions beside a linear skip; at initialisation the block only changes scale and resolution."""

    features: int
    resize: str = "keep"  # 'halve' or 'double' height and width
    attention: bool = False  # followed by attention over the pixels, and over the tokens if there are any
    forward_mode_ad: bool = False  # see `SelfAttention`

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array, tokens: tuple[jax.Array, jax.Array] | None = None
    ) -> jax.Array:
        # [B, H, W, C], [B, E], ([B, T, any], bool[B, T]) -> [B, H or H / 2 or 2 H, W likewise, features]
        convolution = functools.partial(PlainConv, self.features, (3, 3))
        resize = {"keep": lambda x: x, "halve": avg_pool, "double": upsample}[self.resize]
        y = resize(nn.silu(group_norm("norm_in")(x)))
        y = convolution(kernel_init=normal, name="conv_in")(y)
        scale, shift = jnp.split(Dense(2 * self.features, name="modulation")(condition), 2, axis=-1)
        y = group_norm("norm_out")(y)
        y = nn.silu(y * (1 + scale[:, None, None]) + shift[:, None, None])
        y = convolution(kernel_init=nn.initializers.zeros, name="conv_out")(y)
        x = resize(x)
        if x.shape[-1] != self.features:
            x = Linear(self.features, kernel_init=normal, name="skip")(x)
        x = (x + y) * math.sqrt(0.5)
        if self.attention:
            y = group_norm("attention_norm")(x).reshape(x.shape[0], -1, self.features)
            heads = math.gcd(HEAD, self.features)
            attended = SelfAttention(heads, nn.initializers.zeros, self.forward_mode_ad, name="attention")(y)
            if tokens is not None:
                attended += CrossAttention(heads, self.forward_mode_ad, name="cross_attention")(y, *tokens)
            x = (x + attended.reshape(x.shape)) * math.sqrt(0.5)
        return backend.materialize(x)


class UNet(nn.Module):
    """Raises `ConfigError` for an image that patches do not divide or that cannot be halved at every level, or for
    attention at a height of no level."""

    width: int  # channels of the first level
    multipliers: tuple[int, ...]  # each level's channels over `width`; every level except the first halves the image
    blocks: int  # residual blocks a level
    attention: tuple[int, ...]  # heights of the levels with self-attention, besides the middle
    out: int
    fields: Fields = ()
    forward_mode_ad: bool = False  # see `SelfAttention`
    patch: int = 1  # pixels to a side of what the first level takes as one

    @nn.compact
    def __call__(self, x: jax.Array, c_noise: jax.Array, condition: Condition) -> jax.Array:
        # [B, H, W, C], f32[B] or f32[B, K] -> f32[B, H, W, out]
        batch, image_height, image_width, _ = x.shape
        x = patchify(WithMaps(map_fields(self.fields), name="maps")(x, condition), self.patch)
        x = x.reshape(batch, image_height // self.patch, image_width // self.patch, -1)
        heights = level_heights(x.shape[1], x.shape[2], len(self.multipliers))
        absent = [height for height in self.attention if height not in heights]
        if absent:
            raise ConfigError(f"attention is asked for at height {absent[0]}, but the levels' are {heights}.")
        vector = Modulator(4 * self.width, vector_fields(self.fields), name="condition")(c_noise, condition)
        words, tokens = tuple((name, field) for name, field in self.fields if sequence(field)), None
        if words:
            encoder = TokenEncoder(words, 4 * self.width, nullable=True, name="tokens")
            tokens = encoder(condition, len(x)), valid_tokens(words, condition, len(x))
        features = [self.width * multiplier for multiplier in self.multipliers]
        attends = [height in self.attention for height in heights]

        def block(name, x, level, resize="keep", attention=False):
            make = ResidualBlock(features[level], resize, attention, self.forward_mode_ad, name=name)
            return make(x, vector, tokens)

        x = Conv(self.width, name="first")(x)
        skips = [x]
        for level in range(len(features)):
            if level:
                x = block(f"halve_{level}", x, level, "halve")
                skips.append(x)
            for i in range(self.blocks):
                x = block(f"down_{level}_{i}", x, level, attention=attends[level])
                skips.append(x)
        x = block("middle_0", x, level, attention=True)
        x = block("middle_1", x, level)
        for level in reversed(range(len(features))):
            if level < len(features) - 1:
                x = block(f"double_{level}", x, level, "double")
            for i in range(self.blocks + 1):
                x = block(
                    f"up_{level}_{i}", jnp.concatenate([x, skips.pop()], axis=-1), level, attention=attends[level]
                )
        x = nn.silu(group_norm("last_norm")(x))
        last = PlainConv(self.patch**2 * self.out, (3, 3), kernel_init=nn.initializers.zeros, name="last")
        return unpatchify(last(x).astype(jnp.float32), self.patch, image_height, image_width)


def level_heights(height: int, width: int, levels: int) -> list[int]:
    """Raises `ConfigError` unless the image can be halved at every level except the first."""
    times = 2 ** (levels - 1)
    if height % times or width % times:
        raise ConfigError(
            f"a {height}x{width} image cannot be halved {levels - 1} times; give the U-Net fewer multipliers, "
            f"or resize the image to multiples of {times}."
        )
    return [height >> level for level in range(levels)]
