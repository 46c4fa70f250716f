"""A folder of image files: subfolders as classes, and captions from `metadata.jsonl` (the image-folder convention).

How each kind of file becomes u8[H, W, 1 or 3], with golden values:

| stored                        | read as                    | pixel                  | becomes         |
| ----------------------------- | -------------------------- | ---------------------- | --------------- |
| L, 8-bit grey                 | grey                       | 77                     | 77              |
| 1, bilevel                    | grey 0 or 255              | 1                      | 255             |
| I;16, 16-bit grey             | grey, round(255 x / 65535) | 128, 32768             | 0, 128          |
| LA, grey with alpha           | grey over white            | (0, alpha 0)           | 255             |
| RGB, also 16-bit (high bytes) | colour                     | (10, 20, 30)           | (10, 20, 30)    |
| RGBA, transparent colour      | colour over white          | (255, 0, 0, alpha 128) | (255, 127, 127) |
| P, palette                    | colour (over white)        | entry (1, 2, 3)        | (1, 2, 3)       |
| CMYK                          | colour, without profile    | (255, 0, 0, 0)         | (0, 255, 255)   |
| YCbCr, HSV                    | colour                     | HSV (0, 255, 255)      | (255, 0, 0)     |
| EXIF orientation              | turned upright             |                        |                 |
| animated, many pages          | the first frame            |                        |                 |
| 32-bit, float, LAB            | DataError                  |                        |                 |
| empty, damaged, no image      | DataError                  |                        |                 |
| over data.pixel_limit         | DataError before decoding  |                        |                 |

A folder that `genimg sample` wrote is its `images.npz`: the grid is no sample, and the single images are the same ones.
Hidden files, text files (SIDE_FILES) and what storage and tools leave behind (LEFTOVERS) may stand beside images; any
other file must be one.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np

from genimg_jax.data import classes, decode
from genimg_jax.data.npz import open_npz
from genimg_jax.data.types import Options, Stored
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.options import nearest

ARCHIVE = "images.npz"  # in a folder that `genimg sample` wrote
SPLITS = ("train", "test", "validation", "valid", "val", "dev")
METADATA = "metadata.jsonl"
SIDE_FILES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".html", ".yaml", ".yml", ".ini", ".db", ".pdf")
# In lower case: folders and files of Synology, QNAP and NetApp storage, of macOS, Windows, Linux and Python.
LEFTOVERS = (
    "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot", "__macosx", "icon\r",
    "$recycle.bin", "recycler", "system volume information", "thumbs.db:encryptable", "lost+found", "__pycache__",
)  # fmt: skip


def open_folder(options: Options) -> Stored:
    """The splits are the subfolders named in SPLITS; where there are none, everything is `train`, to be sliced.

    Within a split, files follow a fixed shuffled order (by the hash of their path), so that a slice holds every class.
    If every image lies in a subfolder of its split, and there are several subfolders, they are the classes. Raises
    DataError if the folder is missing, unreadable or empty, if it holds images both in splits and beside them, or if
    its metadata names a file that does not exist.
    """
    root = options.path
    if not os.path.isdir(root):
        raise DataError(f"There is no folder '{root}': set data.path to a folder of images.")
    if os.path.isfile(os.path.join(root, ARCHIVE)):
        return open_npz(dataclasses.replace(options, path=os.path.join(root, ARCHIVE)))
    files, captions = _walk(root, options.captions.columns)
    if not files:
        raise DataError(f"The folder '{root}' holds no images.")
    places = _places(root, files)
    files = sorted(files, key=lambda file: (SPLITS.index(places[file][0]), _hashed(places[file][1])))
    names = [places[file][0] for file in files]
    splits = {name: range(names.index(name), names.index(name) + names.count(name)) for name in dict.fromkeys(names)}
    folders = [inside.split(os.sep)[0] if os.sep in inside else "" for _, inside in (places[file] for file in files)]
    if "" in folders and len(set(folders)) > 1:
        lone = os.path.join(root, files[folders.index("")])
        raise DataError(f"'{lone}' lies beside class subfolders: move it into one of them, or away.")
    class_names, labels = classes.numbered(np.array(folders))
    if len(class_names) == 1:
        class_names, labels = (), np.full(len(files), -1, np.int32)
    paths = [os.path.join(root, file) for file in files]
    return Stored(
        splits=splits,
        read=functools.partial(_read, paths, labels if class_names else None, options.pixel_limit),
        classes=class_names,
        names=lambda positions: [paths[position] for position in positions],
        listing=_listing(root, files, captions, class_names),
        labels=labels,
        captions=(lambda positions: [captions.get(files[position], "") for position in positions])
        if captions
        else None,
    )


def _places(root: str, files: list[str]) -> dict[str, tuple[str, str]]:
    """The split of each file, and its path within that."""
    tops = sorted({file.split(os.sep)[0] for file in files})
    others = [top for top in tops if top.lower() not in SPLITS or top in files]
    if len(others) == len(tops):
        return {file: ("train", file) for file in files}
    if others:
        first = next(top for top in tops if top not in others)
        some = ", ".join(map(repr, others[:5])) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise DataError(
            f"'{root}' holds the split '{first}' and, beside it, images in {some}: move those into splits "
            f"({', '.join(SPLITS)}) or away; where '{first}' is a class, move all classes into one folder 'train'."
        )
    return {file: (top.lower(), inside) for file in files for top, inside in [file.split(os.sep, 1)]}


def _hashed(file: str) -> bytes:
    return hashlib.sha256(os.fsencode(file)).digest()


def _walk(root: str, columns: Sequence[str] = ("text",)) -> tuple[list[str], dict[str, str]]:
    """The relative paths of the image files below a folder, and captions by relative path."""
    files, captions, above = [], {}, {root: frozenset()}
    for path, subfolders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(path)
        if real in above[path]:  # a link back to a folder above it
            subfolders.clear()
            continue
        subfolders[:] = [name for name in subfolders if not _ignored(name)]
        above |= {os.path.join(path, name): above[path] | {real} for name in subfolders}
        relative = os.path.relpath(path, root)
        for name in names:
            if not _ignored(name) and not name.lower().endswith(SIDE_FILES):
                files.append(os.path.normpath(os.path.join(relative, name)))
        if METADATA in names:
            captions |= _captions(os.path.join(path, METADATA), relative, columns)
    missing = captions.keys() - files
    if missing:
        raise DataError(f"{METADATA} names '{min(missing)}', which is not an image below '{root}': correct that line.")
    return files, captions


def files_below(root: str) -> list[str]:
    """The relative paths of the image files below a folder."""
    return _walk(root)[0]


def pictures(
    path: str, image_shape: tuple[int, int, int], levels: int, pixel_limit: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, image u8[H, W, C] in [0, levels)) for one file, or for each file of a folder in the order of names.

    Raises ConfigError if the folder holds no images, and DataError for a file that is no image.
    """
    paths = [os.path.join(path, name) for name in sorted(files_below(path))] if os.path.isdir(path) else [path]
    if not paths:
        raise ConfigError(f"the folder {path} holds no images.")
    height, width, channels = image_shape
    for file in paths:
        picture = decode.conform(decode.read_file(file, pixel_limit), min(height, width), channels)
        yield file, np.rint(picture * ((levels - 1) / 255)).astype(np.uint8)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFTOVERS


