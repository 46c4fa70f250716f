"""Generative adversarial network: Goodfellow et al. 2014, DCGAN (Radford et al. 2016) and their usual variations.

Loss, penalty, networks, normalisation and conditioning are independent options. `families.adversarial` trains it.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import adversarial
from genimg_jax.families.adversarial import Discriminated, Game, Generated, Terms
from genimg_jax.networks.conditioning import Fields
from genimg_jax.networks.image import ImageDecoder, ImageEncoder, ProjectionDiscriminator
from genimg_jax.objectives.adversarial import LOSSES
from genimg_jax.objectives.augmentations import AUGMENTATIONS, adapt, augment
from genimg_jax.options import bounded, choice, is_enabled, names

GROUPS = ("generator", "discriminator")
SIGNED = ("non_saturating", "hinge")  # losses whose undecided logit is 0


@dataclasses.dataclass(frozen=True)
class Options(adversarial.Options):
    network: str = choice("mlp", "mlp", "conv", "residual")
    width: int = bounded(256, 1)  # hidden units of the MLPs, channels of the convolutions at the image's size
    depth: int = bounded(3, 1)  # hidden layers of the MLPs, residual blocks at each size
    latent: int = bounded(64, 1)  # dimensions of the noise
    loss: str = choice("non_saturating", *LOSSES)
    generator_normalization: str = choice("batch", "none", "batch", "group")
    discriminator_normalization: str = choice("none", "none", "batch", "group")
    spectral: bool = False  # spectral normalisation of the discriminator (Miyato et al. 2018)
    augmentation: str = choice("none", "none", *AUGMENTATIONS)  # of what the discriminator sees in training
    ada_target: float = bounded(0.6, -1.0, 1.0)  # mean sign of the logits of real images that `ada` aims at
    ada_images: int = bounded(500_000, 1)  # images in which its probability can rise from 0 to 1
    # Weight of |G(z) - z|^2 an image value, the cost of transport from noise (Lin et al. 2025, adversarial flow).
    transport_weight: float = bounded(0.0, 0.0, static=True)
    discriminator_steps: int = bounded(1, 1)  # updates per step, each on its own slice of the batch
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


def networks(
    options: Options, spec: core.Spec, fields: Fields
) -> tuple[ImageDecoder, ImageEncoder | ProjectionDiscriminator]:
    """The generator and the discriminator.

    A discriminator conditioned only on the class has one logit per class, of which that of the image's class is used
    (Mescheder et al. 2018). One that is conditioned on other fields is a projection discriminator. Raises `ConfigError`
    for options that contradict each other.
    """
    check(options, spec)
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


def check(options: Options, spec: core.Spec) -> None:
    if options.augmentation == "ada" and options.loss not in SIGNED:
        raise ConfigError(
            f"model.augmentation is 'ada', which reads overfitting from the sign of logits, and 0 is no boundary for "
            f"model.loss={options.loss!r}; choose one of {', '.join(SIGNED)}, or 'diffaugment'."
        )
    values = math.prod(spec.image_shape)
    if is_enabled(options.transport_weight) and options.latent != values:
        raise ConfigError(
            f"model.transport_weight compares an image with its noise, and model.latent is {options.latent}; set it to "
            f"{values}, the number of an image's values."
        )


def transport(options: Options, codes: jax.Array, image: jax.Array) -> jax.Array | None:
    """The mean squared distance of an image's values from its noise, if it has a weight."""
    # [B, D], [B, H, W, C] -> f32[B]
    return jnp.square(image.reshape(codes.shape) - codes).mean(axis=1) if is_enabled(options.transport_weight) else None


def generator_loss(options: Options, terms: Terms) -> tuple[jax.Array, core.Metrics]:
    if terms.generated.details is None:
        return terms.adversarial, {}
    cost = terms.generated.details.mean()
    return terms.adversarial + options.transport_weight * cost, {"transport": cost}


def train_step(
    game: Game, options: Options, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    """A step of both players; then the probability of adaptive augmentations follows the discriminator."""
    state, metrics = adversarial.train_step(game, options.discriminator_steps, state, batch, key)
    if options.augmentation != "ada":
        return state, metrics
    old, count = state.model_state["augmentation"], len(batch["index"])
    p = adapt(old, metrics["sign_real"], options.ada_target, count, options.ada_images)
    state = state.replace(model_state={**state.model_state, "augmentation": p})
    return state, {**metrics, "augmentation": p}


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
        keys = core.per_example_keys(key, batch["index"])
        codes = core.normal(keys, (options.latent,))
        fake, changed = images(params, model_state, codes, batch, training)
        real, cost = batch["image"], transport(options, codes, fake)
        if training and options.augmentation != "none":
            apply = functools.partial(augment, options.augmentation, p=model_state.get("augmentation", 1.0))
            real, fake = apply(core.fold_in(keys, 0), real), apply(core.fold_in(keys, 1), fake)
        return Generated(real, fake, changed, cost)

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
        if options.augmentation == "ada":
            statistics["augmentation"] = jnp.zeros(())
        return core.init_state(params, optimizers, model_state=statistics)

    def decode(weights, codes, condition):  # [B, Z] -> [B, H, W, C]
        return images(weights.params["generator"], weights.model_state, codes, condition, False)[0]

    def sample(weights, keys, condition):
        return space.decode(weights, space.prior(weights, keys, condition), condition)

    space = adversarial.code_space(spec, options.latent, decode)
    generator_objective = functools.partial(generator_loss, options)
    game = Game(optimizers, options, LOSSES[options.loss], generate, discriminate, generator_objective)
    return core.Family(
        init,
        functools.partial(train_step, game, options),
        functools.partial(adversarial.evaluate, game),
        objective=(),
        log_odds=game.log_odds,
        sample=sample,
        latents=(space,),
        conditions=options.conditions,
    )
