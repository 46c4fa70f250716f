"""Multilayer perceptron."""

import flax.linen as nn
import jax

from genimg_jax.networks.layers import Dense, Normalization, activate, promotion


class MLP(nn.Module):
    """Hidden layers of `features` units each, then a linear map to `out` values.

    `normalization` ('none', 'batch', 'group') is before each activation. `spectral` normalises every layer's kernel,
    the last one's too.
    """

    features: tuple[int, ...]
    out: int
    activation: str = "leaky_relu"
    normalization: str = "none"
    spectral: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:  # [B, N] -> [B, out]
        promote = promotion(self.spectral, training)
        for size in self.features:
            # Batch normalisation has its own bias and removes any bias before it.
            x = Dense(size, use_bias=self.normalization != "batch", promote_dtype=promote)(x)
            x = activate(self.activation, Normalization(self.normalization)(x, training))
        return Dense(self.out, promote_dtype=promote)(x)
