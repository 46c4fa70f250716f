"""Gated PixelCNN (van den Oord et al. 2016): an exact likelihood, pixel after pixel in raster order.

Channels of a pixel are conditioned on one another in their order (red, green, blue): by groups of features under the
Bernoulli and categorical likelihoods, and within the mixture by its linear autoregression (PixelCNN++, Salimans et
al. 2017), which needs one pass a pixel to sample instead of one a channel.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families.autoregressive import autoregressive
from genimg_jax.networks.gated import GatedPixelCNN
from genimg_jax.objectives.likelihoods import LIKELIHOODS, Likelihood
from genimg_jax.objectives.mixtures import discretized_logistic_mixture
from genimg_jax.options import bounded, choice, names
from genimg_jax.samplers import ancestral

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    features: int = bounded(32, 4)
    layers: int = bounded(8, 1)  # enough, with the first, that the receptive field covers the image
    kernel_radius: int = bounded(1, 1)  # rows above, and columns to either side, in a layer's window
    first_kernel_radius: int = bounded(3, 1)  # the same, of the first layer
    positions: bool = True  # add learned position embeddings
    likelihood: str = choice("bernoulli", "bernoulli", "categorical", "logistic_mixture")
    components: int = bounded(10, 1)  # of the mixture
    # Inpaintings sampled per image, of which one is chosen: see `ancestral.resample`.
    candidates: int = bounded(1, 1, inference_only=True)
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


def build_likelihood(options: Options, spec: core.Spec) -> Likelihood:
    if options.likelihood == "logistic_mixture":
        return discretized_logistic_mixture(spec, options.components)
    return LIKELIHOODS[options.likelihood](spec)


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` if the likelihood does not fit the data."""
    height, width, channels = spec.image_shape
    groups = 1 if options.likelihood == "logistic_mixture" else channels
    likelihood = build_likelihood(options, spec)
    pixel = build_likelihood(options, spec._replace(image_shape=(1, 1, channels)))
    fields = core.fields_of(options.conditions, spec)
    sizes = options.features, options.layers, likelihood.channels
    radii = options.kernel_radius, options.first_kernel_radius
    network = GatedPixelCNN((height, width), *sizes, *radii, groups, options.positions, fields)

    def log_mass(params, batch):  # [B, H, W, C] -> f32[B]
        outputs = network.apply({"params": params}, batch["image"], batch)
        return likelihood.log_prob(outputs, batch["image"])

    def init(key, batch):
        return network.init(key, batch["image"], batch)["params"]

    def decode(params, image, mask, keys, condition):
        """Samples the pixels outside the mask, row after row; also the log-likelihood of the others."""
        # [B, H, W, C], bool[B, H, W], key[B] -> [B, H, W, C], f32[B]
        apply = functools.partial(network.apply, {"params": params})
        batch, kernel_radius = image.shape[0], options.first_kernel_radius

        def fill_row(carry, at):
            above, rows, total = carry
            number, observed, keep = at
            links, rows = apply(above, number, condition, rows, method="vertical")

            def step(state, position, observed, keep, keys):
                left, columns = state
                column = position % width
                window = jax.lax.dynamic_slice_in_dim(left, column, kernel_radius, axis=2)
                here = tuple(jax.lax.dynamic_slice_in_dim(link, column, 1, axis=2) for link in links)
                value = observed
                # Each pass samples one more channel: earlier channels do not depend on later ones, and the same key
                # samples the same values of them again.
                for _ in range(groups):
                    outputs, following = apply(window, value[:, None, None], here, columns, method="horizontal")
                    value = jnp.where(keep[:, None], observed, pixel.sample(outputs, keys)[:, 0, 0])
                log_prob = pixel.log_prob(outputs, value[:, None, None])
                left = jax.lax.dynamic_update_slice_in_dim(left, value[:, None, None], column + kernel_radius, axis=2)
                return (left, following), value, log_prob

            left = jnp.zeros((batch, 1, kernel_radius + width, channels))
            positions = number * width + jnp.arange(width)
            _, values, weight = ancestral.decode(step, (left, no_columns), positions, observed, keep, keys)
            above = jnp.concatenate([above[:, 1:], values[:, None]], axis=1)
            return (above, rows, total + weight), values

        no_rows, no_columns = network.empty(batch)
        above = jnp.zeros((batch, kernel_radius, width, channels))
        along = jnp.arange(height), image.swapaxes(0, 1), mask.swapaxes(0, 1)
        (_, _, total), values = jax.lax.scan(fill_row, (above, no_rows, jnp.zeros(batch)), along)
        return values.swapaxes(0, 1), total

    return autoregressive(init, log_mass, decode, spec, optimizers, options.conditions, "raster", options.candidates)
