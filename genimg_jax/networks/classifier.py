"""A classifier of images of any size: it evaluates generated images, which are also compared by its last features."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.layers import Conv, Dense, Downsample, Normalization

SMALLEST = 7  # longest side that is not halved again
WIDEST = 4  # times the width of the first level


class ImageClassifier(nn.Module):
    """Level i (from 0) halves the image and has `width` * min(2^i, 4) channels. At 7 pixels a side or less, a dense
    layer gives the `features`, and another the logits. Batch normalisation and a ReLU follow each layer except the
    last: half of the features are active on a typical image, and none is dead."""

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
