"""Tasks for `program.run` that every run has: evaluation, likelihoods, samples, reconstructions, interpolations.

The name of a task's random stream must not change, because the images of a seed depend on it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core
from genimg_jax.data import Source
from genimg_jax.engine import conditions, parallel
from genimg_jax.engine.conditions import FieldValues
from genimg_jax.engine.program import Program, Task, batch_size, held_out, run, run_batches
from genimg_jax.errors import ConfigError
from genimg_jax.objectives.interpolation import INTERPOLATIONS

EVALUATION_SEED = 0  # noise of held-out images (binarisation, codes) is the same for every run and training seed

COLUMNS = 8  # of a grid of reconstructions
CLASS_COLUMNS = 16  # at most so many classes have their own columns in a grid of samples

# ------------------------------------------------------------------------------------------------------ tasks


def _stream(name: str) -> Callable[[Task], Task]:
    """Names a task's random stream."""

    def named(task: Task) -> Task:
        task.stream = name
        return task

    return named


@_stream("evaluate")
def evaluate_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> core.Metrics:
    return family.evaluate(weights, batch, key)


@_stream("log_prob")
def log_prob_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> core.Metrics:
    functions = {"log_prob": family.log_prob, "log_prob_at_half": family.log_prob_at_half}
    return {name: function(weights, batch, key) for name, function in functions.items() if function}


@_stream("sample")
def sample_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    return family.sample(weights, core.per_example_keys(key, batch["index"]), batch)


