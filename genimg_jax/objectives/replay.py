"""A pool of earlier generated images, of which a discriminator sees some in place of new ones (Shrivastava et al. 2017,
section 2.3; Zhu et al. 2017, section 4).

The first images fill the pool. From then on every new image takes, with probability 1/2, the place of a random stored
one, which is shown instead; otherwise the new one is shown. The images of a batch take different places, so that they
are one step, in which their order does not matter. Of a batch larger than the pool, images beyond its size are shown
and not stored; the same holds for what a filling pool has no place left for.

All that an image depends on is the key and its index in the whole batch, so a part of a batch can be visited alone.
"""

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.objectives.interpolants import per_example

Pool = dict[str, jax.Array]  # images f32[N, ...], stored bool[N]: the places in use


def init(size: int, shape: tuple[int, ...]) -> Pool:
    """An empty pool of images of a shape."""
    return {"images": jnp.zeros((size, *shape)), "stored": jnp.zeros(size, bool)}


def visit(pool: Pool, key: jax.Array, index: jax.Array, images: jax.Array) -> tuple[jax.Array, Pool]:
    """The images to show, and those to store with the number of images in each place: `renew` takes the mean of this
    tree over the parts of a batch."""  # i32[B], [B, ...] -> [B, ...]
    size = len(pool["stored"])
    place_key, swap_key = jax.random.split(key)
    count = pool["stored"].sum()
    full = count == size
    swaps = jax.vmap(jax.random.bernoulli)(core.per_example_keys(swap_key, index)) & (index < size) & full
    place = jnp.where(full, jax.random.permutation(place_key, size)[index % size], count + index)
    shown = jnp.where(per_example(swaps, images), pool["images"][jnp.minimum(place, size - 1)], images)
    place = jnp.where(swaps | ~full, place, size)  # a place beyond the last is none
    stored = jnp.zeros(size).at[place].add(1.0, mode="drop")
    return shown, {"images": jnp.zeros_like(pool["images"]).at[place].add(images, mode="drop"), "stored": stored}


def renew(pool: Pool, visits: Pool) -> Pool:
    """The pool with the images to store."""
    written = visits["stored"] > 0
    # A mean over n parts has 1 / n of each image, and as much of its number.
    images = visits["images"] / per_example(jnp.where(written, visits["stored"], 1.0), visits["images"])
    images = jnp.where(per_example(written, images), images, pool["images"])
    return {"images": images, "stored": pool["stored"] | written}
