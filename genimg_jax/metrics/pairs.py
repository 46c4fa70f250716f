"""All pairs of two sets, a block of inner products at a time: memory grows with the block, not with the pairs.

The products are nearly all of the work, so one pass over the pairs serves as many measures as are asked for. A measure
folds one block into its state. States are laid out as [blocks, block, ...], so that a row's place in them is a dynamic
index and one compiled program serves every block.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.backend import FULL_PRECISION
from genimg_jax.progress import bar

BLOCK = 2048  # the most rows of a block
MULTIPLE = 16  # of a block's rows: products of other heights are slower


class Rows(NamedTuple):
    """A set in blocks of equal size, the last one filled up, less a centre: products then cost the fewest digits."""

    features: np.ndarray  # f32[N, D], as they were given
    rows: jax.Array  # f32[blocks, B, D], less the centre
    norms: jax.Array  # f32[blocks, B]: squared, of `rows`
    offsets: jax.Array  # f32[blocks, B]: x.c - |c|^2 / 2, so that x.y is the product of rows plus both offsets


class Block(NamedTuple):
    """The inner products of block `row` of one set with block `column` of the other, both less one centre."""

    products: jax.Array  # f32[B, C]
    pairs: jax.Array  # bool[B, C]: neither is padding, nor are both the same element
    norms: tuple[jax.Array, jax.Array]  # f32[B], f32[C]
    offsets: tuple[jax.Array, jax.Array]  # f32[B], f32[C]
    row: jax.Array  # i32[]
    column: jax.Array  # i32[]
    width: int


class Measure(NamedTuple):
    """A fold over all pairs: the initial state, the update by one block, and the result from the final state."""

    start: Callable[[Rows, Rows], Any]
    visit: Callable[[Any, Block], Any]
    """Compiled once for each function object: define it in a module, not as a lambda."""
    finish: Callable[[Any, Rows, Rows], Any]


def centre(features: np.ndarray) -> np.ndarray:  # [N, D] -> f64[D]
    return features.mean(axis=0, dtype=np.float64)


def in_blocks(features: np.ndarray, middle: np.ndarray, block: int) -> Rows:  # f32[N, D], f64[D]
    """The set less `middle`, in as few blocks of at most `block` rows (to a multiple of 16) as hold it."""
    count, width = features.shape
    blocks = -(-count // block)
    size = -(-count // (blocks * MULTIPLE)) * MULTIPLE
    rows = np.zeros((blocks * size, width), np.float32)
    norms, offsets = np.zeros((2, blocks * size))
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        rows[part] = moved = (features[part] - middle).astype(np.float32)
        moved = moved.astype(np.float64)
        norms[part], offsets[part] = np.einsum("nd,nd->n", moved, moved), moved @ middle + middle @ middle / 2
    laid_out = [jnp.asarray(values.astype(np.float32).reshape(blocks, size)) for values in (norms, offsets)]
    return Rows(features, jnp.asarray(rows.reshape(blocks, size, width)), *laid_out)


def laid_out(values: np.ndarray, like: Rows) -> np.ndarray:  # [N, ...] -> [blocks, B, ...]
    """Values of a set's elements in the layout of states; padding is 0."""
    blocks, size = like.norms.shape
    padded = np.pad(values, [(0, blocks * size - len(values))] + [(0, 0)] * (values.ndim - 1))
    return padded.reshape(blocks, size, *values.shape[1:])


def flat(state: jax.Array, like: Rows) -> np.ndarray:  # [blocks, B, ...] -> [N, ...]
    """The inverse of `laid_out`, on the host."""
    return np.asarray(state).reshape(-1, *state.shape[2:])[: len(like.features)]


def inner_products(block: Block) -> jax.Array:  # -> f32[B, C]
    """Those of the features as they were given."""
    first, second = block.offsets
    return block.products + (first[:, None] + second[None, :])


def squared_distances(block: Block) -> jax.Array:  # -> f32[B, C]
    """|x|^2 + |y|^2 - 2 x.y, infinite where there is no pair."""
    first, second = block.norms
    return jnp.where(block.pairs, jnp.maximum(first[:, None] + second[None, :] - 2 * block.products, 0), jnp.inf)


@partial(jax.jit, static_argnames=("visits", "within"), donate_argnames="states")
def _visit_row(visits, within, counts, states, first, second, row):
    (rows, *row_values), (columns, *column_values) = first, second
    places = [jnp.arange(blocks.shape[1]) for blocks in (rows, columns)]

    def body(column, states):
        products = jnp.matmul(rows[row], columns[column].T, precision=FULL_PRECISION)
        i = row * rows.shape[1] + places[0][:, None]
        j = column * columns.shape[1] + places[1][None, :]
        pairs = (i < counts[0]) & (j < counts[1])
        pairs = pairs & (i != j) if within else pairs
        values = ((a[row], b[column]) for a, b in zip(row_values, column_values, strict=True))
        block = Block(products, pairs, *values, row, column, rows.shape[2])
        return [visit(state, block) for visit, state in zip(visits, states, strict=True)]

    return jax.lax.fori_loop(row if within else 0, len(columns), body, states)


def over_pairs(measures: Sequence[Measure], rows: Rows, columns: Rows | None, description: str) -> list:
    """The results of the measures over all pairs of an element of `rows` and one of `columns`.

    `columns` None pairs a set with itself: only blocks with column >= row are visited, since the rest mirror them, and
    a measure must answer for both sides of those off the diagonal.
    """
    within = columns is None
    columns = rows if within else columns
    counts = np.array([len(rows.features), len(columns.features)], np.int32)
    states = jax.tree.map(jnp.asarray, [measure.start(rows, columns) for measure in measures])
    visits = tuple(measure.visit for measure in measures)
    blocks = [len(columns.rows) - (row if within else 0) for row in range(len(rows.rows))]
    with bar(description, leave=False, total=sum(blocks), unit="block") as progress:
        for row, count in enumerate(blocks):
            states = _visit_row(visits, within, counts, states, rows[1:], columns[1:], jnp.int32(row))
            jax.block_until_ready(states)
            progress.update(count)
    return [measure.finish(state, rows, columns) for measure, state in zip(measures, states, strict=True)]
