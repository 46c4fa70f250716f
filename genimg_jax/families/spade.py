"""SPADE (Park et al. 2019): images from segmentation maps, against discriminators of patches at several scales.

The generator's loss is the hinge loss and feature matching (Wang et al. 2018, equation 4), without the paper's
perceptual loss, which needs a pretrained network. With `style_encoder` the code of an image is encoded from it, as in a
VAE (section 3, multi-modal synthesis), so that the style of one image can be given to the map of another. Feature
matching compares an image with the real one of the same map. Without the encoder it pulls all images of a map to one,
even where a map leaves colours open: give it a low weight then.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import adversarial
from genimg_jax.families.adversarial import Discriminated, Game, Generated
from genimg_jax.networks.grid import halved
from genimg_jax.networks.spade import Generator, MultiscaleDiscriminator, StyleEncoder
from genimg_jax.objectives.adversarial import LOSSES
from genimg_jax.objectives.gaussian import kl_standard_normal
from genimg_jax.options import bounded, choice

GROUPS = ("generator", "discriminator")
CONDITIONS = ("map",)


@dataclasses.dataclass(frozen=True)
class Options(adversarial.Options):
    width: int = bounded(32, 1)  # channels at the image's size, doubled at each smaller one, at most 4 times
    depth: int = bounded(3, 1)  # upsamplings, from the smallest features to the image
    hidden: int = bounded(32, 1)  # channels between the map and its gamma and beta
    latent: int = bounded(32, 0)  # dimensions of the code; 0: none, the generator starts from the map
    style_encoder: bool = False  # codes of training images are encoded from them, else they are noise
    encoder_width: int = bounded(32, 1)  # channels of the style encoder at half the image's size
    kl_weight: float = bounded(0.05, 0.0)  # of the KL divergence of the encoded codes from the prior
    loss: str = choice("hinge", *LOSSES)
    feature_weight: float = bounded(10.0, 0.0)  # of feature matching
    discriminator_width: int = bounded(32, 1)  # channels at half the image's size, doubled likewise
    discriminator_depth: int = bounded(3, 1)  # downsamplings, from the image to patches
    scales: int = bounded(2, 1)  # discriminators, each of images of half the size
    discriminator_steps: int = bounded(1, 1)  # updates per step, each on its own slice of the batch


def check(options: Options, spec: core.Spec) -> core.Field:
    """The field of the map. Raises `ConfigError` for data without one, and for options that do not fit."""
    height, width, _ = spec.image_shape
    field = spec.fields.get("map")
    if field is None:
        raise ConfigError(
            "spade makes images from segmentation maps, and the data gives none; set data.fields to ('map',)."
        )
    if field.shape != (height, width) or not field.size or not field.paired:
        raise ConfigError(
            f"the data's map has shape {field.shape} and {field.size} segments; spade needs one of numbered segments "
            f"for each image, of its size {height}x{width}: train it on pixels, without a tokenizer."
        )
    if options.style_encoder and not options.latent:
        raise ConfigError("model.style_encoder encodes to a code, and model.latent is 0; set it to at least 1.")
    halved(height, width, options.depth, "model.depth")
    most = options.discriminator_depth + options.scales - 1
    halved(height, width, most, "model.discriminator_depth + model.scales - 1")
    return field


class Model(NamedTuple):
    """The networks. Parameters are those of a group; `model_state` holds the spectral norms of both groups."""

    init: Callable[[jax.Array, core.Batch], tuple[core.Tree, core.Tree]]
    """(key, batch) -> the parameters and the spectral norms, by group."""
    images: Callable[..., tuple[jax.Array, core.Tree]]
    """(generator's parameters, model_state, codes [B, Z], condition, training) -> f32[B, H, W, C], changed entries."""
    posterior: Callable[[core.Tree, jax.Array], tuple[jax.Array, jax.Array]]
    """(generator's parameters, image) -> mean and log variance of the code, f32[B, Z] both."""
    discriminate: Callable[..., Discriminated]
    """As `Game.discriminate`, of images."""


def build(options: Options, spec: core.Spec) -> Model:
    """Raises `ConfigError` as `check` does."""
    segments = check(options, spec).size
    generator = Generator(segments, options.width, options.depth, options.hidden, spec.image_shape)
    discriminator = MultiscaleDiscriminator(
        segments, options.discriminator_width, options.discriminator_depth, options.scales
    )
    encoder = StyleEncoder(options.encoder_width, options.latent)

    def init(key, batch):
        first, second, third = jax.random.split(key, 3)
        codes = jnp.zeros((len(batch["image"]), options.latent)) if options.latent else None
        variables = {
            "generator": generator.init(first, codes, batch["map"], True),
            "discriminator": discriminator.init(second, batch["image"], batch["map"], True),
        }
        params = {
            "generator": {"decoder": variables["generator"]["params"]},
            "discriminator": variables["discriminator"]["params"],
        }
        if options.style_encoder:
            params["generator"]["encoder"] = encoder.init(third, batch["image"])["params"]
        return params, {group: tree["batch_stats"] for group, tree in variables.items()}

    def images(params, model_state, codes, condition, training):
        variables = {"params": params["decoder"], "batch_stats": model_state["generator"]}
        outputs, changed = generator.apply(variables, codes, condition["map"], training, mutable=["batch_stats"])
        return jnp.tanh(outputs.astype(jnp.float32)), {"generator": changed["batch_stats"]}

    def posterior(params, image):
        return encoder.apply({"params": params["encoder"]}, image)

    def discriminate(params, model_state, image, batch, training):
        variables = {"params": params, "batch_stats": model_state["discriminator"]}
        outputs, changed = discriminator.apply(variables, image, batch["map"], training, mutable=["batch_stats"])
        logits, features = outputs
        logits = tuple(x.astype(jnp.float32) for x in logits)
        return Discriminated(logits, {"discriminator": changed["batch_stats"]}, features)

    return Model(init, images, posterior, discriminate)


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `generator`, the style encoder included, and `discriminator`. Raises
    `ConfigError` as `check` does."""
    model = build(options, spec)

    def init(key, batch):
        params, norms = model.init(key, batch)
        return core.init_state(params, optimizers, norms)

    def generate(params, model_state, batch, key, training):
        kl, codes = None, draw(core.per_example_keys(key, batch["index"]))
        if options.style_encoder:
            mean, log_variance = model.posterior(params, batch["image"])
            codes, kl = mean + jnp.exp(0.5 * log_variance) * codes, kl_standard_normal(mean, log_variance)
        return Generated(batch["image"], *model.images(params, model_state, codes, batch, training), details=kl)

    def generator_loss(terms):
        distance = feature_matching(terms.fake.features, terms.real.features)
        metrics = {"adversarial": terms.adversarial, "feature_matching": distance}
        value = terms.adversarial + options.feature_weight * distance
        if options.style_encoder:
            metrics["kl"] = terms.generated.details.mean()
            value += options.kl_weight * metrics["kl"]
        return value, metrics

    def draw(keys):  # -> [B, Z], or None where there are no codes
        return core.normal(keys, (options.latent,)) if options.latent else None

    def sample(weights, keys, condition):
        return model.images(weights.params["generator"], weights.model_state, draw(keys), condition, False)[0]

    game = Game(
        optimizers,
        options,
        LOSSES[options.loss],
        generate,
        model.discriminate,
        generator_loss,
        discriminators=sizes(options, spec),
        fake_training=False,
    )
    return core.Family(
        init,
        functools.partial(adversarial.train_step, game, options.discriminator_steps),
        functools.partial(adversarial.evaluate, game),
        objective=(),
        log_odds=game.log_odds,
        sample=sample,
        latents=(code_space(options, spec, model),) if options.latent else (),
        conditions=CONDITIONS,
    )


def sizes(options: Options, spec: core.Spec) -> tuple[str, ...]:
    """The suffixes of the discriminators' metrics: the size of the images that each is given, such as '/16x16'."""
    return tuple(f"/{spec.image_shape[0] >> scale}x{spec.image_shape[1] >> scale}" for scale in range(options.scales))


def code_space(options: Options, spec: core.Spec, model: Model) -> core.Latents:
    """The space of codes. With a style encoder images are encoded too, each to the mean of its posterior."""

    def decode(weights, codes, condition):  # [B, Z] -> [B, H, W, C]
        return model.images(weights.params["generator"], weights.model_state, codes, condition, False)[0]

    def encode(weights, batch):  # -> [B, Z]
        return model.posterior(weights.params["generator"], batch["image"])[0]

    return adversarial.code_space(spec, options.latent, decode, encode if options.style_encoder else None)


def feature_matching(fake: tuple[jax.Array, ...], real: tuple[jax.Array, ...]) -> jax.Array:
    """The mean absolute difference of each level's features, summed over levels and discriminators."""
    # 2 x levels x [B, ..., ..., features] -> f32[]
    return sum(jnp.abs(f.astype(jnp.float32) - r.astype(jnp.float32)).mean() for f, r in zip(fake, real, strict=True))