@dataclasses.dataclass(frozen=True)
class SampleBest:
    """Of `best_of` samples for each index, the one with the largest log p(image | condition); the first of them is that
    of `sample_task`. Ramesh et al. 2021 (section 2.6) rerank so, by another network's score of image and caption."""

    best_of: int
    stream = "sample"

    def __call__(self, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
        keys = core.per_example_keys(key, batch["index"])

        def better(i, best):
            image = family.sample(weights, jax.lax.cond(i > 0, lambda: core.fold_in(keys, i), lambda: keys), batch)
            score = family.log_prob(weights, {**batch, "image": image}, key)
            likelier = score > best[1]
            return jnp.where(likelier[:, None, None, None], image, best[0]), jnp.where(likelier, score, best[1])

        image = jax.eval_shape(family.sample, weights, keys, batch)
        none = jnp.zeros(image.shape, image.dtype), jnp.full(len(keys), -jnp.inf)
        return jax.lax.fori_loop(0, self.best_of, better, none)[0]


@_stream("sample")
def sample_beside_task(
    family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return batch["image"], sample_task(family, weights, batch, key)


@_stream("encode")
def reconstruct_task(
    family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    space = core.space_with(family, "encode")
    return batch["image"], space.decode(weights, space.encode(weights, batch, key), batch)


@dataclasses.dataclass(frozen=True)
class Interpolate:
    """Image i is step i % steps of the path between the codes of samples 2 (i // steps) and 2 (i // steps) + 1, or
    between the codes `first` and `second` of the batch."""

    steps: int
    stream = "sample"

    def __call__(self, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
        row, t = batch["index"] // self.steps, jnp.linspace(0.0, 1.0, self.steps)[batch["index"] % self.steps]
        if "first" in batch:
            space, ends = core.space_with(family, "encode", "interpolate"), (batch["first"], batch["second"])
        else:
            space = core.space_with(family, "prior", "interpolate")
            ends = (space.prior(weights, core.per_example_keys(key, 2 * row + i), batch) for i in range(2))
        return space.decode(weights, INTERPOLATIONS[space.interpolate](*ends, t), batch)


@_stream("encode")
def encode_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    return core.space_with(family, "encode", "interpolate").encode(weights, batch, key)


# -------------------------------------------------------------------------------------------- running the tasks


def evaluate(program: Program, weights: core.Weights, source: Source) -> dict[str, np.ndarray]:
    """One exact pass of the family's `evaluate` over a source: {metric: f32[examples]}."""
    return run(program, evaluate_task, weights, held_out(program, source), source.size, EVALUATION_SEED)


def log_prob(program: Program, weights: core.Weights, source: Source) -> dict[str, np.ndarray]:
    """For a source: {"log_prob": f32[examples]}, and `log_prob_at_half` if the family has it."""
    return run(program, log_prob_task, weights, held_out(program, source), source.size, EVALUATION_SEED)


def sample_columns(program: Program, count: int, field_values: FieldValues = None) -> int | None:
    """Columns of a grid of `count` samples, such that each has one class, if classes alternate and are few; None: the
    grid is about square."""
    classes = program.spec.num_classes
    if field_values or program.family.conditions != ("label",) or classes > min(count, CLASS_COLUMNS):
        return None
    return classes * max(1, round(count**0.5 / classes))


def sample(
    program: Program,
    weights: core.Weights,
    count: int,
    seed: int | np.ndarray,
    field_values: FieldValues = None,
    source: Source | None = None,
    best_of: int = 1,
) -> np.ndarray:
    """The images of `sample_batches` in one array."""  # -> f32[count, H, W, C] in [-1, 1]
    batches = sample_batches(program, weights, count, seed, field_values, source, best_of)
    return np.concatenate(list(batches), axis=-4)


def sample_batches(
    program: Program,
    weights: core.Weights,
    count: int,
    seed: int | np.ndarray,
    field_values: FieldValues = None,
    source: Source | None = None,
    best_of: int = 1,
) -> Iterator[np.ndarray]:
    """Images 0 to `count` - 1 of the set with this `seed`. Image i depends only on the weights, the seed, i, its
    condition (`conditions.rows`) and `best_of` (`SampleBest`)."""  # -> f32[n, H, W, C] in [-1, 1] ...
    family = program.family
    if family.sample is None:
        encodes = core.space_with(family, "encode")
        how = "; train a family over its codes, as configs/latent_digits.py does" if encodes else ""
        raise ConfigError(f"{program.config.family} cannot sample{how}.")
    if best_of > 1 and family.log_prob is None:
        raise ConfigError(f"{program.config.family} has no likelihood to choose the best of {best_of} samples by.")
    batches = condition_batches(program, count, field_values, source)
    return run_batches(program, SampleBest(best_of) if best_of > 1 else sample_task, weights, batches, count, seed)


def condition_batches(
    program: Program,
    count: int,
    field_values: FieldValues = None,
    source: Source | None = None,
    example: Callable[[np.ndarray], np.ndarray] = lambda index: index,
) -> Iterator[core.Batch]:
    """This process's rows of batches with conditions; `example` maps an image's index to that of its condition."""
    size = parallel.round_up(program.mesh, min(batch_size(program), count))
    for start in range(0, count, size):
        index = np.arange(start, start + size)[parallel.local_rows(size)]
        yield {"index": index.astype(np.int32), **conditions.rows(program, example(index), field_values, source)}


def beside_held_out(
    program: Program, weights: core.Weights, source: Source, count: int, seed: int | np.ndarray
) -> np.ndarray:
    """Rows of `COLUMNS` images of `source`, each above a row of samples with the same conditions."""
    # -> f32[2 * count or a few more, H, W, C]
    return _in_pairs(program, sample_beside_task, weights, source, count, seed)


def reconstruct(program: Program, weights: core.Weights, source: Source, count: int) -> np.ndarray:
    """Rows of `COLUMNS` images of `source`, each above a row of their reconstructions."""
    # -> f32[2 * count or a few more, H, W, C]
    if core.space_with(program.family, "encode") is None:
        raise ConfigError(f"{program.config.family} has no codes to reconstruct images from.")
    return _in_pairs(program, reconstruct_task, weights, source, count, EVALUATION_SEED)


def _in_pairs(
    program: Program, task: Task, weights: core.Weights, source: Source, count: int, seed: int | np.ndarray
) -> np.ndarray:  # -> [..., 2 N, H, W, C]
    """A row of `COLUMNS` of the task's first images, then a row of its second ones."""
    count = -(-count // COLUMNS) * COLUMNS
    batches = itertools.islice(held_out(program, source, COLUMNS), count // COLUMNS)
    pairs = run(program, task, weights, batches, count, seed)
    rows = [x.reshape(*x.shape[:-4], -1, COLUMNS, *x.shape[-3:]) for x in pairs]
    return np.stack(rows, axis=-5).reshape(*pairs[0].shape[:-4], -1, *pairs[0].shape[-3:])


def interpolate(
    program: Program,
    weights: core.Weights,
    rows: int,
    steps: int,
    seed: int,
    field_values: FieldValues = None,
    source: Source | None = None,
) -> np.ndarray:
    """Rows of `steps` images between the codes of samples 2i and 2i + 1; a row has one condition."""
    # -> f32[rows * steps, H, W, C]
    if core.space_with(program.family, "prior", "interpolate") is None:
        raise ConfigError(f"{program.config.family} draws no codes to interpolate between.")
    count = rows * steps
    batches = condition_batches(program, count, field_values, source, lambda index: index // steps)
    return run(program, Interpolate(steps), weights, batches, count, seed)


def interpolate_held_out(
    program: Program, weights: core.Weights, source: Source, rows: int, steps: int, field_values: FieldValues = None
) -> np.ndarray:
    """Rows of `steps` images between the codes of images 2i and 2i + 1 of `source`; see `nearer_end` for conditions."""
    # -> f32[rows * steps, H, W, C]
    count = min(2 * rows, source.size)
    size = min(batch_size(program), count)
    batches = itertools.islice(held_out(program, source, size), -(-count // size))
    codes = run(program, encode_task, weights, batches, count, EVALUATION_SEED)

    def with_ends(batch: core.Batch) -> core.Batch:
        first = 2 * (batch["index"] // steps)
        return batch | {"first": codes[first % count], "second": codes[(first + 1) % count]}

    ends = condition_batches(program, rows * steps, field_values, source, lambda index: nearer_end(index, steps))
    return run(program, Interpolate(steps), weights, map(with_ends, ends), rows * steps, EVALUATION_SEED)


def nearer_end(index: np.ndarray, steps: int) -> np.ndarray:
    """The index of the source image nearer to an interpolated image, which gets its condition."""  # i[B] -> i[B]
    return 2 * (index // steps) + (2 * (index % steps) >= steps)
