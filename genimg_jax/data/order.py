"""The order of training examples: a pure function of (seed, position), so that a run resumes without saved state."""

import functools
import zlib
from collections.abc import Callable

import numpy as np


def examples(seed: int, positions: np.ndarray, count: int, domain: str = "") -> np.ndarray:
    """The index of the example, in [0, count), at each position of the endless training order of a domain; "": images.

    Every run of `count` positions that begins at a multiple of `count` is an epoch: a permutation of all examples,
    drawn from (seed, epoch, domain) alone. Positions are non-negative and may be in any order.
    """  # i64[B] -> i64[B]
    epochs, within = np.divmod(positions, count)
    chosen = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        chosen[here] = _permutations(seed, count, domain)(int(epoch))[within[here]]
    return chosen


@functools.lru_cache(maxsize=64)  # seeds that are trained side by side
def _permutations(seed: int, count: int, domain: str) -> Callable[[int], np.ndarray]:
    """Epoch -> i64[count]; an epoch is kept, and the next where a batch spans both."""
    stream = [zlib.crc32(domain.encode())] if domain else []
    return functools.lru_cache(maxsize=2)(
        lambda epoch: np.random.default_rng([seed, epoch, *stream]).permutation(count)
    )
