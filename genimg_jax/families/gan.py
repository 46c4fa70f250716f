"""Generative adversarial network: Goodfellow et al. 2014, DCGAN (Radford et al. 2016) and their usual variations.

Loss, penalty, networks, normalisation and conditioning are independent options. `families.adversarial` trains it.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families import adversarial
from genimg_jax.families.adversarial import Discriminated, Game, Generated
from genimg_jax.networks.conditioning import Fields
from genimg_jax.networks.image import ImageDecoder, ImageEncoder, ProjectionDiscriminator
from genimg_jax.objectives.adversarial import LOSSES
from genimg_jax.options import bounded, choice, names

GROUPS = ("generator", "discriminator")


@dataclasses.dataclass(frozen=True)
class Options(adversarial.Options):
    network: str = choice("mlp", "mlp", "conv")
    width: int = bounded(256, 1)  # hidden units of the MLPs, channels of the convolutions at the image's size
    depth: int = bounded(3, 1)  # hidden layers of the MLPs
    latent: int = bounded(64, 1)  # dimensions of the noise
    loss: str = choice("non_saturating", *LOSSES)
    generator_normalization: str = choice("batch", "none", "batch", "group")
    discriminator_normalization: str = choice("none", "none", "batch", "group")
    spectral: bool = False  # spectral normalisation of the discriminator (Miyato et al. 2018)
    discriminator_steps: int = bounded(1, 1)  # updates per step, each on its own slice of the batch
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


def networks(
    options: Options, spec: core.Spec, fields: Fields
) -> tuple[ImageDecoder, ImageEncoder | ProjectionDiscriminator]:
    """The generator and the discriminator.

    A discriminator conditioned only on the class has one logit per class, of which that of the image's class is used
    (Mescheder et al. 2018). One that is conditioned on other fields is a projection discriminator.
    """
    generator = ImageDecoder(
        options.network, options.width, options.depth, spec.image_shape, fields, options.generator_normalization
    )
    projects = options.conditions not in ((), ("label",))
    discriminator = ImageEncoder(
        options.network,
        options.width,
        options.depth,
        1 + options.width if projects else dict(fields)["label"].size if fields else 1,
        normalization=options.discriminator_normalization,
        spectral=options.spectral,
    )
    return generator, ProjectionDiscriminator(discriminator, fields) if projects else discriminator


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `generator` and `discriminator`."""
    fields = core.fields_of(options.conditions, spec)
    generator, discriminator = networks(options, spec, fields)

    def images(params, model_state, codes, condition, training):
        """Images in [-1, 1], and the updated batch statistics."""  # [B, Z] -> [B, H, W, C]
        variables = {"params": params, "batch_stats": model_state["generator"]}
        outputs, changed = generator.apply(variables, codes, condition, training, mutable=["batch_stats"])
        return jnp.tanh(outputs.astype(jnp.float32)), {"generator": changed.get("batch_stats", {})}

    def generate(params, model_state, batch, key, training):
        codes = core.normal(core.per_example_keys(key, batch["index"]), (options.latent,))
        return Generated(batch["image"], *images(params, model_state, codes, batch, training))

    def discriminate(params, model_state, image, batch, training):
        variables = {"params": params, "batch_stats": model_state["discriminator"]}
        logits, changed = discriminator.apply(variables, image, batch, training, mutable=["batch_stats"])
        if logits.shape[1] > 1:  # one per class
            logits = jnp.take_along_axis(logits, batch["label"][:, None], axis=1)
        return Discriminated((logits[:, 0].astype(jnp.float32),), {"discriminator": changed.get("batch_stats", {})})

    def init(key, batch):
        first, second = jax.random.split(key)
        code = jnp.zeros((batch["image"].shape[0], options.latent))
        variables = {
            "generator": generator.init(first, code, batch, True),
            "discriminator": discriminator.init(second, batch["image"], batch, True),
        }
        params = {group: tree["params"] for group, tree in variables.items()}
        statistics = {group: tree.get("batch_stats", {}) for group, tree in variables.items()}
        return core.init_state(params, optimizers, model_state=statistics)

    def prior(weights, keys, condition):  # -> [B, 1, 1, Z]
        return core.normal(keys, noise.image_shape)

    def decode(weights, codes, condition):  # [B, 1, 1, Z] -> [B, H, W, C]
        codes = codes.reshape(-1, options.latent)
        return images(weights.params["generator"], weights.model_state, codes, condition, False)[0]

    def sample(weights, keys, condition):
        return decode(weights, prior(weights, keys, condition), condition)

    noise = spec._replace(image_shape=(1, 1, options.latent), levels=0)
    game = Game(optimizers, options, LOSSES[options.loss], generate, discriminate)
    return core.Family(
        init,
        functools.partial(adversarial.train_step, game, options.discriminator_steps),
        functools.partial(adversarial.evaluate, game),
        objective=(),
        log_odds=game.log_odds,
        sample=sample,
        latents=(core.Latents(noise, decode, prior=prior, interpolate="spherical"),),
        conditions=options.conditions,
    )
