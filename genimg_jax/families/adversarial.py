"""Adversarial training: the steps of both players, penalties, metrics and evaluation, shared by all GAN families.

A family defines a `Game`: what the generator makes, and what the discriminator classifies. A game may have any number
of generators and discriminators, as subtrees of two parameter groups. Other state (a codebook, a replay pool, the
strength of an augmentation) is an entry of `model_state`, which `generate` and `discriminate` read. `finish` updates it
after the generator's step, `Discriminated.changed` after the discriminator's.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.objectives.adversarial import PENALTIES, AdversarialLoss, lazily, non_saturating
from genimg_jax.options import bounded, choice


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that every game has; each family adds its own."""

    penalty: str = choice("none", *PENALTIES)  # on the gradient of the logits by the discriminator's input
    penalty_weight: float = bounded(1.0, 0.0)
    penalty_every: int = bounded(1, 1)  # k: every k-th step has a penalty, with k times the weight (Karras et al. 2020)


class Generated(NamedTuple):
    """The generator's output for a batch. Penalties differentiate by all of `real` or `fake`, trees of [B, ...]."""

    real: core.Tree
    fake: core.Tree
    observed: Mapping[str, core.Tree] = {}  # means over the batch, for `finish`; by default entries of `model_state`
    details: Any = None  # anything else that the generator's loss needs


class Discriminated(NamedTuple):
    """The discriminators' outputs for real or generated inputs."""

    logits: tuple[jax.Array, ...]  # f32[B, ...], an array for each discriminator; further axes are patches
    changed: Mapping[str, core.Tree] = {}  # the entries of `model_state` that change
    features: tuple[jax.Array, ...] = ()  # [B, ...]


class Terms(NamedTuple):
    """The arguments of the generator's loss."""

    generated: Generated
    real: Discriminated
    fake: Discriminated
    adversarial: jax.Array  # f32[], the adversarial loss of generated inputs, summed over discriminators
    batch: core.Batch
    step: jax.Array  # i32[]


class Game(NamedTuple):
    """The rules of a game. `discriminate` reads conditions from the batch; they are no part of its inputs."""

    optimizers: Mapping[str, core.Optimizer]
    options: Options
    loss: AdversarialLoss
    generate: Callable[[core.Tree, core.Tree, core.Batch, jax.Array, bool], Generated]
    """(the generator's parameters, model_state, batch, key, training) -> Generated"""
    discriminate: Callable[[core.Tree, core.Tree, core.Tree, core.Batch, bool], Discriminated]
    """(the discriminator's parameters, model_state, inputs, batch, training) -> Discriminated"""
    generator_loss: Callable[[Terms], tuple[jax.Array, core.Metrics]] = lambda terms: (terms.adversarial, {})
    """terms -> the generator's loss f32[], metrics {name: f32[]}"""
    finish: Callable[[core.Tree, core.Tree], tuple[core.Metrics, core.Tree]] = core.as_observed
    """(model_state, `observed` of the whole batch) -> metrics, changed entries of `model_state`"""
    groups: tuple[str, str] = ("generator", "discriminator")
    discriminators: tuple[str, ...] = ("",)  # a suffix of each discriminator's metric names, such as '/photo'
    fake_training: bool = True  # False: spectral norms learn from real inputs alone, batch norms need both

    @property
    def log_odds(self) -> tuple[tuple[str, str], ...]:
        """`Family.log_odds`: only for this loss is the optimal logit the log odds of real and generated inputs."""
        names = tuple((f"logit_real{name}", f"logit_fake{name}") for name in self.discriminators)
        return names if self.loss is non_saturating else ()


