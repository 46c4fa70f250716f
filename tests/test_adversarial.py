"""The common room of games: a game solved by hand, and two games of other shapes than a GAN trained through it."""

import dataclasses
import math

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import BATCH, Case

from genimg_jax import core
from genimg_jax.families import adversarial
from genimg_jax.families.adversarial import Discriminated, Game, Generated
from genimg_jax.networks.mlp import MLP
from genimg_jax.objectives.adversarial import LOSSES, non_saturating, wasserstein
from genimg_jax.options import bounded

GROUPS = ("generator", "discriminator")


@dataclasses.dataclass(frozen=True)
class Options(adversarial.Options):
    size: int = bounded(3, 1)


# ------------------------------------------------------------------------------------------- a game solved by hand


def scalar_game(options, loss=wasserstein, optimizers=None):
    """The generator gives one number, the discriminator multiplies by one."""

    def generate(params, model_state, batch, key, training):
        return Generated(batch["image"], jnp.broadcast_to(params, batch["image"].shape))

    def discriminate(params, model_state, inputs, batch, training):
        return Discriminated((params * inputs,))

    return Game(optimizers, options, loss, generate, discriminate)


@pytest.mark.parametrize(("penalty", "slope"), [("none", 0.0), ("r1", 1.0), ("r2", 1.0), ("gradient_penalty", 2.0)])
@pytest.mark.parametrize("every", [1, 3])
def test_the_players_move_as_the_gradients_say(penalty, slope, every):
    """Logits are w x: the Wasserstein loss is w (b - mean x) for w and -w b for b. R1 and R2 are w^2 / 2, and the
    gradient penalty is (|w| - 1)^2."""
    options = Options(penalty=penalty, penalty_weight=0.5, penalty_every=every)
    optimizers = {"generator": core.Optimizer(optax.sgd(0.2)), "discriminator": core.Optimizer(optax.sgd(0.1))}
    game = scalar_game(options, optimizers=optimizers)
    state = core.init_state({"generator": jnp.float32(0.5), "discriminator": jnp.float32(0.3)}, optimizers)
    x, (b, w) = np.linspace(-1, 3, 8, dtype=np.float32), (0.5, 0.3)
    step = jax.jit(lambda state, batch, key: adversarial.train_step(game, 2, state, batch, key))
    for i in range(5):
        # Slices interleave: the first discriminator update sees the even rows, the second the odd ones.
        for rows in (x[::2], x[1::2]):
            gradient = b - rows.mean() + (i % every == 0) * every * 0.5 * slope * (w - (slope == 2.0))
            loss, w = w * (b - rows.mean()), w - 0.1 * gradient
        b = b + 0.2 * w
        state, metrics = step(state, {"image": jnp.array(x), "index": jnp.arange(8)}, jax.random.key(i))
        np.testing.assert_allclose(metrics["loss_discriminator"], loss, rtol=1e-4)
        assert (metrics["penalty"] > 0) == (penalty != "none" and i % every == 0)
    assert state.step == 5
    np.testing.assert_allclose((state.params["generator"], state.params["discriminator"]), (b, w), rtol=1e-4)


def test_a_penalty_is_of_the_mean_over_patches():
    """Of 2x3 patches w x, the gradient is w / 6 in each of six places."""
    optimizers = {group: core.Optimizer(optax.sgd(0.1)) for group in GROUPS}
    game = scalar_game(Options(penalty="r1"), optimizers=optimizers)
    state = core.init_state(dict.fromkeys(GROUPS, jnp.float32(0.3)), optimizers)
    data = {"image": jnp.ones((4, 2, 3)), "index": jnp.arange(4)}
    _, metrics = adversarial.train_discriminator(game, state, data, jax.random.key(0))
    np.testing.assert_allclose(metrics["penalty"], 0.5 * 6 * (0.3 / 6) ** 2, rtol=1e-5)


