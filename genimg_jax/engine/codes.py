"""Tasks for `program.run` on the codes that images are decoded from: interpolation and mixing."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core
from genimg_jax.data import Source
from genimg_jax.engine.conditions import FieldValues
from genimg_jax.engine.program import Program, batch_size, held_out, run
from genimg_jax.engine.tasks import EVALUATION_SEED, condition_batches, stream
from genimg_jax.errors import ConfigError
from genimg_jax.objectives.interpolation import INTERPOLATIONS

# -------------------------------------------------------------------------------------------------- interpolation


@stream("encode")
def encode_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    return core.space_with(family, "encode", "interpolate").encode(weights, batch, key)


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


# --------------------------------------------------------------------------------------------------------- mixing


@stream("sample")
def prior_task(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """The layered codes of the same samples that `sample_task` draws."""
    keys = core.per_example_keys(key, batch["index"])
    return core.space_with(family, "prior", "layered").prior(weights, keys, batch)


@dataclasses.dataclass(frozen=True)
class Mix:
    """Images whose first `crossover` layers have the codes `first` of the batch, the others the codes `second`."""

    crossover: int
    stream = "sample"

    def __call__(self, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
        is_first = jnp.arange(batch["first"].shape[1]) < self.crossover
        codes = jnp.where(is_first[None, :, None, None], batch["first"], batch["second"])
        return core.space_with(family, "prior", "layered").decode(weights, codes, batch)


def mix(
    program: Program,
    weights: core.Weights,
    count: int,
    crossover: int,
    seed: int,
    field_values: FieldValues = None,
    source: Source | None = None,
) -> np.ndarray:
    """`count` rows and columns of images. The first `crossover` layers, the coarse ones, are those of sample i in row
    i; the others those of sample `count` + j in column j; 0 layers: half of them. Raises `ConfigError` for a family
    without layers, or without so many."""  # -> f32[count, count, H, W, C]
    space = core.space_with(program.family, "prior", "layered")
    if space is None:
        raise ConfigError(f"{program.config.family} has no layers to mix the codes of; stylegan2 has them.")
    layers = space.spec.image_shape[0]
    if crossover >= layers:
        raise ConfigError(f"--crossover is {crossover}, and this {program.config.family} has {layers} layers.")
    every = condition_batches(program, 2 * count, field_values, source)
    codes = run(program, prior_task, weights, every, 2 * count, seed)

    def with_codes(batch: core.Batch) -> core.Batch:
        row, column = np.divmod(batch["index"] % count**2, count)
        return batch | {"first": codes[row], "second": codes[count + column]}

    batches = condition_batches(program, count**2, field_values, source, lambda index: index // count)
    mixed = run(program, Mix(crossover or layers // 2), weights, map(with_codes, batches), count**2, seed)
    return mixed.reshape(count, count, *mixed.shape[1:])
