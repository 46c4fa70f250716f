"""A NumPy archive: `image` u8[N, H, W] or u8[N, H, W, 1 or 3], and optionally `label` and `caption` [N], `mask`
u8[N, H, W] and the fields below; or `train_image` and so on.

| field      | array                                                          |
| ---------- | -------------------------------------------------------------- |
| `map`      | integers [N, H, W] from 0, the segments; otherwise `mask`      |
| `features` | floats [N, D]                                                  |
| `source`   | u8[N, h, w] or u8[N, h, w, 1 or 3], of any size                |

A label is the number or the name of a class. The classes are those that images have: where labels are 1, 2 and 3, there
are three, called '1', '2' and '3'. If there is a list of names, `classes`, numbers index it. A mask holds the number of
the object that each pixel shows; 0 is the background.

Headers are checked before anything is inflated, and nothing is ever unpickled. Many images are read where they lie in
the archive, or, if they are compressed, in a temporary file, so that they may be larger than memory.
"""

import functools
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np

from genimg_jax.data import classes
from genimg_jax.data.file_rows import FileRows, spilled
from genimg_jax.data.types import Options, Stored
from genimg_jax.errors import DataError

MOST_INFLATION = 200  # deflate reaches 1,032 on constant bytes; images stay far below
HARMLESS_BYTES = 64 << 20
HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
UNREADABLE = (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)  # of encrypted ones too
SUFFIX, SOURCE = "image", "source"
NUMBERS = f"integers from 0 to {classes.MOST - 1:,}"
# What may lie beside the images: the types of its values, its axes (D: of any length), and how to say so.
BESIDE = {
    "label": ((np.integer, np.str_), "N", f"as many {NUMBERS} or names"),
    "caption": ((np.str_,), "N", "as many strings"),
    "mask": ((np.uint8,), "NHW", "as many uint8 [H, W] of their size"),
    "map": ((np.integer,), "NHW", f"as many [H, W] of their size, of {NUMBERS}"),
    "features": ((np.floating,), "ND", "as many vectors of finite numbers"),
}
ALWAYS = ("label", "caption", "mask")  # read whatever the fields
CLASSES = "classes"


def open_npz(options: Options) -> Stored:
    """Every `<split>_image` is a split; a lone `image` is the split `train`.

    Raises DataError naming the file if it is missing or no archive, if it holds objects or images that are not u8, if
    it inflates as only an archive meant to exhaust memory does, or if it holds arrays that are larger than
    data.memory_mib and not images in C order.
    """
    path = options.path
    try:
        shapes = _checked_shapes(path, options)
        keys = sorted(key for key in shapes if _is(key, SUFFIX))
        if not keys:
            raise DataError(f"'{path}' holds {', '.join(sorted(shapes)) or 'nothing'}: save u8 images as `{SUFFIX}`.")
        available = {name: _keys_beside(path, keys, name, shapes) for name in (*BESIDE, SOURCE)}
        available = {name: beside_keys for name, beside_keys in available.items() if beside_keys}
        beside = {name: _beside(path, available[name], name, shapes) for name in BESIDE if name in available
                  and name in (*ALWAYS, *options.fields)}  # fmt: skip
        pictures = {SUFFIX: {key: key for key in keys}}
        if SOURCE in available and SOURCE in options.fields:
            pictures[SOURCE] = available[SOURCE]
        label, caption, mask = map(beside.get, ALWAYS)
        if mask is not None:
            beside, available = {"map": mask, **beside}, {"map": {}, **available}
        class_names, label = _numbered(path, label, CLASSES in shapes, sum(shapes[key][0] for key in keys))
        loaded = _large(path, [key for keys in pictures.values() for key in keys.values()])
    except UNREADABLE as error:
        raise DataError(f"'{path}' cannot be read as an npz archive: {error}.") from error
    counts = [shapes[key][0] for key in keys]
    starts = [sum(counts[:i]) for i in range(len(keys))]
    splits = {key: range(start, start + count) for key, start, count in zip(keys, starts, counts, strict=True)}
    fields = {name: array for name, array in beside.items() if name in options.fields}
    arrays = {**fields, "label": label} if class_names else fields
    return Stored(
        splits={key.removesuffix(SUFFIX).removesuffix("_") or "train": span for key, span in splits.items()},
        read=functools.partial(_read, path, loaded, splits, pictures, arrays),
        fields={name: _num_values(fields.get(name)) for name in available if name not in ALWAYS},
        classes=class_names,
        labels=label,
        names=lambda positions: [f"{path}, image {position}" for position in positions],
        listing=f"npz {_checksums(path)}",
        captions=None if caption is None else lambda positions: caption[positions].tolist(),
        annotations=None if mask is None else lambda positions: {"mask": mask[positions]},
    )


