"""The networks of SPADE (Park et al. 2019): a generator that a segmentation map modulates, its discriminators, an
encoder of style.

As in the paper, every kernel of the generator and of the discriminators is spectrally normalised (Miyato et al. 2018).
Group normalisation replaces the paper's batch normalisation: an image then depends on its own map and code alone, and
training does not depend on how a batch is split. Instance normalisation would do the same, but it removes the mean of
every channel, and with it most of what a code says about colours. A group keeps the differences between its channels.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax import backend
from genimg_jax.networks.convolutional import Encoder
from genimg_jax.networks.grid import WIDEST, PatchDiscriminator
from genimg_jax.networks.layers import Conv, Dense, activate, promotion
from genimg_jax.networks.unet import avg_pool, upsample

GROUP = 16  # channels that are normalised together, or fewer where that does not divide them


def normalize(x: jax.Array) -> jax.Array:
    """Group normalisation without parameters."""  # [B, H, W, C] -> [B, H, W, C]
    size = math.gcd(GROUP, x.shape[-1])
    return nn.GroupNorm(num_groups=None, group_size=size, use_bias=False, use_scale=False)(x)


def downsample(segments: jax.Array, factor: int) -> jax.Array:
    """The nearest pixel to the centre of each square."""  # [B, H, W, ...] -> [B, H / factor, W / factor, ...]
    return segments[:, factor // 2 :: factor, factor // 2 :: factor]


class SPADE(nn.Module):
    """Spatially adaptive normalisation (equation 1): (1 + gamma) * normalised x + beta.

    Gamma and beta have a value for each channel and position, from two 3x3 convolutions of the one-hot map. A map
    thus reaches two pixels far. The 1 lets a network that predicts zeros be plain normalisation.
    """

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, segments: jax.Array, training: bool) -> jax.Array:
        # [B, H, W, C], [B, H, W, S] -> [B, H, W, C]
        convolution = functools.partial(Conv, promote_dtype=promotion(True, training))
        hidden = activate("relu", convolution(self.hidden, name="hidden")(segments))
        gamma, beta = jnp.split(convolution(2 * x.shape[-1], name="modulation")(hidden), 2, axis=-1)
        return normalize(x) * (1 + gamma) + beta


class ResidualBlock(nn.Module):
    """Two convolutions, each after SPADE and an activation, added to their input (figure 4).

    If the number of channels changes, the shortcut is learned: SPADE, then a linear map of each pixel.
    """

    features: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, segments: jax.Array, training: bool) -> jax.Array:
        # [B, H, W, C], [B, H, W, S] -> [B, H, W, features]
        promote = promotion(True, training)
        change = x
        for i, features in enumerate((min(x.shape[-1], self.features), self.features)):
            change = activate("leaky_relu", SPADE(self.hidden, name=f"spade_{i}")(change, segments, training))
            change = Conv(features, promote_dtype=promote, name=f"conv_{i}")(change)
        if x.shape[-1] != self.features:
            x = SPADE(self.hidden, name="spade_shortcut")(x, segments, training)
            x = Dense(self.features, use_bias=False, promote_dtype=promote, name="shortcut")(x)
        return backend.materialize(x + change)


class Generator(nn.Module):
    """Residual blocks at every size, from the smallest to the image's, with nearest-neighbour upsampling between them.

    They start from a code, or without one from the smallest map. The map is not encoded: each block reads it again,
    downsampled to its own size.
    """

    segments: int
    width: int  # channels at the image's size, doubled at each smaller one, to WIDEST times as many
    depth: int  # upsamplings
    hidden: int  # channels between the map and its gamma and beta
    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, code: jax.Array | None, segmentation: jax.Array, training: bool) -> jax.Array:
        # [B, Z], i32[B, H, W] -> [B, H, W, C], raw outputs
        height, width, channels = self.shape
        promote = promotion(True, training)
        maps = jax.nn.one_hot(segmentation, self.segments)
        maps = [downsample(maps, 2**level) for level in range(self.depth + 1)]
        features = [self.width * min(2**level, WIDEST) for level in range(self.depth + 1)]
        if code is None:
            x = Conv(features[-1], promote_dtype=promote, name="first")(maps[-1])
        else:
            smallest = (height >> self.depth, width >> self.depth, features[-1])
            x = Dense(math.prod(smallest), promote_dtype=promote, name="first")(code).reshape(-1, *smallest)
        for level in reversed(range(self.depth + 1)):
            x = ResidualBlock(features[level], self.hidden, name=f"level_{level}")(x, maps[level], training)
            x = upsample(x) if level else x
        return Conv(channels, promote_dtype=promote, name="last")(activate("leaky_relu", x))


class MultiscaleDiscriminator(nn.Module):
    """Discriminators of patches of map and image together, each at half the size of the one before (Wang et al. 2018,
    section 3.2)."""

    segments: int
    width: int
    depth: int
    scales: int

    @nn.compact
    def __call__(
        self, image: jax.Array, segmentation: jax.Array, training: bool
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        # [B, H, W, C], i32[B, H, W] -> scales x logits [B, h, w], scales * depth x features [B, ..., ..., any]
        x = jnp.concatenate([image, jax.nn.one_hot(segmentation, self.segments, dtype=image.dtype)], axis=-1)
        logits, features = [], []
        for scale in range(self.scales):
            x = avg_pool(x) if scale else x
            patches, hidden = PatchDiscriminator(self.width, self.depth, name=f"scale_{scale}")(x, training)
            logits.append(patches)
            features.extend(hidden)
        return tuple(logits), tuple(features)


class StyleEncoder(nn.Module):
    """An image to the mean and log variance of its code's posterior, a diagonal Gaussian (section 3)."""

    width: int
    latent: int

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:  # [B, H, W, C] -> f32[B, Z] x 2
        # Group normalisation is the same in training.
        statistics = Encoder(self.width, 2 * self.latent, normalization="group")(image, False)
        mean, log_variance = jnp.split(statistics.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, -20.0, 20.0)
