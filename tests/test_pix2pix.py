"""pix2pix: the patches that its discriminator sees, the skip connections of its U-Net, its noise and its loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.core import Field
from genimg_jax.errors import ConfigError
from genimg_jax.families import pix2pix
from genimg_jax.networks.grid import PatchDiscriminator
from genimg_jax.networks.translation import UNetGenerator, dropout

SHAPE, BATCH = (8, 8, 1), 4
SPEC = core.Spec(
    SHAPE, 3, 256, {"source": Field((8, 8, 3)), "map": Field((8, 8), 5), "far": Field(SHAPE, paired=False)}
)
OPTIONS = pix2pix.Options(width=4, depth=3, discriminator_width=4, discriminator_depth=1)


def build(**changes) -> core.Family:
    optimizers = {group: core.Optimizer(optax.sgd(0.01)) for group in pix2pix.GROUPS}
    return pix2pix.make(dataclasses.replace(OPTIONS, **changes), SPEC, optimizers)


def batch(seed: int = 0) -> core.Batch:
    rng = np.random.default_rng(seed)
    images = {
        name: rng.uniform(-1, 1, (BATCH, 8, 8, c)).astype(np.float32) for name, c in (("image", 1), ("source", 3))
    }
    segments = {
        "map": rng.integers(5, size=(BATCH, 8, 8)).astype(np.int32),
        "label": np.arange(BATCH, dtype=np.int32) % 3,
    }
    return {**images, **segments, "index": np.arange(BATCH, dtype=np.int32)}


@functools.cache
def weights(*conditions: str) -> core.Weights:
    """Random ones."""
    family = build(conditions=conditions or ("source",))
    state = jax.jit(family.init)(jax.random.key(0), batch())
    return core.weights(state.replace(params=random_weights(lambda: state.params)), averaged=False)


def keys(seed: int = 0) -> jax.Array:
    return core.per_example_keys(jax.random.key(seed), jnp.arange(BATCH))


# -------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(("depth", "patch"), [(1, 8), (2, 18), (3, 38), (4, 78)])
def test_a_logit_sees_a_patch_of_the_size_that_is_stated(depth, patch):
    network, image = PatchDiscriminator(2, depth), jax.random.normal(jax.random.key(0), (1, 128, 128, 1))
    variables = network.init(jax.random.key(1), image, True)
    middle = 64 >> depth  # of the 128 >> depth logits in each direction
    gradient = jax.jit(jax.grad(lambda x: network.apply(variables, x, False)[0][0, middle, middle]))(image)[0, ..., 0]
    for axis in (0, 1):
        (seen,) = np.nonzero(np.abs(gradient).max(axis))
        assert seen[-1] - seen[0] + 1 == patch, (seen[0], seen[-1])


UNET = UNetGenerator(2, 4, (16, 16, 1), (("source", Field((16, 16, 1))),))


@functools.cache
def unet() -> tuple[core.Tree, core.Batch]:
    condition = {"source": jax.random.normal(jax.random.key(0), (2, 16, 16, 1))}
    return random_weights(lambda: UNET.init(jax.random.key(1), condition, keys()[:2], 0.0)["params"]), condition


@pytest.mark.parametrize("level", range(4))
def test_every_size_has_a_skip_connection(level):
    """Cut off below a level, the network still learns that level, by its skip connection alone."""
    params, condition = unet()
    below = f"up_{level + 1}"
    if below in params:
        params = {**params, below: jax.tree.map(jnp.zeros_like, params[below])}

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.square(UNET.apply({"params": params}, condition, keys()[:2], 0.0)).sum()

    found = gradient(params)
    reached = [np.abs(found[f"down_{i}"]["kernel"]).max() > 0 for i in range(4)]
    assert reached == [i <= level for i in range(4)]


def test_the_unet_halves_to_the_depth_and_doubles_back():
    params, _ = unet()
    down, up = ([params[f"{way}_{i}"]["kernel"].shape for i in range(4)] for way in ("down", "up"))
    assert [shape[2:] for shape in down] == [(8, 2), (2, 4), (4, 8), (8, 16)]
    assert [shape[2:] for shape in up] == [(1, 4), (2, 8), (4, 16), (8, 16)]  # (features, those and the skipped)


def test_dropout_is_each_examples_own_and_keeps_the_mean():
    found = dropout(jnp.ones((BATCH, 100, 100)), keys(), 0.3)
    assert set(np.unique(found).round(4)) == {0.0, np.float32(1 / 0.7).round(4)}
    np.testing.assert_allclose((found == 0).mean((1, 2)), 0.3, atol=5 * np.sqrt(0.21 / 10_000))
    assert abs(((found[0] == 0) == (found[1] == 0)).mean() - 0.58) < 0.03
    np.testing.assert_array_equal(dropout(jnp.ones((2, 100, 100)), keys()[2:], 0.3), found[2:])


# ---------------------------------------------------------------------------------------------------------- family


@pytest.mark.parametrize("conditions", [("source",), ("map",), ("source", "map", "label")], ids="+".join)
def test_a_sample_and_its_logit_follow_every_condition(conditions):
    family, other = build(conditions=conditions), batch(1)
    told = weights(*conditions)
    assert family.conditions == conditions

    @jax.jit
    def run(data):
        image = family.sample(told, keys(), {name: data[name] for name in conditions})
        return image, family.evaluate(told, data, jax.random.key(0))["logit_real"]

    plain = run(batch())
    for name in conditions:
        rows = np.arange(BATCH).reshape(-1, *(1,) * (other[name].ndim - 1)) < 2
        value = 2 - batch()[name] if name == "label" else other[name]
        changed = run({**batch(), name: np.where(rows, value, batch()[name])})
        for one, two in zip(plain, changed, strict=True):
            difference = np.abs(one - two).reshape(BATCH, -1).max(1)
            assert difference[2:].max() < 1e-6 < difference[0], name


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_is_the_noise_of_samples(rate):
    family = build(dropout=rate)
    one, again, other = (family.sample(weights(), keys(seed), batch()) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (np.abs(one - other).max((1, 2, 3)) > 1e-3).tolist() == [rate > 0] * BATCH


def test_the_loss_and_the_distance_are_as_stated():
    family, data, key = build(l1_weight=7.0), batch(), jax.random.key(3)
    state = core.init_state(weights().params, {g: core.Optimizer(optax.sgd(0.0)) for g in pix2pix.GROUPS})
    state = state.replace(model_state=weights().model_state)
    _, metrics = jax.jit(family.train_step)(state, data, key)
    np.testing.assert_allclose(metrics["loss_generator"], metrics["adversarial"] + 7 * metrics["l1"], rtol=1e-5)
    found = jax.jit(family.evaluate)(weights(), data, key)["l1"]
    image = family.sample(weights(), core.per_example_keys(key, data["index"]), data)
    np.testing.assert_allclose(found, np.abs(image - data["image"]).mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditions": ("label",)}, r"model.conditions is \('label',\), and pix2pix translates a map or an image"),
        ({"conditions": ("far",)}, "model.conditions names 'far'"),
        ({"depth": 4}, "model.depth is 4, but a 8x8 image"),
        ({"discriminator_depth": 4}, "model.discriminator_depth is 4, but a 8x8 image"),
    ],
)
def test_what_cannot_be_translated_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)
