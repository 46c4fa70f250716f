"""Residual networks, image to vector and back: of R3GAN without normalisation (Huang et al. 2024, section 3), of SNGAN
with spectral and batch normalisation (Miyato et al. 2018, appendix B.4).

At initialisation a block adds nothing to its input, so that signals keep their size however deep the network is (Zhang
et al. 2019, "Fixup"). Sizes are halved by means and doubled by repetition, with a linear map between numbers of
channels.
"""

import functools

import flax.linen as nn
import jax

from genimg_jax.networks.convolutional import WIDEST, levels
from genimg_jax.networks.layers import Conv, Dense, Normalization, activate, promotion
from genimg_jax.networks.unet import avg_pool, upsample


class Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), whose last kernel begins at zero."""

    normalization: str
    spectral: bool
    training: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
        # A kernel of zeros has no singular vectors: with spectral normalisation blocks begin as any others.
        last = {} if self.spectral else {"kernel_init": nn.initializers.zeros}
        convolution = functools.partial(Conv, x.shape[-1], promote_dtype=promotion(self.spectral, self.training))
        change = x
        for settings in ({"use_bias": self.normalization != "batch"}, last):
            change = activate("leaky_relu", Normalization(self.normalization)(change, self.training))
            change = convolution(**settings)(change)
        return x + change


class ResidualEncoder(nn.Module):
    """An image to a vector. Level i (from 0) has `width` * min(2^i, 8) channels and `blocks` blocks."""

    width: int
    blocks: int
    out: int
    normalization: str = "none"
    spectral: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, training: bool) -> jax.Array:  # [B, H, W, C] -> [B, out]
        promote = promotion(self.spectral, training)
        x = Conv(self.width, promote_dtype=promote)(image)
        for level in range(levels(*image.shape[1:3]) + 1):
            if level:
                x = Dense(self.width * min(2**level, WIDEST), promote_dtype=promote)(avg_pool(x))
            for _ in range(self.blocks):
                x = Block(self.normalization, self.spectral, training)(x)
        x = activate("leaky_relu", x).reshape(x.shape[0], -1)
        return Dense(self.out, promote_dtype=promote)(x)


class ResidualDecoder(nn.Module):
    """A vector to an image's raw outputs, the reverse of `ResidualEncoder`.

    `shape` is (height, width, channels) of the output.
    """

    width: int
    blocks: int
    shape: tuple[int, int, int]
    normalization: str = "none"

    @nn.compact
    def __call__(self, code: jax.Array, training: bool) -> jax.Array:  # [B, Z] -> [B, H, W, C]
        height, width, channels = self.shape
        count = levels(height, width)
        features = [self.width * min(2**level, WIDEST) for level in range(count + 1)]
        smallest = (height >> count, width >> count, features[-1])
        x = Dense(smallest[0] * smallest[1] * smallest[2])(code).reshape(-1, *smallest)
        for level in reversed(range(count + 1)):
            if level < count:
                x = upsample(Dense(features[level])(x))
            for _ in range(self.blocks):
                x = Block(self.normalization, False, training)(x)
        return Conv(channels)(activate("leaky_relu", x))
