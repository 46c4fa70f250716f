"""Proofs by enumeration, for families with exact likelihoods: every image of a space so small that all can be listed.

`build` gives them random weights: freshly initialised networks are close to uniform, which hides faults.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from random_weights import random_weights

from genimg_jax import core, families
from genimg_jax.families import made, pixelcnn, rnn, transformer


def all_images(height: int, width: int, levels: int, channels: int = 1) -> np.ndarray:
    """Every image, in the order of `image_index`."""  # -> f32[levels^(H W C), H, W, C] in [-1, 1]
    variables = height * width * channels
    digits = np.arange(levels**variables)[:, None] // levels ** np.arange(variables) % levels
    return (digits * (2 / (levels - 1)) - 1).astype(np.float32).reshape(-1, height, width, channels)


def image_index(images: np.ndarray, levels: int) -> np.ndarray:
    """Where each image stands in `all_images`. Fails for one that is off the grid."""  # f32[B, H, W, C] -> i64[B]
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    digits = np.rint((flat + 1) * ((levels - 1) / 2)).astype(np.int64)
    np.testing.assert_allclose(digits * (2 / (levels - 1)) - 1, flat, atol=1e-5, err_msg="not on the grid of levels")
    assert digits.min() >= 0 and digits.max() < levels
    return digits @ levels ** np.arange(flat.shape[1])


SMALL = {
    "made": made.Options(width=16, depth=2),
    "rnn": rnn.Options(width=8, cell="gru"),
    "pixelcnn": pixelcnn.Options(features=8, layers=2, first_kernel_radius=1, components=3),
    "transformer": transformer.Options(width=8, depth=2, heads=2),
}


def build(name: str, spec: core.Spec, seed: int = 0, **changes: Any) -> tuple[core.Family, core.Weights]:
    """A small family of this name, and weights far from uniform."""
    options = dataclasses.replace(SMALL[name], **changes)
    family = families.load(name).make(options, spec, {"model": core.Optimizer(optax.sgd(0.1))})
    batch = {"image": jnp.zeros((2, *spec.image_shape)), "label": jnp.zeros(2, jnp.int32), "index": jnp.arange(2)}
    batch |= {name: jnp.zeros((2, *field.shape), jnp.int32) for name, field in spec.fields.items()}
    params = random_weights(lambda key: family.init(key, batch).params, jax.random.key(0), scale=1.5, seed=seed)
    return family, core.Weights(params, {}, {})


def repeated(condition: Mapping[str, Any], count: int) -> core.Batch:
    return {name: jnp.broadcast_to(jnp.asarray(value), (count, *jnp.shape(value))) for name, value in condition.items()}


def probabilities(family: core.Family, weights: core.Weights, spec: core.Spec, condition=None) -> np.ndarray:
    """Of every image, given the condition (such as {"label": 3})."""  # -> f64[N]
    height, width, channels = spec.image_shape
    images = all_images(height, width, spec.levels, channels)
    count = len(images)
    batch = {"image": images, "index": jnp.arange(count), **repeated(condition or {}, count)}
    return np.exp(np.asarray(jax.jit(family.log_prob)(weights, batch, jax.random.key(0)), np.float64))


def check_sums_to_one(family, weights, spec, condition=None) -> None:
    masses = probabilities(family, weights, spec, condition)
    np.testing.assert_allclose(masses.sum(), 1.0, atol=1e-5)
    assert masses.max() > 3 * masses.mean(), "close to uniform: enlarge the weights"


def check_frequencies(images: np.ndarray, masses: np.ndarray, levels: int) -> float:
    """Pearson's chi-squared test at p = 0.001 of drawn images against the probability of each; rare ones are pooled.

    Returns the total variation of the drawn images from these probabilities."""
    expected = masses / masses.sum() * len(images)
    found = np.bincount(image_index(images, levels), minlength=len(masses))
    total_variation = np.abs(found - expected).sum() / (2 * len(images))
    rare = expected < 5
    expected, found = (np.append(x[~rare], x[rare].sum()) for x in (expected, found))
    if expected[-1] == 0:
        assert found[-1] == 0, "images of probability zero were drawn"
        expected, found = expected[:-1], found[:-1]
    assert len(expected) > 3, "too few kinds of images are frequent enough to be tested"
    assert scipy.stats.chisquare(found, expected).pvalue > 1e-3, np.stack([found, expected])
    return total_variation


def check_sampling_frequencies(family, weights, spec, samples: int = 20_000, condition=None, seed: int = 0) -> None:
    keys = jax.random.split(jax.random.key(seed), samples)
    images = jax.jit(family.sample)(weights, keys, repeated(condition or {}, samples))
    check_frequencies(images, probabilities(family, weights, spec, condition), spec.levels)


def check_completion_frequencies(
    family, weights, spec, image: np.ndarray, mask: np.ndarray, samples: int = 20_000, condition=None, seed: int = 0
) -> None:
    """`complete` leaves the known pixels (`mask`, bool[H, W]) of `image` [H, W, C] and draws the rest from the exact
    conditional distribution, which is that of all images, restricted to those that agree on the known pixels."""
    known = np.broadcast_to(mask[..., None], image.shape)
    keys = jax.random.split(jax.random.key(seed), samples)
    images, masks = (jnp.broadcast_to(x, (samples, *x.shape)) for x in (image, mask))
    drawn = np.asarray(jax.jit(family.inpaint)(weights, images, masks, keys, repeated(condition or {}, samples)))
    np.testing.assert_array_equal(drawn[:, known], np.broadcast_to(image[known], (samples, known.sum())))
    height, width, channels = spec.image_shape
    agrees = (np.abs(all_images(height, width, spec.levels, channels) - image) < 1e-5)[:, known].all(1)
    masses = np.where(agrees, probabilities(family, weights, spec, condition), 0)
    # Of exact samples about sqrt(2 / pi) of a deviation in each of the images that are possible.
    assert check_frequencies(drawn, masses, spec.levels) < (0.02 if samples >= 20_000 else 0.1)


def check_dependence(
    outputs: Callable[[jax.Array], jax.Array], order: np.ndarray, shape: tuple[int, int, int], levels: int = 2
) -> None:
    """The outputs of a variable depend on every variable strictly before it, and on no other.

    `outputs` maps an image [1, H, W, C] to [1, D, ...]; `order` i32[D] says when each of the D = H W pixels (or H W C
    values, in the image's order) is drawn, equal numbers together. Each variable in turn is set to every level in
    several images, and outputs are compared bit for bit: finite differences, because an embedding of levels has no
    gradient.
    """
    count, rng, size = 32, np.random.default_rng(0), len(order)
    images = rng.integers(levels, size=(count, size, np.prod(shape) // size))
    changed = np.tile(images[:, None, None], (1, size, levels, 1, 1))  # [32, D, levels, D, values of a variable]
    for variable in range(size):
        for level in range(levels):
            changed[:, variable, level, variable] = level
    values = (changed * (2 / (levels - 1)) - 1).astype(np.float32).reshape(-1, 1, *shape)
    # One at a time: in a batch, an example's place may change how its sums are rounded.
    found = np.asarray(jax.jit(lambda x: jax.lax.map(outputs, x))(values)).reshape(count, size, levels, size, -1)
    depends = (found.max(2) != found.min(2)).any((0, 3))  # [changed variable, variable of the outputs]
    expected = order[:, None] < order[None, :]
    assert depends.shape == expected.shape
    early, late = np.argwhere(expected & ~depends), np.argwhere(depends & ~expected)
    assert not len(late), f"outputs see variables that are not before them (seen, by): {late.tolist()}"
    assert not len(early), f"outputs are blind to earlier variables (not seen, by): {early.tolist()}"
