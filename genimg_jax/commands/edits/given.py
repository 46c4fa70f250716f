"""What edits of given images share: their conditions, their codes and the sheet of results."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from genimg_jax import core
from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits import project
from genimg_jax.commands.edits.job import Job
from genimg_jax.engine import images, projection
from genimg_jax.engine.program import run
from genimg_jax.engine.tasks import EVALUATION_SEED, given_batches
from genimg_jax.errors import ConfigError
from genimg_jax.tasks import editing

SHOWN = 16  # rows of a grid


Conditions = Callable[[np.ndarray], core.Batch]
"""Indices of images i[B] -> their conditions."""


def conditions_of(job: Job) -> Conditions:
    """`jobs.conditions_of`. Raises `ConfigError` for images of files whose conditions nobody gives."""
    lacking = [name for name in job.run.program.family.conditions if name not in job.conditions]
    if job.values.images and lacking:
        raise ConfigError(
            f"this {job.run.program.config.family} is told {lacking[0]!r}, which image files do not have: "
            f"give --condition.{lacking[0]}, or --given test for images that come with it."
        )
    return jobs.conditions_of(job)


def code_source(job: Job) -> str:
    """How codes of given images are obtained. Raises `ConfigError` for a family without a space to move in."""
    space = editing.space_of(job.run.program.family)
    if space is None:
        raise ConfigError(f"{job.run.program.config.family} has no codes that images can be moved in.")
    return "its encoder's codes" if space.encode else "the codes of projections"


def codes(job: Job, given: np.ndarray, of_index: Conditions) -> np.ndarray:
    """The codes of images u8[N, H, W, C] in `editing.space_of`, those of projections if there is no encoder."""
    program, weights = job.run.program, job.run.weights
    if editing.space_of(program.family).encode:
        batches = given_batches(program, given, of_index)
        return run(program, editing.encode_images, weights, batches, len(given), EVALUATION_SEED)
    task = projection.Projection(**dataclasses.asdict(project.Options()))
    return projection.project(program, weights, given, task, job.values.seed, of_index).codes


def decode(job: Job, given: np.ndarray, moved: np.ndarray, of_row: Callable) -> np.ndarray:
    """The images of K codes [N, K, ...] for each of N images; `of_row(n, k)` gives conditions, of indices i[B]."""
    # u8[N, H, W, C] -> f32[N, K, H, W, C]
    program, (number, draws) = job.run.program, moved.shape[:2]

    def with_codes(batch: core.Batch) -> core.Batch:
        row, draw = batch["index"] % number, batch["draw"]
        return {"index": batch["index"], "codes": moved[row, draw], **of_row(row, draw)}

    batches = map(with_codes, given_batches(program, given, draws=draws))
    decoded = run(program, editing.decode_codes, job.run.weights, batches, number * draws, EVALUATION_SEED)
    return decoded.reshape(number, draws, *decoded.shape[1:])


def save(job: Job, rows: np.ndarray, results: np.ndarray, **beside: np.ndarray) -> pathlib.Path:
    """Writes a grid of the first rows f32[N, K, H, W, C], and the results f32[..., H, W, C] in their order."""
    shown, shape = images.to_uint8(rows[:SHOWN]), rows.shape[2:]
    return jobs.save_grid(
        job.out, shown.reshape(-1, *shape), rows.shape[1], images.to_uint8(results).reshape(-1, *shape), **beside
    )


def visible(job: Job, given: np.ndarray) -> np.ndarray:
    """Images u8[N, H, W, C] in the levels of the run's data, as f32 in [-1, 1]."""
    return given * np.float32(2 / (job.run.dataset["stored_levels"] - 1)) - 1
