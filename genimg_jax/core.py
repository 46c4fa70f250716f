"""The contract: what a generative family is, what it is trained on, and the two doors through which parameters change.

A family is a record of pure functions, in the way that an optax optimiser is one. Nothing here knows a family's
name, a device or a collective. All randomness is a pure function of (seed, stream name, step, example index).
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from genimg_jax.averages import power_decay
from genimg_jax.errors import ConfigError

Tree = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Field(NamedTuple):
    """One array that the data gives with every image, such as a caption or a segmentation map."""

    shape: tuple[int, ...]  # () class; (T,) tokens; (D,) features; (H, W) map; (H, W, C) image
    size: int = 0  # classes, vocabulary or segments of integers from 0 to size - 1; 0: real numbers
    paired: bool = True  # whether row i belongs to image i; False: another domain, in an order of its own


class Spec(NamedTuple):
    """What the data tells a family. Copy it with `_replace`, so that fields are never lost."""

    image_shape: tuple[int, int, int]  # (height, width, channels)
    num_classes: int  # 0: unlabelled
    levels: int  # values a pixel can take: 256, 2 for binarised images; 0: images of codes that are real numbers
    fields: Mapping[str, Field] = {}  # what comes with every image besides its class, by its key in a batch

    @property
    def conditions(self) -> dict[str, Field]:
        """Everything that a family can be conditioned on, by its key in a batch."""
        return {**({"label": Field((), self.num_classes)} if self.num_classes else {}), **self.fields}

    def __hash__(self) -> int:  # a mapping has none
        return hash((self.image_shape, self.num_classes, self.levels, *sorted(self.fields.items())))


@flax.struct.dataclass
class TrainState:
    """Everything that training changes, as arrays and nothing else.

    `params`, `opt_state` and `ema_params` are keyed by group, the unit that an optimiser owns. `model_state` is state
    that no gradient reaches: batch statistics, spectral norms, codebook counts. `frozen_params` are used, but neither
    trained nor saved again.
    """

    step: jax.Array  # i32[]: completed training steps
    params: dict[str, Tree]
    opt_state: dict[str, Tree]
    ema_params: dict[str, Tree]  # of groups whose optimiser keeps an average; a second one's key is 'group@1'
    model_state: Tree
    frozen_params: Tree


class Weights(NamedTuple):
    """What evaluation and sampling need of a `TrainState`."""

    params: dict[str, Tree]
    model_state: Tree
    frozen_params: Tree


class Optimizer(NamedTuple):
    """How one group of parameters is trained.

    `ema_decay` is per step (None: no average is kept). With `ema_exponents` there is an average of a power-function
    profile for each in its place (`averages`). `average` is the identity under jit, whose global means already cover
    every device; a mapped compilation passes a mean over its devices.
    """

    transform: optax.GradientTransformation
    ema_decay: float | jax.Array | None = None
    microbatches: int = 1
    compute_dtype: Any = jnp.float32
    average: Callable[[Tree], Tree] = lambda tree: tree
    ema_exponents: tuple[float, ...] = ()


class Latents(NamedTuple):
    """One space of codes that images are decoded from. Codes are [B, *spec.image_shape], as if they were images.

    Row i of what a function returns depends on row i of its arguments alone.
    """

    spec: Spec
    """Of the codes: tokens i32 from 0 to `levels` - 1, or vectors f32 on any scale, of 0 `levels`."""
    decode: Callable[[Weights, jax.Array, Batch], jax.Array]
    """(weights, codes, condition) -> f32[B, H, W, C] in [-1, 1]."""
    encode: Callable[[Weights, Batch, jax.Array], jax.Array] | None = None
    """(weights, batch, key) -> codes."""
    prior: Callable[[Weights, jax.Array], jax.Array] | None = None
    """(weights, keys[B]) -> codes. The family's `sample` is `decode` of them."""
    interpolate: str | None = None
    """The path between two codes, 'spherical' or 'linear' (`objectives.interpolation`); None: there is none."""


