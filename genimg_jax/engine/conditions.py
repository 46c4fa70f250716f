"""Conditions of samples: those that the user sets, or those of held-out images."""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from genimg_jax import core, data
from genimg_jax.data import Source, decode, loading, text, transforms
from genimg_jax.data.source import FEATURES, SOURCE
from genimg_jax.engine import features
from genimg_jax.engine.program import Program, batch_size
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.options import nearest

PIXEL_LIMIT = 2**25  # of an image file
FieldValues = Mapping[str, np.ndarray] | None  # by the name of the field, see `rows`


def rows(
    program: Program, index: np.ndarray, field_values: FieldValues = None, source: Source | None = None
) -> core.Batch:
    """The condition of each image, {field: [B, ...]}, from `index` i64[B] of images alone.

    A field in `field_values` takes its N values [N, ...] in turn, or a single value [...] for all. Other fields are
    those of the images of `source`, in order; without a source, classes take turns. Raises `ConfigError` for a field
    that the family is not conditioned on, for a value out of range, and for a missing field.
    """
    field_values = field_values or {}
    fields = {name: program.spec.conditions[name] for name in program.family.conditions}
    for name in field_values:
        if name not in fields:
            listed = f"it is told {', '.join(fields)}" if fields else "it is told nothing"
            raise ConfigError(
                f"this {program.config.family} is not told {name!r}{nearest(name, fields)} Of each image {listed}."
            )
    examples = _examples(program, source, index) if source and set(fields) - set(field_values) else {}
    condition = {}
    for name, field in fields.items():
        if name in field_values:
            values = _checked(name, field, np.asarray(field_values[name]))
            condition[name] = values[index % len(values)]
        elif name in examples:
            condition[name] = np.asarray(transforms.field(examples[name]))
        elif name == "label":
            condition[name] = (index % field.size).astype(np.int32)
        else:
            raise ConfigError(
                f"samples of this {program.config.family} need {name!r}: give --condition.{name}, or --given test for "
                "what the test images come with."
            )
    return condition


def _examples(program: Program, source: Source, index: np.ndarray) -> core.Batch:
    """The examples of a source, with the field that an observation makes, the same as in evaluation."""
    index, options = index % source.size, program.config.data
    examples = loading.rows(source, index)
    if options.observation.kind:
        raw = {"image": examples["image"], "index": index.astype(np.int32)}
        examples[SOURCE] = np.asarray(_observed(options, source.stored_levels, raw))
    return examples


@functools.partial(jax.jit, static_argnums=(0, 1))
def _observed(options: data.Options, levels: int, raw: core.Batch) -> jax.Array:  # -> f32[B, H, W, C]
    return transforms.prepare(raw, core.stream(0, "evaluate-data"), options, levels, False)[SOURCE]


def all_rows(
    program: Program, index: np.ndarray, field_values: FieldValues = None, source: Source | None = None
) -> core.Batch:
    """The same as `rows`, read in batches: a source reads whole images with their conditions."""
    size = batch_size(program)
    parts = [rows(program, part, field_values, source) for part in np.split(index, range(size, len(index), size))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def captions(
    program: Program, index: np.ndarray, source: Source | None = None, classes: Sequence[str] = ()
) -> list[str]:
    """The texts below images with the conditions of `rows`: captions, or else the names of classes.

    Empty if the family is conditioned on neither.
    """
    if "tokens" in program.family.conditions:
        return source.captions(index % source.size)
    if "label" in program.family.conditions:
        return [classes[label] for label in rows(program, index, source=source)["label"]]
    return []


def _checked(name: str, field: core.Field, values: np.ndarray) -> np.ndarray:  # [*shape] or [N, *shape] -> [N, *shape]
    values = values[None] if values.ndim == len(field.shape) else values
    if values.shape[1:] != field.shape:
        raise ConfigError(f"{name} is of shape {list(values.shape[1:])}, and the model is told {list(field.shape)}.")
    if not field.size:
        return values.astype(np.float32)
    wrong = values[(values < 0) | (values >= field.size)]
    if wrong.size:
        what = "class" if name == "label" else f"a value of {name},"
        raise ConfigError(f"{what} {wrong.flat[0]} is not one of 0 to {field.size - 1}.")
    return values.astype(np.int32)


def parse(program: Program, name: str, value: str, classes: Sequence[str] = ()) -> np.ndarray:
    """The values [*shape] or [N, *shape] of a field, from a flag of the command line.

    A class is a number or a name, a caption a text; maps and images are image files; an encoder's features are those of
    an image file, or of each image of a folder; everything else is an array in a file .npy. Raises `ConfigError`.
    """
    fields = program.spec.conditions
    if name not in fields:
        raise ConfigError(f"--condition.{name}: the data has no such field{nearest(name, fields)}")
    field = fields[name]
    if name == "label":
        return np.int32(_class(value, classes))
    if name == "tokens":
        return text.encode(text.load(program.config.data.captions.vocabulary), value, field.shape[0])
    try:
        path, options = str(pathlib.Path(value).expanduser()), program.config.data
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        if name == FEATURES and options.features.encoder:
            return features.of_pictures(options, path, PIXEL_LIMIT)
        if len(field.shape) == 2 or (len(field.shape) == 3 and field.shape[-1] in (1, 3)):
            return _picture(field, path)
        raise ConfigError(f"--condition.{name}={value} is no array: give a file .npy of {list(field.shape)} numbers.")
    except (OSError, ValueError, DataError) as error:
        raise ConfigError(f"--condition.{name}={value} cannot be read: {error}") from error


def _class(value: str, classes: Sequence[str]) -> int:
    if value in classes:
        return list(classes).index(value)
    if not value.isdecimal():
        raise ConfigError(f"--condition.label is {value!r}, which is no class{nearest(value, classes)}")
    return int(value)


def _picture(field: core.Field, path: str) -> np.ndarray:  # -> i32[H, W] or f32[H, W, C]
    if len(field.shape) == 2:
        values = decode.read_map(path, PIXEL_LIMIT)
        return values if values.shape == field.shape else decode.conform_map(values, min(field.shape))
    image = decode.conform(decode.read_file(path, PIXEL_LIMIT), min(field.shape[:2]), field.shape[-1])
    return np.asarray(transforms.field(image[None]))[0]
