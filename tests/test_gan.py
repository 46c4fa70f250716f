"""A GAN's conditions: what both players are told, and how the discriminator judges an image by it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from genimg_jax import core
from genimg_jax.core import Field
from genimg_jax.errors import ConfigError
from genimg_jax.families import gan
from genimg_jax.networks.image import ImageEncoder, ProjectionDiscriminator

FIELDS = {"features": Field((3,)), "tokens": Field((4,), 7), "map": Field((4, 4), 5), "source": Field((4, 4, 2))}
SPEC = core.Spec((4, 4, 1), 3, 256, FIELDS)
CONDITIONS = [("label",), ("features",), ("tokens",), ("map",), ("source",), ("label", "features")]
OPTIONS = gan.Options(width=8, depth=1, latent=4, generator_normalization="none", penalty="r1")
TRANSPORT = dataclasses.replace(OPTIONS, latent=16, transport_weight=1e4, penalty="none")


def build(conditions: tuple[str, ...], rate: float = 0.05) -> core.Family:
    optimizers = {group: core.Optimizer(optax.adam(rate, b1=0.5)) for group in gan.GROUPS}
    return gan.make(dataclasses.replace(OPTIONS, conditions=conditions), SPEC, optimizers)


def values(field: Field, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if field.size:
        return rng.integers(field.size, size=(size, *field.shape)).astype(np.int32)
    return rng.normal(size=(size, *field.shape)).astype(np.float32)


def batch(size: int = 8, seed: int = 0) -> core.Batch:
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (size, *SPEC.image_shape)).astype(np.float32)
    conditions = {name: values(field, size, seed) for name, field in SPEC.conditions.items()}
    return {"image": image, "index": np.arange(size, dtype=np.int32), **conditions}


@functools.cache
def trained(conditions: tuple[str, ...]):
    """The family, and a state after three steps."""
    family = build(conditions)
    state, step = jax.jit(family.init)(jax.random.key(0), batch()), jax.jit(family.train_step)
    for i in range(3):
        state, metrics = step(state, batch(seed=i), jax.random.key(i))
    assert all(np.isfinite(value) for value in metrics.values()) and metrics["penalty"] > 0
    return family, state


@pytest.mark.parametrize("conditions", CONDITIONS, ids="+".join)
def test_each_image_is_made_and_judged_by_its_own_condition(conditions):
    family, state = trained(conditions)
    assert family.conditions == conditions
    other = batch()
    for name in conditions:  # the first row's alone
        field = SPEC.conditions[name]
        other[name] = np.where(np.arange(8).reshape(8, *(1,) * len(field.shape)) == 0, 1 - other[name] % 2, other[name])

    @jax.jit
    def run(data):
        weights, keys = core.weights(state), core.per_example_keys(jax.random.key(1), data["index"])
        return family.evaluate(weights, data, jax.random.key(1))["logit_real"], family.sample(weights, keys, data)

    for one, two in zip(run(batch()), run(other), strict=True):
        np.testing.assert_allclose(one[1:], two[1:], rtol=1e-4, atol=1e-5)
        assert np.abs(one[0] - two[0]).max() > 1e-4


def test_the_class_alone_has_a_logit_of_its_own():
    """As in runs of earlier versions: no more parameters than one output a class."""
    state = trained(("label",))[1]
    assert state.params["discriminator"]["MLP_0"]["Dense_1"]["kernel"].shape == (8, 3)


def test_a_projection_is_an_inner_product():
    """Of a linear network: w x + b + <W x + c, V y + d>, the last one scaled."""
    data = batch()
    network = ProjectionDiscriminator(ImageEncoder("mlp", 1, 0, 1 + 6), (("features", FIELDS["features"]),))
    variables = jax.device_get(jax.jit(network.init, static_argnums=3)(jax.random.key(0), data["image"], data, True))
    logits = network.apply(variables, data["image"], data, False)
    image, condition = variables["params"]["encoder"]["MLP_0"]["Dense_0"], variables["params"]["condition"]
    outputs = data["image"].reshape(8, -1) @ image["kernel"] + image["bias"]
    (layer,) = [x for x in jax.tree.leaves(condition, is_leaf=lambda x: "kernel" in x) if "kernel" in x]
    vector = (data["features"] @ layer["kernel"] + layer["bias"]) / np.sqrt(6)
    np.testing.assert_allclose(logits[:, 0], outputs[:, 0] + (outputs[:, 1:] * vector).sum(1), rtol=1e-4, atol=1e-5)


def test_samples_come_to_follow_their_condition():
    """Images as bright as their first feature says."""
    family = build(("features",), 0.01)

    def data(i):
        made = batch(32, i)
        return {**made, "image": 0.8 * np.tanh(made["features"][:, :1, None, None]) + 0.1 * made["image"]}

    state, step = jax.jit(family.init)(jax.random.key(0), data(0)), jax.jit(family.train_step)
    for i in range(300):
        state, _ = step(state, data(i), jax.random.key(i))
    held_out = data(1000)
    keys = core.per_example_keys(jax.random.key(1), held_out["index"])
    images = jax.jit(family.sample)(core.weights(state), keys, held_out)
    assert np.corrcoef(jnp.mean(images, (1, 2, 3)), np.mean(held_out["image"], (1, 2, 3)))[0, 1] > 0.9


def test_a_heavy_transport_weight_makes_images_of_their_noise():
    """The nearest values in [-1, 1]: E |G(z) - z|^2 of the clipped noise is 4 Q(1) - 2 phi(1), Q the normal tail."""
    optimizers = {group: core.Optimizer(optax.adam(3e-3, b1=0.9)) for group in gan.GROUPS}
    options = dataclasses.replace(TRANSPORT, width=64)
    family = gan.make(options, SPEC._replace(fields={}), optimizers)
    state, step = jax.jit(family.init)(jax.random.key(0), batch(64)), jax.jit(family.train_step)
    first, lowest = None, scipy.stats.norm.sf(1) * 4 - 2 * scipy.stats.norm.pdf(1)
    for i in range(600):
        state, metrics = step(state, batch(64, seed=i), jax.random.key(i))
        first = first or metrics["transport"]
    assert first > 1 and lowest < metrics["transport"] < 0.45
    keys = core.per_example_keys(jax.random.key(9), jnp.arange(256))
    codes = family.latents[0].prior(None, keys, {})
    images = family.latents[0].decode(core.weights(state), codes, {}).reshape(256, 16)
    assert np.corrcoef(images.ravel(), np.clip(codes, -1, 1).ravel())[0, 1] > 0.8


def test_transport_needs_as_much_noise_as_an_image_has_values():
    with pytest.raises(ConfigError, match="set it to 16"):
        gan.make(dataclasses.replace(TRANSPORT, latent=4), SPEC, {})
