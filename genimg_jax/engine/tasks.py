"""Tasks for `program.run`: evaluation, likelihoods, samples, reconstructions, translations. `codes` has more.

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

EVALUATION_SEED = 0  # noise of held-out images (binarisation, codes) is the same for every run and training seed

COLUMNS = 8  # of a grid of reconstructions
CLASS_COLUMNS = 16  # at most so many classes have their own columns in a grid of samples

# ------------------------------------------------------------------------------------------------------ tasks


def stream(name: str) -> Callable[[Task], Task]:
    """Names a task's random stream."""

    def named(task: Task) -> Task:
        task.stream = name
        return task

    return named


@stream("evaluate")
def evaluate_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> core.Metrics:
    return family.evaluate(weights, batch, key)


@stream("log_prob")
def log_prob_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> core.Metrics:
    functions = {"log_prob": family.log_prob, "log_prob_at_half": family.log_prob_at_half}
    return {name: function(weights, batch, key) for name, function in functions.items() if function}


@stream("sample")
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


@stream("sample")
def sample_beside_task(
    family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> tuple[jax.Array, ...]:
    """A held-out image and a sample of its condition; of a source (source, sample, held-out image)."""
    first = (_visible(batch["source"]),) if "source" in family.conditions else ()
    beside = batch["image"], sample_task(family, weights, batch, key)
    return first + (beside[::-1] if first else beside)


@stream("sample")
def cycle_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> tuple[jax.Array, ...]:
    """An image of the other domain, its translation, and that translated back."""
    translated = sample_task(family, weights, batch, key)
    back = core.space_with(family, "encode").encode(weights, {**batch, "image": translated}, key)
    return batch["source"], translated, back


@stream("sample")
def translate_task(
    family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> tuple[jax.Array, ...]:
    return _visible(batch["source"]), sample_task(family, weights, batch, key)


def _visible(source: jax.Array) -> jax.Array:
    """The channels of a source to look at: without that of a mask."""  # [B, H, W, C] -> [B, H, W, 1 or 3]
    return source[..., : 3 if source.shape[-1] >= 3 else 1]


@stream("encode")
def encode_decode_task(
    family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> tuple[jax.Array, ...]:
    space = core.space_with(family, "encode")
    codes = space.encode(weights, batch, key)
    return batch["image"], codes, space.decode(weights, codes, batch)


@stream("encode")
def reconstruct_task(
    family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> tuple[jax.Array, ...]:
    return encode_decode_task(family, weights, batch, key)[::2]


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


def given_batches(
    program: Program,
    images: np.ndarray,
    conditions_of: Callable[[np.ndarray], core.Batch] = lambda index: {},
    draws: int = 1,
) -> Iterator[core.Batch]:
    """This process's rows of batches of stored images u8[N, H, W, C], with their conditions, by index. Each image has
    `draws` rows, numbered by `draw` i32[B]."""
    count = draws * len(images)
    size = parallel.round_up(program.mesh, min(batch_size(program), count))
    for start in range(0, count, size):
        index, draw = np.divmod(np.arange(start, start + size)[parallel.local_rows(size)], draws)
        rows = {"image": images[index % len(images)], "index": index.astype(np.int32), "draw": draw.astype(np.int32)}
        yield rows | conditions_of(index)


def beside_held_out(
    program: Program, weights: core.Weights, source: Source, count: int, seed: int | np.ndarray
) -> np.ndarray:
    """Rows of `COLUMNS` images of `source`, each above a row of samples with the same conditions.

    Of a family that translates there are three rows: sources, samples, and what they should be; without pairs, what
    they are translated back to.
    """  # -> f32[about count / COLUMNS, 2 or 3, COLUMNS, H, W, C]
    unpaired = any(not program.spec.conditions[name].paired for name in program.family.conditions)
    return _in_rows(program, cycle_task if unpaired else sample_beside_task, weights, source, count, seed)


def reconstruct(program: Program, weights: core.Weights, source: Source, count: int) -> np.ndarray:
    """Rows of `COLUMNS` images of `source`, each above a row of their reconstructions."""
    # -> f32[about count / COLUMNS, 2, COLUMNS, H, W, C]
    if core.space_with(program.family, "encode") is None:
        raise ConfigError(f"{program.config.family} has no codes to reconstruct images from.")
    return _in_rows(program, reconstruct_task, weights, source, count, EVALUATION_SEED)


def _in_rows(
    program: Program, task: Task, weights: core.Weights, source: Source, count: int, seed: int | np.ndarray
) -> np.ndarray:
    """A row of `COLUMNS` of the task's first images, a row of its second ones, and so on; repeatedly, for `count`
    examples or a few more. If some are grey and others in colour, all have three channels."""
    # -> f32[..., count / COLUMNS, rows, COLUMNS, H, W, C]
    count = -(-count // COLUMNS) * COLUMNS
    batches = itertools.islice(held_out(program, source, COLUMNS), count // COLUMNS)
    results = run(program, task, weights, batches, count, seed)
    channels = max(x.shape[-1] for x in results)
    rows = [np.broadcast_to(x, (*x.shape[:-1], channels)) for x in results]
    return np.stack([x.reshape(*x.shape[:-4], -1, COLUMNS, *x.shape[-3:]) for x in rows], axis=-5)


def translate(program: Program, weights: core.Weights, field_values: FieldValues, seed: int) -> tuple[np.ndarray, ...]:
    """Each image of the condition 'source', its translation, and without pairs that translated back."""
    # -> 2 or 3 x f32[N, H, W, C] in [-1, 1]
    task = translate_task if program.spec.conditions["source"].paired else cycle_task
    count = len(field_values["source"])
    return run(program, task, weights, condition_batches(program, count, field_values), count, seed)


def translate_back(program: Program, weights: core.Weights, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each image u8[N, H, W, C], its translation to the domain of the sources, and that translated back."""
    # -> 3 x f32[N, H, W, C] in [-1, 1]
    batches = given_batches(program, images)
    return run(program, encode_decode_task, weights, batches, len(images), EVALUATION_SEED)
