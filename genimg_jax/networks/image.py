"""Images to codes and back, with or without a class: what the VAE's and the GAN's networks have in common."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.conditioning import ClassEmbedding
from genimg_jax.networks.convolutional import Decoder, Encoder
from genimg_jax.networks.grid import GridDecoder, GridEncoder
from genimg_jax.networks.mlp import MLP

BLOCKS = 1  # residual blocks at each size of a grid network


class ImageEncoder(nn.Module):
    """An image, and its class as one more learned channel (Mirza and Osindero 2014), to a vector, or a grid of them."""

    network: str  # 'mlp', 'conv' or 'grid'
    width: int  # hidden units of the MLP, or channels of the first convolution
    depth: int  # hidden layers of the MLP, times that the grid is halved; 'conv' follows from the image's size
    out: int
    num_classes: int = 0  # 0: unconditional
    normalization: str = "none"
    spectral: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, label: jax.Array | None, training: bool) -> jax.Array:
        # [B, H, W, C], [B] -> [B, out], for 'grid' [B, h, w, out]
        if self.num_classes:
            height, width = image.shape[1:3]
            channel = ClassEmbedding(self.num_classes, height * width)(label)
            image = jnp.concatenate([image, channel.reshape(-1, height, width, 1)], axis=-1)
        if self.network == "mlp":
            flat = image.reshape(image.shape[0], -1)
            features = (self.width,) * self.depth
            network = MLP(features, self.out, "leaky_relu", normalization=self.normalization, spectral=self.spectral)
            return network(flat, training)
        if self.network == "grid":
            return GridEncoder(self.width, BLOCKS, self.depth, self.out)(image)
        network = Encoder(self.width, self.out, normalization=self.normalization, spectral=self.spectral)
        return network(image, training)


class ImageDecoder(nn.Module):
    """A vector or a grid of them, with a learned vector of the class beside each, to an image's raw outputs."""

    network: str
    width: int
    depth: int
    shape: tuple[int, int, int]  # (height, width, output channels)
    num_classes: int = 0
    normalization: str = "none"

    @nn.compact
    def __call__(self, code: jax.Array, label: jax.Array | None, training: bool) -> jax.Array:
        # [B, Z] or [B, h, w, Z], [B] -> [B, H, W, channels]
        if self.num_classes:
            vector = ClassEmbedding(self.num_classes, code.shape[-1])(label)
            vector = vector.reshape(-1, *(1,) * (code.ndim - 2), code.shape[-1])
            code = jnp.concatenate([code, jnp.broadcast_to(vector, code.shape)], axis=-1)
        if self.network == "mlp":
            size = self.shape[0] * self.shape[1] * self.shape[2]
            features = (self.width,) * self.depth
            flat = MLP(features, size, "leaky_relu", normalization=self.normalization)(code, training)
            return flat.reshape(-1, *self.shape)
        if self.network == "grid":
            return GridDecoder(self.width, BLOCKS, self.depth, self.shape[-1])(code)
        return Decoder(self.width, self.shape, normalization=self.normalization)(code, training)
