"""Arrays as pictures: eight-bit values, grids, and files of them."""

import io
import math
import pathlib
import zipfile
from collections.abc import Iterable

import numpy as np
from PIL import Image

from genimg_jax.files import atomic_path, write_atomic

PADDING = 2  # pixels between and around the images of a grid
BACKGROUND = 255
VISIBLE_SIZE = 64  # pixels: smaller images are enlarged towards this size in a grid


def to_uint8(images: np.ndarray) -> np.ndarray:  # f32[...] in [-1, 1] or u8[...] -> u8[...]
    """The nearest of 256 levels; values outside [-1, 1] are clipped, and those that are not numbers are black."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    images = np.nan_to_num(images.astype(np.float32), nan=-1.0)
    return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def grid(
    images: np.ndarray, columns: int | None = None, scale: int | None = None
) -> np.ndarray:  # [N, H, W, C] -> u8[...]
    """One picture u8[rows, columns, C] of N > 0 images, row by row.

    `columns` is about the square root of N unless given. `scale`, a whole number, repeats each pixel; unless given,
    it brings small images close to 64 pixels.
    """
    images = to_uint8(images)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = scale or max(1, VISIBLE_SIZE // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    cells = np.full((rows * columns, height * scale + PADDING, width * scale + PADDING, channels), BACKGROUND, np.uint8)
    cells[:count, PADDING:, PADDING:] = images
    picture = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    picture = picture.reshape(rows * cells.shape[1], columns * cells.shape[2], channels)
    return np.pad(picture, ((0, PADDING), (0, PADDING), (0, 0)), constant_values=BACKGROUND)


def save_png(path: pathlib.Path, array: np.ndarray) -> None:
    """Write u8[H, W, C], of 1 or 3 channels, as a PNG file. Raises OSError if the place cannot be written."""
    content = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(content, format="PNG")
    write_atomic(path, content.getvalue())


def save_npz(path: pathlib.Path, count: int, parts: Iterable[np.ndarray], **beside: np.ndarray) -> None:
    """Write `parts`, u8[n, H, W, C] of `count` images in all, as the array `image` of an archive, and other arrays
    `beside` it. One part is in memory at a time. Nothing is compressed, so that readers need not hold all either."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in beside.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        with archive.open("image.npy", "w", force_zip64=True) as file:
            for i, part in enumerate(parts):
                if i == 0:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *part.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(part.tobytes())
