"""Vectors to codes and back: a learned codebook (VQ-VAE, van den Oord et al. 2017), and fixed levels (FSQ, Mentzer et
al. 2023).

A code is an index from 0 to `size` - 1. No gradient reaches a quantiser's state. A training step computes statistics of
its batch, as means that can be averaged over microbatches, and updates the state from them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.backend import FULL_PRECISION
from genimg_jax.errors import ConfigError

State = dict[str, jax.Array]
Statistics = dict[str, jax.Array]
EPSILON = 1e-5  # of Laplace smoothing, as a share of a code's uniform use


class Quantizer(NamedTuple):
    """A finite set of vectors. Everything is computed in float32."""

    size: int
    """The number of codes."""
    features: int
    """The number of values of a vector, D."""
    init: Callable[[jax.Array], State]
    """key -> state, of which `usage` f32[size] is a moving average of the share of vectors that take each code."""
    encode: Callable[[State, jax.Array], jax.Array]
    """(state, vectors f32[..., D]) -> codes i32[...]"""
    decode: Callable[[State, jax.Array], jax.Array]
    """(state, codes i32[...]) -> vectors f32[..., D]"""
    quantize: Callable[[State, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
    """(state, vectors f32[..., D]) -> (quantised vectors f32[..., D] with a straight-through gradient, codes i32[...],
    commitment loss f32[...])"""
    observe: Callable[[jax.Array, int, jax.Array, jax.Array, jax.Array], Statistics]
    """(key, size of the whole batch, index i32[B], vectors f32[B, h, w, D], codes i32[B, h, w]) -> means over these
    examples. They may be a microbatch; every microbatch gets the same key."""
    update: Callable[[State, Statistics], tuple[State, dict[str, jax.Array]]]
    """(state, means over the whole batch) -> the next state, and the metrics `perplexity` of the batch's codes (from 1
    to `size`) and `codebook_usage` (the share of codes in use)."""


def nearest(codebook: jax.Array, vectors: jax.Array) -> jax.Array:  # f32[K, D], f32[..., D] -> i32[...]
    """The row at the smallest Euclidean distance; of several such rows, the first."""
    products = jnp.matmul(vectors, codebook.T, precision=FULL_PRECISION)
    lengths = jnp.square(codebook).sum(1).reshape((1,) * (vectors.ndim - 1) + (-1,))
    return jnp.argmin(lengths - 2 * products, axis=-1).astype(jnp.int32)


def straight_through(vectors: jax.Array, quantized: jax.Array) -> jax.Array:  # 2 x [...] -> [...]
    """The value of `quantized` with the gradient of `vectors` (Bengio et al. 2013)."""
    return vectors + jax.lax.stop_gradient(quantized - vectors)


def perplexity(share: jax.Array) -> jax.Array:  # f32[K], summing to 1 -> f32[], from 1 to K
    """The exponential of the entropy: the effective number of codes."""
    return jnp.exp(jax.scipy.special.entr(share).sum())


def sample_vectors(key: jax.Array, count: int, batch_size: int, index: jax.Array, vectors: jax.Array):
    """`count` random vectors of the whole batch, without replacement until all have been sampled.

    `vectors` are those of a microbatch. Sampled vectors of other microbatches are zeros here, with `present` 0. The sum
    over all microbatches, divided by the sum of `present`, is the sampled vectors.
    """  # key[], i32[B], f32[B, P, D] -> f32[count, D], present f32[count]
    positions = vectors.shape[1]
    scores = jax.random.uniform(key, (batch_size * positions,))
    sampled = jnp.resize(jax.lax.top_k(scores, min(count, scores.size))[1], (count,))
    example, position = jnp.divmod(sampled, positions)
    matches = example[:, None] == index[None, :]
    present = matches.any(axis=1).astype(jnp.float32)
    return present[:, None] * vectors[jnp.argmax(matches, axis=1), position], present


def vector_quantizer(size: int, features: int, decay: Any, threshold: Any) -> Quantizer:
    """A codebook of moving averages of the vectors that take each code (van den Oord et al. 2017, appendix A.1).

    `decay`, in [0, 1], is per step. Averages are of shares of the batch, not of counts: their quotient is the same and
    does not depend on the batch size. A code is dead if its usage is at most `threshold` / size, `threshold` times
    uniform usage. It is then replaced by a random vector of the batch, with that usage, and stays alive only if it is
    used. All codes are dead at initialisation, so the first batch gives the codebook. A threshold of 0 replaces only
    codes that were never used.
    """

    def init(key: jax.Array) -> State:
        vectors = jax.random.normal(key, (size, features))
        return {"vectors": vectors, "sums": jnp.zeros((size, features)), "usage": jnp.zeros(size)}

    def encode(state: State, vectors: jax.Array) -> jax.Array:
        return nearest(state["vectors"], vectors.astype(jnp.float32))

    def decode(state: State, codes: jax.Array) -> jax.Array:
        return state["vectors"][codes]

    def quantize(state: State, vectors: jax.Array):
        vectors = vectors.astype(jnp.float32)
        codes = encode(state, jax.lax.stop_gradient(vectors))
        quantized = decode(state, codes)
        return straight_through(vectors, quantized), codes, jnp.square(vectors - quantized).mean(axis=-1)

    def observe(key: jax.Array, batch_size: int, index: jax.Array, vectors: jax.Array, codes: jax.Array) -> Statistics:
        vectors = jax.lax.stop_gradient(vectors.astype(jnp.float32)).reshape(len(vectors), -1, features)
        sampled, present = sample_vectors(key, size, batch_size, index, vectors)
        one_hot = jax.nn.one_hot(codes.reshape(-1), size)
        sums = jnp.matmul(one_hot.T, vectors.reshape(-1, features), precision=FULL_PRECISION) / len(one_hot)
        return {"share": one_hot.mean(axis=0), "sums": sums, "sampled": sampled, "present": present}

    def update(state: State, statistics: Statistics):
        usage = decay * state["usage"] + (1 - decay) * statistics["share"]
        sums = decay * state["sums"] + (1 - decay) * statistics["sums"]
        dead = usage <= threshold / size
        metrics = {"perplexity": perplexity(statistics["share"]), "codebook_usage": 1 - dead.mean()}
        smoothed = (usage + EPSILON / size) / (usage.sum() + EPSILON) * usage.sum()
        sampled = statistics["sampled"] / statistics["present"][:, None]
        vectors = jnp.where(dead[:, None], sampled, sums / smoothed[:, None])
        sums = jnp.where(dead[:, None], sampled * (threshold / size), sums)
        return {"vectors": vectors, "sums": sums, "usage": jnp.where(dead, threshold / size, usage)}, metrics

    return Quantizer(size, features, init, encode, decode, quantize, observe, update)


def bound(vectors: jax.Array, levels: tuple[int, ...]) -> jax.Array:  # f32[..., D] -> f32[..., D]
    """Bounds each value, so that rounding gives one of its L levels, -(L // 2) to (L - 1) // 2; 0 stays 0.

    Mentzer et al. 2023, appendix A.1, with the inverse hyperbolic tangent, which maps 0 to 0 for even L too.
    """
    counts = np.array(levels).reshape((1,) * (vectors.ndim - 1) + (-1,))
    half = (counts - 1) / 2 * (1 + 1e-3)  # a little more, so that 2 levels have a finite shift
    offset = np.where(counts % 2, 0.0, 0.5)
    shift = np.arctanh(offset / half).astype(np.float32)
    return jnp.tanh(vectors + shift) * half.astype(np.float32) - offset.astype(np.float32)


def finite_scalar_quantizer(levels: tuple[int, ...], decay: Any, threshold: Any) -> Quantizer:
    """Each of D values rounded to its own number of levels, scaled to [-1, 1]; the code is the mixed-radix number.

    Nothing is learned. The state is `usage`, for the metrics: a code is in use above `threshold` / size. Raises
    `ConfigError` unless there are levels and each value has 2 or more.
    """
    if not levels or not all(type(count) is int and count > 1 for count in levels):
        raise ConfigError(f"model.levels is {levels}; it must hold one or more whole numbers above 1.")
    size, lowest = math.prod(levels), np.array(levels) // 2

    def half_levels(vectors: jax.Array) -> np.ndarray:
        return lowest.astype(np.float32).reshape((1,) * (vectors.ndim - 1) + (-1,))

    def init(key: jax.Array) -> State:
        return {"usage": jnp.zeros(size)}

    def to_codes(rounded: jax.Array) -> jax.Array:
        digits = (rounded + half_levels(rounded)).astype(jnp.int32)
        return jnp.ravel_multi_index(tuple(jnp.moveaxis(digits, -1, 0)), levels, mode="clip").astype(jnp.int32)

    def encode(state: State, vectors: jax.Array) -> jax.Array:
        return to_codes(jnp.round(bound(vectors.astype(jnp.float32), levels)))

    def decode(state: State, codes: jax.Array) -> jax.Array:
        digits = jnp.stack(jnp.unravel_index(codes, levels), axis=-1).astype(jnp.float32)
        return (digits - half_levels(digits)) / half_levels(digits)

    def quantize(state: State, vectors: jax.Array):
        bounded = bound(vectors.astype(jnp.float32), levels)
        rounded = jnp.round(bounded)
        quantized = straight_through(bounded, rounded) / half_levels(bounded)
        return quantized, to_codes(rounded), jnp.zeros(vectors.shape[:-1])

    def observe(key: jax.Array, batch_size: int, index: jax.Array, vectors: jax.Array, codes: jax.Array) -> Statistics:
        return {"share": jax.nn.one_hot(codes.reshape(-1), size).mean(axis=0)}

    def update(state: State, statistics: Statistics):
        usage = decay * state["usage"] + (1 - decay) * statistics["share"]
        in_use = (usage > threshold / size).mean()
        return {"usage": usage}, {"perplexity": perplexity(statistics["share"]), "codebook_usage": in_use}

    return Quantizer(size, len(levels), init, encode, decode, quantize, observe, update)
