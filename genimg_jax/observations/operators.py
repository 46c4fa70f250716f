"""Linear maps of images, without a constant term: block means, bicubic resampling, convolution, luma."""

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import backend

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
TRUNCATE = 4.0  # deviations at which a Gaussian kernel ends


def block_mean(image: jax.Array, factor: int) -> jax.Array:
    """The mean of each block of factor x factor pixels."""  # [B, H, W, C] -> [B, H / factor, W / factor, C]
    batch, height, width, channels = image.shape
    return image.reshape(batch, height // factor, factor, width // factor, factor, channels).mean((2, 4))


def bicubic(image: jax.Array, factor: int) -> jax.Array:
    """Keys' cubic convolution (1981, a = -1/2) with a kernel `factor` times as wide, against aliasing."""
    # [B, H, W, C] -> [B, H / factor, W / factor, C]
    batch, height, width, channels = image.shape
    return jax.image.resize(image, (batch, height // factor, width // factor, channels), "cubic", antialias=True)


def repeat(image: jax.Array, factor: int) -> jax.Array:
    """Every pixel as factor x factor pixels."""  # [B, H, W, C] -> [B, factor H, factor W, C]
    return image.repeat(factor, axis=1).repeat(factor, axis=2)


def gaussian_kernel(sigma: float) -> np.ndarray:  # -> f64[K, K]
    """A Gaussian of deviation `sigma` at whole pixels up to `TRUNCATE` deviations, of sum 1."""
    radius = int(TRUNCATE * sigma + 0.5)
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def blur(image: jax.Array, kernel: np.ndarray, padding: str) -> jax.Array:
    """The convolution of each channel with a kernel [K, L] of odd sides.

    Beyond its edge an image continues as its mirror image about the outermost pixels ('reflect'), or as 0 ('zero').
    """  # [B, H, W, C] -> [B, H, W, C]
    batch, height, width, channels = image.shape
    rows, columns = (side // 2 for side in kernel.shape)
    margins = ((0, 0), (0, 0), (rows, rows), (columns, columns))
    planes = image.transpose(0, 3, 1, 2).reshape(batch * channels, 1, height, width)
    padded = jnp.pad(planes, margins, mode="constant" if padding == "zero" else "reflect")
    weights = jnp.asarray(kernel[::-1, ::-1].copy(), image.dtype)[None, None]  # lax correlates
    blurred = jax.lax.conv(padded, weights, (1, 1), "VALID", precision=backend.FULL_PRECISION)
    return blurred.reshape(batch, channels, height, width).transpose(0, 2, 3, 1)


def luma(image: jax.Array) -> jax.Array:
    """The luma of ITU-R BT.601, of weights 0.299, 0.587, 0.114, which sum to 1."""  # [B, H, W, 3] -> [B, H, W, 1]
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(LUMA))
