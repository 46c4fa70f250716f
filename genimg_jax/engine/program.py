"""A configuration, compiled: its initial state, its train step, and `run`, the one door for every other computation.

Nothing here or above names a family. Everything is laid out by `parallel` and drawn from named random streams.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core, families, progress
from genimg_jax.data import Source, loading, transforms
from genimg_jax.engine import optimizers, parallel
from genimg_jax.engine.config import Config
from genimg_jax.errors import ConfigError
from genimg_jax.families.latent import latent

MOST_VALUES = 2**25  # of the images of one call: 128 MiB


@flax.struct.dataclass
class Packed:
    """A step's metrics as one array: fetching each by itself costs the host more than all else it does in a step."""

    names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    values: jax.Array  # f32[metrics]

    def unpack(self) -> dict[str, float]:
        """By name, of metrics that were fetched."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


class Stage(NamedTuple):
    """A trained first stage: its family, its weights, and what tells them from others, for the record."""

    family: core.Family
    weights: core.Weights
    record: dict[str, Any]


Task = Callable[[core.Family, core.Weights, core.Batch, jax.Array], core.Tree]
"""(family, weights, batch, key) -> tree of [B, ...]; a row depends on its own example alone. A function of a module, or
an instance of a frozen dataclass: it is compiled once for each. Its random stream is its attribute `stream`, if it has
one, or has its name."""


class Functions(NamedTuple):
    """Uncompiled pure functions, whose configuration may hold traced float options."""

    family: core.Family
    init: Callable
    step: Callable
    apply: Callable


class Program(NamedTuple):
    """One run's, or that of R runs at once: there, what is a run's own has an axis [R] in front (see `vmapped`)."""

    config: Config
    spec: core.Spec
    family: core.Family
    mesh: jax.sharding.Mesh
    tokenizer: Stage | None
    seed: np.ndarray  # i32[], or i32[R]
    unstack: Callable[[core.Tree], list[core.Tree]]  # what is each run's own, for each; a state without `frozen_params`
    stack: Callable[[list[core.TrainState]], core.TrainState]  # the state of all, from each one's
    abstract_state: core.TrainState  # one run's: shapes, dtypes, shardings; its `frozen_params` are the tokenizer's
    init: Callable[[jax.Array], core.TrainState]  # compiled, of a seed i32[]
    step: Callable  # compiled (state, batch from `parallel.put_batch`, seed i32[]) -> (state, Packed)
    apply: Callable  # compiled (task, weights, batch from `parallel.put_examples`, seed) -> tree of [B, ...], see `run`


def functions(config: Config, spec: core.Spec, stored_levels: int, tokenizer: Stage | None) -> Functions:
    """Those of a configuration. Raises `ConfigError` for one that cannot work."""
    train, average = config.train, parallel.average_over(config.parallel)
    if train.batch_size % train.microbatches:
        raise ConfigError(
            f"train.microbatches is {train.microbatches}, which does not divide {train.batch_size} images."
        )
    optimizer = {
        group: optimizers.make(options, train.steps, train.batch_size, train.microbatches, train.precision, average)
        for group, options in config.optimizer.items()
    }

    module = families.load(config.family)

    def make(spec: core.Spec) -> core.Family:
        return module.make(config.model, spec, optimizer)

    if tokenizer:
        continuous_valued = getattr(module, "CONTINUOUS_VALUED", False)
        family = latent(make, spec, tokenizer.family, continuous_valued, average)
    else:
        family = make(spec)

    def prepare(raw: core.Batch, seed: jax.Array, name: str, at: jax.Array | int, training: bool) -> core.Batch:
        return transforms.prepare(raw, core.stream(seed, name, at), config.data, stored_levels, training)

    def init(seed: jax.Array) -> core.TrainState:
        return family.init(core.stream(seed, "init"), _blank(spec))

    def step(state: core.TrainState, raw: core.Batch, seed: jax.Array):
        batch = prepare(raw, seed, "augment", state.step, True)
        state, metrics = family.train_step(state, batch, core.stream(seed, "train", state.step))
        return state, Packed(tuple(metrics), jnp.stack(list(metrics.values())))

    def apply(task: Task, weights: core.Weights, raw: core.Batch, seed: jax.Array) -> core.Tree:
        batch = prepare(raw, seed, "evaluate-data", 0, False) if "image" in raw else raw
        return task(family, weights, batch, core.stream(seed, stream_name(task)))

    return Functions(family, init, step, apply)


def build(config: Config, spec: core.Spec, stored_levels: int, tokenizer: Stage | None = None) -> Program:
    """Everything compiled lazily: building is quick, and a configuration that cannot work fails here."""
    mesh, train = parallel.make_mesh(config.parallel), config.train
    parallel.check_batch(mesh, train.batch_size, "train.batch_size")
    made = functions(config, spec, stored_levels, tokenizer)
    parallel.check_batch(mesh, train.batch_size // train.microbatches, "a microbatch")
    abstract_state = parallel.abstract(jax.eval_shape(made.init, jnp.int32(0)), mesh, config.parallel)
    start = parallel.compile_init(made.init, abstract_state)
    if tokenizer:
        # Outside what is compiled: inside, they would be its constants.
        abstract_state = abstract_state.replace(frozen_params=parallel.put(tokenizer.weights, mesh, config.parallel))
    return Program(
        config=config,
        spec=spec,
        family=made.family,
        mesh=mesh,
        tokenizer=tokenizer,
        seed=np.int32(config.seed),
        unstack=lambda tree: [tree],
        stack=lambda states: states[0],
        abstract_state=abstract_state,
        init=lambda seed: core.attach(start(seed), abstract_state.frozen_params),
        step=parallel.compile_step(made.step, abstract_state, mesh, config.parallel),
        apply=parallel.compile_per_example(made.apply, mesh, static=0),
    )


def _blank(spec: core.Spec) -> core.Batch:
    batch = {"image": jnp.zeros((2, *spec.image_shape)), "index": jnp.arange(2)}
    fields = spec.conditions.items()
    return batch | {name: jnp.zeros((2, *f.shape), jnp.int32 if f.size else jnp.float32) for name, f in fields}


def held_out_metrics(program: Program) -> list[str]:
    """The names of what the family's `evaluate` measures, without measuring it."""
    arguments = core.weights(program.abstract_state), _blank(program.spec), core.stream(0, "evaluate")
    return list(jax.eval_shape(program.family.evaluate, *arguments))


