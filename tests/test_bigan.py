"""BiGAN: the game of linear maps and Gaussian images has a known solution, and its cycles have closed forms."""

import dataclasses
from collections.abc import Callable

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.families import adversarial, bigan
from genimg_jax.networks.image import ImageEncoder
from genimg_jax.networks.pair import PairDiscriminator
from genimg_jax.objectives.adversarial import LOSSES, AdversarialLoss

Z, SHAPE = 2, (1, 3, 1)  # codes of 2 dimensions, images of 3 pixels
PIXELS = np.array([[1.0, 0.5, -0.3], [-0.4, 0.8, 0.6]], np.float32)  # images are u @ PIXELS, of standard normal u
EYE = np.eye(Z, dtype=np.float32)

# ----------------------------------------------------------------------------------------- linear maps, Gaussian images


def generate(params, model_state, codes, condition, training):
    return (codes @ params["generator"]).reshape(-1, *SHAPE), {}


def encode(params, model_state, image, condition, training):
    return image.reshape(len(image), -1) @ params["encoder"], {}


def quadratic(params, model_state, pair, condition, training):
    """The log odds of any two centred Gaussians of pairs are of this form."""
    flat = jnp.concatenate([pair["image"].reshape(len(pair["code"]), -1), pair["code"]], axis=1)
    return ((flat @ params["form"]) * flat).sum(axis=1) + params["constant"][None], {}


def linear_model(**changes: Callable) -> bigan.Model:
    return bigan.Model(None, generate, encode, quadratic)._replace(**changes)


def linear_game(rate, model: bigan.Model | None = None, **options) -> adversarial.Game:
    optimizers = {group: core.Optimizer(optax.sgd(rate)) for group in bigan.GROUPS}
    return bigan.make_game(bigan.Options(**options), Z, model or linear_model(), optimizers)


def linear_state(game: adversarial.Game, seed: int = 0) -> core.TrainState:
    """Random maps. The encoder maps to 0 what is orthogonal to all images: no gradient of SGD ever changes that."""
    rng = np.random.default_rng(seed)
    generator, encoder = (0.3 * rng.normal(size=shape).astype(np.float32) for shape in ((Z, 3), (3, Z)))
    maps = {"generator": jnp.array(generator), "encoder": jnp.array(np.linalg.pinv(PIXELS) @ PIXELS @ encoder)}
    # Where both kinds of pairs are alike, the best logit is 0; of least squares it is the middle of the targets.
    constant = 0.5 if game.options.loss == "least_squares" else 0.0
    discriminator = {"form": jnp.zeros((3 + Z, 3 + Z)), "constant": jnp.float32(constant)}
    return core.init_state({"generator": maps, "discriminator": discriminator}, game.optimizers)


def gaussian_batch(key: jax.Array, size: int = 256) -> core.Batch:
    index = jnp.arange(size)
    image = core.normal(core.per_example_keys(key, index), (Z,)) @ PIXELS
    return {"image": image.reshape(-1, *SHAPE), "index": index}


def play(game: Callable[..., adversarial.Game], steps: int = 3000) -> dict[str, np.ndarray]:
    """The generator's and the encoder's matrix after training."""
    rules = game(optax.cosine_decay_schedule(0.05, steps))

    def step(state, key):
        first, second = jax.random.split(key)
        return adversarial.train_step(rules, 1, state, gaussian_batch(first), second)[0], None

    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, jax.random.split(jax.random.key(0), steps)))(
        linear_state(rules)
    )
    return jax.device_get(state.params["generator"])


def assert_solved(maps: dict[str, np.ndarray]) -> None:
    """E is the pseudo-inverse of G to 1e-2, and G's images have the data's covariance, up to noise of the batches."""
    np.testing.assert_allclose(maps["encoder"], np.linalg.pinv(maps["generator"]), atol=1e-2)
    np.testing.assert_allclose(maps["generator"].T @ maps["generator"], PIXELS.T @ PIXELS, atol=5e-2)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_inverts_the_generator(loss):
    assert_solved(play(lambda rate: linear_game(rate, loss=loss, penalty="r1", penalty_weight=0.2)))


def other_pairs(game: adversarial.Game) -> adversarial.Game:
    """Each generated image beside the code of the next one."""

    def roll(*arguments):
        generated = game.generate(*arguments)
        return generated._replace(fake={**generated.fake, "code": jnp.roll(generated.fake["code"], 1, axis=0)})

    return game._replace(generate=roll)


def uphill(game: adversarial.Game) -> adversarial.Game:
    """The encoder makes its pairs ever easier to tell."""
    loss = game.loss
    return game._replace(loss=AdversarialLoss(loss.discriminator, lambda real, fake: loss.generator(-real, fake)))


