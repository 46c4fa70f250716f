"""The networks of StyleGAN2 (Karras et al. 2020): mapping network, output-skip generator, residual discriminator.

All weights are equalised: drawn from N(0, 1) and scaled by 1 / sqrt(fan in) at each use, so that an optimiser such as
Adam moves all layers at one relative speed (Karras et al. 2018, section 4.1).
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax import backend
from genimg_jax.errors import ConfigError
from genimg_jax.networks.conditioning import Condition, Fields, VectorEncoder
from genimg_jax.networks.convolutional import levels
from genimg_jax.networks.layers import Conv, Linear, activate, add
from genimg_jax.networks.resampling import blur, downsample, upsample

EPSILON = 1e-8
MOMENTUM = 0.9  # of the running mean of the minibatch standard deviation, as of batch normalisation's statistics


# ------------------------------------------------------------------------------------------------ equalised layers


def equalized(rate: float = 1.0) -> Callable:
    """A `promote_dtype` for Flax's layers: the kernel times `rate` / sqrt(fan in), the bias times `rate`."""

    def promote(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, **_):
        kernel = kernel * (rate / math.sqrt(math.prod(kernel.shape[:-1])))
        return x.astype(kernel.dtype), kernel, None if bias is None else bias * rate

    return promote


def normal(deviation: float = 1.0) -> Callable:
    return lambda key, shape, dtype=jnp.float32: deviation * backend.normal(key, shape, dtype)


def dense(features: int, rate: float = 1.0, bias: float = 0.0, name: str | None = None) -> nn.Module:
    """An equalised dense layer, whose learning rate is multiplied by `rate`. `bias` is the bias's initial value."""
    init = nn.initializers.constant(bias / rate)
    return Linear(features, kernel_init=normal(1 / rate), bias_init=init, promote_dtype=equalized(rate), name=name)


def conv(features: int, size: int = 3, name: str | None = None, **settings) -> nn.Module:
    """An equalised convolution."""
    return Conv(
        features, kernel_size=(size, size), kernel_init=normal(), promote_dtype=equalized(), name=name, **settings
    )


def leaky_relu(x: jax.Array) -> jax.Array:
    """The leaky ReLU times sqrt(2), He's gain, so that the second moment stays near 1."""  # [...] -> [...]
    return math.sqrt(2) * activate("leaky_relu", x)


def channels(width: int, max_width: int, height: int, image_width: int) -> list[int]:
    """The channels of each level, from the image's size to the smallest."""
    return [min(width << level, max_width) for level in range(levels(height, image_width) + 1)]


# ------------------------------------------------------------------------------------------------------- generator


def unit(x: jax.Array) -> jax.Array:  # [B, D] -> [B, D]
    """The vector scaled to a mean square of 1."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + EPSILON)


class MappingNetwork(nn.Module):
    """A code z to an intermediate code w (Karras et al. 2019, section 2). z and the condition's vector are normalised
    and concatenated."""

    features: int
    depth: int
    rate: float  # by which its learning rate is multiplied
    fields: Fields = ()

    @nn.compact
    def __call__(self, z: jax.Array, condition: Condition) -> jax.Array:  # [B, D] -> [B, D]
        x = unit(z)
        if self.fields:
            vector = VectorEncoder(self.fields, self.features, name="condition")(condition, len(z))
            x = jnp.concatenate([x, unit(vector).astype(x.dtype)], axis=-1)
        for _ in range(self.depth):
            x = leaky_relu(dense(self.features, self.rate)(x))
        return x


def modulated_conv(x: jax.Array, kernel: jax.Array, scale: jax.Array, demodulate: bool = True) -> jax.Array:
    """A convolution whose kernel is each example's own: `kernel` with input channel c times `scale[c]` (eq. 1) and, if
    demodulated, each output channel's weights divided by their Euclidean norm (eq. 3).

    Both are per channel, so they are applied to the inputs and to the outputs of one shared convolution.
    """  # [B, H, W, C], [k, k, C, D], f32[B, C] -> [B, H, W, D]
    x = (x * scale[:, None, None].astype(x.dtype)).astype(kernel.dtype)
    y = backend.convolution(x, kernel, (1, 1), "SAME")
    if not demodulate:
        return y
    squares = jnp.square(kernel.astype(jnp.float32)).sum(axis=(0, 1))
    norm = jnp.square(scale.astype(jnp.float32)) @ squares
    return y * jax.lax.rsqrt(norm + EPSILON)[:, None, None].astype(y.dtype)


class ModulatedConv(nn.Module):
    """`modulated_conv` by an affine function of w, which begins at a scale of 1, and a bias."""

    features: int
    size: int = 3
    demodulate: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:  # [B, H, W, C], [B, D] -> [B, H, W, features]
        scale = dense(x.shape[-1], bias=1.0, name="style")(w)
        kernel = self.param("kernel", normal(), (self.size, self.size, x.shape[-1], self.features))
        y = modulated_conv(x, kernel / math.sqrt(math.prod(kernel.shape[:-1])), scale, self.demodulate)
        return add(y, self.param("bias", nn.initializers.zeros, (self.features,)))


class StyleBlock(nn.Module):
    """A modulated convolution, noise of a learned strength, which begins at 0, and the leaky ReLU."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: jax.Array) -> jax.Array:
        # [B, H, W, C], [B, D], f32[B or 1, H, W] -> [B, H, W, features]
        x = ModulatedConv(self.features, name="conv")(x, w)
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        return backend.materialize(leaky_relu(x + strength * noise[..., None].astype(x.dtype)))


