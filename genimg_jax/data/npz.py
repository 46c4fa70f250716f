"""A NumPy archive: `image` u8[N, H, W] or u8[N, H, W, 1 or 3], with `label`, `caption` [N] and `mask` u8[N, H, W] if
any; or `train_image` and so on.

A label is the number or the name of a class. The classes are those that images have: where labels are 1, 2 and 3, there
are three, called '1', '2' and '3'. Beside a list of names, `classes`, numbers are places in it. A mask says by numbers
from 0, the background, which object each pixel shows.

Headers are checked before anything is inflated, and nothing is ever unpickled. Many images are read where they lie in
the archive, or, if they are compressed, in a temporary file, so that they may be larger than memory.
"""

import functools
import math
import os
import zipfile
import zlib

import numpy as np

from genimg_jax.data import classes
from genimg_jax.data.file_rows import FileRows, spilled
from genimg_jax.data.types import Options, Stored
from genimg_jax.errors import DataError

MOST_INFLATION = 200  # deflate reaches 1,032 on constant bytes; images stay far below
HARMLESS_BYTES = 64 << 20
HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
UNREADABLE = (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)  # of encrypted ones too
SUFFIX = "image"
# What may lie beside the images: the types of its values, along which axes of the images, and how to say so.
BESIDE = {
    "label": ((np.integer, np.str_), 1, f"as many integers from 0 to {classes.MOST - 1:,} or names"),
    "caption": ((np.str_,), 1, "as many strings"),
    "mask": ((np.uint8,), 3, "as many uint8 [H, W] of their size"),
}
CLASSES = "classes"


def open_npz(options: Options) -> Stored:
    """Every `<split>_image` is a split; a lone `image` is the split `train`.

    Raises DataError naming the file where it is missing, no archive, holds objects or images that are not u8, inflates
    as only an archive made to exhaust memory does, or holds arrays that are larger than data.memory_mib and not images
    in C order.
    """
    path = os.path.expanduser(options.path)
    try:
        shapes = _checked_shapes(path, options)
        keys = sorted(filter(_is_image, shapes))
        if not keys:
            raise DataError(f"'{path}' holds {', '.join(sorted(shapes)) or 'nothing'}: save u8 images as `{SUFFIX}`.")
        label, caption, mask = (_beside(path, keys, name, shapes) for name in BESIDE)
        known, label = _numbered(path, label, CLASSES in shapes, sum(shapes[key][0] for key in keys))
        held = _large(path, keys)
    except UNREADABLE as error:
        raise DataError(f"'{path}' cannot be read as an npz archive: {error}.") from error
    counts = [shapes[key][0] for key in keys]
    starts = [sum(counts[:i]) for i in range(len(keys))]
    splits = {key: range(start, start + count) for key, start, count in zip(keys, starts, counts, strict=True)}
    return Stored(
        splits={key.removesuffix(SUFFIX).removesuffix("_") or "train": span for key, span in splits.items()},
        read=functools.partial(_read, path, held, splits, label),
        classes=known,
        labels=label,
        names=lambda positions: [f"{path}, image {position}" for position in positions],
        listing=f"npz {_sums(path)}",
        captions=None if caption is None else lambda positions: caption[positions].tolist(),
        annotations=None if mask is None else lambda positions: {"mask": mask[positions]},
    )


def _checked_shapes(path: str, options: Options) -> dict[str, tuple[int, ...]]:
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                version, _ = np.lib.format.read_magic(file)
                shape, fortran_order, dtype = HEADERS[min(version, 2)](file)
            key, declared = entry.filename.removesuffix(".npy"), math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise DataError(f"'{path}': {key} holds Python objects, which are never loaded: save plain arrays.")
            if declared > options.memory_mib << 20 and (fortran_order or not _is_image(key)):
                raise DataError(f"'{path}': {key} takes {declared >> 20:,} MiB, over data.memory_mib="
                                f"{options.memory_mib}: raise it, or save arrays in C order.")  # fmt: skip
            if entry.file_size > max(HARMLESS_BYTES, MOST_INFLATION * entry.compress_size):
                raise DataError(f"'{path}': {key} inflates {entry.file_size // entry.compress_size} times, as no image "
                                "data does: save it again with np.savez.")  # fmt: skip
            if declared > entry.file_size:
                raise DataError(f"'{path}': {key} is cut short: it declares {declared} bytes, of which "
                                f"{entry.file_size} are there.")  # fmt: skip
            if _is_image(key):
                if dtype != np.uint8 or len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
                    raise DataError(f"'{path}': {key} is {dtype}{list(shape)}: images are uint8 [N, H, W] or "
                                    "[N, H, W, 1 or 3].")  # fmt: skip
                if math.prod(shape[1:3]) > options.pixel_limit:
                    raise DataError(f"'{path}': images of {shape[1]} x {shape[2]} are over data.pixel_limit="
                                    f"{options.pixel_limit:,} pixels.")  # fmt: skip
            shapes[key] = shape
    return shapes


