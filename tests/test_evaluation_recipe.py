"""The recipe that classifiers are trained by, part by part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genimg_jax import core
from genimg_jax.evaluation import recipe as recipes
from genimg_jax.evaluation.recipe import Recipe
from genimg_jax.networks.classifier import ImageClassifier


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_a_recipes_digest_tells_every_field(field):
    changed = dataclasses.replace(Recipe(), **{field: getattr(Recipe(), field) + 1})
    assert changed.digest() != Recipe().digest()


def augmented(recipe, image, count):
    images = jnp.broadcast_to(jnp.asarray(image, jnp.float32), (count, *image.shape))
    keys = core.per_example_keys(jax.random.key(0), jnp.arange(count))
    return np.asarray(jax.jit(recipes.augmented, static_argnums=0)(recipe, images, keys))


STILL = Recipe(shift=0.0, turn=0.0, stretch=0.0)


def test_half_of_the_grey_images_are_binarised_without_bias():
    grey = np.random.default_rng(0).uniform(-1, 1, (10, 10, 1)).astype(np.float32)
    found = augmented(STILL, grey, 2000)
    binary = (np.abs(found) == 1).all(axis=(1, 2, 3))
    assert 0.45 < binary.mean() < 0.55
    np.testing.assert_allclose(found[~binary], np.broadcast_to(grey, found[~binary].shape), atol=1e-5)
    np.testing.assert_allclose(found[binary].mean(axis=0), grey, atol=5 / 1000**0.5)
    colour = np.repeat(grey, 3, axis=2)
    np.testing.assert_allclose(augmented(STILL, colour, 50), np.broadcast_to(colour, (50, 10, 10, 3)), atol=1e-5)


def test_images_are_moved_turned_and_stretched_about_their_centre_as_far_as_they_should():
    """The moments of a blob: its place, its direction, its lengths."""
    row, column = np.mgrid[:31, :31] - 15.0
    blob = (2 * np.exp(-(row**2 / 32 + column**2 / 8)) - 1).astype(np.float32)[..., None]

    def moments(recipe):
        light = (augmented(dataclasses.replace(recipe, binarize=0.0), blob, 300)[..., 0] + 1).astype(np.float64)
        light /= light.sum(axis=(1, 2), keepdims=True)
        down, right = (light * row).sum((1, 2)), (light * column).sum((1, 2))
        dr, dc = row - down[:, None, None], column - right[:, None, None]
        rr, rc, cc = ((light * x).sum((1, 2)) for x in (dr**2, dr * dc, dc**2))
        return down, right, np.sqrt(rr), np.sqrt(cc), np.arctan2(2 * rc, rr - cc) / 2

    rest = [4, 2, 0]  # standard deviations, and the angle of the longer axis to the vertical
    down, right, *shape = moments(dataclasses.replace(STILL, shift=0.1))
    for found in (down, right):
        assert 2.9 < found.max() < 3.15 and -3.15 < found.min() < -2.9 and abs(found.mean()) < 0.5
    np.testing.assert_allclose(np.ptp(shape, axis=1), 0, atol=0.15)
    *place, _, _, angle = moments(dataclasses.replace(STILL, turn=0.3))
    assert np.abs(place[:2]).max() < 0.05
    assert 0.28 < angle.max() < 0.32 and -0.32 < angle.min() < -0.28
    *place, tall, wide, angle = moments(dataclasses.replace(STILL, stretch=0.2))
    assert np.abs(place).max() < 0.05 and np.abs(angle).max() < 0.02
    for found, length in zip((tall, wide), rest[:2], strict=True):
        assert 1.15 < found.max() / length < 1.27 and 0.8 < found.min() / length < 0.87
    assert abs(np.corrcoef(tall, wide)[0, 1]) < 0.2


def test_edges_are_repeated_and_nothing_leaves_the_range():
    image = np.broadcast_to(np.linspace(-1, 1, 12, dtype=np.float32)[:, None, None], (12, 12, 1))
    found = augmented(dataclasses.replace(Recipe(), binarize=0.0), image, 100)
    assert found.min() >= -1 and found.max() <= 1
    flat = augmented(dataclasses.replace(Recipe(), binarize=0.0), np.full((12, 12, 1), 0.5, np.float32), 20)
    np.testing.assert_allclose(flat, 0.5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 15, 3), (3, 5, 2)])
def test_the_network_takes_any_shape(shape):
    network = ImageClassifier(4, 16, 3)
    image = jax.random.normal(jax.random.key(0), (6, *shape))
    variables = jax.jit(network.init, static_argnums=2)(jax.random.key(1), image, False)
    hidden, logits = jax.jit(network.apply, static_argnums=2)(variables, image, False)
    assert hidden.shape == (6, 16) and logits.shape == (6, 3)
    # Every pixel matters to some feature of some image.
    gradient = jax.jit(jax.grad(lambda x: network.apply(variables, x, False)[1].var()))(image)
    assert (np.abs(gradient).max(axis=(0, 3)) > 0).all()
