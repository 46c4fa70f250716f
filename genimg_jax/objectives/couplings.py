"""Which noise is paired with which image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

Coupling = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
"""(image [B, ...], noise [B, ...], class i32[B] or None) -> the noises, each in the place of the image it goes with."""


def independent_coupling(image: jax.Array, noise: jax.Array, label: jax.Array | None) -> jax.Array:
    return noise


def optimal_transport(image: jax.Array, noise: jax.Array, label: jax.Array | None) -> jax.Array:
    """The noises of a batch, in the order that makes the sum of squared distances to its images least.

    Minibatch optimal-transport coupling (Tong et al. 2024, section 3.2; Pooladian et al. 2023), by exact assignment.
    Paths cross less, and each noise is still used once. An example's noise then depends on its batch, unlike elsewhere;
    the work grows with the cube of the batch and is sequential (256: 70 ms of one core). Where there are classes, pairs
    are made within each: over all of them, the noise of a class would be another than sampling starts from.
    """  # [B, ...], [B, ...], i32[B] -> [B, ...]
    flat_image, flat_noise = (jax.lax.stop_gradient(x.reshape(len(x), -1)) for x in (image, noise))
    # The squares are the same whatever the order; only the products matter.
    cost = -jnp.matmul(flat_image, flat_noise.T, precision="highest")
    if label is not None:
        apart = (cost.max() - cost.min()) * len(cost) + cost.max()  # more than all pairs can gain
        cost = jnp.where(label[:, None] == label[None], cost, apart)
    rows, columns = hungarian_algorithm(cost)
    return noise[columns[jnp.argsort(rows)]]
