"""From a source on disk to one split of it in uniform arrays: choose, decode, make alike, binarise, keep if it fits."""

import functools
import hashlib
import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from genimg_jax import progress
from genimg_jax.data import classes, decode
from genimg_jax.data.digits import open_digits
from genimg_jax.data.folder import open_folder
from genimg_jax.data.npz import open_npz
from genimg_jax.data.prepared import open_prepared
from genimg_jax.data.shapes import open_shapes
from genimg_jax.data.splits import Part, part, select
from genimg_jax.data.types import Options, Source, Stored
from genimg_jax.errors import DataError

KINDS: dict[str, Callable[[Options], Stored]] = {
    "digits": open_digits,
    "shapes": open_shapes,
    "tfds": open_prepared,
    "folder": open_folder,
    "npz": open_npz,
}
STATIC = 0x57A71C  # separates these draws from the shuffles of order.py
CHUNK = 256  # examples decoded between two movements of the progress bar
SHOWN = 5  # names in a message


class Recipe(NamedTuple):
    """All it takes to make rows of one split; it can be sent to another process."""

    stored: Stored
    positions: np.ndarray  # i64[N]: where the chosen examples stand in `stored`
    options: Options
    substitutes: dict[int, int]  # unreadable example index -> the next one, as they are found
    shape: tuple[int, ...] | None = None  # (H, W, C), once known


def open_source(options: Options, split: str | Part) -> Source:
    """Open a split such as `train[:90%]`: in memory if it fits `options.memory_mib`, otherwise to be streamed.

    A `Part` opens the split that the options name for it, once it is known to share no image with the other two.

    Raises DataError, in a sentence that names the file or split and what to do, where there is nothing to read, images
    differ in shape and `options.size` does not make them alike, or, in memory, any image cannot be read. In a streamed
    source that last error comes with the batch that holds the image.
    """
    from genimg_jax import core  # here, because it loads JAX, which naming the options does not need

    stored = KINDS[options.source](options)
    whole = select(options.train_split, stored.splits) if split == Part.TRAIN else None
    if isinstance(split, Part):
        positions, split = part(options, split, stored.splits, stored.labels)
    else:
        positions = select(split, stored.splits)
    split_size = len(positions if whole is None else whole)
    positions = _limited(positions, stored, options.limit)
    recipe = Recipe(stored, positions, options, {})
    shape = _example(recipe, 0)[0].shape
    recipe = recipe._replace(shape=shape)
    in_memory = len(positions) * math.prod(shape) <= options.memory_mib << 20
    # How images lie on disk, and all that they become on the way.
    become = repr((shape, options.binarize, stored.levels))
    listing = hashlib.sha256(f"{stored.listing} {become}".encode() + positions.tobytes()).hexdigest()[:16]
    labels = None if stored.labels is None else stored.labels[positions]
    if in_memory:
        rows = _load(recipe)
        read = functools.partial(_gather, rows)
        digest = hashlib.sha256(repr(shape).encode())
        for array in rows.values():
            digest.update(array)
        fingerprint, labels = digest.hexdigest()[:16], rows.get("label")
    else:
        read, fingerprint = functools.partial(_read_on, recipe), listing
    _report(recipe, 0)

    def described(describe: Callable | None) -> Callable | None:
        return describe and (lambda indices: describe(positions[[_chosen(recipe, i) for i in indices.tolist()]]))

    levels = stored.levels if options.binarize in ("none", "dynamic") else 2
    return Source(
        spec=core.Spec(shape, len(stored.classes), levels if options.binarize == "none" else 2),
        size=len(positions),
        split_size=split_size,
        fingerprint=fingerprint,
        listing=listing,
        read=read,
        stored_levels=levels,
        in_memory=in_memory,
        classes=stored.classes,
        class_counts=_counts(labels, len(stored.classes)),
        names=described(stored.names),
        captions=described(stored.captions),
        annotations=described(stored.annotations),
        skipped=tuple(_skipped(recipe, 0)),
        workers=options.workers,
        split=split,
    )


def _limited(positions: np.ndarray, stored: Stored, limit: int) -> np.ndarray:  # i64[N] -> i64[min(N, limit)]
    if not 0 < limit < len(positions):
        return positions
    unknown = np.zeros(len(positions), np.int32)
    return positions[classes.subset(limit, unknown if stored.labels is None else stored.labels[positions])]


def _counts(labels: np.ndarray | None, count: int) -> tuple[int, ...] | None:
    return None if labels is None or not count else tuple(np.bincount(labels[labels >= 0], minlength=count).tolist())


