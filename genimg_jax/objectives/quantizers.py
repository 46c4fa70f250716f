"""Vectors to codes and back: a learned codebook (VQ-VAE, van den Oord et al. 2017), and fixed levels (FSQ, Mentzer et
al. 2023).

A code is an index from 0 to `size` - 1. No gradient reaches a quantiser's state: a training step observes its batch,
as means that any split of it into parts can be averaged to, and makes the next state of them.
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
    """How many codes there are."""
    features: int
    """How many values a vector has, D."""
    init: Callable[[jax.Array], State]
    """key -> state, of which `usage` f32[size] is a moving average of the share of vectors that take each code."""
    encode: Callable[[State, jax.Array], jax.Array]
    """(state, vectors f32[..., D]) -> codes i32[...]"""
    decode: Callable[[State, jax.Array], jax.Array]
    """(state, codes i32[...]) -> vectors f32[..., D]"""
    quantize: Callable[[State, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
    """(state, vectors f32[..., D]) -> (`decode` of their codes, with a gradient to what was given, codes i32[...],
    commitment loss f32[...])"""
    observe: Callable[[jax.Array, int, jax.Array, jax.Array, jax.Array], Statistics]
    """(key, size of the whole batch, index i32[B], vectors f32[B, h, w, D], codes i32[B, h, w]) -> means over these
    examples, which may be a part of the batch; every part is given the same key."""
    update: Callable[[State, Statistics], tuple[State, dict[str, jax.Array]]]
    """(state, means over the whole batch) -> the next state, and the metrics `perplexity`, of the batch's codes, from
    1 to `size`, and `codebook_usage`, the share of codes that are in use."""


def nearest(codebook: jax.Array, vectors: jax.Array) -> jax.Array:  # f32[K, D], f32[..., D] -> i32[...]
    """The row at the least Euclidean distance, the first of equals."""
    products = jnp.matmul(vectors, codebook.T, precision=FULL_PRECISION)
    lengths = jnp.square(codebook).sum(1).reshape((1,) * (vectors.ndim - 1) + (-1,))
    return jnp.argmin(lengths - 2 * products, axis=-1).astype(jnp.int32)


def straight_through(vectors: jax.Array, quantized: jax.Array) -> jax.Array:  # 2 x [...] -> [...]
    """The value of `quantized` with the gradient of `vectors` (Bengio et al. 2013)."""
    return vectors + jax.lax.stop_gradient(quantized - vectors)


def perplexity(share: jax.Array) -> jax.Array:  # f32[K], summing to 1 -> f32[], from 1 to K
    """The exponential of the entropy: how many codes, used equally often, would be as diverse."""
    return jnp.exp(jax.scipy.special.entr(share).sum())


def draw(key: jax.Array, count: int, batch_size: int, index: jax.Array, vectors: jax.Array):
    """`count` of the whole batch's vectors at random, none twice before all were drawn.

    These examples have some of them: the others are zeros here. A sum over the parts of the batch, divided by that of
    `found`, is the vectors drawn.
    """  # key[], i32[B], f32[B, P, D] -> f32[count, D], found f32[count]
    positions = vectors.shape[1]
    every = jax.random.uniform(key, (batch_size * positions,))
    drawn = jnp.resize(jax.lax.top_k(every, min(count, every.size))[1], (count,))
    example, position = jnp.divmod(drawn, positions)
    here = example[:, None] == index[None, :]
    found = here.any(axis=1).astype(jnp.float32)
    return found[:, None] * vectors[jnp.argmax(here, axis=1), position], found


def vector_quantizer(size: int, features: int, decay: Any, threshold: Any) -> Quantizer:
    """A codebook of moving averages of the vectors that take each code (van den Oord et al. 2017, appendix A.1).

    `decay`, in [0, 1], is per step. Averages are of shares of the batch, not of counts: their quotient is the same,
    and no batch size matters. A code is dead when its usage is at most `threshold` times that of uniform use, 1 / size;
    it then becomes a vector of the batch, with just that usage, so that only what takes it keeps it alive. Codes are
    dead at first, so the first batch makes the codebook; a threshold of 0 replaces only codes that never had a use.
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
        found = decode(state, codes)
        return straight_through(vectors, found), codes, jnp.square(vectors - found).mean(axis=-1)

    def observe(key: jax.Array, batch_size: int, index: jax.Array, vectors: jax.Array, codes: jax.Array) -> Statistics:
        vectors = jax.lax.stop_gradient(vectors.astype(jnp.float32)).reshape(len(vectors), -1, features)
        drawn, found = draw(key, size, batch_size, index, vectors)
        taken = jax.nn.one_hot(codes.reshape(-1), size)
        sums = jnp.matmul(taken.T, vectors.reshape(-1, features), precision=FULL_PRECISION) / len(taken)
        return {"share": taken.mean(axis=0), "sums": sums, "drawn": drawn, "found": found}

    def update(state: State, statistics: Statistics):
        usage = decay * state["usage"] + (1 - decay) * statistics["share"]
        sums = decay * state["sums"] + (1 - decay) * statistics["sums"]
        dead = usage <= threshold / size
        metrics = {"perplexity": perplexity(statistics["share"]), "codebook_usage": 1 - dead.mean()}
        smoothed = (usage + EPSILON / size) / (usage.sum() + EPSILON) * usage.sum()
        drawn = statistics["drawn"] / statistics["found"][:, None]
        vectors = jnp.where(dead[:, None], drawn, sums / smoothed[:, None])
        sums = jnp.where(dead[:, None], drawn * (threshold / size), sums)
        return {"vectors": vectors, "sums": sums, "usage": jnp.where(dead, threshold / size, usage)}, metrics

    return Quantizer(size, features, init, encode, decode, quantize, observe, update)


