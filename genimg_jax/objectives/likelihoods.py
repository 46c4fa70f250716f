"""Likelihoods: distributions over images, from a decoder's outputs.

Images are discrete: level l of `levels` is stored as the value 2 l / (levels - 1) - 1. Every `log_prob` here is the
logarithm of a probability mass that sums to one over the levels of each pixel and channel, which are independent
given the outputs. Everything is computed in float32, whatever the precision of the outputs.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax.backend import FULL_PRECISION
from genimg_jax.core import Spec
from genimg_jax.errors import ConfigError

# PixelCNN++'s narrowest logistic, and its mirror image. Beyond them the output has no gradient, and nothing overflows.
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 7.0


class Likelihood(NamedTuple):
    """A distribution over images, given outputs [B, H, W, channels] of a decoder."""

    channels: int
    """The number of output channels for an image of the spec's shape."""
    log_prob: Callable[[jax.Array, jax.Array], jax.Array]
    """(outputs, image f32[B, H, W, C] in [-1, 1]) -> f32[B], nats, summed over pixels and channels."""
    mean: Callable[[jax.Array], jax.Array]
    """(outputs) -> f32[B, H, W, C] in [-1, 1], the expected image."""
    sample: Callable[[jax.Array, jax.Array], jax.Array]
    """(outputs, keys key[B]) -> f32[B, H, W, C] rounded to the levels, each example from its own key."""


def to_levels(image: jax.Array, levels: int) -> jax.Array:  # f32[...] in [-1, 1] -> i32[...] in 0..levels-1
    """The nearest level; values outside [-1, 1] take the end levels."""
    return jnp.clip(jnp.round((image + 1) * ((levels - 1) / 2)), 0, levels - 1).astype(jnp.int32)


def to_values(level: jax.Array, levels: int) -> jax.Array:  # i32[...] in 0..levels-1 -> f32[...] in [-1, 1]
    return level.astype(jnp.float32) * (2 / (levels - 1)) - 1


def _sum_pixels(x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B]
    return x.sum(axis=(1, 2, 3))


def bernoulli(spec: Spec) -> Likelihood:
    """Binary images; the outputs are logits of the upper level.

    Raises ConfigError for more than two levels: the cross-entropy of grey intensities is not a probability.
    """
    if spec.levels != 2:
        raise ConfigError(
            f"the Bernoulli likelihood needs images of 2 levels and these have {spec.levels}: "
            "binarize the data, or choose the discretized_logistic or categorical likelihood"
        )

    def log_prob(outputs: jax.Array, image: jax.Array) -> jax.Array:  # [B, H, W, C], [B, H, W, C] -> f32[B]
        return _sum_pixels(jax.nn.log_sigmoid(image.astype(jnp.float32) * outputs.astype(jnp.float32)))

    def mean(outputs: jax.Array) -> jax.Array:  # [B, H, W, C] -> f32[B, H, W, C]
        return jnp.tanh(outputs.astype(jnp.float32) / 2)

    def sample(outputs: jax.Array, keys: jax.Array) -> jax.Array:  # [B, H, W, C], key[B] -> f32[B, H, W, C]
        upper = jax.vmap(jax.random.bernoulli)(keys, jax.nn.sigmoid(outputs.astype(jnp.float32)))
        return to_values(upper, 2)

    return Likelihood(spec.image_shape[-1], log_prob, mean, sample)


def discretized_logistic(spec: Spec) -> Likelihood:
    """A logistic per pixel and channel, rounded to the levels (Salimans et al. 2017, PixelCNN++, eq. 2).

    The outputs are the C means, in image units, then the C log scales. The end levels take the tails. For levels
    inside, with edges a > b in units of the scale, the mass sigmoid(a) - sigmoid(b) is computed as
    sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which is precise for narrow, wide and far-away logistics.
    """
    levels, half_bin = spec.levels, 1 / (spec.levels - 1)

    def parameters(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:  # [B, H, W, 2 C] -> 2 x f32[B, H, W, C]
        location, log_scale = jnp.split(outputs.astype(jnp.float32), 2, axis=-1)
        return location, jnp.clip(log_scale, MIN_LOG_SCALE, MAX_LOG_SCALE)

    def log_prob(outputs: jax.Array, image: jax.Array) -> jax.Array:  # [B, H, W, 2 C], [B, H, W, C] -> f32[B]
        location, log_scale = parameters(outputs)
        image = image.astype(jnp.float32)
        precision = jnp.exp(-log_scale)
        below_upper_edge = jax.nn.log_sigmoid((image + half_bin - location) * precision)
        above_lower_edge = jax.nn.log_sigmoid((location - image + half_bin) * precision)
        overlap = jnp.log(-jnp.expm1(-2 * half_bin * precision))
        lowest, highest = image < half_bin - 1, image > 1 - half_bin
        inside = below_upper_edge + above_lower_edge + overlap
        return _sum_pixels(jnp.where(lowest, below_upper_edge, jnp.where(highest, above_lower_edge, inside)))

    def mean(outputs: jax.Array) -> jax.Array:  # [B, H, W, 2 C] -> f32[B, H, W, C]
        location, log_scale = (x[..., None] for x in parameters(outputs))
        upper_edges = to_values(jnp.arange(levels - 1), levels) + half_bin
        # Summation by parts: a value is the highest one minus a bin for each upper edge above it.
        below = jax.nn.sigmoid((upper_edges.reshape(1, 1, 1, 1, -1) - location) * jnp.exp(-log_scale))
        return 1 - 2 * half_bin * below.sum(axis=-1)

    def sample(outputs: jax.Array, keys: jax.Array) -> jax.Array:  # [B, H, W, 2 C], key[B] -> f32[B, H, W, C]
        location, log_scale = parameters(outputs)
        noise = jax.vmap(lambda key: jax.random.logistic(key, location.shape[1:]))(keys)
        return to_values(to_levels(location + jnp.exp(log_scale) * noise, levels), levels)

    return Likelihood(2 * spec.image_shape[-1], log_prob, mean, sample)


def categorical(spec: Spec) -> Likelihood:
    """A softmax over the levels of each pixel and channel (van den Oord et al. 2016, PixelRNN, section 3.4).

    The outputs are the `levels` logits of the first channel, then of the second, and so on.
    """
    levels = spec.levels

    def logits(outputs: jax.Array) -> jax.Array:  # [B, H, W, C levels] -> f32[B, H, W, C, levels]
        return outputs.astype(jnp.float32).reshape(*outputs.shape[:3], -1, levels)

    def log_prob(outputs: jax.Array, image: jax.Array) -> jax.Array:  # [B, H, W, C levels], [B, H, W, C] -> f32[B]
        log_masses = jax.nn.log_softmax(logits(outputs))
        level = to_levels(image.astype(jnp.float32), levels)[..., None]
        return _sum_pixels(jnp.take_along_axis(log_masses, level, axis=-1)[..., 0])

    def mean(outputs: jax.Array) -> jax.Array:  # [B, H, W, C levels] -> f32[B, H, W, C]
        values = to_values(jnp.arange(levels), levels)
        return jnp.matmul(jax.nn.softmax(logits(outputs)), values, precision=FULL_PRECISION)

    def sample(outputs: jax.Array, keys: jax.Array) -> jax.Array:  # [B, H, W, C levels], key[B] -> f32[B, H, W, C]
        return to_values(jax.vmap(jax.random.categorical)(keys, logits(outputs)), levels)

    return Likelihood(levels * spec.image_shape[-1], log_prob, mean, sample)


LIKELIHOODS = {"bernoulli": bernoulli, "discretized_logistic": discretized_logistic, "categorical": categorical}
