"""Variations of given images by SDEdit: noise is added, and sampled away under the image's own or a given condition.

A row of the grid has an image and its variations.
"""

import pathlib
from dataclasses import dataclass

import numpy as np

from genimg_jax.commands.edits import given
from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Job
from genimg_jax.engine import images
from genimg_jax.engine.program import run
from genimg_jax.engine.restore import Restored
from genimg_jax.engine.tasks import given_batches
from genimg_jax.options import bounded, choice
from genimg_jax.tasks import editing
from genimg_jax.tasks.editing import Edit


@dataclass(frozen=True)
class Options:
    level: float = bounded(0.5, 0.0, 1.0)  # share of the noise levels to go back: 0 is the image, 1 noise alone
    noise_levels: int = bounded(100, 2)  # from noise alone to the image
    solver: str = choice("ancestral", *editing.SOLVERS)


def defaults(task: str, run: Restored) -> Options:
    return Options()


def method(job: Job) -> str:
    return editing.plan("vary", job.run.program.family, masked=False)[1]


def perform(job: Job) -> pathlib.Path:
    options = job.options
    edit = Edit("vary", options.level, options.noise_levels, options.solver)
    return save_edits(job, edit, jobs.inputs(job).images, given.conditions_of(job))


def save_edits(job: Job, edit: Edit, inputs: np.ndarray, of_index: given.Conditions) -> pathlib.Path:
    """Edits each of the images u8[N, H, W, C] --count times, and writes them all."""
    program, values = job.run.program, job.values
    batches = given_batches(program, inputs, of_index, values.count)
    rows = run(program, edit, job.run.weights, batches, values.count * len(inputs), values.seed)
    original, edited = (x.reshape(len(inputs), values.count, *x.shape[1:]) for x in rows)
    first = original[:, :1]
    sheet = np.concatenate([first, edited], axis=1)
    return given.save(job, sheet, edited, original=images.to_uint8(first[:, 0]))