def test_evaluation_averages_patches_and_keeps_examples():
    game = scalar_game(Options(), non_saturating)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    weights = core.Weights({"generator": jnp.float32(0.5), "discriminator": jnp.float32(-2.0)}, {}, {})
    found = adversarial.evaluate(game, weights, {"image": x, "index": np.arange(4)}, jax.random.key(0))
    np.testing.assert_allclose(found["logit_real"], -2 * x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["logit_fake"], np.full(4, -1.0), rtol=1e-6)
    np.testing.assert_allclose(found["loss_generator"], np.full(4, np.logaddexp(0, 1)), rtol=1e-6)
    expected = np.logaddexp(0, 2 * x).mean((1, 2)) + np.logaddexp(0, -1)
    np.testing.assert_allclose(found["loss_discriminator"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_only_the_cross_entropy_has_log_odds(name):
    expected = (("logit_real", "logit_fake"),) if name == "non_saturating" else ()
    assert scalar_game(Options(), LOSSES[name]).log_odds == expected


# ------------------------------------------------------------------------------------------------------------ BiGAN


def bigan(options, spec, optimizers):
    """Bidirectional GAN (Donahue et al. 2017): pairs of image and code are judged, from encoder and from generator."""
    values, network, loss = math.prod(spec.image_shape), MLP((16,), 1), non_saturating

    def encode(params, image):  # [B, H, W, C] -> [B, Z]
        return image.reshape(len(image), -1) @ params["encoder"]

    def decode(params, codes):  # [B, Z] -> [B, H, W, C]
        return jnp.tanh(codes @ params["generator"]).reshape(-1, *spec.image_shape)

    def generate(params, model_state, batch, key, training):
        codes = core.normal(core.per_example_keys(key, batch["index"]), (options.size,))
        real = {"image": batch["image"], "code": encode(params, batch["image"])}
        return Generated(real, {"image": decode(params, codes), "code": codes})

    def discriminate(params, model_state, pair, batch, training):
        flat = jnp.concatenate([pair["image"].reshape(len(pair["code"]), -1), pair["code"]], axis=1)
        return Discriminated((network.apply({"params": params}, flat, training)[:, 0],))

    def generator_loss(terms):  # the encoder's pairs are to be held for the generator's
        return terms.adversarial + loss.generator(terms.fake.logits[0], -terms.real.logits[0]).mean(), {}

    def init(key, batch):
        keys = jax.random.split(key, 3)
        shapes = {"encoder": (values, options.size), "generator": (options.size, values)}
        maps = {name: 0.1 * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=False)}
        weights = network.init(keys[2], jnp.zeros((1, values + options.size)), True)["params"]
        return core.init_state({"generator": maps, "discriminator": weights}, optimizers)

    def sample(weights, keys, condition):
        return decode(weights.params["generator"], core.normal(keys, (options.size,)))

    game = Game(optimizers, options, loss, generate, discriminate, generator_loss)
    return core.Family(
        init,
        lambda *step: adversarial.train_step(game, 1, *step),
        lambda *batch: adversarial.evaluate(game, *batch),
        objective=(),
        log_odds=game.log_odds,
        sample=sample,
    )


# --------------------------------------------------------------------------------------------------------- CycleGAN


def cycle_gan(options, spec, optimizers):
    """CycleGAN (Zhu et al. 2017) from images to images upside down: two generators and two discriminators, of which
    each sees the last step's image in half of the rows. The replay pool has a place for each row of a batch."""
    shape, values = spec.image_shape, math.prod(spec.image_shape)

    def translate(weight, image):
        return jnp.tanh(image.reshape(len(image), -1) @ weight).reshape(-1, *shape)

    def generate(params, model_state, batch, key, training):
        real = {"image": batch["image"], "turned": batch["image"][:, ::-1]}
        fake = {name: translate(params[name], real[other]) for name, other in OTHER.items()}
        again = {name: translate(params[name], fake[other]) for name, other in OTHER.items()}
        here = jax.nn.one_hot(batch["index"], BATCH, axis=0)  # [places, B]
        observed = {name: jnp.tensordot(here, x, 1) for name, x in fake.items()}  # a mean of parts, as all are
        cycle = sum(jnp.abs(again[name] - real[name]).mean() for name in OTHER)
        return Generated(real, fake, {"pool": observed, "parts": here.sum(1).mean()}, cycle)

    def replay(params, model_state, batch, key, training):
        generated = generate(params, model_state, batch, key, training)
        keys = core.fold_in(core.per_example_keys(key, batch["index"]), 1)
        early = jax.vmap(jax.random.bernoulli)(keys)[:, None, None, None]
        old = {name: x[batch["index"]] for name, x in model_state["pool"].items()}
        return generated._replace(fake=jax.tree.map(lambda a, b: jnp.where(early, a, b), old, generated.fake))

    def finish(model_state, observed):
        return {}, {"pool": jax.tree.map(lambda x: x / observed["parts"], observed["pool"])}

    def discriminate(params, model_state, inputs, batch, training):
        return Discriminated(
            tuple(jnp.tanh(inputs[name].reshape(len(batch["index"]), -1) @ params[name]) for name in OTHER)
        )

    def init(key, batch):
        keys = iter(jax.random.split(key, 4))
        maps = {name: 0.1 * jax.random.normal(next(keys), (values, values)) for name in OTHER}
        critics = {name: 0.1 * jax.random.normal(next(keys), (values, 4)) for name in OTHER}
        pool = {name: jnp.zeros((BATCH, *shape)) for name in OTHER}
        return core.init_state({"generator": maps, "discriminator": critics}, optimizers, {"pool": pool})

    def train_step(state, batch, key):
        state, more = adversarial.train_discriminator(game._replace(generate=replay), state, batch, key)
        state, metrics = adversarial.train_generator(game, state, batch, key)
        return state.replace(step=state.step + 1), {**metrics, **more}

    def generator_loss(terms):
        return terms.adversarial + 10 * terms.generated.details, {"cycle": terms.generated.details}

    names = tuple(f"/{name}" for name in OTHER)
    game = Game(
        optimizers,
        options,
        LOSSES["least_squares"],
        generate,
        discriminate,
        generator_loss,
        finish,
        discriminators=names,
    )
    return core.Family(init, train_step, lambda *batch: adversarial.evaluate(game, *batch), objective=())


OTHER = {"image": "turned", "turned": "image"}
BIGAN = Case(bigan, Options(penalty="gradient_penalty", penalty_every=2), GROUPS)
CYCLE = Case(cycle_gan, Options(penalty="r1"), GROUPS)


@pytest.mark.parametrize("case", [BIGAN, CYCLE], ids=["bigan", "cycle"])
@pytest.mark.parametrize(
    "check",
    [contract.loss_falls, contract.groups_cover_parameters, contract.evaluation_ignores_padding],
    ids=lambda check: check.__name__,
)
def test_other_games_keep_the_contract(case, check):
    check(case)


def test_a_bigan_samples_and_splits_its_batch():
    contract.samples_are_their_own(BIGAN)
    contract.microbatches_agree(BIGAN)


def test_each_discriminator_plays_its_own_game():
    """The gradient by one's weights, penalty included, is what it is whatever the other's are."""
    start, data = contract.train(CYCLE, 1)[0], contract.batch()
    other = {**start.params["discriminator"], "turned": jnp.zeros_like(start.params["discriminator"]["turned"])}
    rates = {"generator": 0.0, "discriminator": 0.5}
    step = jax.jit(lambda state: contract.family(CYCLE, rates).train_step(state, data, jax.random.key(0)))
    one, metrics = step(start)
    two, changed = step(start.replace(params={**start.params, "discriminator": other}))
    contract.close(one.params["discriminator"]["image"], two.params["discriminator"]["image"])
    assert not np.allclose(one.params["discriminator"]["image"], start.params["discriminator"]["image"])
    assert metrics["logit_real/image"] == changed["logit_real/image"]
    assert metrics["logit_real/turned"] != changed["logit_real/turned"]
    assert metrics["penalty"] > 1.1 * changed["penalty"] > 0  # the sum of both's


def test_generators_play_against_all_discriminators():
    state, history = contract.train(CYCLE, 1, rates=dict.fromkeys(GROUPS, 0.0))
    family, weights = contract.family(CYCLE), core.weights(state, averaged=False)
    held_out = family.evaluate(weights, contract.batch(), jax.random.key(0))["loss_generator"]
    np.testing.assert_allclose(history[0]["loss_generator"] - 10 * history[0]["cycle"], held_out.mean(), rtol=1e-4)


@pytest.mark.parametrize("parts", [1, 4])
def test_the_pool_is_renewed_from_the_whole_batch(parts):
    start, data = contract.train(CYCLE, 0)[0], contract.batch()
    state, _ = jax.jit(contract.family(CYCLE, microbatches=parts).train_step)(start, data, jax.random.key(0))
    weight, image = start.params["generator"]["turned"], data["image"]
    expected = np.tanh(image.reshape(BATCH, -1) @ weight).reshape(image.shape)
    np.testing.assert_allclose(state.model_state["pool"]["turned"], expected, rtol=1e-4, atol=1e-6)
