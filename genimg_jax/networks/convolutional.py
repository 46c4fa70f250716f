"""Images to vectors and back: DCGAN's discriminator and generator (Radford et al. 2016), a VAE's encoder and decoder.

Every level halves or doubles height and width with a 4x4 convolution of stride 2. The stride divides the kernel's size,
so that every pixel is covered equally often (Odena et al. 2016, "Deconvolution and checkerboard artifacts").
"""

import flax.linen as nn
import jax

from genimg_jax.errors import ConfigError
from genimg_jax.networks.layers import Dense, Downsample, Normalization, Upsample, activate, promotion

WIDEST = 8  # times the width of the first level


def levels(height: int, width: int) -> int:
    """How often an image is halved: while both sides are even and above 4, as 28 -> 7, 32 -> 4, 64 -> 4.

    Raises `ConfigError` for an image that cannot be halved at all.
    """
    count = 0
    while height % 2 == width % 2 == 0 and min(height, width) > 4:
        height, width, count = height // 2, width // 2, count + 1
    if not count:
        raise ConfigError(
            f"a {height}x{width} image cannot be halved; resize or pad it to even sides above 4, "
            "or choose a network without convolutions."
        )
    return count


class Encoder(nn.Module):
    """An image to a vector. Level i (from 0) has `width` * min(2^i, 8) channels; the last features are flattened.

    The first level has no normalisation, as in DCGAN: the network must see the image's scale.
    """

    width: int
    out: int
    normalization: str = "none"
    activation: str = "leaky_relu"
    spectral: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, training: bool) -> jax.Array:  # [B, H, W, C] -> [B, out]
        x = image
        promote = promotion(self.spectral, training)
        for level in range(levels(*image.shape[1:3])):
            normalization = self.normalization if level else "none"
            features = self.width * min(2**level, WIDEST)
            x = Downsample(features, use_bias=normalization != "batch", promote_dtype=promote)(x)
            x = activate(self.activation, Normalization(normalization)(x, training))
        return Dense(self.out, promote_dtype=promote)(x.reshape(x.shape[0], -1))


class Decoder(nn.Module):
    """A vector to an image's raw outputs, the reverse of `Encoder`: no tanh, no normalisation at the end.

    `shape` is (height, width, channels) of the output.
    """

    width: int
    shape: tuple[int, int, int]
    normalization: str = "none"
    activation: str = "relu"

    @nn.compact
    def __call__(self, code: jax.Array, training: bool) -> jax.Array:  # [B, Z] -> [B, H, W, C]
        height, width, channels = self.shape
        count = levels(height, width)
        features = [self.width * min(2**level, WIDEST) for level in range(count)]
        use_bias = self.normalization != "batch"
        smallest = (height >> count, width >> count, features[-1])
        x = Dense(smallest[0] * smallest[1] * smallest[2], use_bias=use_bias)(code)
        x = x.reshape(-1, *smallest)
        for size in [*features[-2::-1], None]:
            x = activate(self.activation, Normalization(self.normalization)(x, training))
            x = Upsample(channels)(x) if size is None else Upsample(size, use_bias=use_bias)(x)
        return x
