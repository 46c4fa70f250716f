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

Hidden files and text files (SIDE_FILES) may stand beside images; any other file must be one.
"""

import functools
import hashlib
import json
import os
from typing import NoReturn

import numpy as np

from genimg_jax.data import pixels
from genimg_jax.data.records import Options, Stored
from genimg_jax.errors import DataError

SPLITS = ("train", "test", "validation", "valid", "val", "dev")
METADATA = "metadata.jsonl"
SIDE_FILES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".html", ".yaml", ".yml", ".ini", ".db", ".pdf")


def open_folder(options: Options) -> Stored:
    """The splits are the subfolders named in SPLITS; where there are none, everything is `train`, to be sliced.

    Within a split, files follow a fixed shuffled order (by the hash of their path), so that a slice holds every class.
    Where every image lies in a subfolder of its split, and there are several, the subfolder is its class. Raises
    DataError where the folder is missing, unreadable or empty, or its metadata names files that are not there.
    """
    root = os.path.expanduser(options.path)
    if not os.path.isdir(root):
        raise DataError(f"There is no folder '{root}': set data.path to a folder of images.")
    found = [name for name in SPLITS if os.path.isdir(os.path.join(root, name))]
    paths, captions, splits, folders = [], {}, {}, []
    for split in found or ["train"]:
        folder = os.path.join(root, split) if found else root
        files, texts = _walk(folder)
        splits[split] = range(len(paths), len(paths) + len(files))
        paths += [os.path.join(folder, file) for file in files]
        captions |= {os.path.join(folder, file): text for file, text in texts.items()}
        folders += [file.split(os.sep)[0] if os.sep in file else "" for file in files]
    if not paths:
        raise DataError(f"The folder '{root}' holds no images.")
    classes = sorted(set(folders))
    if "" in classes and len(classes) > 1:
        lone = paths[folders.index("")]
        raise DataError(f"'{lone}' lies beside class subfolders: move it into one of them, or away.")
    classes = classes if len(classes) > 1 else []
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number.get(name, -1) for name in folders], np.int32)
    return Stored(
        splits=splits,
        read=functools.partial(_read, paths, labels, options.pixel_limit),
        classes=tuple(classes),
        names=lambda positions: [paths[position] for position in positions],
        listing=_listing(root, paths, captions),
        captions=(lambda positions: [captions.get(paths[position], "") for position in positions])
        if captions
        else None,
    )


def _walk(folder: str) -> tuple[list[str], dict[str, str]]:
    """The image files below a folder, in their fixed order, and the captions there are, by relative path."""
    files, captions, visited = [], {}, set()
    for path, subfolders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(path)
        subfolders[:] = [] if real in visited else sorted(name for name in subfolders if not name.startswith("."))
        if real in visited:  # a link back to a folder above it
            continue
        visited.add(real)
        relative = os.path.relpath(path, folder)
        for name in names:
            if not name.startswith(".") and not name.lower().endswith(SIDE_FILES):
                files.append(os.path.normpath(os.path.join(relative, name)))
        if METADATA in names:
            captions |= _captions(os.path.join(path, METADATA), relative)
    missing = captions.keys() - files
    if missing:
        raise DataError(
            f"{METADATA} names '{min(missing)}', which is not an image below '{folder}': correct that line."
        )
    return sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file)).digest()), captions


def _captions(path: str, relative: str) -> dict[str, str]:
    captions = {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as error:
        _unreadable(error)
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 text: {error}.") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            captions[os.path.normpath(os.path.join(relative, row["file_name"]))] = str(row.get("text", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"'{path}', line {number}: write one JSON object with a `file_name` ({error}).") from error
    return captions


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(f"'{error.filename}' cannot be read: {error.strerror}.") from error


def _listing(root: str, paths: list[str], captions: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        size = os.path.getsize(path) if os.path.exists(path) else -1  # a dangling link, which reading will report
        line = [os.path.relpath(path, root), size, captions.get(path, "")]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _read(paths: list[str], labels: np.ndarray, pixel_limit: int, positions: np.ndarray) -> tuple[list, np.ndarray]:
    # i64[B] -> B of u8[H, W, 1 or 3], i32[B]
    return [pixels.read_file(paths[position], pixel_limit) for position in positions], labels[positions]
