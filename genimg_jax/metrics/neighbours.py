"""Nearest neighbours by Euclidean distance, by brute force: exact in high dimensions, where trees are no faster.

Squared distances from matrix products select the neighbours. The distances of the selected ones are then computed
again from differences, in float64, so that a copy is at distance 0.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.errors import DataError
from genimg_jax.metrics.arrays import feature_set, feature_sets
from genimg_jax.metrics.pairs import (
    BLOCK,
    Block,
    Measure,
    Rows,
    centre,
    flat,
    in_blocks,
    over_pairs,
    squared_distances,
)

CHUNK = 256  # queries whose distances are refined at a time


class Neighbours(NamedTuple):
    """The k nearest of each element, nearest first."""

    distances: np.ndarray  # f64[N, k]
    indices: np.ndarray  # i32[N, k]


def _keep_nearest(state: tuple, place: jax.Array, squared: jax.Array, first: jax.Array) -> tuple:
    """Merge candidates `first`, `first` + 1, ... into the nearest of block `place`."""  # squared f32[B, C]
    nearest, indices = state
    values, columns = jax.lax.top_k(-squared, min(nearest.shape[-1], squared.shape[1]))
    candidates = jnp.concatenate([nearest[place], -values], axis=1)
    candidate_indices = jnp.concatenate([indices[place], columns.astype(jnp.int32) + first], axis=1)
    best, chosen = jax.lax.top_k(-candidates, nearest.shape[-1])
    candidate_indices = jnp.take_along_axis(candidate_indices, chosen, axis=1)
    return nearest.at[place].set(-best), indices.at[place].set(candidate_indices)


def _across(state, block: Block):
    squared = squared_distances(block)
    return _keep_nearest(state, block.row, squared, block.column * squared.shape[1])


def _within(state, block: Block):
    squared = squared_distances(block)
    state = _keep_nearest(state, block.row, squared, block.column * squared.shape[1])

    def mirror(state):
        return _keep_nearest(state, block.column, squared.T, block.row * squared.shape[1])

    return jax.lax.cond(block.row == block.column, lambda state: state, mirror, state)


def _start(neighbours: int, queries: Rows, points: Rows) -> tuple[np.ndarray, np.ndarray]:  # -> f32, i32 [blocks, B, k]
    shape = (*queries.norms.shape, neighbours)
    return np.full(shape, np.inf, np.float32), np.zeros(shape, np.int32)


def _refined(state: tuple, queries: Rows, points: Rows) -> Neighbours:
    indices = flat(state[1], queries)
    squared = np.empty(indices.shape)
    for start in range(0, len(indices), CHUNK):
        part = slice(start, start + CHUNK)
        near = points.features[indices[part]].astype(np.float64)
        near -= queries.features[part, None]
        squared[part] = np.einsum("nkd,nkd->nk", near, near)
    order = np.argsort(squared, axis=1, kind="stable")
    return Neighbours(np.sqrt(np.take_along_axis(squared, order, 1)), np.take_along_axis(indices, order, 1))


def within(neighbours: int, count: int) -> Measure:
    """The nearest other elements in a set of `count`, paired with itself. Raises `DataError` if it has too few."""
    _check(neighbours, count - 1)
    return Measure(partial(_start, neighbours), _within, _refined)


def _check(neighbours: int, available: int) -> None:
    if not 1 <= neighbours <= available:
        raise DataError(f"{neighbours} nearest neighbours were asked for and each element has {available} others.")


def nearest(queries: np.ndarray, points: np.ndarray, neighbours: int = 1, block: int = BLOCK) -> Neighbours:
    """The nearest points [M, D] of each query [N, D]; `block` bounds the memory, nothing else."""
    queries, points = feature_sets(least=1, queries=queries, points=points)
    _check(neighbours, len(points))
    middle = centre(points)
    measure = Measure(partial(_start, neighbours), _across, _refined)
    rows, columns = in_blocks(queries, middle, block), in_blocks(points, middle, block)
    return over_pairs([measure], rows, columns, "nearest neighbours")[0]


def nearest_within(points: np.ndarray, neighbours: int = 1, block: int = BLOCK) -> Neighbours:
    """The nearest other points of each point [N, D]; a point is no neighbour of itself, but its duplicates are."""
    points = feature_set(points, "given")
    measure = within(neighbours, len(points))
    return over_pairs([measure], in_blocks(points, centre(points), block), None, "nearest neighbours")[0]
