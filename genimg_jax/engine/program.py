"""A compiled configuration: its initial state, its train step, and `run`, for every other computation.

No code here or in higher layers names a family. `parallel` places all arrays; all randomness is from named streams.
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

MOST_VALUES = 2**25  # in the images of one call: 128 MiB


@flax.struct.dataclass
class Packed:
    """A step's metrics as one array: fetching each separately would cost the host more than the rest of a step."""

    names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    values: jax.Array  # f32[metrics]

    def unpack(self) -> dict[str, float]:
        """The metrics by name, after they were fetched."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


class Stage(NamedTuple):
    """A trained first stage: its family, its weights, and what identifies them in the manifest."""

    family: core.Family
    weights: core.Weights
    record: dict[str, Any]


Task = Callable[[core.Family, core.Weights, core.Batch, jax.Array], core.Tree]
"""(family, weights, batch, key) -> tree of [B, ...]; each row depends only on its example. It is a module-level
function or an instance of a frozen dataclass, and compiled once for each. The attribute `stream` names its random
stream; by default that is its name."""


class Functions(NamedTuple):
    """Uncompiled pure functions, whose configuration may hold traced float options."""

    family: core.Family
    init: Callable
    step: Callable
    apply: Callable


class Program(NamedTuple):
    """The program of one run, or of R runs together, whose arrays then have a leading axis [R] (see `vmapped`)."""

    config: Config
    spec: core.Spec
    family: core.Family
    mesh: jax.sharding.Mesh
    tokenizer: Stage | None
    seed: np.ndarray  # i32[], or i32[R]
    unstack: Callable[[core.Tree], list[core.Tree]]  # the arrays of each run; a state without `frozen_params`
    stack: Callable[[list[core.TrainState]], core.TrainState]  # the state of all runs from the states of each
    abstract_state: core.TrainState  # of one run: shapes, dtypes, shardings; with the tokenizer's `frozen_params`
    init: Callable[[jax.Array], core.TrainState]  # compiled, of a seed i32[]
    step: Callable  # compiled (state, batch from `parallel.put_batch`, seed i32[]) -> (state, Packed)
    apply: Callable  # compiled (task, weights, batch from `parallel.put_examples`, seed) -> tree of [B, ...], see `run`


def functions(config: Config, spec: core.Spec, stored_levels: int, tokenizer: Stage | None) -> Functions:
    """The functions of a configuration. Raises `ConfigError` if it is invalid."""
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
    """The program, compiled lazily: building is fast, and an invalid configuration fails here."""
    mesh, train = parallel.make_mesh(config.parallel), config.train
    parallel.check_batch(mesh, train.batch_size, "train.batch_size")
    uncompiled = functions(config, spec, stored_levels, tokenizer)
    parallel.check_batch(mesh, train.batch_size // train.microbatches, "a microbatch")
    abstract_state = parallel.abstract(jax.eval_shape(uncompiled.init, jnp.int32(0)), mesh, config.parallel)
    start = parallel.compile_init(uncompiled.init, abstract_state)
    if tokenizer:
        # Outside of compiled functions: inside, they would be compile-time constants.
        abstract_state = abstract_state.replace(frozen_params=parallel.put(tokenizer.weights, mesh, config.parallel))
    return Program(
        config=config,
        spec=spec,
        family=uncompiled.family,
        mesh=mesh,
        tokenizer=tokenizer,
        seed=np.int32(config.seed),
        unstack=lambda tree: [tree],
        stack=lambda states: states[0],
        abstract_state=abstract_state,
        init=lambda seed: core.attach(start(seed), abstract_state.frozen_params),
        step=parallel.compile_step(uncompiled.step, abstract_state, mesh, config.parallel),
        apply=parallel.compile_per_example(uncompiled.apply, mesh, static=0),
    )


def _blank(spec: core.Spec) -> core.Batch:
    batch = {"image": jnp.zeros((2, *spec.image_shape)), "index": jnp.arange(2)}
    fields = spec.conditions.items()
    return batch | {name: jnp.zeros((2, *f.shape), jnp.int32 if f.size else jnp.float32) for name, f in fields}


def held_out_metrics(program: Program) -> list[str]:
    """The names of the metrics of the family's `evaluate`, without computing them."""
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
    """Runs a task over the first `count` examples of `batches`, which hold this process's rows of equal batches.

    A batch has an `index` and the entries that the task reads; an `image` is prepared as for evaluation. Yields NumPy
    arrays [n, ...], or [R, n, ...] for a program of R runs, each of which may have its own `seed`. Results depend on
    weights, seed and examples, not on the batches.
    """
    axis, done, last = program.seed.ndim, 0, None
    seed = np.broadcast_to(np.int32(seed), program.seed.shape)

    def fetch(result: core.Tree, valid: int) -> core.Tree:
        return jax.tree.map(lambda x: x[:, :valid] if axis else x[:valid], jax.device_get(result))

    with progress.bar(stream_name(task), total=count, unit="image", leave=False) as bar:
        for rows in batches:
            rows = {name: array for name, array in rows.items() if name != "valid"}
            result = program.apply(task, weights, parallel.put_examples(rows, program.mesh), seed)
            if last:  # fetched only now, so that the devices are never idle
                yield fetch(*last)
            last = result, min(len(rows["index"]) * jax.process_count(), count - done)
            done += last[1]
            bar.update(last[1])
        if last:
            yield fetch(*last)


def held_out(program: Program, source: Source, size: int | None = None) -> Iterator[core.Batch]:
    """This process's rows of a whole source, in batches of about `size`, by default of `batch_size`."""
    size = parallel.round_up(program.mesh, size or batch_size(program))
    return loading.evaluation_batches(source, size, parallel.local_rows(size))


def batch_size(program: Program) -> int:
    """`evaluate.batch_size` images, or fewer if they have more than `MOST_VALUES` values."""
    most = max(1, MOST_VALUES // math.prod(program.spec.image_shape))
    return min(program.config.evaluate.batch_size, most)
