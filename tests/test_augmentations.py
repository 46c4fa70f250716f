"""Augmentations of what a discriminator sees: what they do to known images, and that none leaks where it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import gan
from genimg_jax.objectives import augmentations
from genimg_jax.objectives.augmentations import AUGMENTATIONS, MOST, adapt, augment

ADA = [augmentations.blit, augmentations.geometric, augmentations.recolour]


def keys(count, seed=0):
    return core.per_example_keys(jax.random.key(seed), jnp.arange(count))


def images(count, channels=3, size=16):
    return jnp.tanh(jax.random.normal(jax.random.key(7), (count, size, size, channels)))


def many(transformation, image, p, count):
    apply = jax.jit(jax.vmap(transformation, (0, None, None)))
    return np.asarray(apply(keys(count), image, jnp.float32(p)))


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_augmented_by_its_own_key_alone(kind, channels):
    x, k = images(4, channels), keys(4)
    whole = augment(kind, k, x, jnp.float32(0.7))
    assert whole.shape == x.shape and np.isfinite(whole).all()
    np.testing.assert_allclose(whole[2:], augment(kind, k[2:], x[2:], jnp.float32(0.7)), atol=1e-6)
    gradient = jax.grad(lambda x: jnp.square(augment(kind, k, x, jnp.float32(0.7))).sum())(x)
    assert np.isfinite(gradient).all() and all(np.abs(g).sum() > 0 for g in gradient)


@pytest.mark.parametrize("transformation", ADA)
def test_ada_with_probability_0_is_the_identity(transformation):
    x = images(1)[0]
    np.testing.assert_allclose(many(transformation, x, 0.0, 20), np.tile(x, (20, 1, 1, 1)), atol=1e-5)


def orientations(p, count=12_000):
    """How often `blit` shows a pattern in each of its eight orientations."""  # -> f64[8]
    pattern = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])[..., None]
    symmetries = [np.rot90(flipped, k) for flipped in (pattern, pattern[:, ::-1]) for k in range(4)]
    image = np.full((16, 16, 1), -1.0)
    image[6:9, 6:9] = pattern
    found = many(augmentations.blit, jnp.array(image, jnp.float32), p, count)
    shares = np.zeros(8)
    for symmetry in range(8):
        # An image shows an orientation where the pattern fits somewhere, wherever it was moved to.
        windows = np.lib.stride_tricks.sliding_window_view(found[..., 0], (3, 3), (1, 2))
        fits = (windows == symmetries[symmetry][..., 0]).all((-1, -2)).any((1, 2))
        shares[symmetry] = fits.mean()
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-9)
    return shares


@pytest.mark.parametrize(("p", "leaks"), [(MOST, False), (1.0, True)])
def test_flips_and_rotations_do_not_leak_below_the_most(p, leaks):
    """The operator on distributions over the eight orientations: its entry from g to h is the probability of h g^-1. An
    eigenvalue of 0 hides the difference of two distributions, as at p = 1. Those of flip and turn multiply."""
    shares = orientations(p)
    # Elements are (flip, turn): a flip before k quarter turns. Flipping turns k into -k.
    elements = [(f, k) for f in range(2) for k in range(4)]
    after = lambda b, a: ((a[0] + b[0]) % 2, ((-a[1] if b[0] else a[1]) + b[1]) % 4)  # noqa: E731, a, then b
    operator = np.zeros((8, 8))
    for start, g in enumerate(elements):
        for share, b in zip(shares, elements, strict=True):
            operator[elements.index(after(b, g)), start] += share
    smallest = np.abs(np.linalg.eigvals(operator)).min()
    assert smallest < 0.015 if leaks else abs(smallest - (1 - p) ** 2) < 0.015


def test_translations_do_not_leak():
    """The eigenvalues of a random translation are the Fourier transform of its distribution."""
    image = np.full((16, 16, 1), -1.0)
    image[8, 8] = 1.0
    found = many(augmentations.blit, jnp.array(image, jnp.float32), MOST, 20_000)[..., 0]
    # Flips and turns move the point by at most one pixel: about the middle between pixels 7 and 8.
    law = (found == found.max()).mean(0)
    eigenvalues = np.fft.fft2(np.fft.ifftshift(law[4:13, 4:13]))
    assert law.sum() > 0.99 and np.abs(eigenvalues).min() > 0


def test_a_geometric_transformation_is_an_affine_map():
    """Against SciPy's, for the parameters that a key gives; a planted turn the other way is seen."""
    x = images(1, 1)[0]
    smooth = jnp.asarray(scipy.ndimage.gaussian_filter(np.asarray(x), (2, 2, 0)))
    key = jax.random.key(3)
    found = np.asarray(augmentations.geometric(key, smooth, jnp.float32(1.0)))[..., 0]
    parts = [jax.random.split(k)[1] for k in jax.random.split(key, 4)]
    scale, aspect = (float(jnp.exp2(0.2 * jax.random.normal(k))) for k in parts[:2])
    angle = float(jax.random.uniform(parts[2], (), minval=-jnp.pi, maxval=jnp.pi))
    offset = np.asarray(2 * jax.random.normal(parts[3], (2,)))

    def expected(angle):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        forward = scale * np.diag([aspect, 1 / aspect]) @ turn
        inverse, centre = np.linalg.inv(forward), np.full(2, 7.5)
        start = centre - inverse @ (centre + offset)
        return scipy.ndimage.affine_transform(np.asarray(smooth)[..., 0], inverse, start, order=1, mode="mirror")

    np.testing.assert_allclose(found, expected(angle), atol=1e-4)
    assert np.abs(found - expected(-angle)).max() > 0.05


