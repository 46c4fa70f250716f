"""Logits of every value of a partly masked image of levels, by a network of diffusion models."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.conditioning import Condition


class MaskedTokens(nn.Module):
    """A value is embedded by its level, or as masked; the channels' vectors are the channels of the network's input.

    `network` is one that `denoising` describes, of channels * levels outputs. Its noise level is replaced by the
    share of the values that is masked. What is masked changes no output.
    """

    network: nn.Module
    levels: int
    features: int  # of a value's embedding

    @nn.compact
    def __call__(self, tokens: jax.Array, known: jax.Array, condition: Condition) -> jax.Array:
        # i32[B, H, W, C], bool[B, H, W, C] -> f32[B, H, W, C, levels]
        embed = nn.Embed(self.levels + 1, self.features, embedding_init=nn.initializers.normal(1.0), name="level")
        x = embed(jnp.where(known, tokens, self.levels))
        masked = jnp.mean(~known, axis=(1, 2, 3))
        outputs = self.network(x.reshape(*x.shape[:3], -1), masked, condition)
        return outputs.reshape(*tokens.shape, self.levels)
