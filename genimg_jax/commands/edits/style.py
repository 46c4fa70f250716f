"""The given images, the content, in the style of others: content i in that of style image i mod N.

A row of the grid has a content, a style and the result; images.npz has all three.
"""

import functools
import pathlib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from genimg_jax import core
from genimg_jax.commands import command_line
from genimg_jax.commands.edits import given
from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Inputs, Job
from genimg_jax.engine import codes, images, program, projection, tasks
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.evaluation import classifiers
from genimg_jax.metrics import classifier_file
from genimg_jax.networks.classifier import ImageClassifier
from genimg_jax.networks.layers import Normalization
from genimg_jax.options import bounded, choice, location
from genimg_jax.tasks import colour, style

SHOWN = 16  # rows of the grid
STARTS = 128  # samples that a projection begins from
WAYS = ("mixing", "encoder", "gram", "adain", "colour")  # `auto` takes the first that a run can


@dataclass(frozen=True)
class Options:
    style: str = location(*command_line.PARTS)  # a file or a folder of style images, or a split of the run's data
    by: str = choice("auto", "auto", *WAYS)
    features: str = location()  # gram, adain: a classifier's file .safetensors; "": the shipped one of the run's data
    weight: float = bounded(10.0, 0.0)  # gram, adain: of the style loss
    steps: int = bounded(300, 1)  # gram, adain, mixing: of the optimiser
    crossover: int = bounded(0, 0)  # mixing: layers of the content, the coarse ones; 0: half of them


class Way(NamedTuple):
    lacks: Callable[[Job], str]
    """What a run lacks, as the end of a sentence; "" if nothing."""
    transfer: Callable[[Job, Inputs, Inputs], np.ndarray]
    """(job, contents, styles) -> f32[contents, H, W, C] in [-1, 1]."""
    about: str


def defaults(task: str, run: Restored) -> Options:
    return Options()


def method(job: Job) -> str:
    name = _choose(job)
    return f"{name}, {TRANSFERS[name].about}"


def perform(job: Job) -> pathlib.Path:
    if not job.options.style:
        raise ConfigError("which style? Give one of --task.style=FILE, --task.style=FOLDER and --task.style=train.")
    name, contents = _choose(job), jobs.inputs(job)
    if name not in ("mixing", "encoder"):
        jobs.no_conditions(job, f"by {name} reads none")
    styles = jobs.inputs(_of_styles(job))
    result = TRANSFERS[name].transfer(job, contents, styles)
    columns = [images.to_uint8(x) for x in (*_pairs(job, contents, styles), result)]
    grid = np.stack([x[:SHOWN] for x in columns], 1).reshape(-1, *result.shape[1:])
    return jobs.save_grid(job.out, grid, 3, columns[2], original=columns[0], style=columns[1])


def _of_styles(job: Job) -> Job:
    """The job with the style images as those that are given."""
    path = job.options.style
    part = path if path in command_line.PARTS else None
    return job._replace(values=types.SimpleNamespace(given=part, images=path, limit=job.values.limit))


def _choose(job: Job) -> str:
    """The way that is asked for, or the first that the run can. Raises `ConfigError` that says what it lacks."""
    wanted = WAYS if job.options.by == "auto" else (job.options.by,)
    for name in wanted:
        lacks = TRANSFERS[name].lacks(job)
        if not lacks:
            return name
    raise ConfigError(f"this run cannot transfer a style by {name}: it {lacks}.")


