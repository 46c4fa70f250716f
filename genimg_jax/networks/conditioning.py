"""What a network is told beside its input."""

import flax.linen as nn
import jax


class ClassEmbedding(nn.Module):
    """A learned vector a class (Mirza and Osindero 2014), of unit variance at first; 0 <= label < classes."""

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, label: jax.Array) -> jax.Array:  # i32[B] -> [B, features]
        return nn.Embed(self.num_classes, self.features, embedding_init=nn.initializers.normal(1.0))(label)
