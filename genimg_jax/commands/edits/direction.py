"""Given images moved along a direction in the space of their codes.

`label:3` is the difference of the means of the codes of a class and of all others. `jacobian:0` changes images most,
`jacobian:1` most of all directions orthogonal to it, and so on: SeFa (Shen and Zhou 2021) for any decoder. `pca:0` is
the first principal component of codes (GANSpace, Härkönen et al. 2020). A row of the grid has an image and what its
moved codes decode to; one without an encoder is projected first.
"""

import pathlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from genimg_jax import core
from genimg_jax.commands.edits import given
from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Job
from genimg_jax.data import loading
from genimg_jax.engine import conditions, images
from genimg_jax.engine.program import run
from genimg_jax.engine.restore import Restored
from genimg_jax.engine.tasks import condition_batches
from genimg_jax.errors import ConfigError
from genimg_jax.options import bounded
from genimg_jax.tasks import editing

KINDS = ("label", "jacobian", "pca")


@dataclass(frozen=True)
class Options:
    direction: str = "jacobian:0"
    strength: float = bounded(3.0, 0.0)  # the farthest move: deviations of samples' codes, or differences of means
    columns: int = bounded(7, 2)  # moves, from -strength to strength
    examples: int = bounded(128, 2)  # samples, or training images of `label`, that the direction is computed from


class Direction(NamedTuple):
    kind: str  # of `KINDS`
    number: int


def defaults(task: str, run: Restored) -> Options:
    return Options()


def method(job: Job) -> str:
    source, kind = given.code_source(job), _parse(job).kind
    program, space = job.run.program, editing.space_of(job.run.program.family)
    if kind == "label":
        if not space.encode or not program.spec.num_classes:
            raise ConfigError("a label's direction is that of encoded images with classes: use jacobian:0 or pca:0.")
        if "label" in program.family.conditions:
            raise ConfigError("this run is told 'label', so its codes need not have it: use genimg edit change.")
    elif not space.prior:
        raise ConfigError(f"{program.config.family} draws no codes to find {kind} directions with: use label.")
    elif kind == "pca" and space.interpolate == "spherical":
        raise ConfigError("these codes are standard normal, and so without principal components: use jacobian:0.")
    return f"{job.options.direction} of {source}"


def _parse(job: Job) -> Direction:
    text = job.options.direction
    kind, _, number = text.partition(":")
    classes = job.run.dataset.get("classes", ()) if kind == "label" else ()
    if kind not in KINDS or not (number.isdecimal() or number in classes):
        raise ConfigError(f"--task.direction is {text!r}; it must be label:CLASS, jacobian:NUMBER or pca:NUMBER.")
    return Direction(kind, list(classes).index(number) if number in classes else int(number))


def perform(job: Job) -> pathlib.Path:
    method(job)
    options, inputs, of_index = job.options, jobs.inputs(job).images, given.conditions_of(job)
    codes = given.codes(job, inputs, of_index)
    direction = _label(job) if _parse(job).kind == "label" else _principal(job)
    strengths = np.linspace(-options.strength, options.strength, options.columns, dtype=np.float32)
    moves = np.multiply.outer(strengths, direction.astype(np.float32))
    results = given.decode(job, inputs, codes[:, None] + moves[None], lambda row, draw: of_index(row))
    original = given.visible(job, inputs)
    sheet = np.concatenate([original[:, None], results], axis=1)
    known = {"original": images.to_uint8(original), "codes": codes, "direction": direction, "strengths": strengths}
    return given.save(job, sheet, results, **known)


def _label(job: Job) -> np.ndarray:
    """The difference of the means of codes, of the first training images."""
    program, source = job.run.program, jobs.source(job, "train", fields=True)
    examples = loading.rows(source, np.arange(min(job.options.examples, source.size)))

    def of_index(index: np.ndarray) -> core.Batch:
        return conditions.rows(program, index, jobs.field_values(job), source)

    codes = given.codes(job, examples["image"], of_index)
    return editing.label_direction(codes, examples["label"], _parse(job).number)


def _principal(job: Job) -> np.ndarray:
    """A direction, as long as the standard deviation of samples' codes along it."""
    program, weights, (kind, number) = job.run.program, job.run.weights, _parse(job)
    source = jobs.source(job, "train", fields=True) if program.family.conditions else None
    count, seed = job.options.examples, job.values.seed
    batches = list(condition_batches(program, count, jobs.field_values(job), source))
    codes = run(program, editing.draw_codes, weights, batches, count, seed)

    def multiply(vector: np.ndarray) -> np.ndarray:
        """The mean of J'J over the samples, times a vector."""
        direction = vector.reshape(codes.shape[1:]).astype(np.float32)

        def with_codes(batch: core.Batch) -> core.Batch:
            at = codes[batch["index"] % count]
            return batch | {"codes": at, "direction": np.broadcast_to(direction, at.shape)}

        rows = run(program, editing.jacobian_product, weights, map(with_codes, batches), count, seed)
        return rows.mean(0, dtype=np.float64).ravel()

    if kind == "pca":
        unit = editing.principal_direction(codes, number)
    else:
        unit = editing.leading_eigenvector(multiply, codes[0].size, number).reshape(codes.shape[1:])
    return unit * editing.deviation_along(codes, unit)
