"""Style transfer by optimisation over pixels: an image with the features of its content and the statistics of a style.

The features are those of any network with several layers. Adam begins at the content image and minimises

    content loss of the last layer + weight * style loss, the mean over all layers

- `gram` (Gatys, Ecker and Bethge 2016, equations 1 and 3 to 7): the features are to be those of the content, and the
  Gram matrices those of the style.
- `adain` (Huang and Belongie 2017, equations 8 and 11 to 13): the features are to be those of the content with each
  channel's mean and standard deviation set to the style's, and the means and deviations those of the style. The paper
  trains a decoder for this loss. Here no decoder is needed: the pixels themselves are its variables.

Losses are means of squares without the papers' constant factors, so the weight does not depend on an image's size.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.samplers.latent_posterior import descend

SCALE = 0.2  # Adam's rate is at first 0.1 of it: 0.02, where 2 is from black to white
LEAST_VARIANCE = 1e-8  # of a channel that is not constant

Features = tuple[jax.Array, ...]
"""Of each layer f32[B, h, w, D]."""
Layers = Callable[[core.Tree, jax.Array], Features]
"""(parameters, f32[B, H, W, C] in [-1, 1]) -> features; row i depends on image i alone."""


class Method(NamedTuple):
    target: Callable[[jax.Array, jax.Array], jax.Array]
    """(content features, style features) of the last layer -> what the features are to be, f32[B, h, w, D]."""
    statistics: Callable[[jax.Array], jax.Array]
    """Features of a layer f32[B, h, w, D] -> f32[B, ...], without positions."""


class Losses(NamedTuple):
    content: jax.Array  # f32[B]
    style: jax.Array  # f32[B]


class Stylized(NamedTuple):
    image: jax.Array  # f32[B, H, W, C] in [-1, 1]
    before: Losses  # of the content image
    after: Losses  # of `image`


def gram(features: jax.Array) -> jax.Array:
    """The mean product of each two channels (Gatys et al. 2016, equation 3, divided by the number of pixels)."""
    # [B, h, w, D] -> f32[B, D, D]
    return jnp.einsum("bhwi,bhwj->bij", features, features) / (features.shape[1] * features.shape[2])


def mean_and_deviation(features: jax.Array) -> jax.Array:
    """Each channel's mean and standard deviation over the pixels."""  # [B, h, w, D] -> f32[B, 2, D]
    variance = features.var((1, 2))
    varies = variance > LEAST_VARIANCE
    # The inner `where` keeps the gradient finite: the square root has none at 0.
    deviation = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0)
    return jnp.stack([features.mean((1, 2)), deviation], 1)


def adain(content: jax.Array, style: jax.Array) -> jax.Array:
    """Adaptive instance normalisation (Huang and Belongie 2017, equation 8): the content with the style's mean and
    standard deviation of each channel. A channel that is constant stays so, at the style's mean."""
    # [B, h, w, D], [B, y, x, D] -> f32[B, h, w, D]
    (mean, deviation), (style_mean, style_deviation) = (
        mean_and_deviation(x).swapaxes(0, 1)[..., None, None, :] for x in (content, style)
    )
    return style_deviation * (content - mean) / jnp.where(deviation > 0, deviation, 1) + style_mean


def losses(method: str, features: Features, content: Features, style: Features) -> Losses:
    """The losses of an image with these features, by one of `METHODS`."""
    target, statistics = METHODS[method]
    layers = [_mean_square(statistics(x) - statistics(y)) for x, y in zip(features, style, strict=True)]
    return Losses(_mean_square(features[-1] - target(content[-1], style[-1])), sum(layers) / len(layers))


@functools.partial(jax.jit, static_argnames=("method", "layers", "steps"))
def transfer(
    method: str,
    layers: Layers,
    parameters: core.Tree,
    content: jax.Array,
    style: jax.Array,
    steps: int,
    weight: float | jax.Array,
) -> Stylized:
    """Each content image in the style of the style image beside it, by one of `METHODS` in `steps` steps of Adam."""
    # f32[B, H, W, C], f32[B, h, w, C] in [-1, 1]
    content_features, style_features = layers(parameters, content), layers(parameters, style)

    def losses_of(image: jax.Array) -> Losses:
        return losses(method, layers(parameters, image), content_features, style_features)

    def total(pixels: jax.Array) -> jax.Array:  # -> f32[B]
        # The gradient passes as if nothing was clipped: else a black or a white pixel would never change.
        each = losses_of(pixels + jax.lax.stop_gradient(jnp.clip(pixels, -1, 1) - pixels))
        return each.content + weight * each.style

    image = jnp.clip(descend(total, content, jnp.full(len(content), SCALE), steps), -1, 1)
    return Stylized(image, losses_of(content), losses_of(image))


def _mean_square(x: jax.Array) -> jax.Array:  # [B, ...] -> f32[B]
    return jnp.square(x).mean(tuple(range(1, x.ndim)))


METHODS = {
    "gram": Method(lambda content, style: content, gram),
    "adain": Method(adain, mean_and_deviation),
}
