"""Masks of known pixels, each example's from its own key."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from genimg_jax.errors import ConfigError
from genimg_jax.observations.types import Options

HALVES = ("left", "right", "top", "bottom")


def draw(options: Options, keys: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """True where the pixels of an image of `shape` (height, width) are known, by `options.mask`, `share` and `half`.

    The share of hidden pixels is exact for 'random', up to a pixel, and for boxes up to rounded sides. Raises
    `ConfigError` if it hides all pixels.
    """  # key[B] -> bool[B, H, W]
    kind = "outpaint" if "outpaint" in (options.kind, *options.steps) else options.mask
    if kind == "file":
        return jnp.broadcast_to(load(options.mask_file, shape), (len(keys), *shape))
    if kind == "half":
        return jax.vmap(lambda key: _half(key, options.half, shape))(keys)
    if kind == "random":
        count, pixels = round(options.share * math.prod(shape)), math.prod(shape)
        _check(count < pixels, options)
        return jax.vmap(lambda key: (jax.random.permutation(key, pixels) >= count).reshape(shape))(keys)
    side = math.sqrt(1 - options.share if kind == "outpaint" else options.share)
    size = tuple(round(length * side) for length in shape)
    _check(min(size) > 0 if kind == "outpaint" else size != shape, options)
    free = jnp.array([length - taken for length, taken in zip(shape, size, strict=True)])
    if kind == "box":
        corners = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, free + 1))(keys)
    else:
        corners = jnp.broadcast_to(free // 2, (len(keys), 2))
    box = jax.vmap(lambda corner: _box(corner, size, shape))(corners)
    return box if kind == "outpaint" else ~box


def _check(some_known: bool, options: Options) -> None:
    if not some_known:
        raise ConfigError(f"observation.share is {options.share:g}, which hides all pixels of an image; lower it.")


def _box(corner: jax.Array, size: tuple[int, int], shape: tuple[int, int]) -> jax.Array:  # i32[2] -> bool[H, W]
    row, column = jnp.arange(shape[0])[:, None] - corner[0], jnp.arange(shape[1])[None] - corner[1]
    return (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])


def _half(key: jax.Array, half: str, shape: tuple[int, int]) -> jax.Array:  # key[] -> bool[H, W]
    row, column = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])[None]
    height, width = (size // 2 for size in shape)
    known = (column >= width, column < shape[1] - width, row >= height, row < shape[0] - height)
    options = jnp.stack([jnp.broadcast_to(each, shape) for each in known])
    return options[jax.random.randint(key, (), 0, 4) if half == "any" else HALVES.index(half)]


def load(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The known pixels of a mask file: True in a file .npy, at least half white in an image.

    Raises `ConfigError` if it cannot be read or is of another size than `shape` (height, width).
    """  # -> bool[H, W]
    if not path:
        raise ConfigError("observation.mask is 'file'; name the file with observation.mask_file.")
    try:
        known = np.load(path, allow_pickle=False) if Path(path).suffix == ".npy" else _image(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"observation.mask_file is {path}, which cannot be read: {error}") from error
    if known.shape != shape:
        actual, wanted = ("x".join(map(str, size)) for size in (known.shape, shape))
        raise ConfigError(f"observation.mask_file is {path}, of {actual} pixels, and the images are {wanted}.")
    return known.astype(bool)


def _image(path: str) -> np.ndarray:  # -> bool[H, W]
    with Image.open(path) as image:
        return np.asarray(image.convert("L")) >= 128
