"""Layers that the networks share. All compute in the dtype of their parameters.

`core.value_and_grad` hands a loss its parameters in the compute dtype; layers that follow their parameters make the
whole network follow, whatever the dtype of the images. Statistics (batch means, spectral vectors) stay float32.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

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


def parameters(layer: nn.Module, x: jax.Array, window: tuple[int, ...], training: bool):
    """The input in the dtype of the parameters, the kernel [*window, in, features] (spectrally normalised if `layer`
    asks for it), and the bias [features], or 0."""
    # Variance 2 / fan in (He et al. 2015), as suits the rectifiers that follow.
    kernel = layer.param("kernel", nn.initializers.he_normal(), (*window, x.shape[-1], layer.features))
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
        edge = (self.window // 2, self.window // 2)
        return add(convolve(jnp.pad(x, ((0, 0), edge, edge, (0, 0))), kernel), bias)


class Downsample(nn.Module):
    """A 4x4 convolution of stride 2 and padding 1, which halves height and width (both even).

    Computed as a 2x2 convolution of stride 1 over 2x2 blocks of pixels: the same sums, without a strided window.
    """

    features: int
    use_bias: bool = True
    spectral: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:  # [B, 2h, 2w, C] -> [B, h, w, features]
        channels = x.shape[-1]
        x, kernel, bias = parameters(self, x, (4, 4), training)
        x = space_to_depth(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
        kernel = kernel.reshape(2, 2, 2, 2, channels, self.features).transpose(0, 2, 1, 3, 4, 5)
        return add(convolve(x, kernel.reshape(2, 2, 4 * channels, self.features)), bias)


class Upsample(nn.Module):
    """A transposed 4x4 convolution of stride 2 and padding 1, which doubles height and width.

    The kernel `[a, b]` is what an input pixel adds at output offset `(a - 1, b - 1)`, as in PyTorch. Computed as a 2x2
    convolution that makes the four output pixels of each corner between four input pixels, instead of one over
    inserted zeros. Its kernel is the 4x4 one with the windows' order reversed.
    """

    features: int
    use_bias: bool = True
    spectral: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:  # [B, h, w, C] -> [B, 2h, 2w, features]
        channels = x.shape[-1]
        x, kernel, bias = parameters(self, x, (4, 4), training)
        kernel = kernel.reshape(2, 2, 2, 2, channels, self.features)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = depth_to_space(convolve(x, kernel.reshape(2, 2, channels, 4 * self.features)))
        return add(x[:, 1:-1, 1:-1], bias)


def space_to_depth(x: jax.Array) -> jax.Array:
    """2x2 blocks of pixels as channels, in the order (row, column, channel)."""  # [B, 2h, 2w, C] -> [B, h, w, 4C]
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def depth_to_space(x: jax.Array) -> jax.Array:
    """The inverse of `space_to_depth` (sub-pixel convolution, Shi et al. 2016)."""  # [B, h, w, 4C] -> [B, 2h, 2w, C]
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 1 without padding."""  # [B, H, W, C], [a, b, C, D] -> [B, H - a + 1, W - b + 1, D]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Normalization(nn.Module):
    """'none', 'batch' (Ioffe and Szegedy 2015; over the global batch under jit) or 'group' (Wu and He 2018).

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
            return nn.GroupNorm(num_groups=math.gcd(32, x.shape[-1]))(x)
        raise ConfigError(f"normalization is {self.kind!r}; it must be 'none', 'batch' or 'group'.")