def _gather(rows: dict[str, np.ndarray], indices: np.ndarray) -> dict[str, np.ndarray]:  # i64[B] -> [B, ...]
    return {name: array.take(indices, axis=0) for name, array in rows.items()}


def _load(recipe: Recipe) -> dict[str, np.ndarray]:
    """All rows, in arrays allocated once."""  # -> u8[N, H, W, C], i32[N]
    count = len(recipe.positions)
    whole = {}
    with progress.bar("decoding", total=count, unit="image", leave=False) as shown:
        for start in range(0, count, CHUNK):
            indices = np.arange(start, min(start + CHUNK, count))
            for name, array in _rows(recipe, indices).items():
                whole.setdefault(name, np.empty((count, *array.shape[1:]), array.dtype))[indices] = array
            shown.update(len(indices))
    return whole


def _read_on(recipe: Recipe, indices: np.ndarray) -> dict[str, np.ndarray]:  # i64[B] -> u8[B, H, W, C], i32[B]
    """Rows of a streamed source; what is skipped on the way is reported once by each process that reads."""
    known = len(recipe.substitutes)
    rows = _rows(recipe, indices)
    _report(recipe, known)
    return rows


def _report(recipe: Recipe, known: int) -> None:
    """Says on stderr what was skipped beyond the first `known`."""
    if names := _skipped(recipe, known):
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"data.bad_images=skip: {len(names)} of {len(recipe.positions)} images cannot be used, and the next one "
              f"stands in for each: {', '.join(names[:SHOWN])}{more}", file=sys.stderr)  # fmt: skip


def _skipped(recipe: Recipe, known: int) -> list[str]:
    return recipe.stored.names(recipe.positions[list(recipe.substitutes)[known:]])


def _rows(recipe: Recipe, indices: np.ndarray) -> dict[str, np.ndarray]:  # i64[B] -> u8[B, H, W, C], i32[B]
    stored, options = recipe.stored, recipe.options
    if options.bad_images == "skip":
        images, labels = zip(*(_example(recipe, index) for index in indices.tolist()), strict=True)
    else:
        images, labels = stored.read(recipe.positions[indices])
        images = [_alike(recipe, image, index) for image, index in zip(images, indices.tolist(), strict=True)]
    images = _binarized(np.stack(images), recipe.positions[indices], options.binarize, stored.levels)
    return {"image": images, "label": np.asarray(labels, np.int32)} if stored.classes else {"image": images}


def _example(recipe: Recipe, index: int) -> tuple[np.ndarray, int]:
    """One example, or by option the next that can be read."""  # -> u8[H, W, C], i32[]
    count, substitutes = len(recipe.positions), recipe.substitutes
    while True:
        chosen = _chosen(recipe, index)
        try:
            images, labels = recipe.stored.read(recipe.positions[[chosen]])
            return _alike(recipe, images[0], chosen), labels[0]
        except DataError as error:
            if recipe.options.bad_images == "error":
                raise
            substitutes[chosen] = (chosen + 1) % count
            if len(substitutes) > max(1, count // 100) or len(substitutes) == count:
                raise DataError(f"{len(substitutes)} of {count} images cannot be read, over 1 %: {error}") from error


def _chosen(recipe: Recipe, index: int) -> int:
    while index in recipe.substitutes:
        index = recipe.substitutes[index]
    return index


def _alike(recipe: Recipe, image: np.ndarray, index: int) -> np.ndarray:  # u8[h, w, c] -> u8[H, W, C]
    image = decode.conform(image, recipe.options.size, recipe.options.channels)
    if recipe.shape is not None and image.shape != recipe.shape:
        name = recipe.stored.names(recipe.positions[[index]])[0]
        found, first = (" x ".join(map(str, shape)) for shape in (image.shape, recipe.shape))
        raise DataError(f"'{name}' is {found}, others {first}: set data.size and data.channels to make them alike.")
    return image


def _binarized(images: np.ndarray, positions: np.ndarray, how: str, levels: int) -> np.ndarray:
    """Values 0 and 1 for `threshold` and `static`; `dynamic` is left to the compiled step.

    A static image is drawn once: pixel p is 1 with probability p / (levels - 1), by a draw that its position in the
    source decides, so that every slice, batch and run sees the same image.
    """  # u8[B, H, W, C] -> u8[B, H, W, C]
    if how == "threshold":
        return (2 * images.astype(np.int32) >= levels - 1).astype(np.uint8)
    if how == "static":
        uniform = np.stack([np.random.default_rng([STATIC, position]).random(images.shape[1:], np.float32)
                            for position in positions.tolist()])  # fmt: skip
        return (uniform * (levels - 1) < images).astype(np.uint8)
    return images
