"""CycleGAN: its distances by hand, its pool against one of plain Python, and translations there and back."""

import dataclasses
import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.core import Field
from genimg_jax.engine import checkpoint
from genimg_jax.errors import ConfigError
from genimg_jax.families import cyclegan
from genimg_jax.families.cyclegan import OTHER
from genimg_jax.networks.translation import InstanceNorm, ResNetGenerator
from genimg_jax.objectives import replay

SHAPE, GREY, BATCH, POOL = (8, 8, 3), (8, 8, 1), 4, 6
SPEC = core.Spec(SHAPE, 0, 256, {"source": Field(SHAPE, paired=False)})
OPTIONS = cyclegan.Options(
    width=2, num_downsamples=1, blocks=1, identity_weight=2.5, pool=POOL, discriminator_width=2, discriminator_depth=1
)


def build(options=OPTIONS, spec=SPEC, rate: float | jax.Array = 0.01, microbatches: int = 1) -> core.Family:
    optimizers = {group: core.Optimizer(optax.sgd(rate), None, microbatches) for group in cyclegan.GROUPS}
    return cyclegan.make(options, spec, optimizers)


def batch(seed: int = 0, spec: core.Spec = SPEC) -> core.Batch:
    rng, shapes = np.random.default_rng(seed), {"image": spec.image_shape, "source": spec.fields["source"].shape}
    images = {name: rng.uniform(-1, 1, (BATCH, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return {**images, "index": np.arange(BATCH, dtype=np.int32)}


@functools.cache
def start() -> core.TrainState:
    return jax.jit(build().init)(jax.random.key(0), batch())


@functools.cache
def compiled(microbatches: int):
    return jax.jit(lambda rate, *step: build(rate=rate, microbatches=microbatches).train_step(*step))


def step(state: core.TrainState, data: core.Batch, key: jax.Array, rate: float = 0.01, microbatches: int = 1):
    return compiled(microbatches)(rate, state, data, key)


def trained(state: core.TrainState, steps: range) -> core.TrainState:
    for i in steps:
        state, _ = step(state, batch(i), jax.random.key(i))
    return state


# ------------------------------------------------------------------------------------------------------ distances


def both(seed: int) -> dict[str, np.ndarray]:
    return {name: batch(seed)[name] for name in OTHER}


def test_inverse_linear_generators_close_the_cycle():
    matrix = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    maps, real = {"image": matrix, "source": np.linalg.inv(matrix)}, both(0)
    fake, distances = cyclegan.translations(lambda name, x: x @ maps[name], real, True)
    np.testing.assert_allclose(fake["image"], real["source"] @ matrix, rtol=1e-5)
    assert distances["cycle"].max() < 1e-5 and distances["identity"].min() > 0.1


def test_distances_are_those_of_known_maps():
    """Images are doubled on the way to `image` and unchanged on the way to `source`: a cycle ends at 2 x."""
    real = both(1)
    fake, distances = cyclegan.translations(lambda name, x: 2 * x if name == "image" else x, real, True)
    np.testing.assert_array_equal(fake["image"], 2 * real["source"])
    np.testing.assert_array_equal(fake["source"], real["image"])
    one, two = (np.abs(real[name]).mean((1, 2, 3)) for name in ("image", "source"))
    np.testing.assert_allclose(distances["cycle"], one + two, rtol=1e-5)
    np.testing.assert_allclose(distances["identity"], one, rtol=1e-5)
    unchanged = cyclegan.translations(lambda name, x: x, real, True)[1]
    assert not unchanged["cycle"].any() and not unchanged["identity"].any()


def test_the_generators_loss_is_the_weighted_sum():
    _, metrics = step(start(), batch(), jax.random.key(0))
    expected = metrics["adversarial"] + 5 * metrics["cycle"] + 2.5 * metrics["identity"]
    np.testing.assert_allclose(metrics["loss_generator"], expected, rtol=1e-5)


def test_without_a_weight_there_is_no_identity_loss():
    family = build(dataclasses.replace(OPTIONS, identity_weight=0.0))
    _, metrics = jax.eval_shape(family.train_step, start(), batch(), jax.random.key(0))
    assert "cycle" in metrics and "identity" not in metrics


# ----------------------------------------------------------------------------------------------------------- pool


def decisions(key: jax.Array, count: int, size: int) -> tuple[list[int], list[bool]]:
    """The places of a full pool and whether they are swapped, drawn as `replay` does."""
    place_key, swap_key = jax.random.split(key)
    swaps = [bool(jax.random.bernoulli(jax.random.fold_in(swap_key, i))) for i in range(count)]
    return jax.random.permutation(place_key, size).tolist(), swaps


def reference(stored: list, key: jax.Array, images: list, size: int) -> list:
    """What plain Python shows of some images, one by one; it changes `stored`."""
    places, swaps = decisions(key, len(images), size)
    shown, filling = [], len(stored) < size
    for i, image in enumerate(images):
        if not filling and i < size and swaps[i]:
            shown.append(stored[places[i]])
            stored[places[i]] = image
        else:
            shown.append(image)
            if filling and len(stored) < size:
                stored.append(image)
    return shown


@pytest.mark.parametrize(("size", "count"), [(5, 3), (5, 8), (1, 2), (6, 2)])
def test_a_pool_is_that_of_plain_python(size, count):
    """Also in parts: every other image by itself, as gradient accumulation has them."""

    @jax.jit
    def visit(pool, key, images):
        index, parts = jnp.arange(count), 2 if count % 2 == 0 else 1
        shown, visits = replay.visit(pool, key, index, images)
        split = [replay.visit(pool, key, index[i::parts], images[i::parts])[1] for i in range(parts)]
        mean = jax.tree.map(lambda *x: sum(x) / parts, *split)
        return shown, replay.renew(pool, visits), replay.renew(pool, mean)

    pool, stored = replay.init(size, (1,)), []
    for t in range(12):
        key, images = jax.random.key(t), np.arange(t * count, (t + 1) * count, dtype=np.float32) + 0.5
        before = [*pool["images"][: int(pool["stored"].sum()), 0], *images]
        shown, pool, again = visit(pool, key, images[:, None])
        assert shown[:, 0].tolist() == reference(stored, key, images.tolist(), size)
        assert pool["images"][: len(stored), 0].tolist() == stored and pool["stored"].sum() == len(stored)
        contract.identical(pool, again)
        if len(before) == size + count:  # nothing is lost and nothing doubled
            assert sorted(before) == sorted([*shown[:, 0], *pool["images"][:, 0]])


def test_half_of_the_images_are_swapped_with_any_place():
    """Of 4000 visits by 3 images to 5 places: within five standard deviations of what chance gives."""
    full = {"images": jnp.arange(5.0)[:, None], "stored": jnp.ones(5, bool)}
    shown = jax.vmap(lambda key: replay.visit(full, key, jnp.arange(3), jnp.full((3, 1), 9.0))[0])
    shown = np.asarray(shown(jax.random.split(jax.random.key(0), 4000)))[..., 0]
    for i in range(3):
        counts = np.array([(shown[:, i] == value).mean() for value in (0, 1, 2, 3, 4, 9)])
        np.testing.assert_allclose(counts, [0.1] * 5 + [0.5], atol=5 * np.sqrt(0.25 / 4000))
    agree = ((shown[:, 0] == 9) == (shown[:, 1] == 9)).mean()
    assert abs(agree - 0.5) < 5 * np.sqrt(0.25 / 4000), "each image is swapped by a draw of its own"


def test_training_stores_the_translations_of_each_step():
    family, state, stored = build(), start(), {name: [] for name in OTHER}

    @jax.jit
    def translated(state, data):
        weights, key = core.weights(state, averaged=False), jax.random.key(0)
        return {"image": family.sample(weights, None, data), "source": family.latents[0].encode(weights, data, key)}

    for t in range(5):
        fake = translated(state, batch(t))
        for name, key in zip(OTHER, jax.random.split(jax.random.split(jax.random.key(t), 3)[0]), strict=True):
            reference(stored[name], key, list(np.asarray(fake[name])), POOL)
        state, _ = step(state, batch(t), jax.random.key(t))
        for name in OTHER:
            found = state.model_state["pool"][name]
            assert found["stored"].sum() == len(stored[name])
            contract.close(found["images"][: len(stored[name])], np.stack(stored[name]))


def test_only_the_discriminators_see_the_pool():
    outputs = []
    for value in (-1.0, 1.0):
        pool = {"images": jnp.full((POOL, *SHAPE), value, jnp.float32), "stored": jnp.ones(POOL, bool)}
        state = start().replace(model_state={**start().model_state, "pool": dict.fromkeys(OTHER, pool)})
        outputs.append(step(state, batch(), jax.random.key(1), 0.0)[1])
    for name in OTHER:
        assert abs(outputs[0][f"logit_fake/{name}"] - outputs[1][f"logit_fake/{name}"]) > 1e-3
        assert outputs[0][f"logit_real/{name}"] == outputs[1][f"logit_real/{name}"]
    assert outputs[0]["loss_generator"] == outputs[1]["loss_generator"]


def test_a_step_in_slices_is_the_step_of_the_whole_batch():
    state, key = trained(start(), range(2)), jax.random.key(9)
    assert state.model_state["pool"]["image"]["stored"].all()
    contract.close(*(step(state, batch(9), key, microbatches=parts)[0] for parts in (1, 4)))


def test_a_saved_state_resumes_bit_for_bit(tmp_path):
    """With a pool that is being swapped."""
    half = trained(start(), range(3))
    store = checkpoint.open_store(tmp_path)
    checkpoint.save(store, half, {"family": "x"}, None)
    checkpoint.wait(store)
    again = checkpoint.restore(store, 3, jax.eval_shape(lambda: half))
    checkpoint.close(store)
    contract.identical(*(trained(jax.device_get(state), range(3, 6)) for state in (half, again)))


# --------------------------------------------------------------------------------------------------- translations


def test_a_reconstruction_is_a_cycle_and_a_sample_its_second_half():
    state, data, key = trained(start(), range(1)), batch(7), jax.random.key(0)
    family, weights = build(), core.weights(state)
    (space,) = family.latents
    codes = space.encode(weights, data, key)
    assert space.spec.image_shape == SHAPE and space.spec.levels == 0
    there = np.abs(space.decode(weights, codes, data) - data["image"]).mean((1, 2, 3))
    images = family.sample(weights, core.per_example_keys(key, data["index"]), {"source": data["source"]})
    np.testing.assert_array_equal(images, space.decode(weights, data["source"], {}))
    back = np.abs(space.encode(weights, {"image": images}, key) - data["source"]).mean((1, 2, 3))
    np.testing.assert_allclose(family.evaluate(weights, data, key)["cycle"], there + back, rtol=1e-4)


def test_a_sample_depends_on_its_own_source():
    data, other = batch(0), batch(1)
    mixed = np.concatenate([other["source"][:2], data["source"][2:]])
    sample = jax.jit(functools.partial(build().sample, core.weights(start())))
    one, two = (sample(None, {"source": source}) for source in (data["source"], mixed))
    assert (np.abs(one - two).max((1, 2, 3)) > 1e-3).tolist() == [True, True, False, False]


def test_domains_may_have_other_channels():
    spec = SPEC._replace(fields={"source": Field(GREY, paired=False)})
    family = build(dataclasses.replace(OPTIONS, identity_weight=0.0), spec)
    data = batch(spec=spec)
    key = jax.random.key(0)
    state, _ = jax.eval_shape(family.train_step, jax.eval_shape(family.init, key, data), data, key)
    assert state.model_state["pool"]["source"]["images"].shape == (POOL, *GREY)
    assert family.latents[0].spec.image_shape == GREY


@pytest.mark.parametrize(
    ("field", "changes", "message"),
    [
        (None, {}, "the field 'source', which these data lack"),
        (Field((4, 4, 3)), {}, r"shape \(8, 8, 3\) and the source's of \(4, 4, 3\): set data.size"),
        (Field(GREY), {}, "model.identity_weight=0 if one is grey"),
        (Field(SHAPE), {"num_downsamples": 4}, "model.num_downsamples is 4, but a 8x8 image"),
        (Field(SHAPE), {"discriminator_depth": 5}, "model.discriminator_depth is 5"),
    ],
)
def test_what_cannot_be_translated_is_refused(field, changes, message):
    spec = SPEC._replace(fields={"source": field} if field else {})
    with pytest.raises(ConfigError, match=message):
        build(dataclasses.replace(OPTIONS, **changes), spec)


# ------------------------------------------------------------------------------------------------------- generator


def test_instance_normalisation_is_of_each_channel_of_each_image():
    x = np.random.default_rng(0).normal(3, 2, (2, 5, 6, 3)).astype(np.float32)
    found = InstanceNorm().apply({}, jnp.asarray(x))
    np.testing.assert_allclose(found.mean((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found.std((1, 2)), 1, rtol=1e-4)
    np.testing.assert_allclose(
        InstanceNorm().apply({}, jnp.asarray(x * [5, 1, 2] + [1, -9, 4], jnp.float32)), found, atol=1e-4
    )
    assert not InstanceNorm().apply({}, jnp.ones((1, 2, 2, 1))).any()


def test_the_resnet_draws_no_frame():
    """A constant image stays one, since padding reflects it; the network without resampling."""
    network, image = ResNetGenerator(4, 0, 1, 2), jnp.full((1, 8, 8, 3), 0.7)
    params = random_weights(lambda: network.init(jax.random.key(0), image)["params"])
    found = network.apply({"params": params}, image)
    assert found.shape == (1, 8, 8, 2)
    np.testing.assert_allclose(found, jnp.broadcast_to(found[:, :1, :1], found.shape), atol=1e-5)
