"""Layers that the networks share. All compute in the dtype of their parameters.

`core.value_and_grad` gives a loss its parameters in the compute dtype. So the whole network computes in that dtype,
whatever the dtype of the images. Statistics (batch means, singular vectors) stay float32.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax import backend
from genimg_jax.errors import ConfigError

ACTIVATIONS = ("leaky_relu", "relu", "tanh", "silu", "gelu", "elu", "softplus")


def activate(name: str, x: jax.Array) -> jax.Array:
    """Apply the named activation; the leaky ReLU has slope 0.2, as in DCGAN (Radford et al. 2016)."""
    # [...] -> [...]
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}.")
    return nn.leaky_relu(x, 0.2) if name == "leaky_relu" else getattr(nn, name)(x)


def _length(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)) + 1e-12)


class SpectralScale(nn.Module):
    """Divides a kernel by an estimate of its largest singular value (Miyato et al. 2018, section 2.1, algorithm 1).

    The kernel is a matrix from all its other axes to its last. The right singular vector is in the collection
    `batch_stats`. Each training call does one step of power iteration; evaluation uses the vector unchanged.
    """

    @nn.compact
    def __call__(self, kernel: jax.Array, training: bool) -> jax.Array:  # [..., out] -> [..., out]
        matrix = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)

        def start():
            vector = jax.random.normal(self.make_rng("params"), (matrix.shape[1],))
            return vector / _length(vector)

        right = self.variable("batch_stats", "right_singular_vector", start)
        vector = right.value
        if training:
            vector = jax.lax.stop_gradient(matrix).T @ (jax.lax.stop_gradient(matrix) @ vector)
            vector = vector / _length(vector)
            if not self.is_initializing():
                right.value = vector
        return (kernel / _length(matrix @ vector)).astype(kernel.dtype)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Variance 2 / fan in for kernels [..., in, out], as suits the rectifiers that follow (He et al. 2015, eq. 10)."""
    return math.sqrt(2 / math.prod(shape[:-1])) * backend.normal(key, shape, dtype)


def promotion(spectral: bool, training: bool) -> Callable:
    """A `promote_dtype` for Flax's layers: they compute in the kernel's dtype, whatever the input's.

    `spectral`: the kernel is also divided by its `SpectralScale`, whose singular vector is a variable of the layer.
    """

    def promote(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, **_):
        if spectral:
            kernel = SpectralScale(name="spectral")(kernel, training)
        return x.astype(kernel.dtype), kernel, bias

    return promote


_promote = promotion(spectral=False, training=False)
Linear = functools.partial(nn.Dense, dot_general=backend.dense_product)  # Flax's defaults otherwise
Dense = functools.partial(Linear, kernel_init=he_normal, promote_dtype=_promote)
PlainConv = functools.partial(nn.Conv, conv_general_dilated=backend.convolution)  # Flax's defaults otherwise
Conv = functools.partial(PlainConv, kernel_size=(3, 3), kernel_init=he_normal, promote_dtype=_promote)


class Downsample(nn.Conv):
    """A 4x4 convolution that halves height and width (both even)."""

    kernel_size: tuple[int, int] = (4, 4)
    strides: int = 2
    padding: int = 1
    kernel_init: Callable = he_normal
    promote_dtype: Callable = _promote
    conv_general_dilated: Callable = backend.convolution


def add(x: jax.Array, bias: jax.Array) -> jax.Array:  # [..., C], [C] -> [..., C]
    return x + jnp.broadcast_to(bias, x.shape)


class Upsample(nn.Module):
    """A transposed 4x4 convolution of stride 2 and padding 1, which doubles height and width.

    Its kernel [4, 4, features, C] is that of the convolution it transposes.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, h, w, C] -> [B, 2h, 2w, features]
        kernel = self.param("kernel", _upsample_init, (4, 4, self.features, x.shape[-1]))
        x = backend.upsample(x.astype(kernel.dtype), kernel)
        return add(x, self.param("bias", nn.initializers.zeros, (self.features,))) if self.use_bias else x


def _upsample_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """He's variance for a kernel [4, 4, out, in]: 4 of its 16 taps reach an output pixel."""
    return math.sqrt(2 / (4 * shape[-1])) * backend.normal(key, shape)


def unpatchify(patches: jax.Array, patch: int, height: int, width: int) -> jax.Array:
    """The inverse of `dit.patchify`: an image from patches in raster order, each with its values in raster order."""
    # [B, ..., patch^2 C] -> [B, height, width, C]
    x = patches.reshape(patches.shape[0], height // patch, width // patch, patch, patch, -1)
    return x.swapaxes(2, 3).reshape(patches.shape[0], height, width, -1)


class Normalization(nn.Module):
    """'none', 'batch' (Ioffe and Szegedy 2015; over the global batch under jit) or 'group' (Wu and He 2018; 16 channels
    a group, or fewer where that does not divide them).

    The running averages of batch normalisation are in the collection `batch_stats`.
    """

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:  # [B, ..., C] -> [B, ..., C]
        if self.kind == "none":
            return x
        if self.kind == "batch":
            return nn.BatchNorm(use_running_average=not training, momentum=0.9)(x)
        if self.kind == "group":
            return nn.GroupNorm(num_groups=None, group_size=math.gcd(16, x.shape[-1]))(x)
        raise ConfigError(f"normalization is {self.kind!r}; it must be 'none', 'batch' or 'group'.")
