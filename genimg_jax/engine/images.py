"""Images as 8-bit arrays, grids and files."""

import io
import math
import pathlib
import textwrap
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genimg_jax.files import atomic_path, write_atomic

PADDING = 2  # pixels between and around the images of a grid
BACKGROUND = 255
VISIBLE_SIZE = 64  # pixels: smaller images are enlarged towards this size in a grid
CAPTIONED_SIZE = 128  # the same above captions of several words
FONT_SIZE, MOST_LINES = 11, 8  # pixels; lines of a caption, the rest is cut


def to_uint8(images: np.ndarray) -> np.ndarray:  # f32[...] in [-1, 1] or u8[...] -> u8[...]
    """The nearest of 256 levels; values outside [-1, 1] are clipped, and NaN is black."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    images = np.nan_to_num(images.astype(np.float32), nan=-1.0)
    return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def grid(
    images: np.ndarray, columns: int | None = None, scale: int | None = None, captions: Sequence[str] = ()
) -> np.ndarray:  # [N, H, W, C] -> u8[...]
    """One picture u8[rows, columns, C] of N > 0 images, row by row, each above its caption if there are `captions`.

    `columns` is about the square root of N unless given. `scale`, a whole number, repeats each pixel; unless given,
    it brings small images close to 64 pixels, or to 128 above captions of several words.
    """
    images = to_uint8(images)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    size = CAPTIONED_SIZE if any(" " in caption for caption in captions) else VISIBLE_SIZE
    scale = scale or max(1, size // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    rows = []
    for start in range(0, count, columns):
        row, words = images[start : start + columns], captions[start : start + columns]
        if any(words):
            row = np.concatenate([row, _caption_strips(words, row.shape[2], channels)], axis=1)
        cells = np.full((columns, row.shape[1] + PADDING, row.shape[2] + PADDING, channels), BACKGROUND, np.uint8)
        cells[: len(row), PADDING:, PADDING:] = row
        rows.append(cells.swapaxes(0, 1).reshape(cells.shape[1], -1, channels))
    return np.pad(np.concatenate(rows), ((0, PADDING), (0, PADDING), (0, 0)), constant_values=BACKGROUND)


def _caption_strips(captions: Sequence[str], width: int, channels: int) -> np.ndarray:
    """Black text on the background, wrapped to `width` pixels."""  # -> u8[N, height, width, channels]
    font = ImageFont.load_default(FONT_SIZE)
    letters, strips = max(1, int(width / font.getlength("o"))), []
    wrapped = [
        [caption]
        if font.getlength(caption) <= width
        else textwrap.wrap(caption, letters, max_lines=MOST_LINES, placeholder="...")
        for caption in captions
    ]
    for lines in wrapped:
        strip = Image.new("L", (width, max(map(len, wrapped)) * (FONT_SIZE + 2) + PADDING), BACKGROUND)
        for i, line in enumerate(lines):
            ImageDraw.Draw(strip).text((0, i * (FONT_SIZE + 2)), line, 0, font)
        strips.append(np.asarray(strip))
    return np.stack(strips)[..., None].repeat(channels, axis=-1)


def save_png(path: pathlib.Path, array: np.ndarray) -> None:
    """Write u8[H, W, C], of 1 or 3 channels, as a PNG file. Raises OSError if the place cannot be written."""
    content = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(content, format="PNG")
    write_atomic(path, content.getvalue())


def save_npz(path: pathlib.Path, count: int, parts: Iterable[np.ndarray], **beside: np.ndarray) -> None:
    """Write `parts`, u8[n, H, W, C] of `count` images in all, as the array `image` of an archive, and other arrays
    `beside` it. One part is in memory at a time. Nothing is compressed, so that readers need not load all of it."""
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