def untrained_encoder(game: adversarial.Game) -> adversarial.Game:
    """The generator's loss of a GAN, which does not read the logits of real images."""
    return game._replace(loss=LOSSES["non_saturating"])


@pytest.mark.parametrize("fault", [other_pairs, uphill, untrained_encoder])
def test_a_wrong_game_does_not(fault):
    maps = play(lambda rate: fault(linear_game(rate, penalty="r1", penalty_weight=0.2)))
    with pytest.raises(AssertionError):
        assert_solved(maps)


def pull(loss: str, sign: float = 1.0, change: Callable = lambda game: game) -> float:
    """The largest gradient of either player, where images are G(z), E is `sign` times the pseudo-inverse of G, and the
    discriminator is 0. Images are those of the codes that the discriminator's step draws: no noise is left."""
    game, key, index = change(linear_game(1.0, loss=loss, penalty="r1")), jax.random.key(1), jnp.arange(512)
    state = linear_state(game)
    codes = core.normal(core.per_example_keys(jax.random.split(key)[0], index), (Z,))
    maps = {"generator": jnp.array(PIXELS), "encoder": jnp.array(sign * np.linalg.pinv(PIXELS))}
    state = state.replace(params={**state.params, "generator": maps})
    batch = {"image": (codes @ PIXELS).reshape(-1, *SHAPE), "index": index}
    steps = adversarial.train_discriminator, adversarial.train_generator
    moved = [jax.jit(lambda state, step=step: step(game, state, batch, key)[0].params)(state) for step in steps]
    changes = [jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params, state.params) for params in moved]
    return max(float(change) for change in jax.tree.leaves(changes))


@pytest.mark.parametrize("loss", LOSSES)
def test_inverse_maps_are_a_fixed_point(loss):
    assert pull(loss) < 1e-3
    assert pull(loss, sign=-1.0) > 0.1
    assert pull(loss, change=other_pairs) > 0.1


# --------------------------------------------------------------------------------------------------------------- losses


def test_the_generator_swaps_the_labels():
    real, fake = jnp.array([0.5, -1.0, 3.0]), jnp.array([-2.0, 1.5, 0.2])
    odds = jax.nn.sigmoid
    expected = -jnp.log(odds(fake)) - jnp.log(1 - odds(real))
    np.testing.assert_allclose(bigan.swapped(LOSSES["non_saturating"]).generator(real, fake), expected, rtol=1e-5)
    for name in ("relativistic", "wasserstein"):  # the first reads both logits already; the other's is a difference
        mirrored = jax.nn.softplus(real - fake) if name == "relativistic" else real - fake
        np.testing.assert_allclose(bigan.swapped(LOSSES[name]).generator(real, fake), mirrored, rtol=1e-6)
    squares = 0.5 * ((fake - 1) ** 2 + real**2)
    np.testing.assert_allclose(bigan.swapped(LOSSES["least_squares"]).generator(real, fake), squares, rtol=1e-6)


