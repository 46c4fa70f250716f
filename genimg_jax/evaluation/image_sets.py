"""Sets of images to compare, all as files would hold them: integers in the data's own levels.

Generated images are binarised if the data is. Grey levels that a program returns, such as a VAE's expected images, are
then probabilities, and one binary image is sampled from them, as from every held-out image. Binary images stay as they
are.
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
    """i32[N]: the class of each image, or the one that was requested; None where there are none."""
    classes: tuple[str, ...]
    name: str
    """The dataset and the hash of its pixels, as in a protocol; for generated images, their place."""
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


def collect(parts: Iterator[np.ndarray]) -> np.ndarray | FileRows:
    """u8[N, H, W, C] of parts [n, H, W, C]: in memory if they fit in `IN_MEMORY`, otherwise in a temporary file. Raises
    `ResourceError` where that cannot be written."""
    collected, size = [], 0
    for part in parts:
        collected.append(np.ascontiguousarray(part))
        size += part.nbytes
        if size > IN_MEMORY:
            return spilled(itertools.chain(collected, map(np.ascontiguousarray, parts)), part.shape[1:])
    return np.concatenate(collected)


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
    """All images of a source, in its order; binarised at random here if `options.binarize` is "dynamic"."""
    labels: list[np.ndarray] = []
    return ImageSet(
        collect(_read(source, options, stream, labels)),
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
                image = np.asarray(_binarized(options, source.stored_levels, image, batch["index"], key))
            if source.classes:
                labels.append(batch["label"][valid])
            yield image[valid]
            bar.update(int(valid.sum()))


def dataset(options: data.Options, source: Source) -> str:
    """The name of a dataset in a protocol: its title, and the hash of its content."""
    return f"{options.name or options.source} {identity.content(source)}"


@functools.partial(jax.jit, static_argnums=(0, 1))
def _binarized(options: data.Options, levels: int, image: jax.Array, index: jax.Array, key: jax.Array) -> jax.Array:
    prepared = transforms.prepare({"image": image, "index": index}, key, options, levels, False)
    return (prepared["image"] > 0).astype(np.uint8)  # u8[B, H, W, C] -> u8[B, H, W, C]


def of_generated(
    samples: np.ndarray | Iterable[np.ndarray],
    like: ImageSet,
    options: data.Options,
    name: str,
    seed: int,
) -> ImageSet:  # f32[n, H, W, C] in [-1, 1] ...
    """Generated images, whole or in parts of any size, in the levels of `like`, the set that they are compared with.
    They are rounded to the 8 bits of a file, then rounded to the data's levels, or binarised as the data is.

    Raises `ConfigError` where they differ in size or channels.
    """
    shape, broken, start = like.images.shape[1:], 0, 0
    size = chunk(shape)

    def levels() -> Iterator[np.ndarray]:  # -> u8[n, H, W, C] ...
        nonlocal broken, start
        for part in [samples] if isinstance(samples, np.ndarray) else samples:
            check_shape("generated", part.shape[1:], shape)
            for piece in np.split(part, range(size, len(part), size)):
                broken += int(np.sum(~np.isfinite(piece).all(axis=(1, 2, 3))))
                yield _level(images.to_uint8(piece), like.levels, start, options, seed)
                start += len(piece)

    level = collect(levels())
    return ImageSet(level, like.levels, None, like.classes, name, not_finite=broken)


def of_other_source(
    source: Source, options: data.Options, like: ImageSet, like_options: data.Options, name: str, seed: int
) -> ImageSet:
    """The images of a source as generated ones: converted by `of_generated`, and labelled by `labelled`.
    `like_options` are those that `like` was read with."""
    labels: list[np.ndarray] = []
    parts = (_scaled(part, source.spec.levels) for part in _read(source, options, GENERATED, labels))
    generated = of_generated(parts, like, like_options, name, seed)
    return labelled(generated, np.concatenate(labels), source.classes, like) if source.classes else generated


def _level(grey: np.ndarray, levels: int, start: int, options: data.Options, seed: int) -> np.ndarray:
    """Images from number `start` on, no more than `chunk`. Random binarisation depends on the seed and an image's
    number."""  # u8[n, H, W, C] of 256 levels -> u8[n, H, W, C] of `levels`
    if options.binarize == "none":
        return np.round(grey * np.float32((levels - 1) / 255)).astype(np.uint8)
    if options.binarize == "threshold":
        return (grey > 127).astype(np.uint8)
    size = chunk(grey.shape[1:])
    index = (start + np.arange(size)).astype(np.int32)
    full = np.pad(grey, [(0, size - len(grey))] + [(0, 0)] * 3)  # one size, so that it is compiled once
    dynamic = dataclasses.replace(options, binarize="dynamic")
    return np.asarray(_binarized(dynamic, 256, full, index, core.stream(seed, GENERATED)))[: len(grey)]
