"""Images to a grid of features and back, and a discriminator of patches: fully convolutional networks."""

import flax.linen as nn
import jax

from genimg_jax.errors import ConfigError
from genimg_jax.networks.conditioning import Condition, Fields, with_channel, with_vector
from genimg_jax.networks.layers import Conv, Dense, Downsample, Normalization, activate, promotion, unpatchify

WIDEST = 4  # times the width of the first level


def halved(height: int, width: int, times: int, option: str) -> tuple[int, int]:
    """Height and width, halved `times` times. Raises `ConfigError`, naming the option, if they are not divisible."""
    if height % 2**times or width % 2**times:
        raise ConfigError(
            f"{option} is {times}, but a {height}x{width} image cannot be halved so often; lower it, or set data.size."
        )
    return height >> times, width >> times


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after group normalisation and SiLU, added to their input (He et al. 2016)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
        change = x
        for _ in range(2):
            change = activate("silu", Normalization("group")(change, True))
            change = Conv(x.shape[-1])(change)
        return x + change


def pixel_shuffle(x: jax.Array) -> jax.Array:  # [B, h, w, 4 C] -> [B, 2h, 2w, C]
    """Every feature vector becomes the four pixels of a square (Shi et al. 2016, section 3.2).

    A convolution before it computes what a transposed convolution would, without the zeros. Unlike repeated pixels, it
    keeps the finest detail.
    """
    return unpatchify(x, 2, 2 * x.shape[1], 2 * x.shape[2])


class GridEncoder(nn.Module):
    """Halves height and width `num_downsamples` times, `blocks` residual blocks after each.

    Level i (from 0) has `width` * min(2^i, 4) channels.
    """

    width: int
    blocks: int
    num_downsamples: int
    out: int
    fields: Fields = ()

    @nn.compact
    def __call__(self, image: jax.Array, condition: Condition = None) -> jax.Array:  # [B, H, W, C] -> [B, h, w, out]
        x = with_channel(self.fields, image, condition)
        for level in range(self.num_downsamples):
            x = Downsample(self.width * min(2**level, WIDEST))(x)
            for _ in range(self.blocks):
                x = ResidualBlock()(x)
        return Dense(self.out)(activate("silu", Normalization("group")(x, True)))


class GridDecoder(nn.Module):
    """The mirror image of `GridEncoder`, to `channels` raw outputs a pixel."""

    width: int
    blocks: int
    num_downsamples: int
    channels: int
    fields: Fields = ()

    @nn.compact
    def __call__(self, x: jax.Array, condition: Condition = None) -> jax.Array:  # [B, h, w, D] -> [B, H, W, channels]
        x = with_vector(self.fields, x, condition)
        features = [self.width * min(2**level, WIDEST) for level in range(self.num_downsamples)]
        x = Conv(features[-1])(x)
        for after in [*features[-2::-1], self.channels]:
            for _ in range(self.blocks):
                x = ResidualBlock()(x)
            x = pixel_shuffle(Conv(4 * after)(activate("silu", Normalization("group")(x, True))))
        return x


class PatchDiscriminator(nn.Module):
    """A logit for each of a grid of overlapping patches (Isola et al. 2017, section 3.2.2), and the hidden features.

    Convolutions of stride 2; all kernels, the last one's too, are spectrally normalised (Miyato et al. 2018).
    """

    width: int
    depth: int  # times that height and width are halved

    @nn.compact
    def __call__(self, image: jax.Array, training: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        # [B, H, W, C] -> [B, h, w], depth x [B, ..., ..., features]
        x, features, promote = image, [], promotion(True, training)
        for level in range(self.depth):
            x = Downsample(self.width * min(2**level, WIDEST), promote_dtype=promote)(x)
            x = activate("leaky_relu", x)
            features.append(x)
        return Conv(1, promote_dtype=promote)(x)[..., 0], tuple(features)