def _checked_shapes(path: str, options: Options) -> dict[str, tuple[int, ...]]:
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                shape, fortran_order, dtype = _header(file)
            key, declared = entry.filename.removesuffix(".npy"), math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise DataError(f"'{path}': {key} holds Python objects, which are never loaded: save plain arrays.")
            if declared > options.memory_mib << 20 and (fortran_order or not _is(key, SUFFIX, SOURCE)):
                raise DataError(f"'{path}': {key} takes {declared >> 20:,} MiB, over data.memory_mib="
                                f"{options.memory_mib}: raise it, or save arrays in C order.")  # fmt: skip
            if entry.file_size > max(HARMLESS_BYTES, MOST_INFLATION * entry.compress_size):
                raise DataError(f"'{path}': {key} inflates {entry.file_size // entry.compress_size} times, as no image "
                                "data does: save it again with np.savez.")  # fmt: skip
            if declared > entry.file_size:
                raise DataError(f"'{path}': {key} is cut short: it declares {declared} bytes, of which "
                                f"{entry.file_size} are there.")  # fmt: skip
            if _is(key, SUFFIX, SOURCE):
                if dtype != np.uint8 or len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
                    raise DataError(f"'{path}': {key} is {dtype}{list(shape)}: images are uint8 [N, H, W] or "
                                    "[N, H, W, 1 or 3].")  # fmt: skip
                if math.prod(shape[1:3]) > options.pixel_limit:
                    raise DataError(f"'{path}': images of {shape[1]} x {shape[2]} are over data.pixel_limit="
                                    f"{options.pixel_limit:,} pixels.")  # fmt: skip
            shapes[key] = shape
    return shapes


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape of an array, whether it is in Fortran order, and its type. Leaves the file at its content."""
    version, _ = np.lib.format.read_magic(file)
    return HEADERS[min(version, 2)](file)


def _is(key: str, *names: str) -> bool:
    """Whether a key is one of the names, alone or of a split."""
    return any(key == name or key.endswith(f"_{name}") for name in names)


def _num_values(field: np.ndarray | None) -> int:
    """The number of values of an integer field; 0 for any other field."""
    return int(field.max()) + 1 if field is not None and np.issubdtype(field.dtype, np.integer) else 0


def _large(path: str, keys: list[str]) -> dict[str, FileRows]:
    """Large arrays of images in C order, after their checksums are verified."""
    rows = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as whole:
        for entry in archive.infolist():
            key = entry.filename.removesuffix(".npy")
            if key not in keys or entry.file_size <= HARMLESS_BYTES:
                continue
            with archive.open(entry) as file:
                shape, fortran_order, _ = _header(file)
                header, content = file.tell(), iter(lambda file=file: file.read(2**20), b"")
                if fortran_order:
                    continue
                if entry.compress_type != zipfile.ZIP_STORED:
                    rows[key] = spilled(content, shape[1:])
                    continue
                for _ in content:  # the checksum is compared at its end
                    pass
            whole.seek(entry.header_offset + 26)  # the local header: lengths of its name and of its extra field
            name, extra = np.frombuffer(whole.read(4), "<u2").tolist()
            rows[key] = FileRows(path, entry.header_offset + 30 + name + extra + header, shape)
    return rows


def _numbered(path: str, label: np.ndarray | None, named: bool, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, and the class index of each image."""  # i[N] or str[N] -> i32[N]
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
    return tuple(names.tolist()), np.array([places[value] for value in label.tolist()], np.int32)


def _load(path: str, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key]
    except UNREADABLE as error:
        raise DataError(f"'{path}': {key} is damaged: {error}.") from error


def _keys_beside(path: str, keys: list[str], name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """The key of the array of this name for each split's images; {} if there is none."""
    beside_keys = {key: key.removesuffix(SUFFIX) + name for key in keys}
    bare = [key for key, beside in beside_keys.items() if beside not in shapes]
    if bare and len(bare) < len(keys):
        raise DataError(f"'{path}' holds a {name}, but none of {bare[0]}: give every split its own, or none any.")
    for key, beside in beside_keys.items():
        if not bare and shapes[beside][:1] != shapes[key][:1]:
            raise DataError(f"'{path}': {beside} has the shape {list(shapes[beside])}, for {shapes[key][0]} images.")
    return {} if bare else beside_keys


def _beside(path: str, beside_keys: dict[str, str], name: str, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """The values of an array beside the images, of all splits in turn."""
    dtypes, axes, description = BESIDE[name]
    values = []
    for key, beside in beside_keys.items():
        value, lengths = _load(path, beside), dict(zip("NHW", shapes[key], strict=False))
        fits = len(value.shape) == len(axes) and any(np.issubdtype(value.dtype, dtype) for dtype in dtypes)
        fits = fits and all(lengths.get(axis, n) == n for axis, n in zip(axes, value.shape, strict=True))
        if np.issubdtype(value.dtype, np.integer):
            fits = fits and ((value >= 0) & (value < classes.MOST)).all()
            value = value if value.dtype == np.uint8 and name != "label" else value.astype(np.int32)
        elif np.issubdtype(value.dtype, np.floating):
            fits = fits and np.isfinite(value).all()
            value = value.astype(np.float32)
        if not fits:
            raise DataError(f"'{path}': {beside} is {value.dtype}{list(value.shape)}: for {shapes[key][0]} images it "
                            f"is {description}.")  # fmt: skip
        values.append(value)
    return np.concatenate(values)


def _checksums(path: str) -> list[tuple[str, int]]:
    """The checksum of each array, from the directory of the archive."""
    with zipfile.ZipFile(path) as archive:
        return sorted((entry.filename, entry.CRC) for entry in archive.infolist())


def _read(
    path: str,
    loaded: dict[str, np.ndarray],
    splits: dict[str, range],
    pictures: Mapping[str, Mapping[str, str]],
    beside: Mapping[str, np.ndarray],
    positions: np.ndarray,
) -> dict[str, Sequence[np.ndarray]]:  # i64[B] -> {name: B of u8[H, W, 1 or 3], or [B, ...]}
    """Reads images, whose arrays are kept in the dict `loaded`: unlike a functools cache it can be pickled."""
    rows = {name: [] for name in pictures}
    for position in positions.tolist():
        split = next(key for key, span in splits.items() if position in span)
        for name, keys in pictures.items():
            if keys[split] not in loaded:
                loaded[keys[split]] = _load(path, keys[split])
            image = loaded[keys[split]][position - splits[split].start]
            rows[name].append(image if image.ndim == 3 else image[:, :, None])
    return rows | {name: array[positions] for name, array in beside.items()}
