"""Bidirectional GAN (Donahue et al. 2017), or adversarially learned inference (ALI; Dumoulin et al. 2017).

There are three networks. The generator G maps codes z ~ N(0, I) to images, the encoder E maps images to codes, and the
discriminator D tells pairs (x, E(x)) from pairs (G(z), z):

    min over G, E   max over D   E_x log D(x, E(x)) + E_z log(1 - D(G(z), z))     (Donahue et al., equations 2 and 3)

At the optimum E and G are inverses of each other (theorem 2). E is deterministic, as Donahue's is; ALI's is Gaussian.
Cycle losses may be added, in both directions: |x - G(E(x))| and |z - E(G(z))|^2 (Zhu et al. 2017, equation 2, here with
a latent domain).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families import adversarial
from genimg_jax.families.adversarial import Discriminated, Game, Generated
from genimg_jax.networks.image import ImageDecoder, ImageEncoder
from genimg_jax.networks.pair import PairDiscriminator
from genimg_jax.objectives.adversarial import LOSSES, AdversarialLoss
from genimg_jax.objectives.distances import DISTANCES, peak_signal_to_noise_ratio
from genimg_jax.options import bounded, choice, is_enabled, names

GROUPS = ("generator", "discriminator")  # the encoder is part of the first


@dataclasses.dataclass(frozen=True)
class Options(adversarial.Options):
    network: str = choice("mlp", "mlp", "conv")
    width: int = bounded(256, 1)  # hidden units of the MLPs, channels of the convolutions at the image's size
    depth: int = bounded(3, 1)  # hidden layers of the MLPs
    joint_width: int = bounded(256, 1)  # the discriminator's features of the image and of the code, each
    latent: int = bounded(32, 1)  # dimensions of the code
    loss: str = choice("non_saturating", *LOSSES)
    normalization: str = choice("none", "none", "batch", "group")  # of the generator and of the encoder
    spectral: bool = False  # spectral normalisation of the discriminator (Miyato et al. 2018)
    discriminator_steps: int = bounded(1, 1)  # updates per step, each on its own slice of the batch
    image_cycle: float = bounded(0.0, 0.0, structural=True)  # weight of the distance of x and G(E(x)), a mean of pixels
    image_distance: str = choice("absolute_error", *DISTANCES)
    code_cycle: float = bounded(0.0, 0.0, structural=True)  # weight of |z - E(G(z))|^2, a mean of dimensions
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


class Model(NamedTuple):
    """The networks. A condition is a batch that holds the fields; `changed` holds updated entries of `model_state`."""

    init: Callable[[jax.Array, core.Batch], tuple[core.Tree, core.Tree]]
    """(key, batch) -> the parameters of each group, model_state"""
    generate: Callable[[core.Tree, core.Tree, jax.Array, core.Batch, bool], tuple[jax.Array, core.Tree]]
    """(the generator's parameters, model_state, codes [B, Z], condition, training) -> f32[B, H, W, C], changed"""
    encode: Callable[[core.Tree, core.Tree, jax.Array, core.Batch, bool], tuple[jax.Array, core.Tree]]
    """(the generator's parameters, model_state, images [B, H, W, C], condition, training) -> f32[B, Z], changed"""
    discriminate: Callable[[core.Tree, core.Tree, core.Tree, core.Batch, bool], tuple[jax.Array, core.Tree]]
    """(the discriminator's parameters, model_state, pairs, condition, training) -> logits f32[B], changed"""


def build(options: Options, spec: core.Spec) -> Model:
    """The networks of the options. Raises `ConfigError` for conditions that the data does not have."""
    fields = core.fields_of(options.conditions, spec)
    sizes = options.network, options.width, options.depth
    networks = {
        "generator": ImageDecoder(*sizes, spec.image_shape, fields, options.normalization),
        "encoder": ImageEncoder(*sizes, options.latent, fields, options.normalization),
        "discriminator": PairDiscriminator(
            ImageEncoder(*sizes, options.joint_width, fields, spectral=options.spectral),
            options.joint_width,
            options.spectral,
        ),
    }

    def init(key, batch):
        codes = jnp.zeros((batch["image"].shape[0], options.latent))
        inputs = (codes, batch["image"], {"image": batch["image"], "code": codes})
        variables = {
            name: network.init(part, x, batch, True)
            for (name, network), part, x in zip(networks.items(), jax.random.split(key, 3), inputs, strict=True)
        }
        params = {name: tree["params"] for name, tree in variables.items()}
        discriminator = params.pop("discriminator")
        statistics = {name: tree.get("batch_stats", {}) for name, tree in variables.items()}
        return {"generator": params, "discriminator": discriminator}, statistics

    def apply(name, params, model_state, inputs, condition, training):
        variables = {"params": params, "batch_stats": model_state[name]}
        outputs, changed = networks[name].apply(variables, inputs, condition, training, mutable=["batch_stats"])
        return outputs.astype(jnp.float32), {name: changed.get("batch_stats", {})}

    def generate(params, *arguments):
        outputs, changed = apply("generator", params["generator"], *arguments)
        return jnp.tanh(outputs), changed

    def encode(params, *arguments):
        return apply("encoder", params["encoder"], *arguments)

    def discriminate(*arguments):
        logits, changed = apply("discriminator", *arguments)
        return logits[:, 0], changed

    return Model(init, generate, encode, discriminate)


def swapped(loss: AdversarialLoss) -> AdversarialLoss:
    """The generator and the encoder minimise the discriminator's loss with the labels of its inputs swapped.

    Generated pairs are to be taken for real ones, and real ones for generated ones (Donahue et al. 2017, section 3.4).
    Of the relativistic loss this is the generator's own, which reads both logits already.
    """
    return AdversarialLoss(loss.discriminator, lambda real, fake: loss.discriminator(fake, real))


def make_game(options: Options, latent: int, model: Model, optimizers: Mapping[str, core.Optimizer]) -> Game:
    """The game of any three networks with codes of `latent` dimensions."""
    distance = DISTANCES[options.image_distance]
    cycle_weights = {"image_cycle": options.image_cycle, "code_cycle": options.code_cycle}

    def generate(params, model_state, batch, key, training):
        image, codes = batch["image"], core.normal(core.per_example_keys(key, batch["index"]), (latent,))
        generated, changed = model.generate(params, model_state, codes, batch, training)
        encoded, changed_encoder = model.encode(params, model_state, image, batch, training)
        cycles = {}  # batch statistics are those of the calls above alone
        if is_enabled(options.image_cycle):
            reconstructed, _ = model.generate(params, model_state, encoded, batch, training)
            cycles["image_cycle"] = distance(reconstructed - image).mean()
        if is_enabled(options.code_cycle):
            recovered, _ = model.encode(params, model_state, generated, batch, training)
            cycles["code_cycle"] = jnp.square(recovered - codes).mean()
        real, fake = {"image": image, "code": encoded}, {"image": generated, "code": codes}
        return Generated(real, fake, {**changed, **changed_encoder}, cycles)

    def discriminate(params, model_state, pair, batch, training):
        logits, changed = model.discriminate(params, model_state, pair, batch, training)
        return Discriminated((logits,), changed)

    def generator_loss(terms):
        cycles = terms.generated.details
        value = terms.adversarial + sum(cycle_weights[name] * cycle for name, cycle in cycles.items())
        return value, {"adversarial": terms.adversarial, **cycles}

    return Game(optimizers, options, swapped(LOSSES[options.loss]), generate, discriminate, generator_loss)


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `generator`, which is G and E, and `discriminator`."""
    model = build(options, spec)
    game = make_game(options, options.latent, model, optimizers)

    def init(key, batch):
        params, statistics = model.init(key, batch)
        return core.init_state(params, optimizers, statistics)

    def evaluate(weights, batch, key):
        """The losses of the game, and the mean squared error and PSNR (dB) of G(E(x))."""
        image = space.decode(weights, space.encode(weights, batch, key), batch)
        error = jnp.square(image - batch["image"]).mean(axis=(1, 2, 3))
        reconstruction = {"reconstruction": error, "psnr": peak_signal_to_noise_ratio(error)}
        return {**adversarial.evaluate(game, weights, batch, key), **reconstruction}

    def sample(weights, keys, condition):
        return space.decode(weights, space.prior(weights, keys, condition), condition)

    def decode(weights, codes, condition):  # [B, Z] -> [B, H, W, C]
        return model.generate(weights.params["generator"], weights.model_state, codes, condition, False)[0]

    def encode(weights, batch):  # -> [B, Z]
        return model.encode(weights.params["generator"], weights.model_state, batch["image"], batch, False)[0]

    space = adversarial.code_space(spec, options.latent, decode, encode)
    squared = is_enabled(options.image_cycle) and options.image_distance == "squared_error"
    return core.Family(
        init,
        functools.partial(adversarial.train_step, game, options.discriminator_steps),
        evaluate,
        objective=("reconstruction", "psnr") if squared else (),
        log_odds=game._replace(loss=LOSSES[options.loss]).log_odds,
        sample=sample,
        latents=(space,),
        conditions=options.conditions,
    )
