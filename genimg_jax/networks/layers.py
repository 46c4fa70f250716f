"""Layers that the networks share. All compute in the dtype of their parameters.

`core.value_and_grad` hands a loss its parameters in the compute dtype; layers that follow their parameters make the
whole network follow, whatever the dtype of the images. Statistics (batch means, spectral vectors) stay float32.
"""

import math

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

    The kernel is read as a matrix from all its other axes to its last. The right singular vector lives in the
    collection `batch_stats` and takes one step of power iteration a training call; evaluation uses it as it is.
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


def he_normal(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:  # -> f32[*shape]
    """Variance 2 / fan in, as suits the rectifiers that follow (He et al. 2015, equation 10)."""
    return math.sqrt(2 / fan_in) * backend.normal(key, shape)


def parameters(layer: nn.Module, x: jax.Array, window: tuple[int, ...], training: bool):
    """The input in the dtype of the parameters, the kernel [*window, in, features] (spectrally normalised if `layer`
    asks for it), and the bias [features], or 0."""
    shape = (*window, x.shape[-1], layer.features)
    kernel = layer.param("kernel", he_normal, shape, math.prod(shape[:-1]))
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,)) if layer.use_bias else jnp.zeros((), x.dtype)
    if layer.spectral:
        kernel = SpectralScale(name="spectral")(kernel, training)
    return x.astype(kernel.dtype), kernel, bias.astype(kernel.dtype)


def add(x: jax.Array, bias: jax.Array) -> jax.Array:  # [..., C], [C] or [] -> [..., C]
    return x + jnp.broadcast_to(bias, x.shape)


class Dense(nn.Module):
    """An affine map of the last axis."""

    features: int
    use_bias: bool = True
    spectral: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:  # [..., N] -> [..., features]
        x, kernel, bias = parameters(self, x, (), training)
        return add(x @ kernel, bias)


class Conv(nn.Module):
    """A convolution of stride 1 that keeps height and width: an odd `window`, zero padding."""

    features: int
    window: int = 3
    use_bias: bool = True
    spectral: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:  # [B, H, W, C] -> [B, H, W, features]
        x, kernel, bias = parameters(self, x, (self.window, self.window), training)
        return add(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=backend.CHANNELS_LAST), bias
        )


class Downsample(nn.Module):
    """A 4x4 convolution of stride 2 and padding 1, which halves height and width (both even)."""

    features: int
    use_bias: bool = True
    spectral: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:  # [B, 2h, 2w, C] -> [B, h, w, features]
        x, kernel, bias = parameters(self, x, (4, 4), training)
        return add(backend.downsample(x, kernel), bias)


class Upsample(nn.Module):
    """A transposed 4x4 convolution of stride 2 and padding 1, which doubles height and width.

    Its kernel [4, 4, features, C] is that of the convolution it transposes.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, h, w, C] -> [B, 2h, 2w, features]
        # Only 4 of the 16 taps reach an output pixel.
        kernel = self.param("kernel", he_normal, (4, 4, self.features, x.shape[-1]), 4 * x.shape[-1])
        x = backend.upsample(x.astype(kernel.dtype), kernel)
        return add(x, self.param("bias", nn.initializers.zeros, (self.features,))) if self.use_bias else x


def unpatchify(patches: jax.Array, patch: int, height: int, width: int) -> jax.Array:
    """Patches of `patch` x `patch` pixels, in raster order and each of its values too, put together."""
    # [B, ..., patch^2 C] -> [B, height, width, C]
    x = patches.reshape(patches.shape[0], height // patch, width // patch, patch, patch, -1)
    return x.swapaxes(2, 3).reshape(patches.shape[0], height, width, -1)


class Normalization(nn.Module):
    """'none', 'batch' (Ioffe and Szegedy 2015; over the global batch under jit) or 'group' (Wu and He 2018; 16 channels
    a group, or fewer where that does not divide them).

    The running averages of batch normalisation live in the collection `batch_stats`.
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
