"""The recipe that every classifier of this project is trained by.

Deterministic: the weights follow from the images, their labels and the recipe, to the last bit on one kind of machine.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.scipy.ndimage import map_coordinates

from genimg_jax import core, data, files, progress
from genimg_jax.data import Source, order, transforms
from genimg_jax.engine import optimizers
from genimg_jax.errors import DataError
from genimg_jax.evaluation.image_sets import ImageSet
from genimg_jax.networks.classifier import ImageClassifier

REVISION = 1  # of the training code below: raise it with any change that changes weights
GROUP = "classifier"


@dataclass(frozen=True)
class Recipe:
    width: int = 16  # channels of the first level
    features: int = 128  # of the penultimate layer, after its rectifier
    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 3e-3  # the highest; a tenth of the steps lead up to it, and half a cosine down from it
    weight_decay: float = 0.05
    shift: float = 0.06  # images are moved by up to this share of their shorter side,
    turn: float = 0.2  # turned by up to so many radians,
    stretch: float = 0.1  # and shrunk or stretched along either axis by up to about this share
    binarize: float = 0.5  # probability that a grey image is made black and white, its levels taken as probabilities
    seed: int = 0

    def digest(self) -> str:
        """Twelve hexadecimal digits of everything that determines the training, except the images."""
        text = json.dumps([REVISION, dataclasses.asdict(self)])
        return files.digest(text, 12)


STANDARD = Recipe()


class Examples(NamedTuple):
    """Labelled images of a source or of a set."""

    read: Callable[[np.ndarray], dict[str, np.ndarray]]
    """i64[B] -> {"image": u8[B, H, W, C] in [0, levels), "label": i32[B]}"""
    size: int
    levels: int
    image_shape: tuple[int, int, int]
    classes: int


def of_source(source: Source) -> Examples:
    shape = source.spec.image_shape
    return Examples(source.read, source.size, source.stored_levels, shape, len(source.classes))


def of_set(images: ImageSet, classes: int) -> Examples:
    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": images.images[index], "label": images.labels[index]}

    return Examples(read, len(images.images), images.levels, images.images.shape[1:], classes)


def augmented(recipe: Recipe, image: jax.Array, keys: jax.Array) -> jax.Array:
    """Images turned, stretched and moved, with repeated edges; grey ones binarised with probability `binarize`. Each
    has its own key."""
    # [B, H, W, C] in [-1, 1], key[B] -> [B, H, W, C] in [-1, 1]
    sides = np.array(image.shape[1:3], np.float32)
    centre = (sides[:, None, None] - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape[1:3]), indexing="ij")).astype(np.float32) - centre

    def augment_one(image: jax.Array, key: jax.Array) -> jax.Array:
        how, whether, ink = jax.random.split(key, 3)
        turn, *stretch_and_move = jax.random.uniform(how, (5,), minval=-1, maxval=1)
        stretch, move = jnp.split(jnp.stack(stretch_and_move), 2)
        cos, sin = jnp.cos(recipe.turn * turn), jnp.sin(recipe.turn * turn)
        matrix = jnp.array([[cos, -sin], [sin, cos]]) * jnp.exp(recipe.stretch * stretch)[:, None]
        move = recipe.shift * sides.min() * move
        at = jnp.einsum("ij,jhw->ihw", matrix, grid) + (centre + move[:, None, None])
        image = jax.vmap(lambda x: map_coordinates(x, at, order=1, mode="nearest"), 2, 2)(image)
        if image.shape[-1] > 1:
            return image
        binary = 2.0 * jax.random.bernoulli(ink, (image + 1) / 2) - 1
        return jnp.where(jax.random.bernoulli(whether, recipe.binarize), binary, image)

    return jax.vmap(augment_one)(image, keys)


class _Program(NamedTuple):
    init: Callable[[jax.Array], core.TrainState]
    step: Callable[[core.TrainState, core.Batch], tuple[core.TrainState, jax.Array]]


@functools.lru_cache(maxsize=8)  # compiled once for all that is trained alike
def _program(recipe: Recipe, classes: int, levels: int) -> _Program:
    network = ImageClassifier(recipe.width, recipe.features, classes)
    options = optimizers.Options(
        "adamw", recipe.learning_rate, {"weight_decay": recipe.weight_decay}, "cosine", recipe.steps // 10
    )
    optimizer = optimizers.make(options, recipe.steps, recipe.batch_size)

    def init(image: jax.Array) -> core.TrainState:
        variables = network.init(core.stream(recipe.seed, "init"), image, False)
        statistics = {"batch_stats": variables["batch_stats"]}
        return core.init_state({GROUP: variables["params"]}, {GROUP: optimizer}, statistics)

    def step(state: core.TrainState, raw: core.Batch) -> tuple[core.TrainState, jax.Array]:
        key = core.stream(recipe.seed, "augment", state.step)
        batch = transforms.prepare(raw, key, data.Options(), levels, True)
        batch["image"] = augmented(recipe, batch["image"], core.per_example_keys(key, batch["index"]))

        def loss(params: core.Tree, part: core.Batch, key: jax.Array):
            variables = {"params": params, **state.model_state}
            (_, logits), changed = network.apply(variables, part["image"], True, mutable=["batch_stats"])
            value = optax.softmax_cross_entropy_with_integer_labels(logits, part["label"]).mean()
            return value, ({"loss": value}, changed)

        state, metrics = core.train_group(optimizer, state, GROUP, loss, batch, key, core.as_observed)
        return state.replace(step=state.step + 1), metrics["loss"]

    # One step per call: inside a loop, XLA's CPU backend runs convolutions some twenty times slower.
    return _Program(jax.jit(init), jax.jit(step, donate_argnums=0))


def fit(examples: Examples, recipe: Recipe, description: str) -> dict[str, np.ndarray]:
    """Train on the examples in shuffled epochs; the weights by name, kernels in float16, vectors in float32.

    Files hold half precision: a classifier is thus the same after training and after loading.
    Raises `DataError` where there is nothing to train on.
    """
    if examples.size == 0 or examples.classes < 2:
        raise DataError(f"a classifier cannot be trained on {examples.size} images of {examples.classes} classes.")
    program = _program(recipe, examples.classes, examples.levels)
    state = program.init(jnp.zeros((1, *examples.image_shape)))
    index = np.arange(recipe.batch_size)
    with progress.bar(description, total=recipe.steps, unit="step") as bar:
        for step in range(recipe.steps):
            rows = order.examples(recipe.seed, step * recipe.batch_size + index, examples.size)
            state, loss = program.step(state, {**examples.read(rows), "index": index.astype(np.int32)})
            bar.update()
            if step % 50 == 49:
                bar.set_postfix_str(f"loss {float(loss):.4f}")
    variables = jax.device_get({"params": state.params[GROUP], **state.model_state})
    return {name: x.astype(np.float16) if x.ndim > 1 else x for name, x in flatten_dict(variables, sep="/").items()}
