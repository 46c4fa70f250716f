"""Recurrent autoregressive models: tanh, GRU or LSTM; a step is a row or a value of the image. Exact likelihoods.

With order "row" the values of a row are independent of each other given the rows above; with order "pixel" every
value (raster order, the channels of a pixel in turn) is conditioned on all before it (van den Oord et al. 2016,
"Pixel recurrent neural networks", equation 1). Training uses teacher forcing: the inputs are the true values.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families.autoregressive import autoregressive
from genimg_jax.networks.recurrent import CELLS, RecurrentStack
from genimg_jax.objectives.likelihoods import LIKELIHOODS
from genimg_jax.options import bounded, choice, names

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    cell: str = choice("lstm", *CELLS)
    width: int = bounded(512, 1)  # hidden units per layer
    layers: int = bounded(1, 1)
    order: str = choice("row", "row", "pixel")
    window: int = bounded(1, 1)  # past steps that are inputs besides the state, such as 2 rows
    likelihood: str = choice("bernoulli", *LIKELIHOODS)
    # Inpaintings sampled per image, of which one is chosen: see `ancestral.resample`.
    candidates: int = bounded(1, 1, inference_only=True)
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` if the likelihood does not fit the data."""
    height, width, channels = spec.image_shape
    steps, size = (height, width * channels) if options.order == "row" else (height * width * channels, 1)
    likelihood = LIKELIHOODS[options.likelihood](spec._replace(image_shape=(1, size, 1)))
    fields = core.fields_of(options.conditions, spec)
    positions = (height, steps // height)
    outputs = size * likelihood.channels
    network = RecurrentStack(
        options.cell, options.width, options.layers, options.window * size, outputs, positions, fields
    )

    def apply(params, *arguments, method="__call__"):
        return network.apply({"params": params}, *arguments, method=method)

    def windows(image):
        """The input of each step: the `window` steps before it, the oldest first, zeros before the image."""
        # [B, H, W, C] -> [S, B, window size]
        sequence = image.reshape(-1, steps, size).swapaxes(0, 1)
        padded = jnp.pad(sequence, ((options.window, 0), (0, 0), (0, 0)))
        return jnp.concatenate([padded[i : i + steps] for i in range(options.window)], axis=-1)

    def init(key, batch):
        return network.init(key, windows(batch["image"]), batch)["params"]

    def log_mass(params, batch):  # -> [B], nats
        image = batch["image"]
        outputs = apply(params, windows(image), batch).swapaxes(0, 1)
        outputs = outputs.reshape(len(image), steps, size, likelihood.channels)
        return likelihood.log_prob(outputs, image.reshape(len(image), steps, size, 1))

    def decode(params, image, mask, keys, condition):
        """Samples the values outside the mask, step after step; also the log-likelihood of the others."""
        # [B, H, W, C], bool[B, H, W], key[B] -> [B, H, W, C], f32[B]
        batch = image.shape[0]
        mask = jnp.broadcast_to(mask[..., None], image.shape)
        image, mask = (x.reshape(batch, steps, size).swapaxes(0, 1) for x in (image, mask))

        def step(carry, at):
            past, states, total = carry
            position, observed, mask = at
            states, outputs = apply(params, states, past, condition, position, method="step")
            sampled = likelihood.sample(outputs.reshape(batch, 1, size, -1), core.fold_in(keys, position))
            values = jnp.where(mask, observed, sampled.reshape(batch, size))
            # Each value is an image of one pixel, because only values in the mask count.
            log_probs = likelihood.log_prob(outputs.reshape(batch * size, 1, 1, -1), values.reshape(-1, 1, 1, 1))
            total = total + jnp.where(mask, log_probs.reshape(batch, size), 0).sum(1)
            return (jnp.concatenate([past[:, size:], values], axis=1), states, total), values

        past = jnp.zeros((batch, options.window * size))
        start = past, apply(params, batch, method="start"), jnp.zeros(batch)
        (_, _, total), values = jax.lax.scan(step, start, (jnp.arange(steps), image, mask))
        return values.swapaxes(0, 1).reshape(-1, *spec.image_shape), total

    return autoregressive(
        init, log_mass, decode, spec, optimizers, options.conditions, options.order, options.candidates
    )
