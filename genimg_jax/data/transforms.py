"""Prepares a batch inside the compiled step: scaling, flips, binarisation, observations. Bytes cross to the device."""

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.data.types import Options
from genimg_jax.observations import observing

FLIP, BINARIZE, OBSERVE = 0, 1, 2  # streams of the key


def prepare(batch: core.Batch, key: jax.Array, options: Options, stored_levels: int, training: bool) -> core.Batch:
    """Scale u8 images in [0, stored_levels) to [-1, 1], after random flips (in training) and dynamic binarisation.

    `stored_levels` is `Source.stored_levels`. Each example's randomness comes from `key` and its "index" alone: give
    training a key of the step, and evaluation a fixed one. Dynamic binarisation (Salakhutdinov and Murray, 2008) draws
    each pixel as 1 with probability u / (stored_levels - 1). The source applies static and threshold binarisation:
    then `stored_levels` is 2. A flip mirrors every field that has pixels ([B, H, W, ...]) with its image.
    Fields of integers become i32, and those that are images f32 in [-1, 1]; everything else passes through.

    `options.observation` makes the field `source` of the image, unless the batch has one already. In training its masks
    and noise are those of `key`; in evaluation they depend on the example's index alone.
    """  # u8[B, H, W, C] -> f32[B, H, W, C]
    batch = {name: array if name == "image" else field(array) for name, array in batch.items()}
    batch["image"] = _unit(batch["image"], stored_levels)
    if options.flip and training:
        keys = core.per_example_keys(jax.random.fold_in(key, FLIP), batch["index"])
        flipped = jax.vmap(jax.random.bernoulli)(keys)
        batch = {name: _mirrored(array, flipped) if array.ndim > 2 else array for name, array in batch.items()}
    image = batch["image"]
    if options.binarize == "dynamic":
        keys = core.per_example_keys(jax.random.fold_in(key, BINARIZE), batch["index"])
        image = jax.vmap(jax.random.bernoulli)(keys, image).astype(jnp.float32)
    batch = {**batch, "image": 2 * image - 1}
    if options.observation.kind and "source" not in batch:
        key = jax.random.fold_in(key, OBSERVE) if training else core.stream(0, "observe")
        keys = core.per_example_keys(key, batch["index"])
        batch["source"] = observing.random_source(options.observation, batch["image"], keys)
    return batch


def _unit(image: jax.Array, levels: int) -> jax.Array:  # u8[B, H, W, C] -> f32[B, H, W, C] in [0, 1]
    # Compiled, x / 255 becomes x * (1 / 255), and 255 * (1 / 255) rounds to more than 1.
    return jnp.minimum(image.astype(jnp.float32) / (levels - 1), 1)


def field(array: jax.Array) -> jax.Array:
    """The values of a field as a network receives them: integers i32, images f32 in [-1, 1], others as they are."""
    if not jnp.issubdtype(array.dtype, jnp.integer):
        return array
    return 2 * _unit(array, 256) - 1 if array.ndim == 4 else array.astype(jnp.int32)


def _mirrored(array: jax.Array, flipped: jax.Array) -> jax.Array:  # [B, H, W, ...], bool[B] -> [B, H, W, ...]
    return jnp.where(flipped.reshape(-1, *(1,) * (array.ndim - 1)), array[:, :, ::-1], array)