def _captions(path: str, relative: str, columns: Sequence[str]) -> dict[str, str]:
    """Captions by relative path: the columns joined by commas. A list becomes words; a missing column is left out.

    Raises DataError for a column that no line has, unless it is `text`, which need not be there.
    """
    captions, known_columns = {}, {"text"}
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = list(file)  # ends at line feeds alone; JSON strings may hold Unicode's other separators
    except OSError as error:
        _unreadable(error)
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 text: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            file = os.path.normpath(os.path.join(relative, row["file_name"]))
            parts = [row.get(column) for column in columns]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"'{path}', line {number}: write one JSON object with a `file_name` ({error}).") from error
        if file in captions:
            raise DataError(f"'{path}', line {number} names '{row['file_name']}' again: give each image one line.")
        known_columns |= row.keys()
        texts = [" ".join(map(str, p)) if isinstance(p, list) else str(p) for p in parts if p is not None]
        captions[file] = ", ".join(filter(None, texts))
    if absent := [column for column in columns if column not in known_columns]:
        raise DataError(
            f"data.captions.columns names {absent[0]!r}{nearest(absent[0], known_columns)} No line of '{path}' has it."
        )
    return captions


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(f"'{error.filename}' cannot be read: {error.strerror}.") from error


def _listing(root: str, files: list[str], captions: dict[str, str], class_names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        path = os.path.join(root, file)
        size = os.path.getsize(path) if os.path.exists(path) else -1  # a dangling link, which reading will report
        digest.update(json.dumps([file, size, captions.get(file, "")]).encode())
    if class_names != tuple(sorted(class_names)):  # recorded runs numbered classes in the order of strings
        digest.update(json.dumps(class_names).encode())
    return digest.hexdigest()


def _read(
    paths: list[str], labels: np.ndarray | None, pixel_limit: int, positions: np.ndarray
) -> dict[str, Sequence[np.ndarray]]:
    # i64[B] -> B of u8[H, W, 1 or 3], i32[B]
    images = [decode.read_file(paths[position], pixel_limit) for position in positions]
    return {"image": images} if labels is None else {"image": images, "label": labels[positions]}
