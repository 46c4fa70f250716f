"""Images to be compared, all as files would hold them: integers on the data's own grid of levels.

What the data's definition draws at random is drawn of generated images too. Where the data is binarised, grey levels
that a program returns, such as a VAE's expected images, are probabilities, and one image is drawn from them as one is
from every held-out image; what is binary already stays as it is.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from genimg_jax import core, data, progress
from genimg_jax.data import Source, loading, opening, transforms
from genimg_jax.engine import config as configs
from genimg_jax.engine import images, run
from genimg_jax.engine.program import EVALUATION_SEED
from genimg_jax.errors import ConfigError, DataError

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
    return f"{options.name or options.source} {source.fingerprint}"


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


def named(text: str, options: data.Options, flag: str) -> Named:
    """`tfds:NAME:SPLIT`, `digits:SPLIT`, `shapes:SPLIT`, or a folder, npz file or run directory, each with `:SPLIT` or
    without it: then `test` (a run's held-out split) is meant, or the one split that there is.

    `options` say how images are read; a run directory's own come before them. Raises `ConfigError` naming `flag`.
    """
    kind, _, rest = text.partition(":")
    if kind == "tfds":
        name, _, split = rest.partition(":")
        return Named(dataclasses.replace(options, source=kind, name=name), split or "test")
    if kind in ("digits", "shapes"):
        return Named(dataclasses.replace(options, source=kind), rest or "test")
    path, split = _place(text)
    if path is None:
        raise ConfigError(
            f"{flag} {text}: there is no such folder, npz file or run directory, and it is none of tfds:NAME:SPLIT, "
            "digits:SPLIT and shapes:SPLIT."
        )
    if own := of_run(text):
        return Named(own, split or own.evaluate_split, own.train_split)
    options = dataclasses.replace(options, source="folder" if path.is_dir() else "npz", name="", path=str(path))
    splits = _said_of(flag, lambda: list(opening.KINDS[options.source](options).splits))
    if not split and len(splits) > 1 and "test" not in splits:
        raise ConfigError(f"{flag} {text} has the splits {', '.join(splits)}; name one as {text}:SPLIT.")
    return Named(options, split or (splits[0] if len(splits) == 1 else "test"))


def of_run(text: str) -> data.Options | None:
    """How a run's images are read, where `text` names a run directory."""
    path, _ = _place(text)
    if path is None or not (path / "config.json").is_file():
        return None
    return configs.resolve(configs.complete(run.read_json(path, "config.json"))).data


def _place(text: str) -> tuple[pathlib.Path | None, str]:
    """The path that is there, if any, and the split after it."""
    colons = [i for i, character in enumerate(text) if character == ":"]
    for end in [len(text), *reversed(colons)]:
        path = pathlib.Path(text[:end]).expanduser()
        if path.exists():
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


def labels_of(images: ImageSet, like: ImageSet) -> np.ndarray | None:  # -> i32[N]
    """The images' labels in the numbering of `like`, by the classes' names; None where one has a class it lacks."""
    if images.labels is None or not set(images.classes) <= set(like.classes):
        return None
    return np.array([like.classes.index(name) for name in images.classes], np.int32)[images.labels]
