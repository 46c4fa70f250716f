"""Images in the other domain, by a run that is told 'source', such as cyclegan or pix2pix.

The grid has rows of the given images, of their translations and, where both ways are known, of these translated back.
"""

import pathlib
from dataclasses import dataclass

import numpy as np

from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Job
from genimg_jax.data import transforms
from genimg_jax.engine import tasks
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import ConfigError


@dataclass(frozen=True)
class Options:
    backward: bool = False  # into the domain of the sources, by a run that translates both ways


def defaults(task: str, run: Restored) -> Options:
    return Options()


def method(job: Job) -> str:
    program, family = job.run.program, job.run.program.config.family
    if "source" not in program.family.conditions:
        raise ConfigError(f"this {family} translates no images: it is not told 'source', as cyclegan and pix2pix are.")
    if kind := program.config.data.observation.kind:
        raise ConfigError(f"this {family} was trained to restore images: use genimg edit {kind}.")
    paired = program.spec.conditions["source"].paired
    if paired and job.options.backward:
        raise ConfigError(f"{family} translates only the sources, and cyclegan both ways: leave --task.backward out.")
    return f"{family}, {'trained on pairs' if paired else 'trained without pairs, in both directions'}"


def perform(job: Job) -> pathlib.Path:
    program, weights = job.run.program, job.run.weights
    if job.options.backward:
        return jobs.save(job.out, *tasks.translate_back(program, weights, jobs.inputs(job).images))
    images = jobs.inputs(job, "source").images
    field_values = jobs.field_values(job) | {"source": np.asarray(transforms.field(images))}
    return jobs.save(job.out, *tasks.translate(program, weights, field_values, job.values.seed))
