"""VQGAN (Esser et al. 2021): the autoencoder of discrete codes of `vq`, against a discriminator of patches.

The perceptual distance is that of the discriminator's features of an image and of its reconstruction (Larsen et al.
2016, section 2.2), so it needs no pretrained network. The adversarial weight is constant, unlike equation 7.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families import adversarial, vq
from genimg_jax.families.adversarial import Discriminated, Game, Generated
from genimg_jax.networks.grid import PatchDiscriminator, halved
from genimg_jax.objectives.adversarial import LOSSES
from genimg_jax.options import bounded, choice

GROUPS = ("autoencoder", "discriminator")


@dataclasses.dataclass(frozen=True)
class Options(vq.Options, adversarial.Options):
    discriminator_width: int = bounded(32, 1)  # channels at half the image's size; doubled like `width`
    discriminator_depth: int = bounded(3, 1)  # downsamplings, from the image to patches
    adversarial: str = choice("non_saturating", *LOSSES)
    adversarial_weight: float = bounded(0.1, 0.0)  # relative to the reconstruction loss
    feature_weight: float = bounded(0.1, 0.0)  # of the distance of the discriminator's features, likewise
    adversarial_start: float = bounded(0.0, 0.0)  # step from which the autoencoder's loss has these two terms


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `autoencoder` and `discriminator`. Raises `ConfigError` as `vq.build` does."""
    halved(*spec.image_shape[:2], options.discriminator_depth, "model.discriminator_depth")
    autoencoder = vq.build(options, spec)
    discriminator = PatchDiscriminator(options.discriminator_width, options.discriminator_depth)

    def generate(batch_size, params, model_state, batch, key, training):
        outputs = autoencoder.forward(params, model_state["codebook"], batch)
        observed = autoencoder.quantizer.observe(key, batch_size, batch["index"], outputs.vectors, outputs.codes)
        return Generated(batch["image"], outputs.outputs, observed, outputs)

    def discriminate(params, model_state, image, batch, training):  # [B, H, W, C] -> logits [B, h, w], depth x features
        variables = {"params": params, "batch_stats": model_state["discriminator"]}
        (logits, features), changed = discriminator.apply(variables, image, training, mutable=["batch_stats"])
        return Discriminated((logits.astype(jnp.float32),), {"discriminator": changed["batch_stats"]}, features)

    def generator_loss(terms):
        outputs, distance = terms.generated.details, feature_distance(terms.fake.features, terms.real.features)
        started = jnp.where(terms.step >= options.adversarial_start, 1.0, 0.0)
        added = options.adversarial_weight * terms.adversarial + options.feature_weight * distance
        metrics = {"adversarial": terms.adversarial, "feature_distance": distance}
        return outputs.loss.mean() + started * added, {**vq.measures(outputs, terms.batch["image"]), **metrics}

    def init(key, batch):
        first, second = jax.random.split(key)
        params, codebook = autoencoder.init(first, batch)
        variables = discriminator.init(second, batch["image"], True)
        params = {"autoencoder": params, "discriminator": variables["params"]}
        return core.init_state(params, optimizers, {"codebook": codebook, "discriminator": variables["batch_stats"]})

    def train_step(state, batch, key):
        # Statistics of the codebook need the size of the whole batch; `generate` may get a microbatch.
        rules = game._replace(generate=functools.partial(generate, batch["image"].shape[0]))
        state, metrics = adversarial.train_generator(rules, state, batch, key)
        state, more = adversarial.train_discriminator(rules, state, batch, key)
        return state.replace(step=state.step + 1), {**metrics, **more}

    game = Game(
        optimizers,
        options,
        loss=LOSSES[options.adversarial],
        generate=generate,
        discriminate=discriminate,
        generator_loss=generator_loss,
        finish=autoencoder.finish,
        groups=GROUPS,
        fake_training=False,
    )
    return core.Family(init, train_step, **autoencoder.capabilities, log_odds=game.log_odds)


def feature_distance(fake: tuple[jax.Array, ...], real: tuple[jax.Array, ...]) -> jax.Array:
    """The mean squared difference of each level's features, summed over levels."""
    # 2 x depth x [B, ..., ..., features] -> f32[]
    differences = [f.astype(jnp.float32) - r.astype(jnp.float32) for f, r in zip(fake, real, strict=True)]
    return sum(jnp.square(difference).mean() for difference in differences)
