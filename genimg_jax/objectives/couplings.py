"""Which noise is paired with which image."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

from genimg_jax.backend import FULL_PRECISION

Coupling = Callable[[jax.Array, jax.Array, Mapping[str, jax.Array]], jax.Array]
"""(image [B, ...], noise [B, ...], condition {field: [B, ...]}) -> the noises, each in its image's place."""


def independent_coupling(image: jax.Array, noise: jax.Array, condition: Mapping[str, jax.Array]) -> jax.Array:
    return noise


def optimal_transport(image: jax.Array, noise: jax.Array, condition: Mapping[str, jax.Array]) -> jax.Array:
    """The noises of a batch, in the order that makes the sum of squared distances to its images least.

    Minibatch optimal-transport coupling (Tong et al. 2024, section 3.2; Pooladian et al. 2023), by exact assignment.
    Paths cross less, and each noise is still used once. An example's noise then depends on its batch, unlike elsewhere;
    the work grows with the cube of the batch and is sequential (256: 70 ms of one core). Pairs are made
    among images of equal conditions: over all, the noise of a class would be another than sampling starts from.
    """  # [B, ...], [B, ...] -> [B, ...]
    flat_image, flat_noise = (jax.lax.stop_gradient(x.reshape(len(x), -1)) for x in (image, noise))
    # The squares are the same whatever the order; only the products matter.
    cost = -jnp.matmul(flat_image, flat_noise.T, precision=FULL_PRECISION)
    apart = (cost.max() - cost.min()) * len(cost) + cost.max()  # more than all pairs can gain
    for values in condition.values():
        flat = values.reshape(len(values), -1)
        cost = jnp.where((flat[:, None] == flat[None]).all(-1), cost, apart)
    rows, columns = hungarian_algorithm(cost)
    return noise[columns[jnp.argsort(rows)]]
