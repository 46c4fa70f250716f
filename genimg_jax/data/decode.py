"""Decodes one image to u8[H, W, 1 or 3], and converts it to the requested size and channels.

The table of conversions stands in `folder`.
"""

import io
import os
import warnings
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, ImageOps

from genimg_jax.errors import DataError

# Refusing large images before they are decoded is done here, at a stated limit, not by Pillow's guess.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

GREY = ("1", "L", "LA", "La")
COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


def read_file(path: str, pixel_limit: int) -> np.ndarray:
    """Decodes an image file. Raises DataError as `decode` does, and for a file that is too large."""
    # -> u8[H, W, 1 or 3]
    return decode(_bytes(path, pixel_limit), path, pixel_limit)


def read_map(path: str, pixel_limit: int) -> np.ndarray:
    """The numbers of a grey or palette file, as they are stored. Raises DataError as `read_file` does."""
    # -> u8[H, W], or i32[H, W] of 16 bits
    return _decoded(_bytes(path, pixel_limit), path, pixel_limit, _map_values)


def _bytes(path: str, pixel_limit: int) -> bytes:
    try:
        length = os.path.getsize(path)
        if length > 8 * pixel_limit:
            raise DataError(f"'{path}' has {length:,} bytes, over 8 a pixel of data.pixel_limit={pixel_limit:,}.")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def decode(encoded: bytes, name: str, pixel_limit: int) -> np.ndarray:
    """Decode one image in any format that Pillow reads, upright, in 8 bits, opaque.

    Grey stays grey (one channel), every other mode becomes RGB. Raises DataError naming the image if it is empty,
    damaged, cut short, not an image, of a mode without a known range (32-bit integers, floats), or larger than
    `pixel_limit` pixels, in which case it is not decoded.
    """  # -> u8[H, W, 1 or 3]
    return _decoded(encoded, name, pixel_limit, _eight_bits)


def _decoded(
    encoded: bytes, name: str, pixel_limit: int, convert: Callable[[Image.Image, str], np.ndarray]
) -> np.ndarray:
    if not encoded:
        raise DataError(f"'{name}' is empty.")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            if width * height > pixel_limit:
                raise DataError(
                    f"'{name}' is {width} x {height}, over data.pixel_limit={pixel_limit:,} pixels: "
                    "shrink it or raise the limit."
                )
            image.load()
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            return convert(ImageOps.exif_transpose(image) if turned else image, name)
    except Image.UnidentifiedImageError as error:
        raise DataError(f"'{name}' is not an image in a format that Pillow reads.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"'{name}' is far over data.pixel_limit={pixel_limit:,}: {error}") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsing runs into
        raise DataError(f"'{name}' is damaged or cut short: {error}.") from error


def _eight_bits(image: Image.Image, name: str) -> np.ndarray:  # -> u8[H, W, 1 or 3]
    if image.mode.startswith("I;16"):
        deep = np.array(image, np.uint32)
        if "transparency" in image.info:
            deep[deep == image.info["transparency"]] = 65535
        return ((deep + 128) // 257).astype(np.uint8)[..., None]  # round(255 x / 65535)
    if image.mode not in GREY + COLOUR:
        raise DataError(
            f"'{name}' has mode {image.mode}, whose range is not known: save it with 8 or 16 bits a channel."
        )
    wanted = "L" if image.mode in GREY else "RGB"
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return _channels_last(np.asarray(image if image.mode == wanted else image.convert(wanted)))


def _map_values(image: Image.Image, name: str) -> np.ndarray:  # -> u8[H, W] or i32[H, W]
    if image.mode not in ("1", "L", "P", "I;16"):
        raise DataError(f"'{name}' has mode {image.mode}: a map is a grey or palette image, whose values are segments.")
    return np.array(image, np.int32 if image.mode == "I;16" else np.uint8)


def conform(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """The middle square of an image, antialiased (bicubic) to `size`, with `channels` channels; 0 keeps either.

    Colour becomes grey by the luma of ITU-R 601; grey becomes colour by repetition.
    """  # u8[H, W, 1 or 3] -> u8[size, size, channels]
    channels = channels or image.shape[2]
    if image.shape[2] == channels and (not size or image.shape[:2] == (size, size)):
        return image
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).convert("L" if channels == 1 else "RGB")
    if size:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return _channels_last(np.array(picture))


def conform_map(values: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a map at `size` x `size`, each value that of the nearest pixel; 0 keeps it as it is."""
    # [H, W] -> [size, size]
    if not size or values.shape == (size, size):
        return values
    side = min(values.shape)
    places = (np.arange(size) + 0.5) * (side / size)
    return values[np.ix_(*(((length - side) / 2 + places).astype(np.int64) for length in values.shape))]


def _channels_last(image: np.ndarray) -> np.ndarray:  # u8[H, W] or u8[H, W, 3] -> u8[H, W, 1 or 3]
    return image if image.ndim == 3 else image[:, :, None]
