"""All pairs of two sets, a block of inner products at a time: memory grows with the block, not with the pairs.

A measure is a pure function that folds one block into its state. States are laid out as [blocks, block, ...], so that
a row's place in them is a dynamic index and one compiled program serves every block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.progress import bar

BLOCK = 2048


class Block(NamedTuple):
    """The inner products of block `row` of one set with block `column` of the other."""

    products: jax.Array  # f32[B, B]
    pairs: jax.Array  # bool[B, B]: neither is padding, nor are both the same element
    row: jax.Array  # i32[]
    column: jax.Array  # i32[]


def blocked(rows: np.ndarray, block: int, fill: float = 0) -> np.ndarray:  # [N, ...] -> [ceil(N / block), block, ...]
    """The rows in blocks, the last one filled up."""
    missing = -len(rows) % block
    padded = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1), constant_values=fill)
    return padded.reshape(-1, block, *rows.shape[1:])


def flat(state: jax.Array, count: int) -> np.ndarray:  # [blocks, block, ...] -> [count, ...]
    """The inverse of `blocked`, on the host."""
    return np.asarray(state).reshape(-1, *state.shape[2:])[:count]


@partial(jax.jit, static_argnames=("visit", "within"), donate_argnames="state")
def _visit_row(visit, within, counts, state, rows, columns, row):
    size = rows.shape[1]
    place = jnp.arange(size)

    def body(column, state):
        # Reduced precision, a GPU's default, would lose the digits that tell near elements apart.
        products = jnp.matmul(rows[row], columns[column].T, precision="highest")
        first, second = row * size + place[:, None], column * size + place[None, :]
        pairs = (first < counts[0]) & (second < counts[1])
        pairs = pairs & (first != second) if within else pairs
        return visit(state, Block(products, pairs, row, column))

    return jax.lax.fori_loop(row if within else 0, len(columns), body, state)


def over_pairs(
    visit: Callable[[Any, Block], Any],
    state: Any,
    rows: np.ndarray,
    columns: np.ndarray | None,
    block: int,
    description: str,
) -> Any:  # [N, D], [M, D]
    """`visit(state, block) -> state`, folded over all blocks of pairs; `visit` must be hashable, so no fresh lambda.

    `columns` None pairs a set with itself: only blocks with column >= row are visited, since the rest mirror them, and
    `visit` must answer for both sides of those off the diagonal.
    """
    within = columns is None
    counts = np.array([len(rows), len(rows if within else columns)], np.int32)
    rows = jnp.asarray(blocked(rows, block))
    columns = rows if within else jnp.asarray(blocked(columns, block))
    state = jax.tree.map(jnp.asarray, state)
    with bar(description, leave=False, total=len(rows), unit="block") as progress:
        for row in range(len(rows)):
            state = jax.block_until_ready(_visit_row(visit, within, counts, state, rows, columns, jnp.int32(row)))
            progress.update()
    return state
