"""Ancestral sampling: one position after another, from a model of each position given those before it.

A model is one callback that updates a state of any type, such as its caches and the values so far. One loop serves
every network. It is compiled once for any length; the state is its carry, updated in place.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genimg_jax.core import fold_in

State = Any
Step = Callable[..., tuple[State, jax.Array, jax.Array]]
"""(state, position i32[], observed [B, V], mask bool[B], keys[B]) -> (state, value [B, V], log_prob f32[B]).

The value is the observed one where the mask is True, else a sample from the distribution at the position. `log_prob`
is the log-likelihood of the value, in nats. The returned state includes the value.
"""
COMPLETION = 2**31 - 1  # folded into a key in place of a position: larger than every position


def decode(
    step: Step, state: State, positions: jax.Array, observed: jax.Array, mask: jax.Array, keys: jax.Array
) -> tuple[State, jax.Array, jax.Array]:
    """Samples at the `positions`, in their order: the state, the values and the log-likelihood of the observed ones.

    The key of a position depends on its example and its number, so a sequence can be sampled in pieces.
    """  # i32[T], [B, T, V], bool[B, T], key[B] -> state, [B, T, V], f32[B]

    def body(carry, at):
        state, total = carry
        position, value, keep = at
        state, value, log_prob = step(state, position, value, keep, fold_in(keys, position))
        return (state, total + jnp.where(keep, log_prob, 0.0)), value

    total = jnp.zeros(observed.shape[0])
    along = positions, observed.swapaxes(0, 1), mask.swapaxes(0, 1)
    (state, total), values = jax.lax.scan(body, (state, total), along)
    return state, values.swapaxes(0, 1), total


def resample(
    inpaint: Callable[..., tuple[jax.Array, jax.Array]], candidates: int, keys: jax.Array, *arguments: Any
) -> jax.Array:
    """One of several inpaintings of each example, chosen by the likelihood of the observed values.

    `inpaint(keys, *arguments)` returns values [B, ...] and the log-likelihood f32[B] of the observed ones given those
    before them. Values sampled in order do not depend on the observed ones after them. Choosing among `candidates` with
    these weights corrects this (sampling importance resampling, Rubin 1987): exact in the limit of many candidates, and
    exact with one candidate if no observed value follows an unobserved one.
    """  # key[B], each argument [B, ...] -> [B, ...]
    examples = keys.shape[0]
    repeated = jax.tree.map(lambda x: jnp.repeat(x, candidates, axis=0), arguments)
    number = jnp.tile(jnp.arange(candidates), examples)
    keys = fold_in(keys, COMPLETION)
    candidate_keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys, candidates, axis=0), number)
    values, weight = inpaint(candidate_keys, *repeated)
    chosen = jax.vmap(jax.random.categorical)(fold_in(keys, candidates), weight.reshape(examples, candidates))
    return values[jnp.arange(examples) * candidates + chosen]


def inpainting_protocol(candidates: int) -> str:
    """How exact inpaintings by `resample` are, for reports."""
    if candidates == 1:
        return "exact where all known values precede all unknown ones, and elsewhere clamped to them as they come"
    return f"exact where all known values precede all unknown ones, and elsewhere resampled among {candidates}"


def filter_logits(logits: jax.Array, temperature: float | jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Logits divided by the temperature, with all except the likeliest set to -inf.

    `top_k` keeps the k largest (0: all; Fan et al. 2018). `top_p` keeps the smallest set whose probability reaches p
    (1: all; nucleus sampling, Holtzman et al. 2020). Both come after the temperature, and top_p after top_k. Equal
    logits are kept or dropped together. Samples follow the reported likelihood only at temperature 1 without filters.
    """  # [..., V] -> [..., V]
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    if top_p < 1:
        ordered = jnp.sort(jax.nn.softmax(logits), axis=-1, descending=True)
        needed = jnp.cumsum(ordered, axis=-1) - ordered < top_p
        # The likeliest value is kept, however small p is.
        needed = needed.at[..., 0].set(True)
        smallest = jnp.min(jnp.where(needed, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(jax.nn.softmax(logits) >= smallest, logits, -jnp.inf)
    return logits