def bound(vectors: jax.Array, levels: tuple[int, ...]) -> jax.Array:  # f32[..., D] -> f32[..., D]
    """Each value squashed to where rounding gives one of its L levels, -(L // 2) to (L - 1) // 2, and 0 to 0.

    Mentzer et al. 2023, appendix A.1, with the inverse hyperbolic tangent, which maps 0 to 0 for even L too.
    """
    counts = np.array(levels).reshape((1,) * (vectors.ndim - 1) + (-1,))
    half = (counts - 1) / 2 * (1 + 1e-3)  # a little more, so that 2 levels have a finite shift
    offset = np.where(counts % 2, 0.0, 0.5)
    shift = np.arctanh(offset / half).astype(np.float32)
    return jnp.tanh(vectors + shift) * half.astype(np.float32) - offset.astype(np.float32)


def finite_scalar_quantizer(levels: tuple[int, ...], decay: Any, threshold: Any) -> Quantizer:
    """Each of D values rounded to its own number of levels, scaled to [-1, 1]; the code is the mixed-radix number.

    Nothing is learned; the state is `usage`, kept for the metrics: a code is in use above `threshold` / size. Raises
    `ConfigError` unless there are levels and each value has 2 or more.
    """
    if not levels or not all(type(count) is int and count > 1 for count in levels):
        raise ConfigError(f"model.levels is {levels}; it must hold one or more whole numbers above 1.")
    size, lowest = math.prod(levels), np.array(levels) // 2

    def like(vectors: jax.Array) -> np.ndarray:
        return lowest.astype(np.float32).reshape((1,) * (vectors.ndim - 1) + (-1,))

    def init(key: jax.Array) -> State:
        return {"usage": jnp.zeros(size)}

    def to_codes(rounded: jax.Array) -> jax.Array:
        digits = (rounded + like(rounded)).astype(jnp.int32)
        return jnp.ravel_multi_index(tuple(jnp.moveaxis(digits, -1, 0)), levels, mode="clip").astype(jnp.int32)

    def encode(state: State, vectors: jax.Array) -> jax.Array:
        return to_codes(jnp.round(bound(vectors.astype(jnp.float32), levels)))

    def decode(state: State, codes: jax.Array) -> jax.Array:
        digits = jnp.stack(jnp.unravel_index(codes, levels), axis=-1).astype(jnp.float32)
        return (digits - like(digits)) / like(digits)

    def quantize(state: State, vectors: jax.Array):
        bounded = bound(vectors.astype(jnp.float32), levels)
        rounded = jnp.round(bounded)
        found = straight_through(bounded, rounded) / like(bounded)
        return found, to_codes(rounded), jnp.zeros(vectors.shape[:-1])

    def observe(key: jax.Array, batch_size: int, index: jax.Array, vectors: jax.Array, codes: jax.Array) -> Statistics:
        return {"share": jax.nn.one_hot(codes.reshape(-1), size).mean(axis=0)}

    def update(state: State, statistics: Statistics):
        usage = decay * state["usage"] + (1 - decay) * statistics["share"]
        in_use = (usage > threshold / size).mean()
        return {"usage": usage}, {"perplexity": perplexity(statistics["share"]), "codebook_usage": in_use}

    return Quantizer(size, len(levels), init, encode, decode, quantize, observe, update)
