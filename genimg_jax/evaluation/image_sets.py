"""Images to be compared, all as files would hold them: integers on the data's own grid of levels.

What the data's definition draws at random is drawn of generated images too. Where the data is binarised, grey levels
that a program returns, such as a VAE's expected images, are probabilities, and one image is drawn from them as one is
from every held-out image; what is binary already stays as it is.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from genimg_jax import core, data, progress
from genimg_jax.data import Source, identity, loading, transforms
from genimg_jax.data.file_rows import FileRows, spilled
from genimg_jax.engine import images
from genimg_jax.engine.tasks import EVALUATION_SEED
from genimg_jax.evaluation.labels import check_shape, labelled

MOST_IMAGES, MOST_VALUES = 1024, 2**24  # read or converted at a time; of large images fewer, 64 MiB as floats
IN_MEMORY = 2**28  # bytes of a set that is held in memory; a larger one is kept in a file
IN_MEMORY_MIB = 512  # of a source that is read for an evaluation, which has several
# The streams that binarisation draws from. Held-out images are those that a likelihood is measured on.
HELD_OUT, TRAIN, GENERATED = "evaluate-data", "evaluate-train", "evaluate-generated"


class ImageSet(NamedTuple):
    images: np.ndarray | FileRows
    """u8[N, H, W, C] in [0, levels)"""
    levels: int
    labels: np.ndarray | None
    """i32[N]: the class of each image, or the one it was asked to be of; None where there are none."""
    classes: tuple[str, ...]
    name: str
    """The dataset and the hash of its pixels, which is what a protocol calls it; of generated images, their place."""
    split: str | None = None
    not_finite: int = 0
    """Images that held values which are no numbers, made black."""
    unlabelled: str = "the images were not asked to be of any class"
    """Why there are no labels, where there are none."""
    captions: Sequence[str] | None = None
    """What each image was asked to show"""
    asked: Mapping[str, str] = {}
    """What generated images were asked to be, for the protocol: classes in which shares, or whose conditions."""
    masks: np.ndarray | None = None
    """u8[N, H, W]: the pixels that objects were asked to fill, as in `shapes.annotations`"""


def chunk(image_shape: Sequence[int]) -> int:
    """How many images of a shape [H, W, C] are read or converted at a time."""
    return max(1, min(MOST_IMAGES, MOST_VALUES // math.prod(image_shape)))


def batches(images: ImageSet) -> Iterator[np.ndarray]:  # -> f32[n, H, W, C] in [-1, 1] ...
    return (_scaled(part, images.levels) for part in pieces(images))


def pieces(images: ImageSet) -> Iterator[np.ndarray]:  # -> u8[n, H, W, C] ...
    size = chunk(images.images.shape[1:])
    return (images.images[start : start + size] for start in range(0, len(images.images), size))


def _scaled(level: np.ndarray, levels: int) -> np.ndarray:  # u8[...] in [0, levels) -> f32[...] in [-1, 1]
    return np.minimum(2 * level.astype(np.float32) / (levels - 1) - 1, 1)


def kept(parts: Iterator[np.ndarray]) -> np.ndarray | FileRows:
    """u8[N, H, W, C] of parts [n, H, W, C]: in memory if they fit in `IN_MEMORY`, otherwise in a temporary file. Raises
    `ResourceError` where that cannot be written."""
    held, size = [], 0
    for part in parts:
        held.append(np.ascontiguousarray(part))
        size += part.nbytes
        if size > IN_MEMORY:
            return spilled(itertools.chain(held, map(np.ascontiguousarray, parts)), part.shape[1:])
    return np.concatenate(held)


def fitting(images: ImageSet, seed: int) -> np.ndarray:  # -> u8[n, H, W, C]
    """All images, or of a set in a file as many random ones as fit in `IN_MEMORY`."""
    if isinstance(images.images, np.ndarray):
        return images.images
    count = min(len(images.images), max(1, IN_MEMORY // math.prod(images.images.shape[1:])))
    return images.images[np.sort(np.random.default_rng(seed).permutation(len(images.images))[:count])]


def bounded(options: data.Options) -> data.Options:
    """The options of a source of which an evaluation holds no more than `IN_MEMORY_MIB` in memory."""
    return dataclasses.replace(options, memory_mib=min(options.memory_mib, IN_MEMORY_MIB))


def of_source(source: Source, options: data.Options, split: str, stream: str = HELD_OUT) -> ImageSet:
    """All images of a source, in its order, drawn where `options.binarize` draws them anew each time."""
    labels: list[np.ndarray] = []
    return ImageSet(
        kept(_read(source, options, stream, labels)),
        source.spec.levels,
        np.concatenate(labels) if source.classes else None,
        source.classes,
        dataset(options, source),
        split,
    )


def _read(source: Source, options: data.Options, stream: str, labels: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The images in their order; their labels, where they have any, are added to `labels` on the way."""
    # -> u8[n, H, W, C] ...
    key = core.stream(EVALUATION_SEED, stream)
    with progress.bar("reading", total=source.size, unit="image", leave=False) as bar:
        for batch in loading.evaluation_batches(source, min(chunk(source.spec.image_shape), source.size)):
            valid = batch.pop("valid")
            image = batch["image"]
            if options.binarize == "dynamic":
                image = np.asarray(_drawn(options, source.stored_levels, image, batch["index"], key))
            if source.classes:
                labels.append(batch["label"][valid])
            yield image[valid]
            bar.update(int(valid.sum()))


