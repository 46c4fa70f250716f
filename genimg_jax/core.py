"""The base of every family: the contract, random streams, and the only two functions that change parameters.

All randomness is a pure function of (seed, stream name, step, example index).
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genimg_jax.averages import power_decay
from genimg_jax.contract import (
    Batch,
    Family,
    Field,
    Latents,
    Metrics,
    Optimizer,
    Spec,
    TrainState,
    Tree,
    Weights,
    condition_of,
    fields_of,
    space_with,
)

__all__ = [
    "Batch",
    "Family",
    "Field",
    "Latents",
    "Metrics",
    "Optimizer",
    "Spec",
    "TrainState",
    "Tree",
    "Weights",
    "as_observed",
    "attach",
    "average_names",
    "condition_of",
    "fields_of",
    "fold_in",
    "global_norm",
    "init_state",
    "normal",
    "per_example_keys",
    "space_with",
    "split",
    "stream",
    "train_group",
    "update",
    "value_and_grad",
    "weights",
]

LONGEST = 1e18  # gradient norm whose square float32 still holds, with room for sums


# ---------------------------------------------------------------------------------------------------- randomness


def stream(seed: int | jax.Array, name: str, step: int | jax.Array = 0) -> jax.Array:
    """The key of the named random stream at a step; streams and steps are independent of each other."""  # -> key[]
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), step)


def per_example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key an example, from its index alone."""  # key[], i32[B] -> key[B]
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def fold_in(keys: jax.Array, data: int | jax.Array) -> jax.Array:
    """A further, independent key for each example."""  # key[B] -> key[B]
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise, each example's from its own key."""  # key[B] -> f32[B, *shape]
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


# ------------------------------------------------------------------------------------------------------ training


def init_state(
    params: dict[str, Tree], optimizers: Mapping[str, Optimizer], model_state: Tree = None, frozen_params: Tree = None
) -> TrainState:
    """A state at step 0. The optimisers' names must be the parameter groups'."""
    if set(params) != set(optimizers):
        raise ValueError(f"optimisers for {sorted(optimizers)} do not cover the groups {sorted(params)}")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state={group: optimizers[group].transform.init(tree) for group, tree in params.items()},
        # A copy: the step donates its buffers, and one buffer cannot be donated twice.
        ema_params={
            name: jax.tree.map(jnp.copy, t) for g, t in params.items() for name in average_names(optimizers[g], g)
        },
        model_state={} if model_state is None else model_state,
        frozen_params={} if frozen_params is None else frozen_params,
    )


def average_names(optimizer: Optimizer, group: str) -> list[str]:
    """The keys of a group's moving averages in `TrainState.ema_params`; the first is the one that is evaluated."""
    count = len(optimizer.ema_exponents) or int(optimizer.ema_decay is not None)
    return [group, *(f"{group}@{i}" for i in range(1, count))][:count]


def attach(state: TrainState, frozen: Tree) -> TrainState:
    """The state with these first-stage weights; a copy of them, for the step donates its state's buffers."""
    return state.replace(frozen_params=jax.tree.map(jnp.copy, frozen))


def weights(state: TrainState, averaged: bool = True) -> Weights:
    """The weights to evaluate: the moving average of every group that has one, unless `averaged` is False."""
    params = {g: state.ema_params.get(g, tree) if averaged else tree for g, tree in state.params.items()}
    return Weights(params, state.model_state, state.frozen_params)


def split(tree: Tree, parts: int) -> Tree:
    """Disjoint interleaved slices of a batch; every device keeps its own rows."""  # [B, ...] -> [parts, B/parts, ...]
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def _cast(tree: Tree, dtype: Any) -> Tree:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def value_and_grad(optimizer: Optimizer, loss: Callable) -> Callable:
    """The only source of gradients: micro-batching and mixed precision, from the optimiser's record.

    `loss(params, batch, key)` returns (f32[], auxiliary tree), both means over the batch. The result maps the same
    arguments to ((value, auxiliary), gradients). Parameters stay float32; `loss` sees them in `compute_dtype`.
    Every microbatch is given the same key: noise is drawn per example from `batch["index"]`, so that the number of
    microbatches changes nothing (a key for each would change every draw).
    """

    def gradient(params: Tree, batch: Batch, key: jax.Array):
        def cast_loss(master: Tree):
            value, auxiliary = loss(_cast(master, optimizer.compute_dtype), batch, key)
            return value.astype(jnp.float32), _cast(auxiliary, jnp.float32)

        return jax.value_and_grad(cast_loss, has_aux=True)(params)

    def run(params: Tree, batch: Batch, key: jax.Array):
        parts = optimizer.microbatches
        if parts == 1:
            return optimizer.average(gradient(params, batch, key))
        slices = split(batch, parts)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], slices), key)

        def accumulate(total: Tree, part: Batch):
            return jax.tree.map(jnp.add, total, gradient(params, part, key)), None

        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(accumulate, zeros, slices)
        return optimizer.average(jax.tree.map(lambda x: x / parts, total))

    return run