def train_batches(program: Program, source: Source, start_step: int) -> Iterator[core.Batch]:
    """This process's rows of the batches from `start_step` on: a pure function of (seed, step)."""
    size = program.config.train.batch_size
    rows = parallel.local_rows(size)
    return loading.train_batches(source, program.seed.tolist(), start_step, size, rows)


def stream_name(task: Task) -> str:
    return getattr(task, "stream", None) or task.__name__


def run(
    program: Program,
    task: Task,
    weights: core.Weights,
    batches: Iterable[core.Batch],
    count: int,
    seed: int | np.ndarray,
) -> core.Tree:
    """The results of `run_batches` in one tree, as NumPy arrays [count, ...]."""
    parts = list(run_batches(program, task, weights, batches, count, seed))
    return jax.tree.map(lambda *x: np.concatenate(x, program.seed.ndim), *parts)


def run_batches(
    program: Program,
    task: Task,
    weights: core.Weights,
    batches: Iterable[core.Batch],
    count: int,
    seed: int | np.ndarray,
) -> Iterator[core.Tree]:
    """A task over the first `count` examples of `batches`, which hold this process's rows of equal batches.

    A batch has an `index`, and whatever the task reads; an `image` is prepared as for evaluation. Yields NumPy arrays
    [n, ...], or [R, n, ...] of a program of R runs, of which each may have a `seed` of its own. Results depend on
    weights, seed and examples, not on how these are batched.
    """
    axis, done, last = program.seed.ndim, 0, None
    seed = np.broadcast_to(np.int32(seed), program.seed.shape)

    def fetch(result: core.Tree, valid: int) -> core.Tree:
        return jax.tree.map(lambda x: x[:, :valid] if axis else x[:valid], jax.device_get(result))

    with progress.bar(stream_name(task), total=count, unit="image", leave=False) as bar:
        for rows in batches:
            rows = {name: array for name, array in rows.items() if name != "valid"}
            result = program.apply(task, weights, parallel.put_examples(rows, program.mesh), seed)
            if last:  # fetched only now, so that the devices are never left waiting
                yield fetch(*last)
            last = result, min(len(rows["index"]) * jax.process_count(), count - done)
            done += last[1]
            bar.update(last[1])
        if last:
            yield fetch(*last)


def held_out(program: Program, source: Source, size: int | None = None) -> Iterator[core.Batch]:
    """This process's rows of all of a source in batches of about `size`, else of as many as evaluation allows."""
    size = parallel.round_up(program.mesh, size or batch_size(program))
    return loading.evaluation_batches(source, size, parallel.local_rows(size))


def batch_size(program: Program) -> int:
    """As many images as `evaluate.batch_size` allows, but of large ones no more than `MOST_VALUES` values."""
    most = max(1, MOST_VALUES // math.prod(program.spec.image_shape))
    return min(program.config.evaluate.batch_size, most)