def test_cycle_losses_have_the_gradients_of_linear_maps():
    """With a discriminator of 0, one step of SGD is the gradient of a |x - x E G|^2 / 3 + b |z - z G E|^2 / 2."""
    cycles = {"image_cycle": 3.0, "image_distance": "squared_error", "code_cycle": 0.7}
    game, key = linear_game(1.0, **cycles), jax.random.key(2)
    state, batch = linear_state(game), gaussian_batch(jax.random.key(3), 16)
    moved, metrics = jax.jit(lambda: adversarial.train_generator(game, state, batch, key))()
    x, z = batch["image"].reshape(16, 3), core.normal(core.per_example_keys(key, batch["index"]), (Z,))
    g, e = (state.params["generator"][name] for name in ("generator", "encoder"))
    image, code = x @ e @ g - x, z @ g @ e - z  # the errors
    np.testing.assert_allclose(metrics["image_cycle"], (image**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["code_cycle"], (code**2).mean(), rtol=1e-5)
    total = metrics["adversarial"] + 3.0 * metrics["image_cycle"] + 0.7 * metrics["code_cycle"]
    np.testing.assert_allclose(metrics["loss_generator"], total, rtol=1e-5)
    a, b = 2 * 3.0 / image.size, 2 * 0.7 / code.size
    gradients = {
        "generator": a * (x @ e).T @ image + b * z.T @ code @ e.T,
        "encoder": a * x.T @ image @ g.T + b * (z @ g).T @ code,
    }
    for name, gradient in gradients.items():
        change = state.params["generator"][name] - moved.params["generator"][name]
        np.testing.assert_allclose(change, gradient, rtol=1e-4, atol=1e-6)


def test_the_image_cycle_is_absolute_unless_squared():
    game, batch = linear_game(1.0, image_cycle=1.0), gaussian_batch(jax.random.key(3), 16)
    state = linear_state(game)
    x, maps = batch["image"].reshape(16, 3), state.params["generator"]
    cycles = game.generate(maps, {}, batch, jax.random.key(0), True).details
    assert cycles.keys() == {"image_cycle"}  # a weight of 0 costs nothing
    np.testing.assert_allclose(
        cycles["image_cycle"], jnp.abs(x @ maps["encoder"] @ maps["generator"] - x).mean(), rtol=1e-5
    )


# ---------------------------------------------------------------------------------------------------------- the family

TINY = {"width": 8, "depth": 1, "joint_width": 8, "latent": 4}
PLAIN = contract.Case(bigan.make, bigan.Options(**TINY, penalty="r1", image_cycle=1.0, code_cycle=1.0), bigan.GROUPS)
CONVOLUTIONAL = contract.Case(
    bigan.make,
    bigan.Options(**{**TINY, "network": "conv"}, normalization="batch", spectral=True, conditions=("label",)),
    bigan.GROUPS,
)


@pytest.mark.parametrize("trains", bigan.GROUPS)
def test_each_players_gradient_reaches_its_own_group_alone(trains):
    """The discriminator's step, with R1 on real pairs, would otherwise move the encoder that makes them."""
    optimizers = {group: core.Optimizer(optax.sgd(1.0)) for group in bigan.GROUPS}
    model = bigan.build(PLAIN.options, PLAIN.spec)
    game = bigan.make_game(PLAIN.options, PLAIN.options.latent, model, optimizers)
    batch = contract.batch()
    params, statistics = random_weights(lambda: model.init(jax.random.key(0), batch))
    state = core.init_state(params, optimizers, statistics)
    step = adversarial.train_generator if trains == "generator" else adversarial.train_discriminator
    moved, _ = jax.jit(lambda state: step(game, state, batch, jax.random.key(1)))(state)
    for group in bigan.GROUPS:
        pairs = zip(*(jax.tree.leaves(x.params[group]) for x in (state, moved)), strict=True)
        assert {bool(np.any(a != b)) for a, b in pairs} == {group == trains}


@pytest.mark.parametrize(
    "check",
    [
        contract.groups_cover_parameters,
        contract.samples_are_their_own,
        contract.latents_agree,
        contract.evaluation_ignores_padding,
    ],
    ids=lambda check: check.__name__,
)
def test_convolutions_batch_statistics_and_classes_keep_the_contract(check):
    check(CONVOLUTIONAL)


@pytest.mark.parametrize(
    ("distance", "stated"), [("absolute_error", ()), ("squared_error", ("reconstruction", "psnr"))]
)
def test_a_squared_image_cycle_is_an_objective(distance, stated):
    case = PLAIN._replace(options=dataclasses.replace(PLAIN.options, image_distance=distance))
    contract.objective_is_stated(case)
    assert contract.family(case).objective == stated
    weightless = dataclasses.replace(case.options, image_cycle=0.0)
    assert contract.family(case, options=weightless).objective == ()


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_cross_entropy_has_log_odds(loss):
    """The swapped loss of the generator changes nothing in that."""
    made = contract.family(PLAIN, options=dataclasses.replace(PLAIN.options, loss=loss))
    assert bool(made.log_odds) == (loss == "non_saturating")


def test_the_discriminator_sees_which_code_belongs_to_which_image():
    """A sum of one logit for the image and one for the code could not: its mixed difference is 0."""
    network = PairDiscriminator(ImageEncoder("mlp", 8, 1, 8), 8)
    rng = np.random.default_rng(0)
    image, code = rng.normal(size=(2, 4, 4, 1)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    params = random_weights(lambda: network.init(jax.random.key(0), {"image": image, "code": code}, None, True))
    same, other = (
        network.apply(params, {"image": image, "code": codes}, None, False).sum() for codes in (code, code[::-1])
    )
    assert abs(same - other) > 1e-2


def test_reconstructions_are_measured():
    made, data, key = contract.family(PLAIN), contract.batch(), jax.random.key(0)
    weights, (space,) = core.weights(jax.jit(made.init)(key, data)), made.latents
    image = jax.jit(lambda: space.decode(weights, space.encode(weights, data, key), data))()
    error = np.square(image - data["image"]).mean((1, 2, 3))
    measured = jax.jit(made.evaluate)(weights, data, key)
    np.testing.assert_allclose(measured["reconstruction"], error, rtol=1e-5)
    np.testing.assert_allclose(measured["psnr"], 10 * np.log10(4 / error), rtol=1e-5)
