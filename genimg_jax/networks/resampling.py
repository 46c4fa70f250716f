"""Resampling with the filter [1, 3, 3, 1] of StyleGAN2 (Karras et al. 2020, section 4.1 and table 2), height and width
one after the other. Pixels outside the image are 0."""

import jax
import jax.numpy as jnp

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def upfirdn(x: jax.Array, up: int, down: int, pad: int) -> jax.Array:
    """Inserts `up` - 1 zeros between pixels, adds `pad` zeros at each end, filters, and keeps every `down`-th pixel.

    A constant image keeps its value: the filter is multiplied by `up`.
    """  # [B, H, W, C] -> [B, (up (H - 1) + 2 pad - 3) // down + 1, the same of W, C]
    for axis in (1, 2):
        edges = [(pad, pad, up - 1) if i == axis else (0, 0, 0) for i in range(4)]
        padded = jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
        size = padded.shape[axis] - len(TAPS) + 1
        shifted = [jax.lax.slice_in_dim(padded, i, i + size, down, axis) for i in range(len(TAPS))]
        x = sum(up * tap * pixels for tap, pixels in zip(TAPS, shifted, strict=True))
    return x


def upsample(x: jax.Array) -> jax.Array:  # [B, h, w, C] -> [B, 2h, 2w, C]
    return upfirdn(x, 2, 1, 2)


def downsample(x: jax.Array) -> jax.Array:  # [B, 2h, 2w, C] -> [B, h, w, C]
    return upfirdn(x, 1, 2, 1)


def blur(x: jax.Array) -> jax.Array:
    """The image between its pixels and one pixel around it: a 3x3 convolution of stride 2 then halves its size."""
    return upfirdn(x, 1, 1, 2)  # [B, H, W, C] -> [B, H + 1, W + 1, C]
