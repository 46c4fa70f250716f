"""StyleGAN2 (Karras et al. 2020), on the mapping network and style mixing of StyleGAN (Karras et al. 2019).

The noise inputs are drawn for each image in training. Afterwards all images share one draw, so that an image is a
function of its code. Conditions enter the mapping network, and the discriminator as a projection.
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
from genimg_jax.networks.image import ProjectionDiscriminator
from genimg_jax.networks.stylegan2 import (
    MappingNetwork,
    ResidualDiscriminator,
    SynthesisNetwork,
    every_layer,
    noise_shapes,
)
from genimg_jax.objectives.adversarial import PENALTIES, non_saturating
from genimg_jax.objectives.path_length import path_length_scale, path_lengths
from genimg_jax.options import bounded, choice, is_enabled, names

GROUPS = ("generator", "discriminator")
W_DECAY, LENGTH_DECAY = 0.995, 0.99  # of the running means of w and of path lengths, per update


@dataclasses.dataclass(frozen=True)
class Options(adversarial.Options):
    penalty: str = choice("r1", *PENALTIES)
    penalty_every: int = bounded(16, 1)
    width: int = bounded(32, 1)  # channels at the image's size, doubled with each halving of it
    max_width: int = bounded(512, 1)  # the most channels
    latent: int = bounded(128, 1)  # dimensions of z and of w
    mapping_depth: int = bounded(8, 1)
    mapping_rate: float = bounded(0.01, 1e-4, static=True)  # multiplies the mapping network's learning rate
    style_mixing: float = bounded(0.9, 0.0, 1.0)  # share of images whose layers change to a second w at a random one
    path_length_weight: float = bounded(1.0, 0.0, structural=True)  # relative to the paper's gamma_pl
    path_length_every: int = bounded(8, 1)  # k: every k-th step has that term, with k times the weight
    minibatch_group: int = bounded(4, 1)  # images that the discriminator compares by their standard deviation; 1: none
    truncation: float = bounded(1.0, 0.0, inference_only=True)  # psi: w is moved towards its mean, 0: to the mean
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


class Generator(NamedTuple):
    """The functions of the generator, whose parameters are those of its two networks."""

    init: Callable[[jax.Array, core.Batch], core.Tree]
    mapping: Callable[[core.Tree, jax.Array, core.Batch], jax.Array]
    """(parameters, z f32[B, Z], condition) -> w f32[B, Z]"""
    synthesize: Callable[[core.Tree, jax.Array, list[jax.Array]], jax.Array]
    """(parameters, w f32[B, layers, Z], noise) -> f32[B, H, W, C], on no fixed range"""
    codes: Callable[[jax.Array], jax.Array]
    """keys[B] -> z f32[B, Z]"""
    noise: Callable[[jax.Array], list[jax.Array]]
    """keys[B] -> (layers - 1) x f32[B, h, w]"""
    layers: int


def generator_of(options: Options, spec: core.Spec) -> Generator:
    fields = core.fields_of(options.conditions, spec)
    shapes = noise_shapes(*spec.image_shape[:2])
    mapping = MappingNetwork(options.latent, options.mapping_depth, options.mapping_rate, fields)
    synthesis = SynthesisNetwork(options.width, options.max_width, spec.image_shape)

    def init(key, batch):
        first, second = jax.random.split(key)
        z = jnp.zeros((len(batch["image"]), options.latent))
        noise = [jnp.zeros((1, *shape)) for shape in shapes]
        return {
            "mapping": mapping.init(first, z, batch)["params"],
            "synthesis": synthesis.init(second, every_layer(z, len(shapes) + 1), noise)["params"],
        }

    return Generator(
        init,
        mapping=lambda params, *inputs: mapping.apply({"params": params["mapping"]}, *inputs),
        synthesize=lambda params, *inputs: synthesis.apply({"params": params["synthesis"]}, *inputs),
        codes=lambda keys: core.normal(keys, (options.latent,)),
        noise=lambda keys: [core.normal(core.fold_in(keys, i), shape) for i, shape in enumerate(shapes)],
        layers=len(shapes) + 1,
    )


def discriminator_of(options: Options, spec: core.Spec) -> ResidualDiscriminator | ProjectionDiscriminator:
    fields = core.fields_of(options.conditions, spec)
    out = 1 + options.max_width if fields else 1
    discriminator = ResidualDiscriminator(options.width, options.max_width, out, options.minibatch_group)
    return ProjectionDiscriminator(discriminator, fields) if fields else discriminator


def style_mix(keys: jax.Array, probability: float, first: jax.Array, second: jax.Array, layers: int) -> jax.Array:
    """With the `probability` the layers from a uniformly random one on have the second w (Karras et al. 2019, section
    3.1), and never the first layer."""  # key[B], [B, D], [B, D] -> [B, layers, D]
    mixes = jax.vmap(lambda key: jax.random.bernoulli(key, probability))(core.fold_in(keys, 0))
    crossover = jax.vmap(lambda key: jax.random.randint(key, (), 1, layers))(core.fold_in(keys, 1))
    is_second = mixes[:, None] & (jnp.arange(layers)[None] >= crossover[:, None])
    return jnp.where(is_second[..., None], every_layer(second, layers), every_layer(first, layers))


def finish(model_state: core.Tree, observed: core.Tree) -> tuple[core.Metrics, core.Tree]:
    """The running means of w and of path lengths, which begin at the first measured length. 0: not measured."""
    old, length = model_state["path_length"], observed["path_length"]
    updated = jnp.where(old > 0, LENGTH_DECAY * old + (1 - LENGTH_DECAY) * length, length)
    updated = jnp.where(length > 0, updated, old)
    w_mean = W_DECAY * model_state["w_mean"] + (1 - W_DECAY) * observed["w"]
    return {"path_length": updated}, {"w_mean": w_mean, "path_length": updated}


def path_penalty(
    generator: Generator, params: core.Tree, w: jax.Array, noise: list[jax.Array], direction: jax.Array, mean: jax.Array
) -> jax.Array:  # [B, Z], f32[B, H, W, C], f32[] -> f32[2]
    """The mean length, and the mean of (length - a)^2 (Karras et al. 2020, eq. 4), which is 0 until a is measured."""

    def synthesize(w: jax.Array) -> jax.Array:
        return generator.synthesize(params, every_layer(w, generator.layers), noise)

    lengths = path_lengths(synthesize, w, direction)
    target = jnp.where(mean > 0, mean, jax.lax.stop_gradient(lengths))
    return jnp.stack([lengths.mean(), jnp.square(lengths - target).mean()])


def latents(options: Options, spec: core.Spec, generator: Generator) -> tuple[core.Latents, core.Latents]:
    """The spaces of z, [1, 1, Z], and of w, [layers, 1, Z] from coarse to fine."""

    def styles(weights, z, condition):  # [B, Z] -> [B, layers, 1, Z]
        w = generator.mapping(weights.params["generator"], z, condition)
        # Exactly w at 1 and exactly the mean at 0.
        w = options.truncation * w + (1 - options.truncation) * weights.model_state["w_mean"][None]
        return every_layer(w, generator.layers)[:, :, None]

    def decode(weights, codes, condition):  # [B, layers, 1, Z] -> [B, H, W, C]
        shared = generator.noise(core.stream(0, "noise")[None])
        return jnp.clip(generator.synthesize(weights.params["generator"], codes[:, :, 0], shared), -1, 1)

    def decode_z(weights, z, condition):  # [B, Z] -> [B, H, W, C]
        return decode(weights, styles(weights, z, condition), condition)

    def style_prior(weights, keys, condition):  # -> [B, layers, 1, Z]
        return styles(weights, generator.codes(keys), condition)

    w_space = spec._replace(image_shape=(generator.layers, 1, options.latent), levels=0)
    return (
        adversarial.code_space(spec, options.latent, decode_z),
        core.Latents(w_space, decode, prior=style_prior, interpolate="linear", layered=True),
    )


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `generator` and `discriminator`."""
    generator, discriminator = generator_of(options, spec), discriminator_of(options, spec)
    length_weight = options.path_length_weight * path_length_scale(*spec.image_shape[:2])

    def generate(params, model_state, batch, key, training, measured=None):
        """`measured`: whether path lengths are, bool[]; None: never."""
        keys = core.per_example_keys(key, batch["index"])
        streams = [core.fold_in(keys, i) for i in range(4)]
        w, noise = generator.mapping(params, generator.codes(keys), batch), generator.noise(streams[0])
        styles, length, penalty = every_layer(w, generator.layers), jnp.zeros(()), jnp.zeros(())
        if training:
            second = generator.mapping(params, generator.codes(streams[1]), batch)
            styles = style_mix(streams[2], options.style_mixing, w, second, generator.layers)
        if measured is not None:
            direction = core.normal(streams[3], spec.image_shape)
            terms = functools.partial(path_penalty, generator, params, w, noise, direction, model_state["path_length"])
            length, penalty = jax.lax.cond(measured, terms, lambda: jnp.zeros(2))
        observed = {"w": w.mean(axis=0), "path_length": length}
        return Generated(batch["image"], generator.synthesize(params, styles, noise), observed, penalty)

    def discriminate(params, model_state, image, batch, training):
        variables = {"params": params, "batch_stats": model_state["discriminator"]}
        logits, changed = discriminator.apply(variables, image, batch, training, mutable=["batch_stats"])
        return Discriminated((logits[:, 0].astype(jnp.float32),), {"discriminator": changed["batch_stats"]})

    def generator_loss(terms):
        penalty = options.path_length_every * terms.generated.details
        return terms.adversarial + length_weight * penalty, {"path_penalty": penalty}

    def train_step(state, batch, key):
        first, second = jax.random.split(key)
        state, metrics = adversarial.train_discriminator(game, state, batch, first)
        measured = state.step % options.path_length_every == 0 if is_enabled(options.path_length_weight) else None
        rules = game._replace(generate=functools.partial(generate, measured=measured))
        state, more = adversarial.train_generator(rules, state, batch, second)
        return state.replace(step=state.step + 1), {**metrics, **more}

    def init(key, batch):
        first, second = jax.random.split(key)
        variables = discriminator.init(second, batch["image"], batch, True)
        params = {"generator": generator.init(first, batch), "discriminator": variables["params"]}
        means = {"w_mean": jnp.zeros(options.latent), "path_length": jnp.zeros(())}
        return core.init_state(params, optimizers, {"discriminator": variables["batch_stats"], **means})

    game = Game(optimizers, options, non_saturating, generate, discriminate, generator_loss, finish)
    spaces = latents(options, spec, generator)
    return core.Family(
        init,
        train_step,
        functools.partial(adversarial.evaluate, game),
        objective=(),
        log_odds=game.log_odds,
        sample=lambda weights, keys, batch: spaces[0].decode(weights, spaces[0].prior(weights, keys, batch), batch),
        latents=spaces,
        conditions=options.conditions,
    )
