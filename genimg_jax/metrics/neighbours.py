"""Nearest neighbours by Euclidean distance, by brute force: exact in high dimensions, where trees are no faster.

Squared distances come from matrix products, |x|^2 + |y|^2 - 2 x.y, of sets moved to a common mean, which costs the
products the fewest digits. Those of the neighbours found are then computed once more from differences, in float64, so
that a copy is at distance 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.errors import DataError
from genimg_jax.metrics.arrays import feature_set, feature_sets
from genimg_jax.metrics.pairs import BLOCK, Block, blocked, flat, over_pairs


class Neighbours(NamedTuple):
    """The k nearest of each element, nearest first."""

    distances: np.ndarray  # f64[N, k]
    indices: np.ndarray  # i32[N, k]


def squared_norms(features: np.ndarray, block: int) -> np.ndarray:  # [N, D] -> f32[blocks, block]
    return blocked(np.einsum("nd,nd->n", features, features, dtype=np.float64).astype(np.float32), block)


def squared_distances(block: Block, rows: jax.Array, columns: jax.Array) -> jax.Array:  # -> f32[B, B]
    """Infinite where there is no pair. `rows` and `columns` are the squared norms of all blocks, f32[blocks, block]."""
    size = block.products.shape
    norms = jnp.broadcast_to(rows[block.row][:, None], size) + jnp.broadcast_to(columns[block.column][None, :], size)
    return jnp.where(block.pairs, jnp.maximum(norms - 2 * block.products, 0), jnp.inf)


def _keep_nearest(state: tuple, place: jax.Array, squared: jax.Array, first: jax.Array) -> tuple:
    """Merge candidates `first`, `first` + 1, ... into the nearest of block `place`."""  # squared f32[B, B]
    nearest, indices = state
    found, where = jax.lax.top_k(-squared, min(nearest.shape[-1], squared.shape[1]))
    candidates = jnp.concatenate([nearest[place], -found], axis=1)
    names = jnp.concatenate([indices[place], where.astype(jnp.int32) + first], axis=1)
    best, chosen = jax.lax.top_k(-candidates, nearest.shape[-1])
    names = jnp.take_along_axis(names, chosen, axis=1)
    return nearest.at[place].set(-best), indices.at[place].set(names)


def _across(state, block: Block):
    kept, rows, columns = state
    squared = squared_distances(block, rows, columns)
    return _keep_nearest(kept, block.row, squared, block.column * squared.shape[1]), rows, columns


def _within(state, block: Block):
    kept, norms = state
    squared = squared_distances(block, norms, norms)
    kept = _keep_nearest(kept, block.row, squared, block.column * squared.shape[1])

    def mirror(kept):
        return _keep_nearest(kept, block.column, squared.T, block.row * squared.shape[1])

    return jax.lax.cond(block.row == block.column, lambda kept: kept, mirror, kept), norms


def centred(*sets: np.ndarray) -> list[np.ndarray]:  # [N, D] ... -> f32[N, D] ...
    """The sets, moved by the mean of the last."""
    mean = sets[-1].mean(axis=0, dtype=np.float64)
    return [(features - mean).astype(np.float32) for features in sets]


def _refined(kept: tuple, queries: np.ndarray, points: np.ndarray) -> Neighbours:
    indices = flat(kept[1], len(queries))
    squared = np.stack(
        [
            np.square(points[i].astype(np.float64) - query.astype(np.float64)).sum(axis=1)
            for query, i in zip(queries, indices, strict=True)
        ]
    )
    order = np.argsort(squared, axis=1, kind="stable")
    return Neighbours(np.sqrt(np.take_along_axis(squared, order, 1)), np.take_along_axis(indices, order, 1))


def _start(count: int, neighbours: int, block: int) -> tuple[np.ndarray, np.ndarray]:  # -> f32, i32 [blocks, block, k]
    shape = (-(-count // block), block, neighbours)
    return np.full(shape, np.inf, np.float32), np.zeros(shape, np.int32)


def _check(neighbours: int, available: int) -> None:
    if not 1 <= neighbours <= available:
        raise DataError(f"{neighbours} nearest neighbours were asked for and each element has {available} others.")


def nearest(queries: np.ndarray, points: np.ndarray, neighbours: int = 1, block: int = BLOCK) -> Neighbours:
    """The nearest points [M, D] of each query [N, D]; `block` bounds the memory, nothing else."""
    queries, points = feature_sets(least=1, queries=queries, points=points)
    _check(neighbours, len(points))
    moved = centred(queries, points)
    state = _start(len(queries), neighbours, block), squared_norms(moved[0], block), squared_norms(moved[1], block)
    kept, _, _ = over_pairs(_across, state, *moved, block, "nearest neighbours")
    return _refined(kept, queries, points)


def nearest_within(points: np.ndarray, neighbours: int = 1, block: int = BLOCK) -> Neighbours:
    """The nearest other points of each point [N, D]; a point is no neighbour of itself, but its duplicates are."""
    points = feature_set(points, "given")
    _check(neighbours, len(points) - 1)
    (moved,) = centred(points)
    state = _start(len(points), neighbours, block), squared_norms(moved, block)
    kept, _ = over_pairs(_within, state, moved, None, block, "nearest neighbours")
    return _refined(kept, points, points)
