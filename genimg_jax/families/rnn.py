"""Recurrent autoregressive models: tanh, GRU or LSTM, a row or a single value of the image a step. Exact likelihoods.

With order "row" the values of a row are independent of each other given the rows above; with order "pixel" every
value (raster order, the channels of a pixel in turn) is conditioned on all before it (van den Oord et al. 2016,
"Pixel recurrent neural networks", equation 1). Training is teacher-forced: every step sees the true past.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.networks.recurrent import CELLS, RecurrentStack
from genimg_jax.objectives.likelihoods import LIKELIHOODS
from genimg_jax.options import bounded, choice

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    cell: str = choice("lstm", *CELLS)
    width: int = bounded(512, 1)  # hidden units a layer
    layers: int = bounded(1, 1)
    order: str = choice("row", "row", "pixel")
    window: int = bounded(1, 1)  # steps of the past given as input besides the state; two rows reach the pixels above
    likelihood: str = choice("bernoulli", *LIKELIHOODS)
    conditional: bool = False  # condition on the class


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` where the data cannot have the likelihood."""
    height, width, channels = spec.image_shape
    steps, size = (height, width * channels) if options.order == "row" else (height * width * channels, 1)
    likelihood = LIKELIHOODS[options.likelihood](spec._replace(image_shape=(1, size, 1)))
    classes = core.classes(options.conditional, spec)
    places = (height, steps // height)
    outputs = size * likelihood.channels
    network = RecurrentStack(
        options.cell, options.width, options.layers, options.window * size, outputs, places, classes
    )
    optimizer = optimizers["model"]

    def label(batch):
        return batch["label"] if classes else None

    def apply(params, *arguments, method="__call__"):
        return network.apply({"params": params}, *arguments, method=method)

    def windows(image):
        """What each step is shown: the `window` steps before it, the oldest first, zeros before the image."""
        # [B, H, W, C] -> [S, B, window size]
        sequence = image.reshape(-1, steps, size).swapaxes(0, 1)
        padded = jnp.pad(sequence, ((options.window, 0), (0, 0), (0, 0)))
        return jnp.concatenate([padded[i : i + steps] for i in range(options.window)], axis=-1)

    def init(key, batch):
        return core.init_state(
            {"model": network.init(key, windows(batch["image"]), label(batch))["params"]}, optimizers
        )

    def log_masses(params, batch):  # -> [B], nats
        image = batch["image"]
        outputs = apply(params, windows(image), label(batch)).swapaxes(0, 1)
        outputs = outputs.reshape(len(image), steps, size, likelihood.channels)
        return likelihood.log_prob(outputs, image.reshape(len(image), steps, size, 1))

    def train_step(state, batch, key):
        def loss(params, part, key):
            return -log_masses(params, part).mean(), {}

        (value, _), gradients = core.value_and_grad(optimizer, loss)(state.params["model"], batch, key)
        state, updated = core.update(optimizer, state, "model", gradients)
        return state.replace(step=state.step + 1), {"loss": value, **updated}

    def log_prob(weights, batch, key):
        return log_masses(weights.params["model"], batch)

    def evaluate(weights, batch, key):
        return {"loss": -log_prob(weights, batch, key)}

    def complete(weights, image, mask, keys, condition):
        """Clamped ancestral sampling: each unknown value is drawn given the steps before its own, known or drawn.

        Exact where no known value belongs to a later step than an unknown one; elsewhere what is known later does not
        influence what is drawn earlier.
        """
        params, count = weights.params["model"], len(image)
        known = jnp.broadcast_to(mask[..., None], image.shape)
        image, known = (x.reshape(count, steps, size).swapaxes(0, 1) for x in (image, known))

        def step(carry, at):
            past, states = carry
            place, given, fixed = at
            states, outputs = apply(params, states, past, label(condition), place, method="step")
            outputs = outputs.reshape(count, 1, size, likelihood.channels)
            drawn = likelihood.sample(outputs, core.fold_in(keys, place)).reshape(count, size)
            values = jnp.where(fixed, given, drawn)
            return (jnp.concatenate([past[:, size:], values], axis=1), states), values

        start = jnp.zeros((count, options.window * size)), apply(params, count, method="start")
        _, values = jax.lax.scan(step, start, (jnp.arange(steps), image, known))
        return values.swapaxes(0, 1).reshape(-1, *spec.image_shape)

    def sample(weights, keys, condition):
        image = jnp.zeros((len(keys), *spec.image_shape))
        return complete(weights, image, jnp.zeros(image.shape[:3], bool), keys, condition)

    return core.Family(
        init,
        train_step,
        evaluate,
        sample=sample,
        log_prob=log_prob,
        bound="exact",
        conditions=("label",) if classes else (),
        protocol={
            "order": options.order,
            "complete": "clamped ancestral; exact where no known value is in a later "
            + ("row than" if options.order == "row" else "place in raster order than")
            + " an unknown one",
        },
        complete=complete,
    )
