"""Images to classes, of any size: what reads generated images, and whose last features they are compared by."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.layers import Conv, Dense, Downsample, Normalization

SMALLEST = 7  # a longest side that is not halved any more
WIDEST = 4  # times the width of the first level


class ImageClassifier(nn.Module):
    """Level i (from 0) halves the image and has `width` * min(2^i, 4) channels; at 7 pixels a side or less a dense
    layer makes `features` of them, and one more the logits. Batch normalisation and a rectifier after each but the
    last, so that half of the features are at work on a typical image, and none is dead."""

    width: int
    features: int
    classes: int

    @nn.compact
    def __call__(self, image: jax.Array, training: bool) -> tuple[jax.Array, jax.Array]:
        # [B, H, W, C] -> [B, features], each at least 0, and logits [B, classes]
        def activated(x: jax.Array) -> jax.Array:
            return nn.relu(Normalization("batch")(x, training))

        x, channels = image, self.width
        while max(x.shape[1:3]) > SMALLEST:
            odd = [(0, size % 2) for size in x.shape[1:3]]
            x = jnp.pad(x, [(0, 0), *odd, (0, 0)], "edge")
            x = activated(Downsample(channels, use_bias=False)(x))
            x = activated(Conv(channels, use_bias=False)(x))
            channels = min(2 * channels, WIDEST * self.width)
        features = activated(Dense(self.features, use_bias=False)(x.reshape(x.shape[0], -1)))
        return features, Dense(self.classes)(features)
