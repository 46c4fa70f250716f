"""The quantised autoencoders: what is encoded is what was trained on, and the discriminator's terms come and go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import transformer, vq, vqgan
from genimg_jax.networks.grid import GridDecoder, GridEncoder, PatchDiscriminator, pixel_shuffle
from genimg_jax.objectives.likelihoods import to_levels, to_values

SPEC = core.Spec((8, 8, 1), 0, 256)
KINDS = ("vq", "fsq")
PLAIN = vq.Options(width=4, blocks=0, num_downsamples=1, codebook_size=24, features=3, levels=(4, 3, 2))
ADVERSARIAL = vqgan.Options(
    **dataclasses.asdict(PLAIN), discriminator_width=4, discriminator_depth=1, adversarial="hinge"
)
KEY = jax.random.key(3)


def build(options=PLAIN, optimizer=None, microbatches=1, **changes):
    module = vqgan if isinstance(options, vqgan.Options) else vq
    optimizers = {g: core.Optimizer(optimizer or optax.sgd(1e-2), None, microbatches) for g in module.GROUPS}
    return module.make(dataclasses.replace(options, **changes), SPEC, optimizers)


def images(size: int, seed: int = 0) -> core.Batch:
    """Bars of any width at any place, in some noise."""
    rng = np.random.default_rng(seed)
    left, width, place = rng.integers(0, 5, (size, 1)), rng.integers(2, 5, (size, 1)), np.arange(8)[None]
    bar = np.where((place >= left) & (place < left + width), 0.9, -0.9)[:, None, :, None]
    image = np.broadcast_to(bar, (size, 8, 8, 1)) + 0.05 * rng.normal(size=(size, 8, 8, 1))
    return {"image": image.astype(np.float32), "index": np.arange(size, dtype=np.int32)}


@functools.cache
def started(options) -> core.TrainState:
    return jax.jit(build(options).init)(jax.random.key(0), images(8))


@functools.cache
def compiled(options, microbatches=1):
    """(state, batch, learning rate, float options) -> (state, metrics)"""

    def step(state, batch, rate, changes):
        return build(options, optax.sgd(rate), microbatches, **changes).train_step(state, batch, KEY)

    run = jax.jit(step)
    return lambda state, batch, rate=1e-2, **changes: run(state, batch, rate, changes)


@functools.cache
def trained(kind: str, steps: int = 150):
    """The family, its compiled step, a state, and the metrics of the steps that led to it."""
    made = build(PLAIN, optax.adam(1e-2), quantizer=kind, blocks=1)
    step, state, history = jax.jit(made.train_step), jax.jit(made.init)(jax.random.key(0), images(2)), []
    for i in range(steps):
        state, metrics = step(state, images(16, i), core.stream(0, "train", i))
        history.append(metrics)
    return made, step, state, jax.tree.map(lambda *x: np.stack(x), *history)


def close(one, two, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_error_and_uses_the_codes(kind):
    metrics = trained(kind)[-1]
    assert all(np.isfinite(v).all() for v in metrics.values())
    error = metrics["reconstruction"]
    assert error[-10:].mean() < 0.1 * error[:5].mean()
    assert metrics["codebook_usage"][-1] > 0.25 and metrics["perplexity"][-1] > 4


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_the_codes_gives_the_reconstruction_that_was_trained(kind):
    made, _, state, _ = trained(kind)
    weights, batch = core.weights(state), images(12, 1000)
    tokens = made.latents[0]
    codes = tokens.encode(weights, batch, None)
    image = np.asarray(tokens.decode(weights, codes, {}))
    seen = vq.build(dataclasses.replace(PLAIN, quantizer=kind, blocks=1), SPEC).forward(
        state.params["autoencoder"], state.model_state["codebook"], batch
    )
    np.testing.assert_array_equal(seen.codes, codes[..., 0])
    np.testing.assert_allclose(image, np.clip(seen.outputs, -1, 1), atol=1e-5)
    found = made.evaluate(weights, batch, jax.random.key(0))
    error = np.square(image - batch["image"]).mean((1, 2, 3))
    np.testing.assert_allclose(found["reconstruction"], error, rtol=1e-4)
    np.testing.assert_allclose(found["psnr"], 20 * np.log10(2) - 10 * np.log10(error), rtol=1e-4)
    assert error.mean() < 0.1 * np.var(batch["image"])


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_images_that_a_second_stage_can_be_trained_on(kind):
    made, _, state, _ = trained(kind)
    weights, batch = core.weights(state), images(12, 1000)
    tokens = made.latents[0]
    codes = tokens.encode(weights, batch, None)
    assert tokens.spec == core.Spec((4, 4, 1), 0, 24) and made.sample is None
    assert codes.shape == (12, 4, 4, 1) and codes.dtype == jnp.int32
    assert codes.min() >= 0 and codes.max() < 24 and len(np.unique(codes)) > 4
    every = jnp.arange(tokens.spec.levels, dtype=jnp.int32)
    np.testing.assert_array_equal(to_levels(to_values(every, tokens.spec.levels), tokens.spec.levels), every)
    options = transformer.Options(width=8, depth=1, heads=1)
    prior = transformer.make(options, tokens.spec, {"model": core.Optimizer(optax.sgd(0.1))})

    def two_stages(key):
        second = core.weights(prior.init(key, {"image": to_values(codes, tokens.spec.levels)}))
        drawn = prior.sample(second, jax.random.split(key, 3), {})
        return tokens.decode(weights, to_levels(drawn, tokens.spec.levels), {})

    assert jax.eval_shape(two_stages, jax.random.key(0)).shape == (3, 8, 8, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_near_a_batchs_own_decode_to_its_reconstructions(kind):
    """What a continuous-valued family draws is quantised: half of the way to the next code changes nothing."""
    made, _, state, _ = trained(kind)
    weights, batch = core.weights(state), images(12, 1000)
    tokens, vectors = made.latents
    codes, encoded = tokens.encode(weights, batch, None), vectors.encode(weights, batch, None)
    expected = tokens.decode(weights, codes, {})
    np.testing.assert_array_equal(vectors.decode(weights, encoded, {}), expected)
    assert len(np.unique(encoded)) > 24 * encoded.shape[-1]  # not yet quantised
    if kind == "vq":
        exact = weights.model_state["codebook"]["vectors"][codes[..., 0]]
        np.testing.assert_array_equal(vectors.decode(weights, (exact + encoded) / 2, {}), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_measures_the_codes_of_its_batch(kind):
    made, step, state, _ = trained(kind)
    weights, batch = core.weights(state), images(16, 2000)
    codes = np.asarray(made.latents[0].encode(weights, batch, None))
    after, metrics = step(state, batch, KEY)
    share = np.bincount(codes.ravel(), minlength=24) / codes.size
    np.testing.assert_allclose(metrics["perplexity"], np.exp(scipy.stats.entropy(share)), rtol=1e-4)
    usage = PLAIN.decay * np.asarray(state.model_state["codebook"]["usage"]) + (1 - PLAIN.decay) * share
    np.testing.assert_allclose(metrics["codebook_usage"], np.mean(usage > PLAIN.dead_code_threshold / 24), rtol=1e-6)
    kept = usage > PLAIN.dead_code_threshold / 24 if kind == "vq" else slice(None)
    np.testing.assert_allclose(after.model_state["codebook"]["usage"][kept], usage[kept], rtol=1e-5)
    held_out = made.evaluate(weights, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"], np.mean(held_out["loss"]), rtol=1e-4)
    expected = metrics["reconstruction"] + PLAIN.commitment * metrics["commitment"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("options", [PLAIN, ADVERSARIAL], ids=["vq", "vqgan"])
def test_microbatches_change_nothing_the_codebook_included(options):
    start, batch = started(options), images(8)
    whole, parts = (compiled(options, m)(start, batch) for m in (1, 4))
    close(whole, parts)
    assert np.abs(whole[0].model_state["codebook"]["vectors"] - start.model_state["codebook"]["vectors"]).max() > 1e-2


@pytest.mark.parametrize("options", [PLAIN, ADVERSARIAL], ids=["vq", "vqgan"])
def test_a_batch_that_is_not_finite_changes_nothing(options):
    start, batch = started(options), images(8)
    batch["image"][3, 2, 2] = np.nan
    after, metrics = compiled(options)(start, batch)
    assert all(metrics[f"skipped/{group}"] == 1.0 for group in start.params)
    for name in ("params", "opt_state", "model_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(start, name))


# ------------------------------------------------------------------------------------------------- the discriminator


def test_without_the_discriminator_s_terms_a_vqgan_is_a_vq():
    start, batch, step = started(ADVERSARIAL), images(8), compiled(ADVERSARIAL)
    alone = start.replace(
        params={"autoencoder": start.params["autoencoder"]},
        opt_state={"autoencoder": start.opt_state["autoencoder"]},
        model_state={"codebook": start.model_state["codebook"]},
    )
    plain = compiled(PLAIN)(alone, batch)[0]

    def kernel(state):
        return state.params["autoencoder"]["decoder"]["Conv_0"]["kernel"]

    for changes in ({"adversarial_weight": 0.0, "feature_weight": 0.0}, {"adversarial_start": 1.0}):
        after, _ = step(start, batch, **{"adversarial_weight": 1.0, "feature_weight": 1.0, **changes})
        close(plain.params["autoencoder"], after.params["autoencoder"])
        close(plain.model_state["codebook"], after.model_state["codebook"])
    for changes in ({"adversarial_weight": 1.0}, {"feature_weight": 1.0}):
        after, _ = step(start, batch, **{"adversarial_weight": 0.0, "feature_weight": 0.0, **changes})
        assert np.abs(kernel(plain) - kernel(after)).max() > 1e-5


def test_the_losses_of_a_vqgan_add_up():
    start, batch = started(ADVERSARIAL), images(8)
    after, metrics = compiled(ADVERSARIAL)(start, batch, 0.0, adversarial_weight=0.7, feature_weight=0.3)
    network, autoencoder = PatchDiscriminator(4, 1), vq.build(ADVERSARIAL, SPEC)

    @jax.jit
    def look(codebook, training):
        """What the autoencoder makes, and how the discriminator sees that and the images."""
        variables = {"params": start.params["discriminator"], "batch_stats": start.model_state["discriminator"]}
        seen = autoencoder.forward(start.params["autoencoder"], codebook, batch)
        judge = [network.apply(variables, x, True, mutable=["batch_stats"])[0] for x in (seen.outputs, batch["image"])]
        plain = [network.apply(variables, x, False) for x in (seen.outputs, batch["image"])]
        return seen.loss.mean(), *jax.tree.map(lambda a, b: jnp.where(training, a, b), judge, plain)

    loss, (fake, features), (_, others) = look(start.model_state["codebook"], False)
    np.testing.assert_allclose(metrics["adversarial"], -np.mean(fake), rtol=1e-4)
    distance = sum(np.square(a - b).mean() for a, b in zip(features, others, strict=True))
    np.testing.assert_allclose(metrics["feature_distance"], distance, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_autoencoder"], loss - 0.7 * np.mean(fake) + 0.3 * distance, rtol=1e-4)
    # The discriminator learns after the codebook has moved, and sees the images through its next spectral vectors.
    _, (fake, _), (real, _) = look(after.model_state["codebook"], True)
    hinge = np.maximum(0, 1 - np.asarray(real)).mean() + np.maximum(0, 1 + np.asarray(fake)).mean()
    np.testing.assert_allclose(metrics["loss_discriminator"], hinge, rtol=1e-3)
    assert build(ADVERSARIAL).log_odds == ()
    assert build(ADVERSARIAL, adversarial="non_saturating").log_odds == (("logit_real", "logit_fake"),)


def test_equal_features_are_at_no_distance():
    features = (jnp.ones((2, 4, 4, 3)), jnp.ones((2, 2, 2, 5)))
    assert vqgan.feature_distance(features, features) == 0
    np.testing.assert_allclose(vqgan.feature_distance(features, tuple(3 * x for x in features)), 8.0)


def test_a_patch_s_logit_knows_its_patch_alone():
    """Two windows of 4 at steps of 2, then one of 3: 18 pixels on a side, from 7 before 4 times its place."""
    network, image = PatchDiscriminator(4, 2), np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype(np.float32)
    variables = jax.jit(network.init, static_argnums=2)(jax.random.key(0), image, True)
    gradient = jax.jit(jax.grad(lambda x: network.apply(variables, x, False)[0][0, 4, 4]))(image)[0, :, :, 0]
    seen = np.flatnonzero(np.abs(gradient).max(1))
    assert (seen.min(), seen.max()) == (16 - 7, 16 + 10) and len(seen) == 18


# --------------------------------------------------------------------------------------------------------- the rest


def test_enlarging_makes_a_square_of_each_vector():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    large = np.asarray(pixel_shuffle(x))
    assert large.shape == (2, 6, 8, 2)
    for row, column in np.ndindex(6, 8):
        corner = 4 * (row % 2) + 2 * (column % 2)
        np.testing.assert_array_equal(large[:, row, column], x[:, row // 2, column // 2, corner : corner + 2])


@pytest.mark.parametrize("num_downsamples", [1, 3])
def test_the_networks_are_of_any_size_that_can_be_halved(num_downsamples):
    encoder, decoder = GridEncoder(4, 1, num_downsamples, 5), GridDecoder(4, 1, num_downsamples, 3)

    def through(key, image):
        features = encoder.apply(encoder.init(key, image), image)
        return features, decoder.apply(decoder.init(key, features), features)

    image = jnp.zeros((2, 24, 16, 3))
    features, made = jax.eval_shape(through, jax.random.key(0), image)
    assert features.shape == (2, 24 >> num_downsamples, 16 >> num_downsamples, 5) and made.shape == image.shape


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (PLAIN, {"num_downsamples": 4}, r"model\.num_downsamples is 4, but a 8x8"),
        (PLAIN, {"quantizer": "fsq", "levels": (8, 1)}, r"model\.levels is \(8, 1\)"),
        (ADVERSARIAL, {"discriminator_depth": 4}, r"model\.discriminator_depth is 4"),
    ],
)
def test_options_that_cannot_be_are_refused(options, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(options, **changes)