class Family(NamedTuple):
    """A generative family. A capability that is `None` is one the family lacks.

    Batches hold `image` f32[B, H, W, C] in [-1, 1], `label` i32[B] where the data has classes, and `index` i32[B], the
    example's position in the global batch (training) or in the dataset (evaluation): per-example noise comes from
    `per_example_keys(key, batch["index"])`, so neither batch split nor device count changes it. `condition` is a dict
    of arrays with leading axis B, such as {"label": i32[B]}; {} where nothing is asked for.
    """

    init: Callable[[jax.Array, Batch], TrainState]
    """(key, batch) -> state. Called under `jax.eval_shape` and jit."""
    train_step: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]
    """(state, batch, key) -> (state, {name: f32[]}). One step, however many updates it holds."""
    evaluate: Callable[[Weights, Batch, jax.Array], Metrics]
    """(weights, batch, key) -> {name: f32[B]}, per example, so that padding can be left out."""
    objective: tuple[str, ...]
    """What training optimises directly, which tables mark: names of metrics of `evaluate`, 'log_prob', or the name of a
    feature network whose features the loss compares. A game against a discriminator optimises none, ()."""
    log_odds: tuple[tuple[str, str], ...] = ()
    """Pairs of training metrics, a discriminator's mean logit of real and of generated inputs, where its loss makes the
    logits log odds: how well it tells the two apart then has a scale."""
    sample: Callable[[Weights, jax.Array, Batch], jax.Array] | None = None
    """(weights, keys[B], condition) -> f32[B, H, W, C] in [-1, 1]; image i depends on its key and condition alone."""
    conditions: tuple[str, ...] = ()
    """The keys that `sample` and the latents need in their batch, such as 'label'."""
    log_prob: Callable[[Weights, Batch, jax.Array], jax.Array] | None = None
    """(weights, batch, key) -> f32[B], the natural logarithm of the probability mass of each image."""
    log_prob_at_half: Callable[[Weights, Batch, jax.Array], jax.Array] | None = None
    """`log_prob` of the same draws with half of its steps or samples: f32[B]. None: it depends on no such count, or in
    its variance alone. What the halving changes is the error of an estimate, or how loose a bound is at least."""
    likelihood_kind: str | None = None
    """What `log_prob` is: 'exact', 'lower bound' (in expectation) or 'estimate'."""
    likelihood_spec: Spec | None = None
    """What `log_prob` is the likelihood of, where that is an image of codes and not the image."""
    protocol: Mapping[str, Any] = {}
    """What a reader of `log_prob` must know besides, such as {"importance samples": 500}."""
    latents: tuple[Latents, ...] = ()
    """The spaces of codes that its images are decoded from, the one that reconstructions are of first."""
    denoise: Callable[..., jax.Array] | None = None
    """(weights, noisy f32[B, H, W, C], noise_level f32[B], condition) -> f32[B, H, W, C], the expected clean image,
    where noisy = image + noise_level * standard normal noise."""
    denoise_space: Latents | None = None
    """The space of the codes that `denoise` takes and returns, if these are codes instead of images."""
    inpaint: Callable[..., jax.Array] | None = None
    """(weights, image f32[B, H, W, C], mask bool[B, H, W] of known pixels, keys[B], condition) -> f32[B, H, W, C]."""
    inpaint_method: str = ""
    """How exactly `inpaint` draws, in words."""


def space_with(family: Family, *capabilities: str) -> Latents | None:
    """The first space of the family's latents that has all of them, such as 'encode'."""
    return next((space for space in family.latents if all(getattr(space, name) for name in capabilities)), None)


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


def classes(conditional: bool, spec: Spec) -> int:
    """The number of classes to condition on, 0 for none. Raises `ConfigError` where the data has no labels."""
    if conditional and not spec.num_classes:
        raise ConfigError("model.conditional is True, but the data has no labels; set it to False.")
    return spec.num_classes if conditional else 0


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
