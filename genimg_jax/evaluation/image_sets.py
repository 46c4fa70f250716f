"""Images to be compared, all as files would hold them: integers on the data's own grid of levels.

What the data's definition draws at random is drawn of generated images too. Where the data is binarised, grey levels
that a program returns, such as a VAE's expected images, are probabilities, and one image is drawn from them as one is
from every held-out image; what is binary already stays as it is.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from genimg_jax import core, data, progress
from genimg_jax.data import Source, identity, loading, opening, transforms
from genimg_jax.engine import config as configs
from genimg_jax.engine import images, run
from genimg_jax.engine.program import EVALUATION_SEED
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.options import absolute

CHUNK = 1024  # images read or converted at a time
# The streams that binarisation draws from. Held-out images are those that a likelihood is measured on.
HELD_OUT, TRAIN, GENERATED = "evaluate-data", "evaluate-train", "evaluate-generated"


class ImageSet(NamedTuple):
    images: np.ndarray
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
    masks: np.ndarray | None = None
    """u8[N, H, W]: the pixels that objects were asked to fill, as in `shapes.annotations`"""


def batches(images: ImageSet, size: int = CHUNK) -> Iterator[np.ndarray]:  # -> f32[n, H, W, C] in [-1, 1] ...
    for start in range(0, len(images.images), size):
        part = images.images[start : start + size].astype(np.float32)
        yield np.minimum(2 * part / (images.levels - 1) - 1, 1)


def of_source(source: Source, options: data.Options, split: str, stream: str = HELD_OUT) -> ImageSet:
    """All images of a source, in its order, drawn where `options.binarize` draws them anew each time."""
    key = core.stream(EVALUATION_SEED, stream)
    images, labels = [], []
    with progress.bar("reading", total=source.size, unit="image", leave=False) as bar:
        for batch in loading.evaluation_batches(source, min(CHUNK, source.size)):
            mask = batch.pop("mask")
            image = batch["image"]
            if options.binarize == "dynamic":
                image = np.asarray(_drawn(options, source.stored_levels, image, batch["index"], key))
            images.append(image[mask])
            labels.append(batch["label"][mask] if source.classes else ())
            bar.update(int(mask.sum()))
    return ImageSet(
        np.concatenate(images),
        source.spec.levels,
        np.concatenate(labels) if source.classes else None,
        source.classes,
        dataset(options, source),
        split,
    )


def dataset(options: data.Options, source: Source) -> str:
    """What a protocol calls it: a name for people, and the hash that tells it from others."""
    return f"{options.name or options.source} {identity.content(source)}"


@functools.partial(jax.jit, static_argnums=(0, 1))
def _drawn(options: data.Options, levels: int, image: jax.Array, index: jax.Array, key: jax.Array) -> jax.Array:
    prepared = transforms.prepare({"image": image, "index": index}, key, options, levels, False)
    return (prepared["image"] > 0).astype(np.uint8)  # u8[B, H, W, C] -> u8[B, H, W, C]


def of_generated(
    made: np.ndarray, like: ImageSet, options: data.Options, name: str, seed: int, labels: np.ndarray | None = None
) -> ImageSet:  # f32[N, H, W, C] in [-1, 1]
    """Generated images on the grid of those that they are compared with, `like`: as a file of 8 bits would hold them,
    then at the nearest of the data's levels, or drawn as it is.

    Raises `ConfigError` where they differ in size or channels.
    """
    if made.shape[1:] != like.images.shape[1:]:
        ours, theirs = (" x ".join(map(str, shape)) for shape in (made.shape[1:], like.images.shape[1:]))
        raise ConfigError(
            f"the generated images are {ours} and the reference's {theirs}; set --config.data.size and "
            "--config.data.channels to make images that are read alike."
        )
    broken = int(np.sum(~np.isfinite(made).all(axis=(1, 2, 3))))
    level = []
    for start in range(0, len(made), CHUNK):
        grey = images.to_uint8(made[start : start + CHUNK])
        if options.binarize == "none":
            level.append(np.round(grey * np.float32((like.levels - 1) / 255)).astype(np.uint8))
        elif options.binarize == "threshold":
            level.append((grey > 127).astype(np.uint8))
        else:
            level.append(_binarized(grey, start, options, seed))
    return ImageSet(np.concatenate(level), like.levels, labels, like.classes, name, not_finite=broken)


def _binarized(grey: np.ndarray, start: int, options: data.Options, seed: int) -> np.ndarray:
    """Image `start` and those after it: each by (seed, its number). One that the data draws once is drawn alike."""
    # u8[n, H, W, C] of 256 levels -> u8[n, H, W, C]
    index = (start + np.arange(CHUNK)).astype(np.int32)
    full = np.pad(grey, [(0, CHUNK - len(grey))] + [(0, 0)] * 3)  # one size, so that it is compiled once
    dynamic = dataclasses.replace(options, binarize="dynamic")
    return np.asarray(_drawn(dynamic, 256, full, index, core.stream(seed, GENERATED)))[: len(grey)]


# ------------------------------------------------------------------------------------- what a command line names


class Named(NamedTuple):
    """A source as a command line names it, resolved to options."""

    options: data.Options
    split: str
    train_split: str | None = None
    """That of a run, where one was named."""


def named(text: str, options: data.Options, flag: str, split: str = "test") -> Named:
    """`tfds:NAME:SPLIT`, `digits:SPLIT`, `shapes:SPLIT`, or a folder, npz file or run directory, each with `:SPLIT` or
    without it: then `split` is meant, `test` or `train`, which of a run is the split that it held out or trained on.
    Where there is no `test`, that is the one split there is; but nothing stands in for `train`.

    `options` say how images are read; a run directory's own come before them. Raises `ConfigError` naming `flag`.
    """
    kind, _, rest = text.partition(":")
    if kind == "tfds":
        name, _, said = rest.partition(":")
        path = "" if options.source in ("folder", "npz") else options.path
        return Named(dataclasses.replace(options, source=kind, name=name, path=path), said or split)
    if kind in ("digits", "shapes"):
        return Named(dataclasses.replace(options, source=kind, name=""), rest or split)
    path, said = place(text)
    if path is None:
        raise ConfigError(
            f"{flag} {text}: there is no such folder, npz file or run directory, and it is none of tfds:NAME:SPLIT, "
            "digits:SPLIT and shapes:SPLIT."
        )
    if own := of_run(text):
        return Named(own, said or {"test": data.Part.EVALUATE, "train": data.Part.TRAIN}[split], data.Part.TRAIN)
    options = dataclasses.replace(options, source="folder" if path.is_dir() else "npz", name="", path=str(path))
    splits = _said_of(flag, lambda: list(opening.KINDS[options.source](options).splits))
    if not said and split not in splits:
        if split == "train" or len(splits) > 1:
            raise ConfigError(f"{flag} {text} has no split {split}; name one as {text}:SPLIT, of {', '.join(splits)}.")
        said = splits[0]
    return Named(options, said or split)


def of_run(text: str) -> data.Options | None:
    """How a run's images are read, where `text` names a run directory."""
    path, _ = place(text)
    if path is None or not (path / "config.json").is_file():
        return None
    return configs.resolve(configs.complete(run.read_json(path, "config.json"))).data


