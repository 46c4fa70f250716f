"""Arrays that stay in their file, because they are too large for memory: only the rows that are used are read."""

import math
import os
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from genimg_jax.errors import ResourceError


class FileRows:
    """u8[N, ...] in C order, at `offset` bytes in a file. It has an array's `shape` and `len`, and is indexed by a
    number, by a slice of step 1 or by numbers i64[B], which gives arrays. It can be sent to another process.

    `owner` is kept as long as the rows are: a temporary file that is deleted with its owner.
    """

    def __init__(self, path: str, offset: int, shape: tuple[int, ...], owner: Any = None):
        self.path, self.offset, self.shape, self.owner = path, offset, shape, owner

    def __reduce__(self):
        return FileRows, (self.path, self.offset, self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:  # -> u8[...], u8[n, ...] or u8[B, ...]
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            row = math.prod(self.shape[1:])
            flat = np.fromfile(self.path, np.uint8, max(stop - start, 0) * row, offset=self.offset + start * row)
            return flat.reshape(-1, *self.shape[1:])
        if np.ndim(index) == 0:
            return self[index : index + 1][0]
        return np.concatenate([self[:0], *(self[i : i + 1] for i in np.asarray(index).tolist())])


def spilled(parts: Iterable[bytes | np.ndarray], row_shape: tuple[int, ...]) -> FileRows:
    """u8 `parts` of rows of one shape, one after the other, in a temporary file that is deleted with the result.

    The file is made in TMPDIR, or else in /var/tmp, since /tmp is often memory. Raises `ResourceError` where it cannot
    be written.
    """
    folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)
    size = 0
    try:
        file = tempfile.NamedTemporaryFile(prefix="genimg-", dir=folder)  # noqa: SIM115, closed with its owner
    except OSError as error:
        raise _unwritable(folder, size, error) from error
    for part in parts:
        try:
            size += file.write(part)
        except OSError as error:
            raise _unwritable(folder, size, error) from error
    file.flush()
    return FileRows(file.name, 0, (size // math.prod(row_shape), *row_shape), file)


def _unwritable(folder: str | None, size: int, error: OSError) -> ResourceError:
    return ResourceError(
        f"images that do not fit in memory cannot be kept in {folder or tempfile.gettempdir()} "
        f"({error.strerror or error}, after {size >> 20:,} MiB); set TMPDIR to a folder with more room."
    )