def global_norm(tree: Tree) -> jax.Array:  # -> f32[]
    """The Euclidean norm of all arrays together, also where squares of single values overflow.

    Not finite only where a value is not, or where the norm itself is beyond float32.
    """
    norm = optax.tree.norm(tree)

    def rescaled() -> jax.Array:
        largest = optax.tree.norm(tree, ord=jnp.inf)
        return largest * optax.tree.norm(jax.tree.map(lambda x: x / largest, tree))

    return jax.lax.cond(jnp.isfinite(norm), lambda: norm, rescaled)


def update(
    optimizer: Optimizer, state: TrainState, group: str, gradients: Tree, model_state: Tree = None
) -> tuple[TrainState, Metrics]:
    """The only way parameters change: one optimiser step of one group, and of its moving average.

    A gradient that is not finite changes nothing, and is counted in the metric `skipped/<group>`; a new `model_state`
    is then dropped as well. A gradient longer than `LONGEST` is scaled down to that
    length, since optimisers square gradients and an infinite second moment never recovers. An exponential average's
    decay is warmed up, min(decay, (1 + step) / (10 + step)), so that early samples are not those of the initial
    weights.
    """
    norm = global_norm(gradients)
    finite = jnp.isfinite(norm)
    names = average_names(optimizer, group)
    old = state.params[group], state.opt_state[group], [state.ema_params[name] for name in names], state.model_state

    def decays() -> list[jax.Array]:
        if optimizer.ema_exponents:
            return [power_decay(exponent, state.step + 1) for exponent in optimizer.ema_exponents]
        return [jnp.minimum(optimizer.ema_decay, (1 + state.step) / (10 + state.step))]

    def step():
        params, opt, ema, _ = old
        bounded = optax.tree.scale(jnp.minimum(1.0, LONGEST / norm), gradients)
        updates, opt = optimizer.transform.update(bounded, opt, params)
        params = optax.apply_updates(params, updates)
        if names:
            ema = [optax.incremental_update(params, e, 1 - d) for e, d in zip(ema, decays(), strict=True)]
        return params, opt, ema, old[-1] if model_state is None else model_state

    # A branch, not a selection: selecting reads every old array once more, a seventh of an MLP's step.
    params, opt, ema, model_state = jax.lax.cond(finite, step, lambda: old)
    state = state.replace(
        params={**state.params, group: params},
        opt_state={**state.opt_state, group: opt},
        ema_params={**state.ema_params, **dict(zip(names, ema, strict=True))},
        model_state=model_state,
    )
    return state, {f"gradient_norm/{group}": norm, f"skipped/{group}": 1.0 - finite}


def as_observed(model_state: Tree, observed: Tree) -> tuple[Metrics, Tree]:
    """A `finish` of `train_group`, for losses that return the entries of `model_state` that change."""
    return {}, observed


def train_group(
    optimizer: Optimizer,
    state: TrainState,
    group: str,
    loss: Callable,
    batch: Batch,
    key: jax.Array,
    finish: Callable[[Tree, Tree], tuple[Metrics, Tree]] | None = None,
) -> tuple[TrainState, Metrics]:
    """One gradient and one update of a group; the metrics are those of the loss and of `update`.

    `loss` is that of `value_and_grad`; its auxiliary tree is its metrics. With `finish` it is (metrics, observed), and
    `finish(model_state, observed)`, given the mean of `observed` over the whole batch, returns further metrics and the
    entries of `model_state` that change.
    """
    (_, metrics), gradients = value_and_grad(optimizer, loss)(state.params[group], batch, key)
    model_state = None
    if finish:
        metrics, observed = metrics
        more, changed = finish(state.model_state, observed)
        metrics, model_state = {**metrics, **more}, {**state.model_state, **changed}
    state, updated = update(optimizer, state, group, gradients, model_state)
    return state, {**metrics, **updated}
