"""The codes whose image is nearest in mean square, a code for each layer where there are layers.

The nearest of some samples is improved by Adam. The grid has rows of the given images and of their projections.
"""

import pathlib
from dataclasses import dataclass

from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Job
from genimg_jax.engine import projection
from genimg_jax.engine.restore import Restored
from genimg_jax.options import bounded

SHOWN = 20  # rows of a printed table


@dataclass(frozen=True)
class Options:
    starts: int = bounded(128, 2)  # samples to begin from
    steps: int = bounded(300, 0)  # of the optimiser


def defaults(task: str, run: Restored) -> Options:
    return Options()


def method(job: Job) -> str:
    layered = projection.check(job.run.program).layered
    return f"least squares in pixels over codes{', one for each layer' if layered else ''}; a local minimum"


def perform(job: Job) -> pathlib.Path:
    run, inputs = job.run, jobs.inputs(job)
    task = projection.Projection(job.options.starts, job.options.steps)
    of_index = jobs.conditions_of(job)
    projected = projection.project(run.program, run.weights, inputs.images, task, job.values.seed, of_index)
    for name, psnr in list(zip(inputs.names, projected.psnr, strict=True))[:SHOWN]:
        print(f"{psnr:6.2f} dB  {name}")
    print(f"{len(projected.psnr)} images: PSNR {jobs.pooled_psnr(projected.psnr):.2f} dB of all pixels together")
    return jobs.save(job.out, projected.original, projected.image, codes=projected.codes)
