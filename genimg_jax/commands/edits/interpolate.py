"""Images between given images 2i and 2i + 1, along the path between their codes.

A row of the grid has the first image, the images of the path, and the second image. An image has the condition of the
nearer end.
"""

import pathlib
from dataclasses import dataclass

import numpy as np

from genimg_jax.commands.edits import given
from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Job
from genimg_jax.engine import images
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import ConfigError
from genimg_jax.objectives.interpolation import INTERPOLATIONS
from genimg_jax.options import bounded
from genimg_jax.tasks import editing


@dataclass(frozen=True)
class Options:
    steps: int = bounded(8, 2)  # images of a path, both ends included


def defaults(task: str, run: Restored) -> Options:
    return Options()


def method(job: Job) -> str:
    source = given.code_source(job)
    return f"a {editing.space_of(job.run.program.family).interpolate} path between {source}"


def perform(job: Job) -> pathlib.Path:
    inputs, of_index, steps = jobs.inputs(job).images, given.conditions_of(job), job.options.steps
    pairs = len(inputs) // 2
    if not pairs:
        raise ConfigError("a path is between two images, and there is one: give several.")
    ends = inputs[: 2 * pairs]
    codes = given.codes(job, ends, of_index)
    path = INTERPOLATIONS[editing.space_of(job.run.program.family).interpolate]
    times = np.linspace(0, 1, steps, dtype=np.float32)
    between = np.stack([path(codes[::2], codes[1::2], np.full(pairs, t)) for t in times], axis=1)
    results = given.decode(job, ends[::2], between, lambda row, draw: of_index(2 * row + (2 * draw >= steps)))
    first, second = (given.visible(job, ends[i::2])[:, None] for i in range(2))
    sheet = np.concatenate([first, results, second], axis=1)
    original = images.to_uint8(given.visible(job, ends))
    return given.save(job, sheet, results, original=original, codes=codes)
