"""The order of training examples: a pure function of (seed, position), so that a run resumes without saved state."""

import functools

import numpy as np


def examples(seed: int, positions: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` examples stands at each position of the endless training order.

    Every run of `count` positions that begins at a multiple of `count` is an epoch: a permutation of all examples,
    drawn from (seed, epoch) alone. Positions are non-negative and may be in any order.
    """  # i64[B] -> i64[B]
    epochs, within = np.divmod(positions, count)
    chosen = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        chosen[here] = _permutation(seed, int(epoch), count)[within[here]]
    return chosen


@functools.lru_cache(maxsize=4)  # an epoch, and the next where a batch spans both, for training beside a probe of it
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:  # -> i64[count]
    return np.random.default_rng([seed, epoch]).permutation(count)
