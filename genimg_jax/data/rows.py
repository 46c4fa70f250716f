"""Rows of one split in uniform arrays: images and their fields, decoded and of one shape each."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genimg_jax import progress
from genimg_jax.data import decode, text
from genimg_jax.data.types import Options, Stored
from genimg_jax.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

STATIC = 0x57A71C  # separates these draws from the shuffles of order.py
CHUNK = 256  # examples decoded between two movements of the progress bar


class Recipe(NamedTuple):
    """All it takes to make rows of one split; it can be sent to another process."""

    stored: Stored
    positions: np.ndarray  # i64[N]: the positions of the chosen examples in `stored`
    options: Options
    substitutes: dict[int, int]  # unreadable example index -> the next index; grows while reading
    vocabulary: "Tokenizer | None" = None  # of the field `tokens`
    first: Mapping[str, np.ndarray] = {}  # the first row, after it is read: all others have its shapes


def load(recipe: Recipe) -> dict[str, np.ndarray]:
    """All rows, in arrays allocated once."""  # -> {name: [N, ...]}
    count = len(recipe.positions)
    whole = {}
    with progress.bar("decoding", total=count, unit="image", leave=False) as shown:
        for start in range(0, count, CHUNK):
            indices = np.arange(start, min(start + CHUNK, count))
            for name, array in read(recipe, indices).items():
                whole.setdefault(name, np.empty((count, *array.shape[1:]), array.dtype))[indices] = array
            shown.update(len(indices))
    return whole


def read(recipe: Recipe, indices: np.ndarray) -> dict[str, np.ndarray]:  # i64[B] -> {name: [B, ...]}
    """The rows of some examples, as `Source.read` gives them."""
    options = recipe.options
    if options.bad_images == "skip":
        rows = [example(recipe, index) for index in indices.tolist()]
        lists = {name: [row[name] for row in rows] for name in rows[0]}
    else:
        lists = _uniform(recipe, indices)
    whole = {name: np.stack(values) for name, values in lists.items()}
    positions = recipe.positions[indices]
    return {**whole, "image": _binarized(whole["image"], positions, options.binarize, recipe.stored.levels)}


def example(recipe: Recipe, index: int) -> dict[str, np.ndarray]:
    """One row, or the next readable row if `bad_images` is 'skip'."""
    count, substitutes = len(recipe.positions), recipe.substitutes
    while True:
        index = chosen(recipe, index)
        try:
            return {name: values[0] for name, values in _uniform(recipe, np.array([index])).items()}
        except DataError as error:
            if recipe.options.bad_images == "error":
                raise
            substitutes[index] = (index + 1) % count
            if len(substitutes) > max(1, count // 100) or len(substitutes) == count:
                raise DataError(f"{len(substitutes)} of {count} images cannot be read, over 1 %: {error}") from error


def chosen(recipe: Recipe, index: int) -> int:
    while index in recipe.substitutes:
        index = recipe.substitutes[index]
    return index


def size(recipe: Recipe) -> int:
    """Bytes that the images and fields of all rows take in memory."""
    return len(recipe.positions) * sum(value.nbytes for name, value in recipe.first.items() if name != "label")


def _uniform(recipe: Recipe, indices: np.ndarray) -> dict[str, list[np.ndarray]]:  # i64[B] -> {name: B arrays}
    stored, positions = recipe.stored, recipe.positions[indices]
    fields = stored.read(positions)
    if recipe.vocabulary is not None:
        captions, names = stored.captions(positions), stored.names(positions)
        fields["tokens"] = text.rows(recipe.vocabulary, captions, names, recipe.options.captions.length)
    return {
        name: [_conform(recipe, name, value, i) for value, i in zip(values, indices.tolist(), strict=True)]
        for name, values in fields.items()
    }


def _conform(recipe: Recipe, name: str, value: np.ndarray, index: int) -> np.ndarray:
    """Resizes images and maps by the options. Raises DataError if the shape differs from that of the first example."""
    options = recipe.options
    if value.ndim == 3:
        value = decode.conform(value, options.size, options.channels if name == "image" else 0)
    elif value.ndim == 2:
        value = decode.conform_map(value, options.size)
    if recipe.first and value.shape != recipe.first[name].shape:
        where = recipe.stored.names(recipe.positions[[index]])[0]
        actual, first = (" x ".join(map(str, x.shape)) for x in (value, recipe.first[name]))
        raise DataError(f"'{where}' {'is' if name == 'image' else f'has a {name} of'} {actual}, others {first}: set "
                        "data.size and data.channels to make them alike.")  # fmt: skip
    return value


def _binarized(images: np.ndarray, positions: np.ndarray, how: str, levels: int) -> np.ndarray:
    """Values 0 and 1 for `threshold` and `static`; `dynamic` is left to the compiled step.

    A static image is sampled once: pixel p is 1 with probability p / (levels - 1). Its random numbers depend on its
    position in the source alone, so that every slice, batch and run has the same image.
    """  # u8[B, H, W, C] -> u8[B, H, W, C]
    if how == "threshold":
        return (2 * images.astype(np.int32) >= levels - 1).astype(np.uint8)
    if how == "static":
        uniform = np.stack([np.random.default_rng([STATIC, position]).random(images.shape[1:], np.float32)
                            for position in positions.tolist()])  # fmt: skip
        return (uniform * (levels - 1) < images).astype(np.uint8)
    return images
