"""Which noise is paired with which image."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

from genimg_jax.backend import FULL_PRECISION

Coupling = Callable[[jax.Array, jax.Array, Mapping[str, jax.Array]], jax.Array]
"""(image [B, ...], noise [B, ...], condition {field: [B, ...]}) -> the noises, each at the index of its image."""


def independent_coupling(image: jax.Array, noise: jax.Array, condition: Mapping[str, jax.Array]) -> jax.Array:
    return noise


def optimal_transport(image: jax.Array, noise: jax.Array, condition: Mapping[str, jax.Array]) -> jax.Array:
    """The noises of a batch, in the order that minimises the sum of squared distances to its images.

    Minibatch optimal-transport coupling (Tong et al. 2024, section 3.2; Pooladian et al. 2023), by exact assignment.
    Paths cross less, and each noise is still used once. The noise of an example depends on its batch, unlike elsewhere.
    The work grows with the cube of the batch and is sequential (256: 70 ms of one core). Only images of equal
    conditions exchange noises: else the noise of a class would not have the distribution that sampling starts from.
    """  # [B, ...], [B, ...] -> [B, ...]
    flat_image, flat_noise = (jax.lax.stop_gradient(x.reshape(len(x), -1)) for x in (image, noise))
    # The squared norms do not depend on the order; only the products do.
    cost = -jnp.matmul(flat_image, flat_noise.T, precision=FULL_PRECISION)
    forbidden = (cost.max() - cost.min()) * len(cost) + cost.max()  # more than all pairs together can gain
    for values in condition.values():
        flat = values.reshape(len(values), -1)
        cost = jnp.where((flat[:, None] == flat[None]).all(-1), cost, forbidden)
    rows, columns = hungarian_algorithm(cost)
    return noise[columns[jnp.argsort(rows)]]