def test_colours_turn_about_the_greys():
    """Grey stays grey, and the length of the chroma changes by the saturation alone."""
    grey = jnp.broadcast_to(images(1, 1)[0], (16, 16, 3))
    recoloured = many(augmentations.recolour, grey, 1.0, 30)
    np.testing.assert_allclose(recoloured - recoloured.mean(-1, keepdims=True), 0, atol=1e-5)
    x = images(1)[0]
    chroma = lambda image: image - image.mean(-1, keepdims=True)  # noqa: E731
    lengths = np.linalg.norm(chroma(many(augmentations.recolour, x, 1.0, 30)), axis=-1)
    ratio = lengths / np.linalg.norm(chroma(np.asarray(x)), axis=-1)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio.mean((1, 2), keepdims=True), ratio.shape), rtol=1e-3)


def test_diffaugment_cuts_a_square_and_moves_by_an_eighth():
    found = many(augmentations.diffaugment, jnp.full((16, 16, 1), 0.9), 0.0, 300)[..., 0]
    grey = (found == 0).mean((1, 2))
    assert grey.max() <= augmentations.CUT**2 + 1 - (1 - augmentations.SHIFT) ** 2 + 1e-6
    assert grey.min() >= augmentations.CUT**2 / 4 and 0.15 < grey.mean() < 0.45


def test_p_follows_the_sign_of_real_logits():
    p = jnp.float32(0.1)
    np.testing.assert_allclose(adapt(p, jnp.float32(0.9), 0.6, 64, 6400), 0.11, rtol=1e-6)
    np.testing.assert_allclose(adapt(p, jnp.float32(0.3), 0.6, 64, 6400), 0.09, rtol=1e-6)
    assert adapt(jnp.float32(0.0), jnp.float32(0.3), 0.6, 64, 6400) == 0
    assert adapt(jnp.float32(MOST), jnp.float32(0.9), 0.6, 64, 6400) == jnp.float32(MOST)


def test_an_overfitted_discriminator_raises_p_and_the_state_keeps_it():
    spec = core.Spec((8, 8, 1), 0, 2)
    options = gan.Options(width=16, depth=1, latent=4, augmentation="ada", ada_images=160)
    optimizers = {"generator": core.Optimizer(optax.sgd(0.0)), "discriminator": core.Optimizer(optax.adam(0.01))}
    family = gan.make(options, spec, optimizers)
    batch = {"image": jnp.ones((16, 8, 8, 1)), "index": jnp.arange(16)}
    state = family.init(jax.random.key(0), batch)
    step = jax.jit(family.train_step)
    for i in range(12):
        state, metrics = step(state, batch, jax.random.key(i))
        assert metrics["augmentation"] == state.model_state["augmentation"]
    assert metrics["sign_real"] > 0.6 and state.model_state["augmentation"] > 0.3


def test_ada_needs_logits_with_a_boundary():
    options = gan.Options(loss="wasserstein", augmentation="ada")
    with pytest.raises(ConfigError, match=r"'ada'.*model.loss='wasserstein'.*non_saturating"):
        gan.make(options, core.Spec((8, 8, 1), 0, 2), {})
