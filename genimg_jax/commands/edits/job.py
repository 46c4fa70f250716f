"""What every task of `genimg edit` is given, and how it reads images and writes results."""

import ast
import dataclasses
import itertools
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from genimg_jax import options as options_of
from genimg_jax.commands import command_line
from genimg_jax.commands.sample import GRID, Samples, write
from genimg_jax.data import Source, folder, loading, without_fields
from genimg_jax.engine import conditions, features, images, tasks
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.options import absolute


class Job(NamedTuple):
    task: str
    values: flags.FlagValues
    run: Restored
    conditions: Mapping[str, str]  # --condition.FIELD
    options: Any  # an instance of the `Options` of the task's module
    out: pathlib.Path


class Inputs(NamedTuple):
    """The images that a task works on."""

    images: np.ndarray
    """u8[N, H, W, C], in the levels of the run's data"""
    names: list[str]
    captions: list[str]
    """The captions of the images; [] if there are none"""


def parse(defaults: Any, texts: Mapping[str, str]) -> Any:
    """The options with those that --task.NAME=VALUE changes. Raises `ConfigError`."""
    values = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    for name, text in texts.items():
        values[name] = _value(text, values.get(name))
    return options_of.parse(type(defaults), values, "--task")


def _value(text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, tuple):
        return tuple(text.strip("(),").replace("'", "").split(","))
    try:
        return ast.literal_eval(text.capitalize() if isinstance(default, bool) else text)
    except (ValueError, SyntaxError):
        return text


def differences(options: Any, defaults: Any) -> dict[str, Any]:
    """The options that differ from the defaults."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {name: value for name, value in values.items() if value != getattr(defaults, name)}


def source(job: Job, part: str, fields: bool = False) -> Source:
    """Images and captions of a part of the run's data, with its other fields or without."""
    options = job.run.program.config.data
    return features.open_source(options if fields else without_fields(options), command_line.part(part))


def inputs(job: Job, field: str = "image") -> Inputs:
    """The images that are given, or of the field 'source' those of the sources' domain."""
    values, is_source, spec = job.values, field == "source", job.run.program.spec
    if values.given:
        given = source(job, values.given, fields=is_source)
        index = np.arange(min(values.limit, given.size))
        captions = given.captions(index) if given.captions else []
        return Inputs(loading.rows(given, index)[field], given.names(index), captions)
    shape = spec.fields[field].shape if is_source else spec.image_shape
    levels = 256 if is_source else job.run.dataset["stored_levels"]
    path = absolute(values.images)
    if path.endswith(".npz"):
        array = _archive(path, shape, levels)[: values.limit]
        return Inputs(array, [f"{path} {i}" for i in range(len(array))], [])
    pictures = folder.pictures(path, shape, levels, conditions.PIXEL_LIMIT)
    names, arrays = zip(*itertools.islice(pictures, values.limit), strict=True)
    return Inputs(np.stack(arrays), list(names), [])


def _archive(path: str, shape: tuple[int, ...], levels: int) -> np.ndarray:  # -> u8[N, H, W, C]
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = archive["image"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no archive with an array `image`: {error}") from error
    if array.ndim != 4 or array.shape[1:] != shape or array.dtype != np.uint8 or not len(array):
        raise DataError(f"`image` of {path} is {array.dtype}{list(array.shape)}; it must be uint8[N, {shape}].")
    return np.rint(array * ((levels - 1) / 255)).astype(np.uint8)


def field_values(job: Job) -> dict[str, np.ndarray]:
    names = job.run.dataset.get("classes", ())
    return {name: conditions.parse(job.run.program, name, text, names) for name, text in job.conditions.items()}


def conditions_of(job: Job, without: str = ""):
    """The conditions of images by index, as `conditions.rows`; `without` a field that the task makes itself."""
    program = job.run.program
    family = program.family._replace(conditions=tuple(c for c in program.family.conditions if c != without))
    program, values = program._replace(family=family), field_values(job)
    given = source(job, job.values.given, fields=True) if job.values.given and family.conditions else None
    return lambda index: conditions.rows(program, index, values, given)


def save(out: pathlib.Path, original: np.ndarray, *results: np.ndarray, **beside: np.ndarray) -> pathlib.Path:
    """Writes the first of the results, and a grid with rows of the originals and of each of the results."""
    # [N, H, W, C] each, in [-1, 1]
    rows = [images.to_uint8(x) for x in (original, *results)]
    columns, shown, channels = tasks.COLUMNS, rows[0][:GRID], max(x.shape[-1] for x in rows)
    cells = np.full(
        (len(rows), -(-len(shown) // columns) * columns, *shown.shape[1:3], channels), images.BACKGROUND, np.uint8
    )
    for cell, row in zip(cells, rows, strict=True):
        cell[: len(shown)] = row[:GRID]
    grid = cells.reshape(len(rows), -1, columns, *cells.shape[2:]).swapaxes(0, 1).reshape(-1, *cells.shape[2:])
    return save_grid(out, grid, columns, rows[1], original=rows[0], **beside)


def save_grid(out: pathlib.Path, grid: np.ndarray, columns: int, image: np.ndarray, **beside) -> pathlib.Path:
    """Writes the images u8[N, H, W, C] of a grid, the results, and arrays beside them."""
    write(Samples("", len(image), [image], beside, columns, grid=grid), out)
    return out / "grid.png"


def no_conditions(job: Job, why: str) -> None:
    if job.conditions:
        raise ConfigError(f"genimg edit {job.task} {why}: leave --condition out.")


def pooled_psnr(psnr: np.ndarray) -> float:
    """The PSNR of all pixels together, in dB, from that of each image."""
    return float(-10 * np.log10(np.mean(10 ** (-psnr / 10))))
