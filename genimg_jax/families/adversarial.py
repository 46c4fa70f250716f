"""What families trained against a discriminator share: the steps of both players, penalties, metrics, evaluation.

A family states a `Game`: what is generated and what is judged. It may hold any number of generators and
discriminators, as subtrees of two parameter groups. Whatever else a game remembers (a codebook, a replay pool, the
strength of an augmentation) is an entry of `model_state`, which `generate` and `discriminate` read. `finish` updates it
after the generator's step, `Discriminated.changed` after the discriminator's.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from genimg_jax import core
from genimg_jax.objectives.adversarial import PENALTIES, AdversarialLoss, lazily, non_saturating
from genimg_jax.options import bounded, choice


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that every game has; each family adds its own."""

    penalty: str = choice("none", *PENALTIES)  # on the gradient of the logits by what is judged
    penalty_weight: float = bounded(1.0, 0.0)
    penalty_every: int = bounded(1, 1)  # k: every k-th step has a penalty, of k times the weight (Karras et al. 2020)


class Generated(NamedTuple):
    """What the generator makes of a batch. Penalties differentiate by all of `real` or `fake`, trees of [B, ...]."""

    real: core.Tree
    fake: core.Tree
    observed: Mapping[str, core.Tree] = {}  # means over the batch, for `finish`: by default, entries of `model_state`
    details: Any = None  # whatever else the generator's loss needs


class Discriminated(NamedTuple):
    """What the discriminators make of real or of generated inputs."""

    logits: tuple[jax.Array, ...]  # f32[B, ...], one array a discriminator, with axes beyond the first for patches
    changed: Mapping[str, core.Tree] = {}  # the entries of `model_state` that change
    features: tuple[jax.Array, ...] = ()  # [B, ...]


class Terms(NamedTuple):
    """What the generator's loss is made of."""

    generated: Generated
    real: Discriminated
    fake: Discriminated
    adversarial: jax.Array  # f32[], the adversarial loss of the generated inputs, summed over discriminators
    batch: core.Batch
    step: jax.Array  # i32[]


class Game(NamedTuple):
    """The rules. Conditions are not judged by themselves: `discriminate` reads them from the batch."""

    optimizers: Mapping[str, core.Optimizer]
    options: Options
    loss: AdversarialLoss
    generate: Callable[[core.Tree, core.Tree, core.Batch, jax.Array, bool], Generated]
    """(the generator's parameters, model_state, batch, key, whether training) -> Generated"""
    discriminate: Callable[[core.Tree, core.Tree, core.Tree, core.Batch, bool], Discriminated]
    """(the discriminator's parameters, model_state, what is judged, batch, whether training) -> Discriminated"""
    generator_loss: Callable[[Terms], tuple[jax.Array, core.Metrics]] = lambda terms: (terms.adversarial, {})
    """terms -> f32[] to be minimised by the generator, {name: f32[]}"""
    finish: Callable[[core.Tree, core.Tree], tuple[core.Metrics, core.Tree]] = core.as_observed
    """(model_state, `observed` of the whole batch) -> metrics, the entries of `model_state` that change"""
    groups: tuple[str, str] = ("generator", "discriminator")
    discriminators: tuple[str, ...] = ("",)  # one suffix a discriminator of its metrics' names, such as '/photo'
    fake_training: bool = True  # False: spectral norms learn from real inputs alone, batch norms need both

    @property
    def log_odds(self) -> tuple[tuple[str, str], ...]:
        """`Family.log_odds`: only the optimum of this loss is the log odds of real and generated inputs."""
        names = tuple((f"logit_real{name}", f"logit_fake{name}") for name in self.discriminators)
        return names if self.loss is non_saturating else ()


def train_discriminator(
    game: Game, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    """One update of the discriminators, against the generator as it is."""
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
        metrics = {f"loss_{discriminator}": value, "penalty": size, **logits}
        return value + game.options.penalty_weight * size, (metrics, changed)

    optimizer = game.optimizers[discriminator]
    return core.train_group(optimizer, state, discriminator, loss, batch, key, core.as_observed)


def train_generator(
    game: Game, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    """One update of the generators, against the discriminators as they are."""
    generator, discriminator = game.groups
    fixed, training = state.params[discriminator], game.fake_training

    def loss(params, part, key):
        generated = game.generate(params, state.model_state, part, key, True)
        real = game.discriminate(fixed, state.model_state, generated.real, part, training)
        fake = game.discriminate(fixed, state.model_state, generated.fake, part, training)
        adversarial = sum(game.loss.generator(logits).mean() for logits in fake.logits)
        terms = Terms(generated, real, fake, adversarial, part, state.step)
        value, metrics = game.generator_loss(terms)
        return value, ({f"loss_{generator}": value, **metrics}, generated.observed)

    return core.train_group(game.optimizers[generator], state, generator, loss, batch, key, game.finish)


def train_step(
    game: Game, discriminator_steps: int, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    """Updates of the discriminators, each on its own slice of the batch, then one of the generators on the last."""
    keys = jax.random.split(key, discriminator_steps + 1)
    slices = core.split(batch, discriminator_steps)
    for i in range(discriminator_steps):
        part = jax.tree.map(lambda x: x[i], slices)  # noqa: B023, the slice is taken at once
        state, metrics = train_discriminator(game, state, part, keys[i])
    state, more = train_generator(game, state, part, keys[-1])
    return state.replace(step=state.step + 1), {**metrics, **more}


def evaluate(game: Game, weights: core.Weights, batch: core.Batch, key: jax.Array) -> core.Metrics:
    """How the discriminators tell held-out inputs from generated ones, f32[B]: losses of the game, not a quality."""
    generator, discriminator = game.groups
    generated = game.generate(weights.params[generator], weights.model_state, batch, key, False)
    real, fake = (
        game.discriminate(weights.params[discriminator], weights.model_state, inputs, batch, False)
        for inputs in (generated.real, generated.fake)
    )
    return {
        f"loss_{discriminator}": sum(map(_per_example, map(game.loss.discriminator, real.logits, fake.logits))),
        f"loss_{generator}": sum(map(_per_example, map(game.loss.generator, fake.logits))),
        **{name: _per_example(x) for name, x in _named_logits(game, real, fake).items()},
    }


def _per_example(values: jax.Array) -> jax.Array:  # f32[B, ...] -> f32[B]
    """The mean over patches."""
    return values.mean(axis=tuple(range(1, values.ndim)))


def _penalty(game: Game, logits_of: Callable, generated: Generated, keys: jax.Array) -> jax.Array:  # key[B] -> f32[B]
    """Each discriminator's, of the mean of its logits over patches."""
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
