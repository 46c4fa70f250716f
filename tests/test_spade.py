"""SPADE: its normalisation against NumPy, what of a map reaches what of an image, its losses and its codes."""

import dataclasses
import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import BATCH, Case
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import spade
from genimg_jax.networks.spade import SPADE, Generator, MultiscaleDiscriminator, downsample

SEGMENTS, SIDE = 3, 8
SPEC = core.Spec((SIDE, SIDE, 2), 10, 256, {"map": core.Field((SIDE, SIDE), SEGMENTS)})
OPTIONS = spade.Options(
    width=4,
    depth=1,
    hidden=4,
    latent=3,
    style_encoder=True,
    encoder_width=4,
    discriminator_width=4,
    discriminator_depth=1,
)
CASE = Case(spade.make, OPTIONS, spade.GROUPS, SPEC)
GENERATOR = Generator(SEGMENTS, 4, 1, 4, SPEC.image_shape)
DISCRIMINATOR = MultiscaleDiscriminator(SEGMENTS, 4, 1, 2)


def family(**changes):
    return contract.family(CASE, options=dataclasses.replace(OPTIONS, **changes))


def batch():
    return contract.batch(BATCH, SPEC)


def maps(seed=0, count=2):
    return jnp.asarray(np.random.default_rng(seed).integers(SEGMENTS, size=(count, SIDE, SIDE)), jnp.int32)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def weights(**changes):
    return random_weights(lambda: core.weights(family(**changes).init(jax.random.key(0), batch())))


def variables_of(module, *inputs):
    return random_weights(lambda: module.init(jax.random.key(0), *inputs, True))


@functools.cache
def stepped(microbatches=1):
    """A state and the metrics after one step of SGD from `weights`."""
    state = family().init(jax.random.key(0), batch()).replace(params=weights().params)
    return jax.jit(contract.family(CASE, microbatches=microbatches).train_step)(state, batch(), jax.random.key(1))