def dataset(options: data.Options, source: Source) -> str:
    """What a protocol calls it: a name for people, and the hash that tells it from others."""
    return f"{options.name or options.source} {identity.content(source)}"


@functools.partial(jax.jit, static_argnums=(0, 1))
def _drawn(options: data.Options, levels: int, image: jax.Array, index: jax.Array, key: jax.Array) -> jax.Array:
    prepared = transforms.prepare({"image": image, "index": index}, key, options, levels, False)
    return (prepared["image"] > 0).astype(np.uint8)  # u8[B, H, W, C] -> u8[B, H, W, C]


def of_generated(
    made: np.ndarray | Iterable[np.ndarray],
    like: ImageSet,
    options: data.Options,
    name: str,
    seed: int,
) -> ImageSet:  # f32[n, H, W, C] in [-1, 1] ...
    """Generated images, whole or in parts of any size, on the grid of those that they are compared with, `like`: as a
    file of 8 bits would hold them, then at the nearest of the data's levels, or drawn as it is.

    Raises `ConfigError` where they differ in size or channels.
    """
    shape, broken, start = like.images.shape[1:], 0, 0
    size = chunk(shape)

    def levels() -> Iterator[np.ndarray]:  # -> u8[n, H, W, C] ...
        nonlocal broken, start
        for part in [made] if isinstance(made, np.ndarray) else made:
            check_shape("generated", part.shape[1:], shape)
            for piece in np.split(part, range(size, len(part), size)):
                broken += int(np.sum(~np.isfinite(piece).all(axis=(1, 2, 3))))
                yield _level(images.to_uint8(piece), like.levels, start, options, seed)
                start += len(piece)

    level = kept(levels())
    return ImageSet(level, like.levels, None, like.classes, name, not_finite=broken)


def of_other_source(
    source: Source, options: data.Options, like: ImageSet, drawn_by: data.Options, name: str, seed: int
) -> ImageSet:
    """The images of a source taken for generated ones, as `of_generated`, with its labels as by `labelled`.
    `drawn_by` says how those of `like` are drawn."""
    labels: list[np.ndarray] = []
    parts = (_scaled(part, source.spec.levels) for part in _read(source, options, GENERATED, labels))
    made = of_generated(parts, like, drawn_by, name, seed)
    return labelled(made, np.concatenate(labels), source.classes, like) if source.classes else made


def _level(grey: np.ndarray, levels: int, start: int, options: data.Options, seed: int) -> np.ndarray:
    """Images `start` and those after it, no more than `chunk`. One that the data draws once is drawn each by (seed, its
    number)."""  # u8[n, H, W, C] of 256 levels -> u8[n, H, W, C] of `levels`
    if options.binarize == "none":
        return np.round(grey * np.float32((levels - 1) / 255)).astype(np.uint8)
    if options.binarize == "threshold":
        return (grey > 127).astype(np.uint8)
    size = chunk(grey.shape[1:])
    index = (start + np.arange(size)).astype(np.int32)
    full = np.pad(grey, [(0, size - len(grey))] + [(0, 0)] * 3)  # one size, so that it is compiled once
    dynamic = dataclasses.replace(options, binarize="dynamic")
    return np.asarray(_drawn(dynamic, 256, full, index, core.stream(seed, GENERATED)))[: len(grey)]