def _pairs(job: Job, contents: Inputs, styles: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The contents and the style of each."""  # -> 2 x f32[N, H, W, C] in [-1, 1]
    in_turn = styles.images[np.arange(len(contents.images)) % len(styles.images)]
    return given.visible(job, contents.images), given.visible(job, in_turn)


# ---------------------------------------------------------------------------------------------------------- models


def _lacks_layers(job: Job) -> str:
    return "" if core.space_with(job.run.program.family, "prior", "layered") else "has no layers of codes"


def _mix(job: Job, contents: Inputs, styles: Inputs) -> np.ndarray:
    """The content's projected codes in the first layers, and the style's in the others."""
    run, crossover, style_job = job.run, job.options.crossover, _of_styles(job)
    layers = core.space_with(run.program.family, "prior", "layered").spec.image_shape[0]
    if crossover >= layers:
        raise ConfigError(f"--task.crossover is {crossover}, and this {run.program.config.family} has {layers} layers.")
    task, seed = projection.Projection(STARTS, job.options.steps), job.values.seed
    conditions_of = jobs.conditions_of(job)
    first, second = (
        projection.project(run.program, run.weights, inputs.images, task, seed, of_index)
        for inputs, of_index in ((contents, conditions_of), (styles, jobs.conditions_of(style_job)))
    )
    for role, projected in (("contents", first), ("styles", second)):
        print(f"{role}: projected with a PSNR of {jobs.pooled_psnr(projected.psnr):.2f} dB")
    count = len(contents.images)

    def with_codes(batch: core.Batch) -> core.Batch:
        return batch | {
            "first": first.codes[batch["index"] % count],
            "second": second.codes[batch["index"] % len(second.codes)],
        }

    batches = map(with_codes, tasks.given_batches(run.program, contents.images, conditions_of))
    return program.run(run.program, codes.Mix(crossover or layers // 2), run.weights, batches, count, seed)


def _lacks_encoder(job: Job) -> str:
    family = job.run.program.family
    encodes = core.space_with(family, "encode") and "map" in family.conditions
    return "" if encodes else "does not encode the style of images and decode it with the map of others"


@tasks.stream("encode")
def style_of_another(
    family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> jax.Array:  # -> f32[B, H, W, C]
    """The codes of the images `style`, decoded with the conditions of the batch."""
    space = core.space_with(family, "encode")
    return space.decode(weights, space.encode(weights, {**batch, "image": batch["style"]}, key), batch)


def _encode(job: Job, contents: Inputs, styles: Inputs) -> np.ndarray:
    run, count, (_, style_images) = job.run, len(contents.images), _pairs(job, contents, styles)
    conditions_of = jobs.conditions_of(job)

    def with_style(index: np.ndarray) -> core.Batch:
        return {**conditions_of(index), "style": style_images[index % count]}

    batches = tasks.given_batches(run.program, contents.images, with_style)
    return program.run(run.program, style_of_another, run.weights, batches, count, job.values.seed)


# -------------------------------------------------------------------------------------------- features and colours


def _lacks_classifier(job: Job) -> str:
    """Raises `CheckpointError` for a file that is no classifier."""
    try:
        classifier = _classifier(job)
    except DataError as error:
        return f"needs its data, to choose the classifier, or --task.features ({error})"
    if classifier is None:
        return "has no shipped classifier of its data: give one by --task.features"
    shape, expected = list(job.run.program.spec.image_shape), classifier[1]["image_shape"]
    return "" if shape == expected else f"is of images {shape}, and the classifier --task.features of {expected}"


def _classifier(job: Job) -> tuple[core.Tree, Mapping[str, Any]] | None:
    """The variables of the classifier and its record; None if no file is given and none is shipped."""
    if not job.options.features:
        shipped = classifiers.shipped_for(jobs.source(job, "test"))
        return (shipped.features.parameters, shipped.record) if shipped else None
    (features, _), record = classifier_file.load(pathlib.Path(job.options.features), "give another --task.features")
    return features.parameters, record


def layers_of(network: ImageClassifier) -> style.Layers:
    """The features of every convolution of a classifier, after normalisation and rectifier."""

    def is_normalization(module: nn.Module, name: str) -> bool:
        return isinstance(module, Normalization)

    def layers(variables: core.Tree, image: jax.Array) -> style.Features:
        state = network.apply(variables, image, False, capture_intermediates=is_normalization, mutable="intermediates")
        outputs = state[1]["intermediates"]
        in_order = sorted(outputs, key=lambda name: int(name.rpartition("_")[2]))
        features = [nn.relu(outputs[name]["__call__"][0]) for name in in_order]
        return tuple(x for x in features if x.ndim == 4)

    return layers


def _optimise(name: str, job: Job, contents: Inputs, styles: Inputs) -> np.ndarray:
    variables, record = _classifier(job)
    recipe, options = record["recipe"], job.options
    layers = layers_of(ImageClassifier(recipe["width"], recipe["features"], record["classes"]))
    size, pairs = program.batch_size(job.run.program), _pairs(job, contents, styles)
    parts = []
    for start in range(0, len(contents.images), size):
        content, of_style = (x[start : start + size] for x in pairs)
        part = style.transfer(name, layers, variables, content, of_style, options.steps, options.weight)
        parts.append(jax.device_get(part))
    every = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    for kind, before, after in zip(style.Losses._fields, every.before, every.after, strict=True):
        print(f"{kind} loss: {before.mean():.4f} of the contents, {after.mean():.4f} of the results")
    return every.image


def _transfer_colours(job: Job, contents: Inputs, styles: Inputs) -> np.ndarray:
    return colour.transfer(*_pairs(job, contents, styles))


TRANSFERS = {
    "mixing": Way(_lacks_layers, _mix, "coarse layers of one projection and fine ones of the other; local minima"),
    "encoder": Way(_lacks_encoder, _encode, "the encoded style decoded with the content's map"),
    "gram": Way(
        _lacks_classifier,
        functools.partial(_optimise, "gram"),
        "Gram matrices of a classifier's features, matched by Adam",
    ),
    "adain": Way(
        _lacks_classifier,
        functools.partial(_optimise, "adain"),
        "AdaIN of a classifier's features, matched by Adam without a decoder",
    ),
    "colour": Way(lambda job: "", _transfer_colours, "the optimal map of Gaussians of colours, in closed form"),
}