def group_normalized(x, size):
    """Each image's groups of channels, over all positions."""
    groups = np.asarray(x, np.float64).reshape(*x.shape[:3], -1, size)
    mean, variance = (f(groups, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    return ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)


def with_leaves(tree, change):
    """The tree with the arrays for which `change(path, array)` is not None replaced by it."""

    def at(path, x):
        changed = change(jax.tree_util.keystr(path), x)
        return x if changed is None else changed

    return jax.tree_util.tree_map_with_path(at, tree)


# --------------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize(("channels", "size"), [(32, 16), (24, 8)])
def test_spade_that_predicts_zeros_is_plain_normalisation(channels, size):
    x, segments = 3 + 2 * noise(2, SIDE, SIDE, channels), jax.nn.one_hot(maps(), SEGMENTS)
    variables = variables_of(SPADE(4), x, segments)
    zero = with_leaves(variables, lambda path, leaf: 0 * leaf if "modulation" in path and "params" in path else None)
    np.testing.assert_allclose(SPADE(4).apply(zero, x, segments, False), group_normalized(x, size), atol=2e-5)
    assert not np.allclose(SPADE(4).apply(variables, x, segments, False), group_normalized(x, size), atol=0.1)


def test_a_constant_map_modulates_each_channel_alike_everywhere():
    """Away from the border, where the padding is part of what the network sees."""
    x, inner = noise(1, SIDE, SIDE, 16), np.s_[0, 2:-2, 2:-2]
    segments = jax.nn.one_hot(jnp.ones((1, SIDE, SIDE), jnp.int32), SEGMENTS)
    variables = variables_of(SPADE(4), x, segments)
    found, plain = SPADE(4).apply(variables, x, segments, False)[inner], group_normalized(x, 16)[inner]
    for channel in range(16):
        slope, offset = np.polyfit(plain[..., channel].ravel(), np.ravel(found[..., channel]), 1)
        np.testing.assert_allclose(found[..., channel], slope * plain[..., channel] + offset, atol=1e-5)


def test_a_map_reaches_two_pixels_far():
    x, segmentation = noise(1, SIDE, SIDE, 16), maps(count=1)
    other = segmentation.at[0, 3, 4].set((segmentation[0, 3, 4] + 1) % SEGMENTS)
    one_hot = functools.partial(jax.nn.one_hot, num_classes=SEGMENTS)
    variables = variables_of(SPADE(8), x, one_hot(segmentation))
    one, two = (SPADE(8).apply(variables, x, one_hot(m), False) for m in (segmentation, other))
    row, column = np.ogrid[:SIDE, :SIDE]
    near = (np.abs(row - 3) <= 2) & (np.abs(column - 4) <= 2)
    np.testing.assert_array_equal(np.any(one != two, axis=-1)[0], near)


def test_maps_are_downsampled_to_the_nearest_pixel():
    segmentation = maps(count=3)
    for factor in (1, 2, 4):
        shape = (3, SIDE // factor, SIDE // factor)
        expected = jax.image.resize(segmentation.astype(jnp.float32), shape, "nearest")
        np.testing.assert_array_equal(downsample(segmentation, factor), expected)


# -------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("latent", [0, 3])
def test_the_names_of_segments_do_not_matter(latent):
    """Segments in another order are the rows of the kernels that read the map in that order, and nothing else."""
    code, segmentation, order = noise(2, latent) if latent else None, maps(), np.array([2, 0, 1])
    variables = variables_of(GENERATOR, code, segmentation)
    reads_map = ("['hidden']['kernel']",) if latent else ("['hidden']['kernel']", "['first']['kernel']")

    def reorder(path, x):
        return x[:, :, np.argsort(order)] if path.endswith(reads_map) else None

    run = jax.jit(lambda variables, segmentation: GENERATOR.apply(variables, code, segmentation, False))
    renamed, plain = jnp.asarray(order)[segmentation], run(variables, segmentation)
    np.testing.assert_allclose(run(with_leaves(variables, reorder), renamed), plain, atol=1e-4)
    assert not np.allclose(run(variables, renamed), plain, atol=1e-2)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_every_kernel_is_spectrally_normalised(network):
    """Then its scale is of no consequence."""
    images, segmentation = noise(2, *SPEC.image_shape), maps()
    module, inputs = (GENERATOR, noise(2, 3)) if network == "generator" else (DISCRIMINATOR, images)
    variables = variables_of(module, inputs, segmentation)
    scaled = with_leaves(variables, lambda path, x: 3 * x if "kernel" in path else None)
    run = jax.jit(lambda variables: module.apply(variables, inputs, segmentation, False))
    contract.close(run(variables), run(scaled), 1e-4)


def test_each_discriminator_is_given_half_the_size():
    images, segmentation = noise(2, *SPEC.image_shape), maps()
    variables = variables_of(DISCRIMINATOR, images, segmentation)
    run = jax.jit(lambda images, segmentation: DISCRIMINATOR.apply(variables, images, segmentation, False))
    logits, features = run(images, segmentation)
    assert [x.shape for x in logits] == [(2, 4, 4), (2, 2, 2)]
    assert [x.shape for x in features] == [(2, 4, 4, 4), (2, 2, 2, 4)]
    # Averages over 2x2 pixels do not see a chessboard, nor where in a square a segment is.
    chessboard = jnp.asarray(np.indices((SIDE, SIDE)).sum(0) % 2 * 2 - 1, jnp.float32)[None, ..., None]
    turned = segmentation.reshape(2, 4, 2, 4, 2)[:, :, ::-1, :, ::-1].reshape(segmentation.shape)
    for changed in ((images + 0.5 * jnp.broadcast_to(chessboard, images.shape), segmentation), (images, turned)):
        found, _ = run(*changed)
        assert not np.allclose(found[0], logits[0], atol=1e-2)
        np.testing.assert_allclose(found[1], logits[1], atol=1e-5)
    brighter, _ = run(images + 0.5, segmentation)
    assert not np.allclose(brighter[1], logits[1], atol=1e-2)


# ---------------------------------------------------------------------------------------------------------- losses


def test_feature_matching_is_the_mean_absolute_difference_of_each_level():
    rng = np.random.default_rng(0)
    one, two = ([rng.normal(size=shape) for shape in ((2, 4, 4, 3), (2, 2, 2, 5))] for _ in range(2))
    expected = sum(np.abs(a - b).sum() / a.size for a, b in zip(one, two, strict=True))
    one, two = (tuple(jnp.asarray(x, jnp.float32) for x in xs) for xs in (one, two))
    np.testing.assert_allclose(spade.feature_matching(one, two), expected, rtol=1e-5)
    assert spade.feature_matching(one, one) == 0


def kl_by_quadrature(mean, log_variance):
    """The expectation of log q - log p over q, exact for a polynomial of degree 2."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(4)
    mean, log_variance = (np.asarray(x, np.float64)[..., None] for x in (mean, log_variance))
    values = mean + np.exp(0.5 * log_variance) * nodes
    ratio = 0.5 * (values**2 - nodes**2 - log_variance)
    return (ratio @ mass / np.sqrt(2 * np.pi)).sum(-1)


def test_the_generators_loss_is_the_sum_of_its_terms():
    metrics = stepped()[1]
    model = spade.build(OPTIONS, SPEC)
    mean, log_variance = model.posterior(weights().params["generator"], batch()["image"])
    assert np.abs(mean).max() > 0.1 and np.abs(log_variance).max() > 0.1
    np.testing.assert_allclose(metrics["kl"], kl_by_quadrature(mean, log_variance).mean(), rtol=1e-4)
    terms = metrics["adversarial"] + 10 * metrics["feature_matching"] + 0.05 * metrics["kl"]
    np.testing.assert_allclose(metrics["loss_generator"], terms, rtol=1e-5)
    assert metrics["feature_matching"] > 0.01


def test_the_split_of_a_batch_changes_nothing():
    """Spectral norms follow from the weights, group normalisation from each image: no batch statistics."""
    (whole, metrics), (parts, others) = stepped(1), stepped(4)
    contract.close(whole, parts)
    contract.close(metrics, others, 1e-4)
    kernels = (state.params["generator"]["decoder"]["last"]["kernel"] for state in (weights(), whole))
    assert not np.allclose(*kernels, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- codes


def with_posterior(mean, log_variance, **changes):
    """Weights whose encoder answers the same to every image."""
    values = jnp.concatenate([jnp.full(OPTIONS.latent, x, jnp.float32) for x in (mean, log_variance)])
    ends = {"['encoder']['Encoder_0']['Dense_0']['kernel']": 0.0, "['encoder']['Encoder_0']['Dense_0']['bias']": values}

    def change(path, x):
        return next(
            (jnp.broadcast_to(v, x.shape).astype(x.dtype) for end, v in ends.items() if path.endswith(end)), None
        )

    return weights(**changes)._replace(params=with_leaves(weights(**changes).params, change))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.5, 2.0), (-1.0, 0.1)])
def test_training_draws_codes_from_the_posterior(mean, deviation):
    """The discriminators' logits are those of the image of mean + deviation * noise, the noise from each index."""
    data, key = batch(), jax.random.key(3)
    encoding = with_posterior(mean, 2 * np.log(deviation))
    found = jax.jit(family().evaluate)(encoding, data, key)
    space, model = family().latents[0], spade.build(OPTIONS, SPEC)
    codes = mean + deviation * core.normal(core.per_example_keys(key, data["index"]), space.spec.image_shape)
    image = space.decode(encoding, codes, data)
    outputs = model.discriminate(encoding.params["discriminator"], encoding.model_state, image, data, False)
    for name, logits in zip(("8x8", "4x4"), outputs.logits, strict=True):
        np.testing.assert_allclose(found[f"logit_fake/{name}"], logits.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_an_image_is_encoded_to_the_mean_of_its_posterior():
    space, data, other = family().latents[0], batch(), {**batch(), "map": maps(1, BATCH)}
    codes = space.encode(with_posterior(0.7, 3.0), data, jax.random.key(0))
    np.testing.assert_allclose(codes, np.full((BATCH, 1, 1, OPTIONS.latent), 0.7), rtol=1e-6)
    codes = space.encode(weights(), data, jax.random.key(0))
    assert np.std(codes, axis=0).max() > 0.01
    images = [jax.jit(space.decode)(weights(), codes, condition) for condition in (data, other)]
    assert np.abs(images[0] - images[1]).mean((1, 2, 3)).min() > 1e-3  # the style of one image, the map of another


def test_the_prior_is_standard_normal():
    prior = family().latents[0].prior
    codes = np.asarray(prior(weights(), core.per_example_keys(jax.random.key(0), jnp.arange(4000)), {})).ravel()
    np.testing.assert_allclose([codes.mean(), codes.std(), (codes**4).mean()], [0, 1, 3], atol=0.2)
    assert abs(codes.mean()) < 0.03 and abs(codes.std() - 1) < 0.03


def test_without_an_encoder_codes_are_noise_and_without_codes_a_map_has_one_image():
    (space,) = family(style_encoder=False).latents
    assert space.encode is None and space.prior is not None
    changes = {"latent": 0, "style_encoder": False}
    plain, key = family(**changes), jax.random.key(0)
    jax.eval_shape(lambda: plain.train_step(plain.init(key, batch()), batch(), key))
    keys = core.per_example_keys(key, jnp.arange(BATCH))
    draw = jax.jit(plain.sample)
    one, two = (draw(weights(**changes), k, batch()) for k in (keys, keys[::-1]))
    assert plain.latents == () and plain.conditions == ("map",)
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, draw(weights(**changes), keys, {"map": maps(1, BATCH)}), atol=1e-3)


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        ({}, {}, "data.fields"),
        ({}, {"map": core.Field((4, 4), 3)}, r"shape \(4, 4\) and 3 segments; spade needs .* size 8x8"),
        ({}, {"map": core.Field((8, 8))}, "0 segments"),
        ({"latent": 0}, SPEC.fields, "model.latent is 0"),
        ({"depth": 4}, SPEC.fields, "model.depth is 4"),
        ({"scales": 4}, SPEC.fields, r"model.discriminator_depth \+ model.scales - 1 is 4"),
    ],
)
def test_what_does_not_fit_is_refused(changes, fields, message):
    with pytest.raises(ConfigError, match=message):
        spade.make(dataclasses.replace(OPTIONS, **changes), SPEC._replace(fields=fields), {})