def place(text: str) -> tuple[pathlib.Path | None, str]:
    """The path that is there, if any, and the split after it."""
    colons = [i for i, character in enumerate(text) if character == ":"]
    for end in [len(text), *reversed(colons)]:
        path = pathlib.Path(absolute(text[:end]))
        if os.path.exists(path):  # False, not an error, where a name is too long or a folder closed
            return path, text[end + 1 :]
    return None, ""


def open_named(found: Named, flag: str) -> Source:
    """Raises `ConfigError` naming the flag where its images cannot be read."""
    return _said_of(flag, lambda: data.open_source(found.options, found.split))


def _said_of(flag: str, read):
    try:
        return read()
    except DataError as error:
        raise ConfigError(f"{flag}: {error}") from error


# ------------------------------------------------------------------------------------------- classes of two sources


def renumbered(images: ImageSet, like: ImageSet) -> ImageSet:
    """The images with their labels in the numbering of `like`; without labels, and with the reason for it, where they
    have a class that `like` lacks."""
    if images.labels is None:
        return images
    numbers = _numbers(images.classes, like.classes)
    if numbers is None:
        unknown = [name for name in images.classes if name not in like.classes]
        reason = f"the images are of the classes {_some(unknown)}, which the reference lacks"
        return images._replace(labels=None, classes=like.classes, unlabelled=reason)
    return images._replace(labels=np.array(numbers, np.int32)[images.labels], classes=like.classes)


def _numbers(classes: tuple[str, ...], like: tuple[str, ...]) -> list[int] | None:
    """Where each of `classes` stands in `like`, or None where one does not.

    An npz archive, and many a folder, calls classes by numbers; beside names that are none, those are places."""
    if set(classes) <= set(like):
        return [like.index(name) for name in classes]
    if any(name.isdecimal() for name in like) or not all(name.isdecimal() for name in classes):
        return None
    numbers = [int(name) for name in classes]
    return numbers if max(numbers) < len(like) else None


def check_alike(train: Source, reference: Source) -> None:
    """Raises `ConfigError` where training and reference images differ in size, channels, levels or the numbering of
    classes."""
    ours, theirs = train.spec.image_shape, reference.spec.image_shape
    if ours != theirs:
        ours, theirs = (" x ".join(map(str, shape)) for shape in (ours, theirs))
        raise ConfigError(
            f"the training images are {ours} and the reference's {theirs}; set --config.data.size and "
            "--config.data.channels to make images that are read alike."
        )
    if train.spec.levels != reference.spec.levels:
        raise ConfigError(
            f"the training images have {train.spec.levels} levels and the reference's {reference.spec.levels}: give "
            "sources of the same data."
        )
    if not train.classes or not reference.classes:
        return
    if _numbers(train.classes, reference.classes) == list(range(len(reference.classes))):
        return
    more = [name for name in train.classes if name not in reference.classes]
    fewer = [name for name in reference.classes if name not in train.classes]
    found = [f"the training images alone have {_some(more)}"] * bool(more)
    found += [f"the reference alone has {_some(fewer)}"] * bool(fewer)
    raise ConfigError(
        f"the training images and the reference have other classes: {' and '.join(found) or 'their order differs'}; "
        "give sources of the same classes."
    )


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