def noise_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """The shape of each style block's noise, in the order of the layers."""
    count = levels(height, width)
    return [(height >> count - (i + 1) // 2, width >> count - (i + 1) // 2) for i in range(2 * count + 1)]


class SynthesisNetwork(nn.Module):
    """A w for each layer to an image (Karras et al. 2020, figures 2c and 7b, left): the sum of one image of each level,
    upsampled. Layer i has w[:, i] and noise[i].

    One layer more than there are style blocks: that of the last level's image. Each other level's image shares the
    layer of the next style block.
    """

    width: int
    max_width: int
    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, w: jax.Array, noise: Sequence[jax.Array]) -> jax.Array:
        # [B, L, D], (L - 1) x f32[B or 1, h, w] -> f32[B, H, W, C], on no fixed range
        height, width, out = self.shape
        features = channels(self.width, self.max_width, height, width)[::-1]
        constant = self.param("constant", normal(), (*noise[0].shape[1:], features[0]))
        x, image = jnp.broadcast_to(constant, (len(w), *constant.shape)), 0.0
        for level, size in enumerate(features):
            if level:
                x, image = backend.materialize(upsample(x)), upsample(image)
                x = StyleBlock(size, name=f"up_{level}")(x, w[:, 2 * level - 1], noise[2 * level - 1])
            x = StyleBlock(size, name=f"block_{level}")(x, w[:, 2 * level], noise[2 * level])
            to_image = ModulatedConv(out, 1, demodulate=False, name=f"to_image_{level}")
            image += to_image(x, w[:, 2 * level + 1]).astype(jnp.float32)
        return image


def every_layer(w: jax.Array, count: int) -> jax.Array:  # [B, D] -> [B, count, D]
    """The same w at every layer."""
    return jnp.broadcast_to(w[:, None], (len(w), count, w.shape[-1]))


# --------------------------------------------------------------------------------------------------- discriminator


def minibatch_std(x: jax.Array, group: int) -> jax.Array:
    """For each image the standard deviation over its group, averaged over pixels and channels (Karras et al. 2018,
    section 3).

    Of B images, image i is in a group with i + B / group, i + 2 B / group, and so on. Gradient accumulation takes every
    k-th image as a slice, and so leaves these groups as they are.
    """  # [B, h, w, C] -> f32[B]
    count = len(x) // group
    values = x.astype(jnp.float32).reshape(group, count, -1)
    variance = jnp.square(values - values.mean(axis=0, keepdims=True)).mean(axis=0)
    # Smooth at 0, where the square root is not: R1 has second derivatives.
    deviation = jnp.sqrt(variance + EPSILON) - math.sqrt(EPSILON)
    return jnp.tile(deviation.mean(axis=1), group)


class MinibatchStd(nn.Module):
    """`minibatch_std` as one more channel. In evaluation the channel is its running mean: images are judged alone.

    Raises `ConfigError` if groups do not divide the batch.
    """

    group: int

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:  # [B, h, w, C] -> [B, h, w, C + 1]
        running = self.variable("batch_stats", "minibatch_std", jnp.zeros, ())
        deviation = jnp.broadcast_to(running.value, len(x))
        if training and not self.is_initializing():
            if len(x) % self.group:
                raise ConfigError(
                    f"the discriminator is given {len(x)} images, which groups of {self.group} do not divide: choose "
                    "another model.minibatch_group, train.batch_size or train.microbatches."
                )
            deviation = minibatch_std(x, self.group)
            running.value = MOMENTUM * running.value + (1 - MOMENTUM) * deviation.mean()
        channel = jnp.broadcast_to(deviation[:, None, None, None], (*x.shape[:-1], 1))
        return jnp.concatenate([x, channel.astype(x.dtype)], axis=-1)


class ResidualDiscriminator(nn.Module):
    """An image to `out` numbers (Karras et al. 2020, figure 7c, right). Its condition is None."""

    width: int
    max_width: int
    out: int
    minibatch_group: int

    @nn.compact
    def __call__(self, image: jax.Array, condition: Condition, training: bool) -> jax.Array:
        # [B, H, W, C] -> [B, out]
        features = channels(self.width, self.max_width, *image.shape[1:3])
        x = leaky_relu(conv(features[0], 1, name="from_image")(image))
        for level, size in enumerate(features[1:]):
            y = leaky_relu(conv(x.shape[-1], name=f"block_{level}")(x))
            y = leaky_relu(conv(size, strides=2, padding="VALID", name=f"down_{level}")(blur(y)))
            skip = conv(size, 1, use_bias=False, name=f"skip_{level}")(downsample(x))
            x = backend.materialize((skip + y) * math.sqrt(0.5))
        x = MinibatchStd(self.minibatch_group, name="minibatch_std")(x, training)
        x = leaky_relu(conv(features[-1], name="last")(x))
        x = leaky_relu(dense(features[-1], name="hidden")(x.reshape(len(x), -1)))
        return dense(self.out, name="out")(x)
