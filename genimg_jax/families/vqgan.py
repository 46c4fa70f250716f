"""VQGAN (Esser et al. 2021): the autoencoder of discrete codes of `vq`, against a discriminator of patches.

The perceptual distance is between the discriminator's own features of an image and of its reconstruction (Larsen et
al. 2016, section 2.2), which needs no network trained elsewhere. The adversarial weight is constant: not equation 7.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families import vq
from genimg_jax.networks.grid import PatchDiscriminator, halved
from genimg_jax.objectives.adversarial import LOSSES
from genimg_jax.options import bounded, choice

GROUPS = ("autoencoder", "discriminator")


@dataclasses.dataclass(frozen=True)
class Options(vq.Options):
    discriminator_width: int = bounded(32, 1)  # channels at half the image's size, doubled as `width` is
    discriminator_depth: int = bounded(3, 1)  # num_downsamples, from image to patches
    adversarial: str = choice("non_saturating", *LOSSES)
    adversarial_weight: float = bounded(0.1, 0.0)  # of that loss, the squared error's weight being 1
    feature_weight: float = bounded(0.1, 0.0)  # of the distance in the discriminator's features
    adversarial_start: float = bounded(0.0, 0.0)  # step from which the autoencoder has these two terms


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `autoencoder` and `discriminator`. Raises `ConfigError` as `vq.build` does."""
    halved(*spec.image_shape[:2], options.discriminator_depth, "model.discriminator_depth")
    autoencoder = vq.build(options, spec)
    discriminator = PatchDiscriminator(options.discriminator_width, options.discriminator_depth)
    adversarial = LOSSES[options.adversarial]

    def discriminate(params, statistics, image, training):
        """Logits of patches, features of each level, and the spectral vectors to carry on with."""
        # [B, H, W, C] -> [B, h, w], depth x [B, ..., ..., features]
        variables = {"params": params, "batch_stats": statistics}
        (logits, features), changed = discriminator.apply(variables, image, training, mutable=["batch_stats"])
        return logits.astype(jnp.float32), features, changed["batch_stats"]

    def init(key, batch):
        first, second = jax.random.split(key)
        params, codebook = autoencoder.init(first, batch)
        variables = discriminator.init(second, batch["image"], True)
        params = {"autoencoder": params, "discriminator": variables["params"]}
        return core.init_state(params, optimizers, {"codebook": codebook, "discriminator": variables["batch_stats"]})

    def update_autoencoder(state, batch, key):
        codebook, statistics = state.model_state["codebook"], state.model_state["discriminator"]
        optimizer, size = optimizers["autoencoder"], batch["image"].shape[0]
        started = jnp.where(state.step >= options.adversarial_start, 1.0, 0.0)

        def loss(params, part, key):
            seen = autoencoder.forward(params, codebook, part["image"])
            discriminator = state.params["discriminator"]
            logits, made, _ = discriminate(discriminator, statistics, seen.outputs, False)
            _, real, _ = discriminate(discriminator, statistics, part["image"], False)
            fooling, distance = adversarial.generator(logits).mean(), feature_distance(made, real)
            extra = options.adversarial_weight * fooling + options.feature_weight * distance
            value = seen.loss.mean() + started * extra
            metrics = {"adversarial": fooling, "feature_distance": distance, **vq.measures(seen, part["image"])}
            observed = autoencoder.quantizer.observe(key, size, part["index"], seen.vectors, seen.codes)
            return value, ({"loss_autoencoder": value, **metrics}, observed)

        finish = functools.partial(autoencoder.finish, codebook)
        return core.train_group(optimizer, state, "autoencoder", loss, batch, key, finish)

    def update_discriminator(state, batch, key):
        optimizer = optimizers["discriminator"]

        def loss(params, part, _):
            seen = autoencoder.forward(state.params["autoencoder"], state.model_state["codebook"], part["image"])
            real, _, statistics = discriminate(params, state.model_state["discriminator"], part["image"], True)
            made, _, _ = discriminate(params, statistics, seen.outputs, False)
            value = adversarial.discriminator(real, made).mean()
            metrics = {"loss_discriminator": value, "logit_real": real.mean(), "logit_fake": made.mean()}
            return value, (metrics, {"discriminator": statistics})

        return core.train_group(optimizer, state, "discriminator", loss, batch, key, tuple)

    def train_step(state, batch, key):
        state, metrics = update_autoencoder(state, batch, key)
        state, more = update_discriminator(state, batch, key)
        return state.replace(step=state.step + 1), {**metrics, **more}

    return core.Family(init, train_step, **autoencoder.capabilities)


def feature_distance(made: tuple[jax.Array, ...], real: tuple[jax.Array, ...]) -> jax.Array:
    """The mean squared difference of the features of a level, summed over levels."""
    # 2 x depth x [B, ..., ..., features] -> f32[]
    differences = [m.astype(jnp.float32) - r.astype(jnp.float32) for m, r in zip(made, real, strict=True)]
    return sum(jnp.square(difference).mean() for difference in differences)
