"""Generative adversarial network: Goodfellow et al. 2014, DCGAN (Radford et al. 2016) and their usual variations.

Loss, penalty, networks, normalisation and conditioning are independent axes; see `objectives.adversarial`.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.networks.image import ImageDecoder, ImageEncoder
from genimg_jax.objectives.adversarial import LOSSES, PENALTIES
from genimg_jax.options import bounded, choice

GROUPS = ("generator", "discriminator")


@dataclasses.dataclass(frozen=True)
class Options:
    network: str = choice("mlp", "mlp", "conv")
    width: int = bounded(256, 1)  # hidden units of the MLPs, channels of the convolutions at the image's size
    depth: int = bounded(3, 1)  # hidden layers of the MLPs
    latent: int = bounded(64, 1)  # dimensions of the noise
    loss: str = choice("non_saturating", *LOSSES)
    penalty: str = choice("none", *PENALTIES)  # on the discriminator's input gradient
    penalty_weight: float = bounded(1.0, 0.0)
    generator_normalization: str = choice("batch", "none", "batch", "group")
    discriminator_normalization: str = choice("none", "none", "batch", "group")
    spectral: bool = False  # spectral normalisation of the discriminator (Miyato et al. 2018)
    discriminator_steps: int = bounded(1, 1)  # updates a step, each on its own slice of the batch
    conditional: bool = False  # condition generator and discriminator on the class


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `generator` and `discriminator`."""
    classes = core.classes(options.conditional, spec)
    shape, normalization = spec.image_shape, options.generator_normalization
    generator = ImageDecoder(options.network, options.width, options.depth, shape, classes, normalization)
    # One logit a class, of which the image's own counts (Mescheder et al. 2018).
    discriminator = ImageEncoder(
        options.network,
        options.width,
        options.depth,
        max(classes, 1),
        normalization=options.discriminator_normalization,
        spectral=options.spectral,
    )
    loss, penalty = LOSSES[options.loss], PENALTIES[options.penalty]

    def label(batch):
        return batch["label"] if classes else None

    def generate(params, statistics, codes, condition, training):
        """Images in [-1, 1], and the batch statistics to carry on with."""  # [B, Z] -> [B, H, W, C]
        variables = {"params": params, "batch_stats": statistics}
        outputs, changed = generator.apply(variables, codes, label(condition), training, mutable=["batch_stats"])
        return jnp.tanh(outputs.astype(jnp.float32)), changed.get("batch_stats", {})

    def discriminate(params, statistics, image, condition, training):  # [B, H, W, C] -> [B]
        variables = {"params": params, "batch_stats": statistics}
        outputs, changed = discriminator.apply(variables, image, None, training, mutable=["batch_stats"])
        logits = jnp.take_along_axis(outputs, condition["label"][:, None], axis=1) if classes else outputs
        return logits[:, 0].astype(jnp.float32), changed.get("batch_stats", {})

    def init(key, batch):
        first, second = jax.random.split(key)
        code = jnp.zeros((batch["image"].shape[0], options.latent))
        variables = {
            "generator": generator.init(first, code, label(batch), True),
            "discriminator": discriminator.init(second, batch["image"], None, True),
        }
        params = {group: tree["params"] for group, tree in variables.items()}
        statistics = {group: tree.get("batch_stats", {}) for group, tree in variables.items()}
        return core.init_state(params, optimizers, model_state=statistics)

    def update_discriminator(state, batch, key):
        codes_key, penalty_key = jax.random.split(key)

        def objective(params, part, _):
            codes = core.normal(core.per_example_keys(codes_key, part["index"]), (options.latent,))
            fake, _ = generate(state.params["generator"], state.model_state["generator"], codes, part, True)
            real = part["image"]
            real_logits, statistics = discriminate(params, state.model_state["discriminator"], real, part, True)
            fake_logits, statistics = discriminate(params, statistics, fake, part, True)
            value = loss.discriminator(real_logits, fake_logits).mean()

            def logits(image):
                return discriminate(params, statistics, image, part, True)[0]

            size = penalty(logits, real, fake, core.per_example_keys(penalty_key, part["index"])).mean()
            metrics = {
                "loss_discriminator": value,
                "penalty": size,
                "logit_real": real_logits.mean(),
                "logit_fake": fake_logits.mean(),
            }
            return value + options.penalty_weight * size, (metrics, {"discriminator": statistics})

        return core.train_group(optimizers["discriminator"], state, "discriminator", objective, batch, key, tuple)

    def update_generator(state, batch, key):
        def objective(params, part, key):
            codes = core.normal(core.per_example_keys(key, part["index"]), (options.latent,))
            fake, statistics = generate(params, state.model_state["generator"], codes, part, True)
            logits, _ = discriminate(
                state.params["discriminator"], state.model_state["discriminator"], fake, part, True
            )
            value = loss.generator(logits).mean()
            return value, ({"loss_generator": value}, {"generator": statistics})

        return core.train_group(optimizers["generator"], state, "generator", objective, batch, key, tuple)

    def train_step(state, batch, key):
        keys = jax.random.split(key, options.discriminator_steps + 1)
        slices = core.split(batch, options.discriminator_steps)
        for i in range(options.discriminator_steps):
            part = jax.tree.map(lambda x: x[i], slices)  # noqa: B023, the slice is taken at once
            state, metrics = update_discriminator(state, part, keys[i])
        state, more = update_generator(state, part, keys[-1])
        return state.replace(step=state.step + 1), {**metrics, **more}

    def evaluate(weights, batch, key):
        """How the discriminator tells held-out images from samples: a loss of the game, not a quality."""
        fake = sample(weights, core.per_example_keys(key, batch["index"]), batch)
        params, statistics = weights.params["discriminator"], weights.model_state["discriminator"]
        real_logits, _ = discriminate(params, statistics, batch["image"], batch, False)
        fake_logits, _ = discriminate(params, statistics, fake, batch, False)
        return {
            "loss_discriminator": loss.discriminator(real_logits, fake_logits),
            "loss_generator": loss.generator(fake_logits),
            "logit_real": real_logits,
            "logit_fake": fake_logits,
        }

    def prior(weights, keys):  # -> [B, 1, 1, Z]
        return core.normal(keys, noise.image_shape)

    def decode(weights, codes, condition):  # [B, 1, 1, Z] -> [B, H, W, C]
        codes = codes.reshape(-1, options.latent)
        return generate(weights.params["generator"], weights.model_state["generator"], codes, condition, False)[0]

    def sample(weights, keys, condition):
        return decode(weights, prior(weights, keys), condition)

    noise = spec._replace(image_shape=(1, 1, options.latent), levels=0)
    return core.Family(
        init,
        train_step,
        evaluate,
        objective=(),
        sample=sample,
        latents=(core.Latents(noise, decode, prior=prior, interpolate="spherical"),),
        conditions=("label",) if classes else (),
    )
