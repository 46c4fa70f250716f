"""Drawing sequences one position after another from a model of each position given those before it.

A model is one callback over a state of its own making (its caches, and what it has seen), so that one loop serves
every network: it is compiled once, whatever the length, and holds the state as its carry, updated in place.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genimg_jax.core import fold_in

State = Any
Step = Callable[..., tuple[State, jax.Array, jax.Array]]
"""(state, position i32[], observed [B, V], mask bool[B], keys[B]) -> (state, value [B, V], log_prob f32[B]).

The value is the observed one where the mask is True, else it is drawn from the distribution at the position.
`log_prob` is its log-likelihood there, in nats, and the state has seen it.
"""
COMPLETION = 2**31 - 1  # folded into a key where a position would be: beyond every position


def decode(
    step: Step, state: State, positions: jax.Array, observed: jax.Array, mask: jax.Array, keys: jax.Array
) -> tuple[State, jax.Array, jax.Array]:
    """The state after the `positions`, in their order, the values there, and the log-likelihood of the known ones.

    Every position is visited with a key of its example and its number. `positions` are the model's own numbers, so
    that a sequence can be filled in pieces.
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
    complete: Callable[..., tuple[jax.Array, jax.Array]], candidates: int, keys: jax.Array, *arguments: Any
) -> jax.Array:
    """One of several completions of each example, by the likelihood of what was known in it.

    `complete(keys, *arguments)` returns values [B, ...] and the log-likelihood f32[B] of the known ones given those
    before them. Values drawn in order know nothing of the known ones after them; choosing among `candidates` with
    these weights makes up for it (sampling importance resampling, Rubin 1987): right in the limit of many candidates,
    and right with one where no known value follows an unknown one.
    """  # key[B], each argument [B, ...] -> [B, ...]
    examples = keys.shape[0]
    spread = jax.tree.map(lambda x: jnp.repeat(x, candidates, axis=0), arguments)
    number = jnp.tile(jnp.arange(candidates), examples)
    keys = fold_in(keys, COMPLETION)
    own = jax.vmap(jax.random.fold_in)(jnp.repeat(keys, candidates, axis=0), number)
    values, weight = complete(own, *spread)
    chosen = jax.vmap(jax.random.categorical)(fold_in(keys, candidates), weight.reshape(examples, candidates))
    return values[jnp.arange(examples) * candidates + chosen]


def inpainting_protocol(candidates: int) -> str:
    """What a reader of completions by `resample` must know."""
    if candidates == 1:
        return "exact where all known values precede all unknown ones, and elsewhere clamped to them as they come"
    return f"exact where all known values precede all unknown ones, and elsewhere resampled among {candidates}"


def filter_logits(logits: jax.Array, temperature: float | jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Logits divided by the temperature, with those outside the likeliest left out (-inf).

    `top_k` keeps the k largest (0: all; Fan et al. 2018), and `top_p` the fewest whose probability reaches p (1: all;
    nucleus sampling, Holtzman et al. 2020), both after the temperature, the nucleus within the k. Equals are kept
    together. Only at temperature 1, with neither, are samples those of the model whose likelihood is reported.
    """  # [..., V] -> [..., V]
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    if top_p < 1:
        ordered = jnp.sort(jax.nn.softmax(logits), axis=-1, descending=True)
        needed = jnp.cumsum(ordered, axis=-1) - ordered < top_p
        # The likeliest value stays, however small p is.
        needed = needed.at[..., 0].set(True)
        smallest = jnp.min(jnp.where(needed, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(jax.nn.softmax(logits) >= smallest, logits, -jnp.inf)
    return logits
