"""Images after compression by baseline JPEG (ITU-T T.81) and decompression, without the lossless coding in between.

Colour is YCbCr of the JPEG File Interchange Format (ITU-T T.871), with chroma at half the height and width (4:2:0):
means of 2x2 pixels, enlarged by linear interpolation. Quantisation tables are those of T.81, annex K.1, scaled by the
quality as the Independent JPEG Group does.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import backend
from genimg_jax.observations.operators import block_mean, luma

BLOCK = 8
# T.81 tables K.1 and K.2: rows are vertical frequencies, columns horizontal ones.
LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
CHROMINANCE = np.full((BLOCK, BLOCK), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def compress(image: jax.Array, quality: int) -> jax.Array:
    """The image, rounded to 256 levels, as it is read back from a JPEG file of a `quality` from 1 to 100.

    Sides that blocks do not divide are continued by their last pixels. Derivatives are 0, since values are rounded.
    """  # f32[B, H, W, 1 or 3] in [-1, 1] -> f32[B, H, W, 1 or 3]
    height, width, channels = image.shape[1:]
    levels = _level(127.5 * (image + 1))
    colour = channels == 3
    unit = 2 * BLOCK if colour else BLOCK
    margins = ((0, 0), (0, -height % unit), (0, -width % unit), (0, 0))
    levels = jnp.pad(levels, margins, mode="edge")
    y = luma(levels) if colour else levels
    coded = _coded(y, table(LUMINANCE, quality))
    if colour:
        blue, red = levels[..., 2:], levels[..., :1]
        chroma = jnp.concatenate([(blue - y) / 1.772, (red - y) / 1.402], axis=-1) + 128  # T.871, section 7
        coarse = _coded(block_mean(_level(chroma), 2), table(CHROMINANCE, quality))
        cb, cr = jnp.split(jax.image.resize(coarse, (*levels.shape[:3], 2), "linear") - 128, 2, axis=-1)
        red, blue = coded + 1.402 * cr, coded + 1.772 * cb
        coded = jnp.concatenate([red, (coded - 0.299 * red - 0.114 * blue) / 0.587, blue], axis=-1)
    return _level(coded)[:, :height, :width] / 127.5 - 1


def table(base: np.ndarray, quality: int) -> np.ndarray:
    """The steps of the coefficients' quantisation: `base` at quality 50."""  # i64[8, 8] -> i64[8, 8] in [1, 255]
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((base * percent + 50) // 100, 1, 255)


def _level(values: jax.Array) -> jax.Array:
    return jnp.clip(jnp.floor(values + 0.5), 0, 255)


def _coded(plane: jax.Array, steps: np.ndarray) -> jax.Array:
    """Samples in [0, 255] with the coefficients of each 8x8 block rounded to multiples of `steps` (T.81, A.3)."""
    # [B, 8 h, 8 w, C] -> [B, 8 h, 8 w, C]
    batch, height, width, channels = plane.shape
    blocks = _level(plane).reshape(batch, height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels) - 128
    dct = jnp.asarray(cosines(), plane.dtype)
    steps = jnp.asarray(steps, plane.dtype)[None, None, :, None, :, None]
    frequencies = _transform("bhiwjc,ui,vj->bhuwvc", blocks, dct, dct)
    quotient = frequencies / steps
    # Halves are frequent, since the first coefficient is a sum over 8: they are rounded away from 0, as libjpeg does.
    frequencies = jnp.sign(quotient) * jnp.floor(jnp.abs(quotient) + 0.5) * steps
    blocks = _transform("bhuwvc,ui,vj->bhiwjc", frequencies, dct, dct)
    return _level(blocks + 128).reshape(plane.shape)


def _transform(subscripts: str, *arrays: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *arrays, precision=backend.FULL_PRECISION)


def cosines() -> np.ndarray:
    """The orthonormal discrete cosine transform of type II of 8 values."""  # -> f64[8, 8]
    frequency, place = np.mgrid[:BLOCK, :BLOCK]
    scale = np.where(frequency == 0, np.sqrt(1 / BLOCK), np.sqrt(2 / BLOCK))
    return scale * np.cos((2 * place + 1) * frequency * np.pi / (2 * BLOCK))
