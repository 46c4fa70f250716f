"""The autoencoder's losses against closed forms, its mixture against scikit-learn, and its samples against the data."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import sklearn.exceptions
import sklearn.mixture

from genimg_jax import core
from genimg_jax.families import autoencoder
from genimg_jax.objectives import gaussian_mixture

SPEC = core.Spec((4, 4, 1), 0, 256)
DEFAULT = autoencoder.Options(width=32, depth=1, latent=2, components=2, bank=64)


def build(learning_rate=1e-2, decay=None, **changes):
    optimizer = core.Optimizer(optax.adam(learning_rate), decay)
    family = autoencoder.make(dataclasses.replace(DEFAULT, **changes), SPEC, {"model": optimizer})
    return family, jax.jit(family.init)(jax.random.key(0), two_kinds(2, 0))


def two_kinds(size: int, seed: int):
    """Images whose left or right half is bright, three of the first kind to one of the second, with a little noise."""
    rng = np.random.default_rng(seed)
    left = np.where(np.arange(4) < 2, 0.8, -0.8)[None, None, :, None]
    image = np.where(rng.random((size, 1, 1, 1)) < 0.75, left, -left) + 0.05 * rng.normal(size=(size, 4, 4, 1))
    return {"image": image.astype(np.float32), "index": np.arange(size, dtype=np.int32)}


def test_losses_have_their_closed_forms():
    logits, image = (jax.random.normal(jax.random.key(i), (2, 3, 3, 1)) for i in range(2))
    image = jnp.tanh(image)
    share, target = scipy.special.expit(np.asarray(logits)), (np.asarray(image) + 1) / 2
    entropy = -(target * np.log(share) + (1 - target) * np.log(1 - share))
    np.testing.assert_allclose(autoencoder.cross_entropy(logits, image), entropy, rtol=1e-4)
    np.testing.assert_allclose(
        autoencoder.squared_error(logits, image), 2 * (share - target) ** 2, rtol=1e-3, atol=1e-6
    )


def test_gaussian_corruption_is_normal_with_its_deviation():
    image = jax.random.uniform(jax.random.key(0), (50, 8, 8, 1))
    keys = core.per_example_keys(jax.random.key(1), jnp.arange(50))
    noise = np.asarray(autoencoder.gaussian_noise(image, keys, 0.3) - image).ravel()
    assert scipy.stats.kstest(noise / 0.3, "norm").pvalue > 1e-3


def test_masking_hides_its_share_of_whole_pixels_and_changes_no_other():
    image = 0.5 + jax.random.uniform(jax.random.key(0), (50, 8, 8, 3))
    keys = core.per_example_keys(jax.random.key(1), jnp.arange(50))
    hidden = np.asarray(autoencoder.masking_noise(image, keys, 0.25) != image)
    np.testing.assert_array_equal(hidden.all(-1), hidden.any(-1))
    assert scipy.stats.binomtest(int(hidden[..., 0].sum()), 50 * 64, 0.25).pvalue > 1e-3
    np.testing.assert_array_equal(autoencoder.masking_noise(image, keys, 1.0), jnp.zeros_like(image))


def test_the_loss_is_of_the_clean_image_seen_through_corruption():
    """Wholly masked images are all encoded alike, and yet each is compared with itself."""
    family, state = build(corruption="masking", corruption_level=1.0)
    weights, batch = core.weights(state), two_kinds(6, 1)
    found = family.evaluate(weights, batch, jax.random.key(0))
    space = family.latents[0]
    grey = space.encode(weights, {"image": jnp.zeros((6, 4, 4, 1))}, None)
    error = 0.5 * np.square(space.decode(weights, grey, {}) - batch["image"]).sum((1, 2, 3))
    np.testing.assert_allclose(found["loss"], error, rtol=1e-5)
    trained = family.train_step(state, batch, jax.random.key(0))[1]
    np.testing.assert_allclose(trained["loss"], error.mean(), rtol=1e-5)
    image = space.decode(weights, space.encode(weights, batch, None), {})
    np.testing.assert_allclose(
        found["reconstruction"], 0.5 * np.square(image - batch["image"]).sum((1, 2, 3)), rtol=1e-5
    )


def test_the_bank_holds_the_latest_codes_of_the_averaged_weights():
    family, state = build(decay=0.5, bank=40)
    step, expected = jax.jit(family.train_step), []
    for i in range(4):
        batch = two_kinds(16, i)
        expected.insert(0, family.latents[0].encode(core.weights(state), batch, None)[:, 0, 0])
        state, _ = step(state, batch, jax.random.key(i))
    np.testing.assert_allclose(state.model_state["codes"], np.concatenate(expected)[:40], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("corruption", ["none", "gaussian"])
def test_samples_have_the_data_s_kinds_in_their_shares(corruption):
    family, state = build(corruption=corruption)
    batches = jax.tree.map(lambda *x: jnp.stack(x), *[two_kinds(32, i) for i in range(150)])

    def step(state, batch):
        return family.train_step(state, batch, core.stream(0, "train", state.step))

    state, metrics = jax.jit(lambda s: jax.lax.scan(step, s, batches))(state)
    assert metrics["loss"][-1] < 0.1 * metrics["loss"][0]
    images = family.sample(core.weights(state), jax.random.split(jax.random.key(0), 400), {})
    left = np.asarray(images)[:, :, :2].mean((1, 2, 3)) - np.asarray(images)[:, :, 2:].mean((1, 2, 3))
    assert np.mean(np.abs(np.abs(left) - 1.6) < 0.4) > 0.9, "samples of neither kind"
    assert 0.6 < np.mean(left > 0) < 0.9


def points():
    rng = np.random.default_rng(0)
    which, scale = rng.choice(3, 600, p=[0.5, 0.3, 0.2]), np.array([[1, 0.5], [0, 0.3]])
    centres = np.array([[0, 0], [4, 1], [-2, 5]])
    return (centres[which] + rng.normal(size=(600, 2)) @ scale * (1 + which[:, None])).astype(np.float32)


def test_mixture_is_fitted_as_scikit_learn_fits_it():
    data = points()
    start = jax.tree.map(np.asarray, gaussian_mixture.init(jnp.asarray(data), 3))
    reference = sklearn.mixture.GaussianMixture(
        3,
        tol=0.0,
        max_iter=gaussian_mixture.ITERATIONS,
        reg_covar=float(gaussian_mixture.ridge(jnp.asarray(data))),
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=np.linalg.inv(start.covariances),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        reference.fit(data.astype(np.float64))
    fitted = jax.jit(lambda x: gaussian_mixture.fit(x, 3))(data)
    for ours, theirs in zip(fitted, (reference.weights_, reference.means_, reference.covariances_), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)
    log_masses = jax.nn.logsumexp(gaussian_mixture.log_joint(fitted, data), axis=1)
    np.testing.assert_allclose(log_masses, reference.score_samples(data), rtol=2e-3, atol=2e-3)


def test_mixture_samples_have_its_moments():
    fitted = gaussian_mixture.fit(jnp.asarray(points()), 3)
    drawn = np.asarray(gaussian_mixture.sample(fitted, jax.random.split(jax.random.key(0), 20_000)))
    weights, means, covariances = map(np.asarray, fitted)
    mean = weights @ means
    second = np.einsum("k,kyz->yz", weights, covariances + means[:, :, None] * means[:, None, :])
    np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * drawn.std(0).max() / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(drawn.T), second - np.outer(mean, mean), rtol=0.05, atol=0.1)


def test_mixture_of_identical_points_is_finite():
    fitted = gaussian_mixture.fit(jnp.zeros((20, 3)), 4)
    assert all(np.isfinite(x).all() for x in fitted)


def test_encoder_and_decoder_are_both_told():
    spec = SPEC._replace(fields={"label": core.Field((), 2)})
    options = dataclasses.replace(DEFAULT, conditions=("label",))
    family = autoencoder.make(options, spec, {"model": core.Optimizer(optax.adam(1e-2), None)})
    batch = {**two_kinds(8, 0), "label": np.zeros(8, np.int32)}
    other = {**batch, "label": np.ones(8, np.int32)}
    weights, (space,) = core.weights(jax.jit(family.init)(jax.random.key(0), batch)), family.latents
    codes, other_codes = (np.asarray(space.encode(weights, b, jax.random.key(0))) for b in (batch, other))
    assert (np.abs(codes - other_codes).max(-1) > 1e-3).all()
    images, other_images = (np.asarray(space.decode(weights, codes, b)) for b in (batch, other))
    assert (np.abs(images - other_images).max((1, 2, 3)) > 1e-3).all()
