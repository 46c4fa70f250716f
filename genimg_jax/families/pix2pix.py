"""pix2pix (Isola et al. 2017): from a map or an image to the image that belongs to it, learned from pairs.

A U-Net generator whose noise is dropout, in sampling too, against a discriminator of patches that sees the condition
beside the image. The generator's loss is the adversarial one and the L1 distance to the true image (equation 4). The
discriminator is that of `vqgan`, with spectral normalisation. With `discriminator_depth` 1, 2, 3 or 4 a logit sees a
patch of 8, 18, 38 or 78 pixels to a side; the paper's is of 70 pixels, in images of 256.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import adversarial
from genimg_jax.families.adversarial import Discriminated, Game, Generated
from genimg_jax.networks.conditioning import map_fields
from genimg_jax.networks.grid import halved
from genimg_jax.networks.translation import ConditionalPatchDiscriminator, UNetGenerator
from genimg_jax.objectives.adversarial import LOSSES
from genimg_jax.options import bounded, choice, names

GROUPS = ("generator", "discriminator")


@dataclasses.dataclass(frozen=True)
class Options(adversarial.Options):
    width: int = bounded(64, 1)  # channels of the U-Net at half the image's size; doubled at each level, up to 8 times
    depth: int = bounded(6, 1)  # times that the U-Net halves the image; in the paper down to one pixel
    dropout: float = bounded(0.5, 0.0, 0.99)  # of the three levels after the smallest: the only noise
    loss: str = choice("non_saturating", *LOSSES)
    l1_weight: float = bounded(100.0, 0.0)  # lambda, relative to the adversarial loss
    discriminator_width: int = bounded(64, 1)  # channels at half the image's size; doubled like `width`, up to 4 times
    discriminator_depth: int = bounded(3, 1)  # downsamplings, from the image to patches
    conditions: tuple[str, ...] = names("source")  # source or map, and any other fields


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `generator` and `discriminator`."""
    fields = core.fields_of(options.conditions, spec)
    if not map_fields(fields):
        raise ConfigError(
            f"model.conditions is {options.conditions}, and pix2pix translates a map or an image: name 'source' or "
            "'map', which data.fields asks for."
        )
    for name in ("depth", "discriminator_depth"):
        halved(*spec.image_shape[:2], getattr(options, name), f"model.{name}")
    generator = UNetGenerator(options.width, options.depth, spec.image_shape, fields)
    discriminator = ConditionalPatchDiscriminator(options.discriminator_width, options.discriminator_depth, fields)

    def translate(params, keys, condition):  # key[B] -> f32[B, H, W, C]
        outputs = generator.apply({"params": params}, condition, keys, options.dropout)
        return jnp.tanh(outputs.astype(jnp.float32))

    def generate(params, model_state, batch, key, training):
        return Generated(batch["image"], translate(params, core.per_example_keys(key, batch["index"]), batch))

    def discriminate(params, model_state, image, batch, training):  # [B, H, W, C] -> logits [B, h, w]
        variables = {"params": params, "batch_stats": model_state["discriminator"]}
        logits, changed = discriminator.apply(variables, image, batch, training, mutable=["batch_stats"])
        return Discriminated((logits.astype(jnp.float32),), {"discriminator": changed["batch_stats"]})

    def generator_loss(terms):
        l1 = distance(terms.generated).mean()
        return terms.adversarial + options.l1_weight * l1, {"adversarial": terms.adversarial, "l1": l1}

    def init(key, batch):
        first, second = jax.random.split(key)
        image, keys = batch["image"], jax.random.split(key, len(batch["image"]))
        judged = discriminator.init(second, image, batch, True)
        params = {
            "generator": generator.init(first, batch, keys, options.dropout)["params"],
            "discriminator": judged["params"],
        }
        return core.init_state(params, optimizers, {"discriminator": judged["batch_stats"]})

    def evaluate(weights, batch, key):
        generated = generate(weights.params["generator"], weights.model_state, batch, key, False)
        return {**adversarial.evaluate(game, weights, batch, key), "l1": distance(generated)}

    def sample(weights, keys, condition):
        return translate(weights.params["generator"], keys, condition)

    loss = LOSSES[options.loss]
    game = Game(optimizers, options, loss, generate, discriminate, generator_loss, fake_training=False)
    return core.Family(
        init,
        functools.partial(adversarial.train_step, game, 1),
        evaluate,
        objective=("l1",),
        log_odds=game.log_odds,
        sample=sample,
        conditions=options.conditions,
    )


def distance(generated: Generated) -> jax.Array:  # -> f32[B]
    """The mean absolute difference of each generated image from the true one."""
    return jnp.abs(generated.fake - generated.real).mean((1, 2, 3))
