"""Restoration: `tasks.restoration` on given images.

A row of the grid has what is observed of an image, the results, and the image itself. scores.json has every score with
its interval and its protocol.
"""

import dataclasses
import json
import pathlib

import numpy as np

from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Job
from genimg_jax.engine import images
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import image_sets
from genimg_jax.evaluation import restoration as restorations
from genimg_jax.files import write_atomic
from genimg_jax.metrics.restoration import Comparison
from genimg_jax.tasks import restoration
from genimg_jax.tasks.restoration import Options

SHOWN = 16  # images of a grid
NOISE = {"denoise": 0.2, "several": 0.05}  # by default
SEVERAL = ("deblur", "superres")


def defaults(task: str, run: Restored) -> Options:
    """The observation that the run was trained for, if it is of this task."""
    trained_for = run.program.config.data.observation
    if trained_for.kind == task:
        return Options(**{field.name: getattr(trained_for, field.name) for field in dataclasses.fields(trained_for)})
    return Options(kind=task, noise=NOISE.get(task, 0.0), steps=SEVERAL if task == "several" else ())


def method(job: Job) -> str:
    solver, how = _plan(job)
    return f"{solver.solver}, {how}"


def _plan(job: Job) -> tuple[restoration.Restoration, str]:
    program = job.run.program
    trained_for = program.config.data.observation
    return restoration.plan(job.options, program.family, program.spec, trained_for)


def perform(job: Job) -> pathlib.Path:
    if job.options.kind != job.task:
        raise ConfigError(f"--task.kind is {job.options.kind!r}: leave it out, the task is {job.task}.")
    (task, how), inputs, run, values = _plan(job), jobs.inputs(job), job.run, job.values
    restored = restorations.restore(
        run.program,
        run.weights,
        inputs.images,
        task,
        values.count,
        values.seed,
        jobs.conditions_of(job, without="source" if task.solver == "conditional" else ""),
    )
    changed = {name: str(value) for name, value in jobs.differences(task.options, Options()).items()}
    about = {**changed, "solver": task.solver, "method": how}
    reference = "given images"
    if values.given:
        reference = image_sets.dataset(run.program.config.data, jobs.source(job, values.given))
    comparison = Comparison(reference, values.given, values.seed, about)
    measured = restorations.measure(restored, run.dataset["stored_levels"], comparison)
    print(restorations.table(measured))
    record = {
        name: {**each._asdict(), "spec": each.spec.fields(), "digest": each.spec.digest()}
        for name, each in measured.items()
    }
    write_atomic(job.out / "scores.json", json.dumps({"step": run.step, "scores": record}, indent=1))
    return _save(job, restored)


def _save(job: Job, restored: restorations.Restorations) -> pathlib.Path:
    count, number = restored.results.shape[:2]
    shown, original = images.to_uint8(restored.shown), images.to_uint8(restored.original)
    first = [restored.shown, *restored.results, restored.original]
    channels = max(x.shape[-1] for x in first)
    rows = np.stack([np.broadcast_to(x[:SHOWN], (*x[:SHOWN].shape[:-1], channels)) for x in first], 1)
    grid = images.to_uint8(rows.reshape(-1, *rows.shape[2:]))
    results = images.to_uint8(restored.results).swapaxes(0, 1).reshape(count * number, *restored.results.shape[2:])
    known = {"known": restored.known, "observed": shown, "original": original}
    return jobs.save_grid(job.out, grid, rows.shape[1], results, **known)
