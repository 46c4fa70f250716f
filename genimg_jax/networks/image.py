"""Images to codes and back, with or without conditions: the networks of the VAE, the GAN and the autoencoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.conditioning import Condition, Fields, VectorEncoder, with_channel, with_vector
from genimg_jax.networks.convolutional import Decoder, Encoder
from genimg_jax.networks.grid import GridDecoder, GridEncoder
from genimg_jax.networks.mlp import MLP
from genimg_jax.networks.residual import ResidualDecoder, ResidualEncoder

BLOCKS = 1  # residual blocks at each size of a grid network


class ImageEncoder(nn.Module):
    """An image to a vector, or a grid of them. The condition is one more channel (Mirza and Osindero 2014)."""

    network: str  # 'mlp', 'conv', 'residual' or 'grid'
    width: int  # hidden units of the MLP, or channels of the first convolution
    depth: int  # hidden layers of the MLP, blocks a size of 'residual', downsamplings of 'grid'; 'conv' needs none
    out: int
    fields: Fields = ()
    normalization: str = "none"
    spectral: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, condition: Condition, training: bool) -> jax.Array:
        # [B, H, W, C] -> [B, out], for 'grid' [B, h, w, out]
        image = with_channel(self.fields, image, condition)
        if self.network == "mlp":
            flat = image.reshape(image.shape[0], -1)
            features = (self.width,) * self.depth
            network = MLP(features, self.out, "leaky_relu", normalization=self.normalization, spectral=self.spectral)
            return network(flat, training)
        if self.network == "grid":
            return GridEncoder(self.width, BLOCKS, self.depth, self.out)(image)
        if self.network == "residual":
            return ResidualEncoder(self.width, self.depth, self.out, self.normalization, self.spectral)(image, training)
        network = Encoder(self.width, self.out, normalization=self.normalization, spectral=self.spectral)
        return network(image, training)


class ProjectionDiscriminator(nn.Module):
    """The logit of an image with its condition: one of the image alone, and the inner product of the image's features
    with the condition's vector (Miyato and Koyama 2018, section 3)."""

    encoder: ImageEncoder  # to 1 + the number of features
    fields: Fields

    @nn.compact
    def __call__(self, image: jax.Array, condition: Condition, training: bool) -> jax.Array:  # [B, H, W, C] -> [B, 1]
        logit, features = jnp.split(self.encoder(image, None, training), [1], axis=-1)
        size = features.shape[-1]
        vector = VectorEncoder(self.fields, size, scale=size**-0.5, name="condition")(condition, image.shape[0])
        return logit + (features * vector).sum(axis=-1, keepdims=True)


class ImageDecoder(nn.Module):
    """A vector or a grid of them, each concatenated with the condition's vector, to an image's raw outputs."""

    network: str
    width: int
    depth: int
    shape: tuple[int, int, int]  # (height, width, output channels)
    fields: Fields = ()
    normalization: str = "none"

    @nn.compact
    def __call__(self, code: jax.Array, condition: Condition, training: bool) -> jax.Array:
        # [B, Z] or [B, h, w, Z] -> [B, H, W, channels]
        code = with_vector(self.fields, code, condition)
        if self.network == "mlp":
            size = self.shape[0] * self.shape[1] * self.shape[2]
            features = (self.width,) * self.depth
            flat = MLP(features, size, "leaky_relu", normalization=self.normalization)(code, training)
            return flat.reshape(-1, *self.shape)
        if self.network == "grid":
            return GridDecoder(self.width, BLOCKS, self.depth, self.shape[-1])(code)
        if self.network == "residual":
            return ResidualDecoder(self.width, self.depth, self.shape, self.normalization)(code, training)
        return Decoder(self.width, self.shape, normalization=self.normalization)(code, training)
