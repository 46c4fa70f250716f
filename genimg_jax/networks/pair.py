"""The discriminator of pairs of an image and a code, which ALI and BiGAN need."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.conditioning import Condition
from genimg_jax.networks.image import ImageEncoder
from genimg_jax.networks.layers import activate
from genimg_jax.networks.mlp import MLP

ACTIVATION = "leaky_relu"


class PairDiscriminator(nn.Module):
    """The logit of a pair, from features of its image and features of its code side by side.

    ALI's has the same three parts, D(x), D(z) and D(x, z) (Dumoulin et al. 2017, appendix A). Only the first reads the
    condition.
    """

    encoder: ImageEncoder  # of the image, to any number of features
    width: int  # features of the code, and hidden units of the joint part
    spectral: bool = False

    @nn.compact
    def __call__(self, pair: Mapping[str, jax.Array], condition: Condition, training: bool) -> jax.Array:
        # image [B, H, W, C], code [B, Z] -> [B, 1]
        image = self.encoder(pair["image"], condition, training)
        code = MLP((self.width,), self.width, ACTIVATION, spectral=self.spectral, name="code")(pair["code"], training)
        features = activate(ACTIVATION, jnp.concatenate([image, code], axis=-1))
        return MLP((self.width,), 1, ACTIVATION, spectral=self.spectral, name="joint")(features, training)
