"""Regression of an image on the map or image that it belongs to: one prediction for each condition, no randomness.

With the mean squared error it learns the mean of the images that a condition allows, and with the mean absolute error
the median of each of their pixels. No estimate of a degraded image has a higher expected PSNR than their mean, which is
smoother than any of them (Blau and Michaeli 2018): the baseline of restoration. The network is that of `diffusion`, at
one noise level, with the condition in place of the noisy image.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.networks import backbone
from genimg_jax.networks.conditioning import map_fields
from genimg_jax.networks.translation import ConditionImage
from genimg_jax.objectives.distances import DISTANCES, peak_signal_to_noise_ratio
from genimg_jax.options import choice, names

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options(backbone.Options):
    loss: str = choice("squared_error", *DISTANCES)  # its mean over the image's values
    conditions: tuple[str, ...] = names("source")  # source or map, and any other fields


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` without a map or an image to start from."""
    fields = core.fields_of(options.conditions, spec)
    if not map_fields(fields):
        raise ConfigError(
            f"model.conditions is {options.conditions}, and the regressor predicts from a map or an image: name "
            "'source' or 'map', which data.fields asks for."
        )
    encoder = ConditionImage(fields, spec.image_shape[:2])
    network = backbone.build(options, spec.image_shape[-1], ())
    distance = DISTANCES[options.loss]

    def predict(params, condition, count):  # -> f32[B, H, W, C]
        image = encoder.apply({"params": params["condition"]}, condition, count)
        return network.apply({"params": params["network"]}, image, jnp.zeros(count), None)

    def init(key, batch):
        first, second = jax.random.split(key)
        count = len(batch["image"])
        image, encoded = encoder.init_with_output(first, batch, count)
        params = network.init(second, image, jnp.zeros(count), None)["params"]
        return core.init_state({"model": {"condition": encoded["params"], "network": params}}, optimizers)

    def train_step(state, batch, key):
        def loss(params, part, _):
            value = distance(predict(params, part, len(part["image"])) - part["image"]).mean()
            return value, {"loss": value}

        state, metrics = core.train_group(optimizers["model"], state, "model", loss, batch, key)
        return state.replace(step=state.step + 1), metrics

    def evaluate(weights, batch, key):
        predicted = predict(weights.params["model"], batch, len(batch["image"]))
        error = jnp.clip(predicted, -1.0, 1.0) - batch["image"]
        return {
            "loss": distance(predicted - batch["image"]).mean((1, 2, 3)),
            "psnr": peak_signal_to_noise_ratio(jnp.square(error).mean((1, 2, 3))),
            "l1": jnp.abs(error).mean((1, 2, 3)),
        }

    def sample(weights, keys, condition):
        return jnp.clip(predict(weights.params["model"], condition, len(keys)), -1.0, 1.0)

    measured = {"squared_error": "psnr", "absolute_error": "l1"}[options.loss]
    return core.Family(
        init, train_step, evaluate, objective=("loss", measured), sample=sample, conditions=options.conditions
    )
