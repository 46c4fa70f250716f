"""Given images under another condition: --condition.FIELD=VALUE, such as another class or caption.

`invert` keeps the noise or the code of an image, `vary` is SDEdit under the new condition, and `inpaint` makes masked
pixels anew. A row of the grid has an image and its results.
"""

import pathlib
from dataclasses import dataclass

import numpy as np

from genimg_jax import core
from genimg_jax.commands.edits import given, vary
from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Job
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import ConfigError
from genimg_jax.observations import masks
from genimg_jax.options import choice, location
from genimg_jax.tasks import editing
from genimg_jax.tasks.editing import PREVIOUS, Edit


@dataclass(frozen=True)
class Options(vary.Options):
    by: str = choice("auto", "auto", *editing.METHODS)
    was: str = ""  # the condition before, of --images; "": the images' own
    mask_file: str = location()  # of the pixels that may change, which are white; "": all may


def defaults(task: str, run: Restored) -> Options:
    return Options()


def method(job: Job) -> str:
    return _plan(job)[1]


def _plan(job: Job) -> tuple[str, str]:
    program = job.run.program
    if not program.family.conditions:
        raise ConfigError(f"this {program.config.family} is told nothing of an image that could be changed.")
    # Codes of a tokenizer have the condition in them, so they are nothing to keep.
    family = program.family._replace(latents=()) if program.tokenizer else program.family
    return editing.plan(job.options.by, family, bool(job.options.mask_file))


def perform(job: Job) -> pathlib.Path:
    options, (by, _) = job.options, _plan(job)
    if not job.conditions:
        raise ConfigError("change to what? Give --condition.FIELD=VALUE, such as --condition.label=3.")
    if by == "invert" and job.values.count > 1:
        raise ConfigError("invert draws nothing, so there is one result of each image: leave --count out.")
    after, before = given.conditions_of(job), _conditions_before(job, by)
    shape = job.run.program.spec.image_shape[:2]
    mask = {"mask": masks.load(options.mask_file, shape)} if options.mask_file else {}

    def of_index(index: np.ndarray) -> core.Batch:
        old = {PREVIOUS + name: values for name, values in before(index).items()}
        return after(index) | old | {name: np.broadcast_to(x, (len(index), *x.shape)) for name, x in mask.items()}

    edit = Edit(by, options.level, options.noise_levels, options.solver)
    return vary.save_edits(job, edit, jobs.inputs(job).images, of_index)


def _conditions_before(job: Job, by: str) -> given.Conditions:
    """The conditions of the images before the change, by index; none where they are not known and not needed."""
    if job.options.was:
        if len(job.conditions) > 1:
            raise ConfigError("--task.was is of one condition, and several change: use --given test.")
        return jobs.conditions_of(job._replace(conditions=dict.fromkeys(job.conditions, job.options.was)))
    if job.values.given:
        return jobs.conditions_of(job._replace(conditions={}))
    if by == "invert":
        raise ConfigError("invert needs the condition that the images have now: give --task.was=VALUE.")
    return lambda index: {}
