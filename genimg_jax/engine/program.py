"""What a configuration compiles to: one train step, one evaluation pass, one sampler, for any family.

Nothing here or above names a family. Everything is laid out by `parallel` and drawn from named random streams.
"""

import itertools
import math
from collections.abc import Callable, Iterator
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

EVALUATION_SEED = 0  # held-out draws (binarisation, codes) are the same for every run, whatever seed it trained with
COLUMNS = 8  # of a grid of reconstructions
CLASS_COLUMNS = 16  # the most classes that a grid of samples gives columns of their own
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


class Functions(NamedTuple):
    """What is compiled, before it is: pure functions, whose configuration may hold traced float options."""

    family: core.Family
    init: Callable
    step: Callable
    per_example: Callable
    sample: Callable
    reconstruct: Callable


class Program(NamedTuple):
    """One run's, or that of R runs at once: there, what is a run's own has an axis [R] in front (see `stacked`)."""

    config: Config
    spec: core.Spec
    family: core.Family
    mesh: jax.sharding.Mesh
    tokenizer: Stage | None
    seed: np.ndarray  # i32[], or i32[R]
    apart: Callable[[core.Tree], list[core.Tree]]  # what is each run's own, for each; a state without `frozen`
    together: Callable[[list[core.TrainState]], core.TrainState]  # the state of all, from each one's
    like: core.TrainState  # one run's, abstract: shapes, dtypes, shardings; but `frozen`, the tokenizer's weights
    init: Callable[[jax.Array], core.TrainState]  # compiled, of a seed i32[]
    step: Callable  # compiled (state, batch from `parallel.put_batch`, seed i32[]) -> (state, Packed)
    per_example: Callable  # compiled (name, weights, batch, seed) -> {name: f32[B]}, see `evaluate`
    sample: Callable  # compiled (weights, index i32[B], condition, seed) -> f32[B, H, W, C]
    reconstruct: Callable  # compiled (weights, batch, seed) -> image, image from its codes, f32[B, H, W, C] both


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

    def make(spec: core.Spec) -> core.Family:
        return families.load(config.family).make(config.model, spec, optimizer)

    family = latent(make, tokenizer.family, average) if tokenizer else make(spec)

    def prepare(raw: core.Batch, seed: jax.Array, name: str, at: jax.Array | int, training: bool) -> core.Batch:
        return transforms.prepare(raw, core.stream(seed, name, at), config.data, stored_levels, training)

    def init(seed: jax.Array) -> core.TrainState:
        return family.init(core.stream(seed, "init"), _blank(spec))

    def step(state: core.TrainState, raw: core.Batch, seed: jax.Array):
        batch = prepare(raw, seed, "augment", state.step, True)
        state, metrics = family.train_step(state, batch, core.stream(seed, "train", state.step))
        return state, Packed(tuple(metrics), jnp.stack(list(metrics.values())))

    def per_example(name: str, weights: core.Weights, raw: core.Batch, seed: jax.Array) -> core.Metrics:
        batch = prepare(raw, seed, "evaluate-data", 0, False)
        key = core.stream(seed, name)
        values = getattr(family, name)(weights, batch, key)
        if name == "log_prob" and family.log_prob_at_half:
            return {name: values, "log_prob_at_half": family.log_prob_at_half(weights, batch, key)}
        return values if isinstance(values, dict) else {name: values}

    def sample(weights: core.Weights, index: jax.Array, condition: core.Batch, seed: jax.Array) -> jax.Array:
        return family.sample(weights, core.item_keys(core.stream(seed, "sample"), index), condition)

    def reconstruct(weights: core.Weights, raw: core.Batch, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = prepare(raw, seed, "evaluate-data", 0, False)
        codes = family.encode(weights, batch, core.stream(seed, "encode"))
        return batch["image"], family.decode(weights, codes, batch)

    return Functions(family, init, step, per_example, sample, reconstruct)


def build(config: Config, spec: core.Spec, stored_levels: int, tokenizer: Stage | None = None) -> Program:
    """Everything compiled lazily: building is quick, and a configuration that cannot work fails here."""
    mesh, train = parallel.make_mesh(config.parallel), config.train
    parallel.check_batch(mesh, train.batch_size, "train.batch_size")
    made = functions(config, spec, stored_levels, tokenizer)
    parallel.check_batch(mesh, train.batch_size // train.microbatches, "a microbatch")
    like = parallel.abstract(jax.eval_shape(made.init, jnp.int32(0)), mesh, config.parallel)
    start = parallel.compile_init(made.init, like)
    if tokenizer:
        # Outside what is compiled: inside, they would be its constants.
        like = like.replace(frozen=parallel.put(tokenizer.weights, mesh, config.parallel))
    return Program(
        config=config,
        spec=spec,
        family=made.family,
        mesh=mesh,
        tokenizer=tokenizer,
        seed=np.int32(config.seed),
        apart=lambda tree: [tree],
        together=lambda states: states[0],
        like=like,
        init=lambda seed: core.attach(start(seed), like.frozen),
        step=parallel.compile_step(made.step, like, mesh, config.parallel),
        per_example=parallel.compile_per_example(made.per_example, mesh, static=0),
        sample=parallel.compile_per_example(made.sample, mesh),
        reconstruct=parallel.compile_per_example(made.reconstruct, mesh),
    )


def _blank(spec: core.Spec) -> core.Batch:
    batch = {"image": jnp.zeros((2, *spec.image_shape)), "index": jnp.arange(2)}
    return {**batch, "label": jnp.zeros(2, jnp.int32)} if spec.num_classes else batch


def held_out_metrics(program: Program) -> list[str]:
    """The names of what the family's `evaluate` measures, without measuring it."""
    arguments = core.weights(program.like), _blank(program.spec), core.stream(0, "evaluate")
    return list(jax.eval_shape(program.family.evaluate, *arguments))


def train_batches(program: Program, source: Source, start_step: int) -> Iterator[core.Batch]:
    """This process's rows of the batches from `start_step` on: a pure function of (seed, step)."""
    size = program.config.train.batch_size
    rows = parallel.local_rows(size)
    return loading.train_batches(source, program.seed.tolist(), start_step, size, rows)


def evaluate(program: Program, weights: core.Weights, source: Source, name: str = "evaluate") -> dict[str, np.ndarray]:
    """One exact pass of the capability `name`, 'evaluate' or 'log_prob', over `source`: {metric: f32[examples]}.

    A value depends on the weights and on its example's position in the dataset, not on the batch size.
    """
    size = parallel.shareable(program.mesh, _batch_size(program))
    found: list[core.Metrics] = []
    with progress.bar(name, total=source.size, unit="image", leave=False) as bar:
        for raw in loading.evaluation_batches(source, size, parallel.local_rows(size)):
            raw.pop("mask")
            found.append(program.per_example(name, weights, parallel.put_examples(raw, program.mesh), EVALUATION_SEED))
            found[-2:-1] = jax.device_get(found[-2:-1])  # the one before: the devices are never left waiting
            bar.update(min(size, source.size - bar.n))
    host = jax.device_get(found)
    return {key: np.concatenate([h[key] for h in host], axis=-1)[..., : source.size] for key in host[0]}


def _batch_size(program: Program) -> int:
    """As many images as `evaluate.batch_size` allows, but of large ones no more than `MOST_VALUES` values."""
    most = max(1, MOST_VALUES // math.prod(program.spec.image_shape))
    return min(program.config.evaluate.batch_size, most)


def condition_for(program: Program, index: np.ndarray, label: int | np.ndarray | None = None) -> core.Batch:
    """What `sample` is conditioned on: class `label`, or each of several in turn, or each class that there is."""
    # i64[B], i32[] or i32[N] -> {name: [B]}
    unknown = [name for name in program.family.conditions if name != "label"]
    if unknown:
        raise ConfigError(
            f"samples of {program.config.family} need {', '.join(unknown)}; give them on the command line."
        )
    classes = program.spec.num_classes
    if label is not None and "label" not in program.family.conditions:
        raise ConfigError(f"this {program.config.family} is not class-conditional; leave the class out.")
    asked = np.arange(classes) if label is None else np.atleast_1d(label)
    wrong = asked[(asked < 0) | (asked >= classes)]
    if wrong.size:
        raise ConfigError(f"class {wrong[0]} is not one of 0 to {classes - 1}.")
    return {"label": asked[index % len(asked)].astype(np.int32)} if "label" in program.family.conditions else {}


def sample_columns(program: Program, count: int, label: int | None = None) -> int | None:
    """Columns of a grid of `count` samples, each of a single class where the classes are asked for in turn and are few;
    None: the grid is about square."""
    classes = program.spec.num_classes
    if label is not None or "label" not in program.family.conditions or classes > min(count, CLASS_COLUMNS):
        return None
    return classes * max(1, round(count**0.5 / classes))


def sample(
    program: Program, weights: core.Weights, count: int, seed: int | np.ndarray, label: int | np.ndarray | None = None
) -> np.ndarray:
    """The images of `sample_batches` in one array."""  # -> f32[count, H, W, C] in [-1, 1]
    return np.concatenate(list(sample_batches(program, weights, count, seed, label)), axis=-4)


def sample_batches(
    program: Program, weights: core.Weights, count: int, seed: int | np.ndarray, label: int | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Images 0 to `count` of the set that `seed` names; image i is the same in every such set whose image i is asked to
    be of the same class, see `condition_for`."""  # -> f32[n, H, W, C] in [-1, 1] ...
    if program.family.sample is None:
        how = "; train a family over its codes, as configs/latent_digits.py does" if program.family.codes else ""
        raise ConfigError(f"{program.config.family} cannot sample{how}.")
    size = parallel.shareable(program.mesh, min(_batch_size(program), count))

    def batches() -> Iterator[np.ndarray]:
        with progress.bar("sample", total=count, unit="image", leave=False) as bar:
            for start in range(0, count, size):
                index = np.arange(start, start + size)
                rows = {"index": index.astype(np.int32), "condition": condition_for(program, index, label)}
                rows = parallel.put_examples(jax.tree.map(lambda x: x[parallel.local_rows(size)], rows), program.mesh)
                images = jax.device_get(program.sample(weights, rows["index"], rows["condition"], seed))
                yield images[..., : count - start, :, :, :]
                bar.update(min(size, count - start))

    return batches()


def reconstruct(program: Program, weights: core.Weights, source: Source, count: int) -> np.ndarray:
    """Rows of `COLUMNS` images of `source`, each above the row of what decoding their codes gives."""
    # -> f32[2 * count or a few more, H, W, C]
    family = program.family
    if family.encode is None or family.decode is None:
        raise ConfigError(f"{program.config.family} has no codes to reconstruct images from.")
    size = parallel.shareable(program.mesh, COLUMNS)
    rows = []
    for raw in itertools.islice(
        loading.evaluation_batches(source, size, parallel.local_rows(size)), -(-count // COLUMNS)
    ):
        raw.pop("mask")
        pair = program.reconstruct(weights, parallel.put_examples(raw, program.mesh), EVALUATION_SEED)
        rows += [x[..., :COLUMNS, :, :, :] for x in jax.device_get(pair)]
    return np.concatenate(rows, axis=-4)


def interpolate(
    program: Program, weights: core.Weights, rows: int, steps: int, seed: int, label: int | None = None
) -> np.ndarray:
    """Rows of images between the codes of samples 2i and 2i + 1, along the great circle that keeps a normal's norm."""
    # -> f32[rows * steps, H, W, C]
    family = program.family
    if family.prior is None or family.decode is None:
        raise ConfigError(f"{program.config.family} draws no codes to interpolate between.")

    def draw(weights: core.Weights, seed: jax.Array, condition: core.Batch) -> jax.Array:
        codes = family.prior(weights, core.item_keys(core.stream(seed, "sample"), jnp.arange(2 * rows)))
        first, second = codes[0::2], codes[1::2]
        flat = [
            c.reshape(rows, -1) / jnp.linalg.norm(c.reshape(rows, -1), axis=1, keepdims=True) for c in (first, second)
        ]
        angle = jnp.arccos(jnp.clip((flat[0] * flat[1]).sum(1), -1 + 1e-6, 1 - 1e-6))
        angle = angle.reshape(rows, 1, *(1,) * (codes.ndim - 1))
        t = jnp.linspace(0.0, 1.0, steps).reshape(1, steps, *(1,) * (codes.ndim - 1))
        mixed = jnp.sin((1 - t) * angle) * first[:, None] + jnp.sin(t * angle) * second[:, None]
        return family.decode(weights, (mixed / jnp.sin(angle)).reshape(-1, *codes.shape[1:]), condition)

    condition = condition_for(program, np.repeat(np.arange(rows), steps), label)
    return jax.device_get(jax.jit(draw)(weights, np.int32(seed), condition))
