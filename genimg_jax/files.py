"""Atomic writing of files, and digests of texts and arrays."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from genimg_jax.errors import ResourceError


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path that becomes `path` when the block succeeds: no reader and no interruption sees a part of the
    file, and of several writers the last wins. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random, as writers on other machines may have the same process id.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a whole file through `atomic_path`; text as UTF-8. Raises OSError if the place cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes indented JSON through `atomic_path`."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other block holds the folder, in any process: for a file that is read, changed and written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def first_with(name: str, folders: Iterable[str | os.PathLike]) -> str:
    """The path of the file in the first of these folders that has it, or ""; "" is no folder."""
    paths = [pathlib.Path(folder) / name for folder in folders if folder]
    return next((str(path) for path in paths if path.is_file()), "")


def read_json_lines(path: pathlib.Path) -> list[Any]:
    """The values of a file with one JSON value a line, none if it does not exist. A line cut short by a crash is left
    out."""
    values = []
    for line in path.read_text().split("\n") if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            values.append(json.loads(line))
    return values


def check_writable(folder: pathlib.Path, cure: str) -> None:
    """Raises `ResourceError`, which ends in `cure`, if no file could be written in `folder`, which need not exist yet:
    known before hours of work. Leaves nothing behind."""
    try:
        parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise ResourceError(f"cannot write to {folder}: {error.strerror}; {cure}.") from error


def digest(parts: str | Iterable[Any], digits: int = 16) -> str:
    """Hexadecimal digits of the SHA-256 of a text, or of the concatenation of texts, bytes and contiguous arrays."""
    hashed = hashlib.sha256()
    for part in [parts] if isinstance(parts, str) else parts:
        hashed.update(part.encode() if isinstance(part, str) else part)
    return hashed.hexdigest()[:digits]


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Twelve digits of the names, shapes, dtypes and values, in whatever order and kind of file they came."""

    def parts():
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            yield from (f"{name} {array.dtype.str} {array.shape};", array.tobytes())

    return digest(parts(), 12)