def train_discriminator(
    game: Game, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    """One update of the discriminators, with a fixed generator."""
    generator, discriminator = game.groups
    generate_key, penalty_key = jax.random.split(key)

    def loss(params, part, _):
        generated = game.generate(state.params[generator], state.model_state, part, generate_key, True)
        real = game.discriminate(params, state.model_state, generated.real, part, True)
        fake = game.discriminate(
            params, {**state.model_state, **real.changed}, generated.fake, part, game.fake_training
        )
        changed = {**real.changed, **fake.changed}

        def penalty():
            def logits_of(inputs):
                return game.discriminate(params, {**state.model_state, **changed}, inputs, part, True).logits

            keys = core.per_example_keys(penalty_key, part["index"])
            return _penalty(game, logits_of, generated, keys).mean()

        value = sum(x.mean() for x in map(game.loss.discriminator, real.logits, fake.logits))
        size = lazily(game.options.penalty_every, state.step, penalty)
        logits = {name: x.mean() for name, x in _named_logits(game, real, fake).items()}
        signs = {
            f"sign_real{name}": jnp.sign(x).mean() for name, x in zip(game.discriminators, real.logits, strict=True)
        }
        metrics = {f"loss_{discriminator}": value, "penalty": size, **logits, **signs}
        return value + game.options.penalty_weight * size, (metrics, changed)

    optimizer = game.optimizers[discriminator]
    return core.train_group(optimizer, state, discriminator, loss, batch, key, core.as_observed)


def train_generator(
    game: Game, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    """One update of the generators, with fixed discriminators."""
    generator, discriminator = game.groups
    fixed, training = state.params[discriminator], game.fake_training

    def loss(params, part, key):
        generated = game.generate(params, state.model_state, part, key, True)
        real = game.discriminate(fixed, state.model_state, generated.real, part, training)
        fake = game.discriminate(fixed, state.model_state, generated.fake, part, training)
        adversarial = sum(x.mean() for x in map(game.loss.generator, real.logits, fake.logits))
        terms = Terms(generated, real, fake, adversarial, part, state.step)
        value, metrics = game.generator_loss(terms)
        return value, ({f"loss_{generator}": value, **metrics}, generated.observed)

    return core.train_group(game.optimizers[generator], state, generator, loss, batch, key, game.finish)


def train_step(
    game: Game, discriminator_steps: int, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    """Updates the discriminators, each time on another slice of the batch, then the generators on the last slice."""
    keys = jax.random.split(key, discriminator_steps + 1)
    slices = core.split(batch, discriminator_steps)
    for i in range(discriminator_steps):
        part = jax.tree.map(lambda x: x[i], slices)  # noqa: B023, called at once
        state, metrics = train_discriminator(game, state, part, keys[i])
    state, more = train_generator(game, state, part, keys[-1])
    return state.replace(step=state.step + 1), {**metrics, **more}


def code_space(
    spec: core.Spec,
    size: int,
    decode: Callable[[core.Weights, jax.Array, core.Batch], jax.Array],
    encode: Callable[[core.Weights, core.Batch], jax.Array] | None = None,
) -> core.Latents:
    """The space of standard normal codes z f32[B, `size`], as images of one pixel.

    `decode` is (weights, z, condition) -> images, and `encode` (weights, batch) -> z.
    """

    def prior(weights, keys, condition):  # -> [B, 1, 1, Z]
        return core.normal(keys, codes.image_shape)

    def decode_pixel(weights, pixel, condition):  # [B, 1, 1, Z] -> [B, H, W, C]
        return decode(weights, pixel[:, 0, 0], condition)

    def encode_pixel(weights, batch, key):  # [B, H, W, C] -> [B, 1, 1, Z]
        return encode(weights, batch)[:, None, None]

    codes = spec._replace(image_shape=(1, 1, size), levels=0)
    return core.Latents(codes, decode_pixel, encode and encode_pixel, prior, "spherical")


def evaluate(game: Game, weights: core.Weights, batch: core.Batch, key: jax.Array) -> core.Metrics:
    """Losses and logits of held-out and generated inputs, f32[B]. They do not measure the quality of images."""
    generator, discriminator = game.groups
    generated = game.generate(weights.params[generator], weights.model_state, batch, key, False)
    real, fake = (
        game.discriminate(weights.params[discriminator], weights.model_state, inputs, batch, False)
        for inputs in (generated.real, generated.fake)
    )
    return {
        f"loss_{discriminator}": sum(map(_per_example, map(game.loss.discriminator, real.logits, fake.logits))),
        f"loss_{generator}": sum(map(_per_example, map(game.loss.generator, real.logits, fake.logits))),
        **{name: _per_example(x) for name, x in _named_logits(game, real, fake).items()},
    }


def _per_example(values: jax.Array) -> jax.Array:  # f32[B, ...] -> f32[B]
    """The mean over patches."""
    return values.mean(axis=tuple(range(1, values.ndim)))


def _penalty(game: Game, logits_of: Callable, generated: Generated, keys: jax.Array) -> jax.Array:  # key[B] -> f32[B]
    """The sum of each discriminator's penalty, on the mean of its logits over patches."""
    penalty, count = PENALTIES[game.options.penalty], len(game.discriminators)
    each = [lambda inputs, i=i: _per_example(logits_of(inputs)[i]) for i in range(count)]
    return sum(penalty(logits, generated.real, generated.fake, keys) for logits in each)


def _named_logits(game: Game, real: Discriminated, fake: Discriminated) -> core.Metrics:  # -> {name: f32[B, ...]}
    parts = {"real": real.logits, "fake": fake.logits}
    return {
        f"logit_{part}{name}": x
        for part, logits in parts.items()
        for name, x in zip(game.discriminators, logits, strict=True)
    }