def _is_image(key: str) -> bool:
    return key == SUFFIX or key.endswith("_" + SUFFIX)


def _large(path: str, keys: list[str]) -> dict[str, FileRows]:
    """The large arrays of images in C order, once their checksum is found right."""
    rows = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as whole:
        for entry in archive.infolist():
            key = entry.filename.removesuffix(".npy")
            if key not in keys or entry.file_size <= HARMLESS_BYTES:
                continue
            with archive.open(entry) as file:
                version, _ = np.lib.format.read_magic(file)
                shape, fortran_order, _ = HEADERS[min(version, 2)](file)
                header, content = file.tell(), iter(lambda file=file: file.read(2**20), b"")
                if fortran_order:
                    continue
                if entry.compress_type != zipfile.ZIP_STORED:
                    rows[key] = spilled(content, shape[1:])
                    continue
                for _ in content:  # the checksum is compared at its end
                    pass
            whole.seek(entry.header_offset + 26)  # of a local header, the lengths of the name and of what follows it
            name, extra = np.frombuffer(whole.read(4), "<u2").tolist()
            rows[key] = FileRows(path, entry.header_offset + 30 + name + extra + header, shape)
    return rows


def _numbered(path: str, label: np.ndarray | None, named: bool, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, and the place of each image's among them."""  # i[N] or str[N] -> i32[N]
    if label is None:
        return (), np.full(count, -1, np.int32)
    if not named:
        return classes.numbered(label)
    names = _load(path, CLASSES)
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) < names.size:
        raise DataError(f"'{path}': {CLASSES} is {names.dtype}{list(names.shape)}: it is the name of each class, once.")
    places = {name if label.dtype.kind == "U" else i: i for i, name in enumerate(names.tolist())}
    if unknown := sorted(set(label.tolist()) - places.keys()):
        raise DataError(f"'{path}': a label is {unknown[0]!r}, and {CLASSES} names {names.size} others.")
    return tuple(names.tolist()), np.array([places[one] for one in label.tolist()], np.int32)


def _load(path: str, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key]
    except UNREADABLE as error:
        raise DataError(f"'{path}': {key} is damaged: {error}.") from error


def _beside(path: str, keys: list[str], name: str, shapes: dict[str, tuple[int, ...]]) -> np.ndarray | None:
    """What lies beside the images of every split, one split after the other; None where there is none."""
    found = {key: key.removesuffix(SUFFIX) + name for key in keys}
    bare = [key for key, beside in found.items() if beside not in shapes]
    if len(bare) == len(keys):
        return None
    if bare:
        raise DataError(f"'{path}' holds a {name}, but none of {bare[0]}: give every split its own, or none any.")
    dtypes, axes, said = BESIDE[name]
    values = []
    for key, beside in found.items():
        value = _load(path, beside)
        fits = value.shape == shapes[key][:axes] and any(np.issubdtype(value.dtype, dtype) for dtype in dtypes)
        numbers = name == "label" and np.issubdtype(value.dtype, np.integer)
        if not fits or (numbers and not ((value >= 0) & (value < classes.MOST)).all()):
            raise DataError(f"'{path}': {beside} is {value.dtype}{list(value.shape)}: for {shapes[key][0]} images it "
                            f"is {said}.")  # fmt: skip
        values.append(value.astype(np.int32) if numbers else value)
    return np.concatenate(values)


def _sums(path: str) -> list[tuple[str, int]]:
    """The checksum of each array, which the archive's directory holds."""
    with zipfile.ZipFile(path) as archive:
        return sorted((entry.filename, entry.CRC) for entry in archive.infolist())


def _read(
    path: str, held: dict[str, np.ndarray], splits: dict[str, range], labels: np.ndarray, positions: np.ndarray
) -> tuple[list, np.ndarray]:  # i64[B] -> B of u8[H, W, 1 or 3], i32[B]
    """Images are read once, then held: in a dict, which can be sent to another process as no cache of functools can."""
    images = []
    for position in positions.tolist():
        key = next(key for key, span in splits.items() if position in span)
        if key not in held:
            held[key] = _load(path, key)
        image = held[key][position - splits[key].start]
        images.append(image if image.ndim == 3 else image[:, :, None])
    return images, labels[positions]
