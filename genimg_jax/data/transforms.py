"""What happens to a batch inside the compiled step: scaling, flips, binarisation. Bytes cross to the device."""

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.data.types import Options

FLIP, BINARIZE = 0, 1  # streams of the key


def prepare(batch: core.Batch, key: jax.Array, options: Options, stored_levels: int, training: bool) -> core.Batch:
    """Scale u8 images in [0, stored_levels) to [-1, 1], after random flips (in training) and dynamic binarisation.

    `stored_levels` is `Source.stored_levels`. Each example's randomness comes from `key` and its "index" alone: give
    training a key of the step, and evaluation a fixed one. Dynamic binarisation (Salakhutdinov and Murray, 2008) draws
    each pixel as 1 with probability u / (stored_levels - 1). Static and threshold binarisation were done as the source
    was read: there `stored_levels` is 2. Everything but "image" passes through.
    """  # u8[B, H, W, C] -> f32[B, H, W, C]
    # Compiled, x / 255 becomes x * (1 / 255), and 255 * (1 / 255) rounds to more than 1.
    image = jnp.minimum(batch["image"].astype(jnp.float32) / (stored_levels - 1), 1)
    if options.flip and training:
        keys = core.per_example_keys(jax.random.fold_in(key, FLIP), batch["index"])
        flipped = jax.vmap(jax.random.bernoulli)(keys)
        image = jnp.where(flipped[:, None, None, None], image[:, :, ::-1], image)
    if options.binarize == "dynamic":
        keys = core.per_example_keys(jax.random.fold_in(key, BINARIZE), batch["index"])
        image = jax.vmap(jax.random.bernoulli)(keys, image).astype(jnp.float32)
    return {**batch, "image": 2 * image - 1}
