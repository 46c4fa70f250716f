"""Images to images: the ResNet generator of CycleGAN (Zhu et al. 2017, appendix 7.2), and the U-Net generator and the
conditional discriminator of pix2pix (Isola et al. 2017, appendix 6.1).

Generators give raw outputs, without the tanh. Normalisation is that of single images, without scale and shift (Ulyanov
et al. 2016, equation 4), so that the images of a batch do not depend on each other; convolutions before it have no
bias, which it would remove. Height and width are halved and doubled by 4x4 convolutions, also in the ResNet, for which
the paper has 3x3 ones: see `convolutional`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax import backend
from genimg_jax.core import fold_in
from genimg_jax.networks.conditioning import (
    SEGMENT,
    Condition,
    Fields,
    MapEncoder,
    map_fields,
    vector_fields,
    with_channel,
)
from genimg_jax.networks.convolutional import WIDEST
from genimg_jax.networks.grid import PatchDiscriminator
from genimg_jax.networks.layers import Conv, Downsample, Upsample, activate

DROPOUTS = 3  # levels of the U-Net's way up with dropout, from the smallest on

# Reflection padding: zeros would draw a frame around images whose background is not 0.
ReflectConv = functools.partial(Conv, padding="REFLECT")

# Every channel of every image with mean 0 and variance 1 over its pixels: no scale, no shift. The variance in one pass
# would lose digits where the mean is large.
InstanceNorm = functools.partial(
    nn.InstanceNorm, epsilon=1e-5, use_bias=False, use_scale=False, use_fast_variance=False
)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions, a ReLU between them, added to their input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
        change = activate("relu", InstanceNorm()(ReflectConv(x.shape[-1], use_bias=False)(x)))
        change = InstanceNorm()(ReflectConv(x.shape[-1], use_bias=False)(change))
        return backend.materialize(x + change)


class ResNetGenerator(nn.Module):
    """c7s1-k, a halving to 2^i k channels at each level i from 1, residual blocks, and the same way back; c7s1-out."""

    width: int  # k, channels at the image's size
    num_downsamples: int  # 2 in the paper
    blocks: int  # residual blocks at the smallest size: 6 for images of 128x128, 9 for larger ones
    out: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, out]
        features = [self.width * 2**level for level in range(self.num_downsamples + 1)]
        x = activate("relu", InstanceNorm()(ReflectConv(features[0], kernel_size=(7, 7), use_bias=False)(image)))
        for after in features[1:]:
            x = activate("relu", InstanceNorm()(Downsample(after, use_bias=False)(x)))
        for _ in range(self.blocks):
            x = ResidualBlock()(x)
        for after in features[-2::-1]:
            x = activate("relu", InstanceNorm()(Upsample(after, use_bias=False)(x)))
        return ReflectConv(self.out, kernel_size=(7, 7))(x)


class ConditionImage(nn.Module):
    """A condition as an image: a linear map of the values of its images and the segments of its maps at each pixel, and
    one more channel for all other fields."""

    fields: Fields  # with at least one map or image
    shape: tuple[int, int]  # (height, width)

    @nn.compact
    def __call__(self, condition: Condition, count: int) -> jax.Array:  # -> [B, *shape, features]
        pixels = MapEncoder(map_fields(self.fields), SEGMENT, self.shape, name="maps")(condition, count)
        return with_channel(vector_fields(self.fields), pixels, condition)


def dropout(x: jax.Array, keys: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Each value is 0 with probability `rate`, each example's by its own key; the mean stays."""
    # [B, ...], key[B] -> [B, ...]
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class UNetGenerator(nn.Module):
    """A condition to an image, with a skip connection at every size.

    Level i (from 0), at 1 / 2^(i + 1) of the image's size, has `width` * min(2^i, 8) channels. Dropout is its
    only noise, in training and in sampling (Isola et al. 2017, section 3.2). The smallest features are not normalised,
    since those of one pixel would all become 0.
    """

    width: int
    depth: int  # times that height and width are halved; in the paper down to one pixel
    shape: tuple[int, int, int]  # (height, width, channels) of the image
    fields: Fields

    @nn.compact
    def __call__(self, condition: Condition, keys: jax.Array, rate: float | jax.Array) -> jax.Array:
        # key[B] -> [B, *shape]
        features = [self.width * min(2**level, WIDEST) for level in range(self.depth)]
        x, skips = ConditionImage(self.fields, self.shape[:2], name="condition")(condition, len(keys)), []
        for level in range(self.depth):
            normalized = 0 < level < self.depth - 1
            x = Downsample(features[level], use_bias=not normalized, name=f"down_{level}")(x)
            skips.append(InstanceNorm()(x) if normalized else x)
            x = activate("leaky_relu", skips[-1])
        x = skips.pop()
        for level in range(self.depth - 1, 0, -1):
            x = Upsample(features[level - 1], use_bias=False, name=f"up_{level}")(activate("relu", x))
            x = InstanceNorm()(x)
            if self.depth - level <= DROPOUTS:
                x = dropout(x, fold_in(keys, level), rate)
            x = jnp.concatenate([x, skips.pop()], axis=-1)
        return Upsample(self.shape[-1], name="up_0")(activate("relu", x))


class ConditionalPatchDiscriminator(nn.Module):
    """A `PatchDiscriminator` that sees the condition beside the image (Isola et al. 2017, figure 2)."""

    width: int
    depth: int
    fields: Fields

    @nn.compact
    def __call__(self, image: jax.Array, condition: Condition, training: bool) -> jax.Array:
        # [B, H, W, C] -> [B, h, w]
        beside = ConditionImage(self.fields, image.shape[1:3], name="condition")(condition, len(image))
        pair = jnp.concatenate([image.astype(beside.dtype), beside], axis=-1)
        return PatchDiscriminator(self.width, self.depth, name="patches")(pair, training)[0]
