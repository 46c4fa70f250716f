"""The gated PixelCNN has no blind spot, and its cached features are those of full passes."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.families import pixelcnn
from genimg_jax.networks import gated
from genimg_jax.networks.gated import GatedPixelCNN
from genimg_jax.objectives.likelihoods import categorical

BINARY = core.Spec((3, 3, 1), 3, 2)


# --------------------------------------------------------------------------------------------------- the network


def parameters(network: GatedPixelCNN, image: jax.Array, label=None):
    return random_weights(network.init, jax.random.key(0), image, label)["params"]


def dependence(height, width, channels=1, kind=GatedPixelCNN, layers=3, **changes):
    """Of every output on every earlier value, where the layers reach just far enough."""
    network = kind((height, width), 24, layers, channels, 1, 1, groups=channels, **changes)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(16, 1, height, width, channels)), jnp.float32)
    params, size = parameters(network, images[0]), height * width * channels

    def outputs(image):
        return network.apply({"params": params}, image, None).reshape(size)

    slopes = jax.jit(jax.vmap(jax.jacrev(outputs)))(images).reshape(16, size, size)
    depends, expected = (np.asarray(slopes) != 0).any(0), np.tri(size, k=-1, dtype=bool)
    late, early = np.argwhere(depends & ~expected), np.argwhere(expected & ~depends)
    assert not len(late), f"outputs see values that are not before them (by, seen): {late.tolist()}"
    assert not len(early), f"outputs are blind to earlier values (by, not seen): {early.tolist()}"


@pytest.mark.parametrize(("height", "width", "channels"), [(5, 5, 1), (3, 2, 3)])
def test_sees_all_earlier_values_and_no_other(height, width, channels):
    dependence(height, width, channels)


class SeesItsRow(GatedPixelCNN):
    def vertical(self, above, first, label, cache):
        return super().vertical(jnp.roll(above, -1, axis=1), first, label, cache)


class WithoutLinks(GatedPixelCNN):
    def horizontal(self, left, current, links, cache):
        return super().horizontal(left, current, jax.tree.map(jnp.zeros_like, links), cache)


class SeesItsPixel(GatedPixelCNN):
    def horizontal(self, left, current, links, cache):
        return super().horizontal(jnp.roll(left, -1, axis=2), current, links, cache)


class Forgetful(GatedPixelCNN):
    """Its last layer does not keep the pixel that it has just seen."""

    def horizontal(self, left, current, links, cache):
        outputs, kept = super().horizontal(left, current, links, cache)
        return outputs, (*kept[:-1], jnp.zeros_like(kept[-1]))


def test_faults_are_caught(monkeypatch):
    with pytest.raises(AssertionError, match="blind"):
        dependence(5, 5, layers=2)  # too few layers to reach across
    with pytest.raises(AssertionError, match="blind"):
        dependence(3, 3, kind=WithoutLinks)
    with pytest.raises(AssertionError, match="not before"):
        dependence(3, 3, kind=SeesItsRow)
    monkeypatch.setattr(pixelcnn, "GatedPixelCNN", SeesItsPixel)
    with pytest.raises(AssertionError):
        enumeration.check_sums_to_one(*enumeration.build("pixelcnn", BINARY), BINARY)
    monkeypatch.setattr(pixelcnn, "GatedPixelCNN", Forgetful)
    with pytest.raises(AssertionError):
        enumeration.check_sampling_frequencies(*enumeration.build("pixelcnn", BINARY), BINARY)
    convolution = gated.Convolution
    monkeypatch.setattr(gated, "Convolution", lambda *a, strict=False, **k: convolution(*a, **k))  # sees its channel
    with pytest.raises(AssertionError, match="not before"):
        dependence(2, 2, channels=3)


def piecewise(network, params, image, label):
    """Outputs row by row and column by column, from caches."""  # [B, H, W, C] -> [B, H, W, out]
    (batch, height, width, _), reach = image.shape, network.first_kernel_radius
    above = gated.before(image, None, 1, reach)
    left = gated.before(image, None, 2, reach)
    rows, no_columns = network.empty(batch)

    def apply(method, *arguments):
        return network.apply({"params": params}, *arguments, method=method)

    outputs = []
    for r in range(height):
        links, rows = apply("vertical", above[:, r : r + reach], r, label, rows)
        columns = no_columns
        for c in range(width):
            here = [link[:, :, c : c + 1] for link in links]
            window, current = left[:, r : r + 1, c : c + reach], image[:, r : r + 1, c : c + 1]
            output, columns = apply("horizontal", window, current, here, columns)
            outputs.append(output)
    return jnp.concatenate(outputs, axis=2).reshape(*image.shape[:3], -1)


@pytest.mark.parametrize("kind", [GatedPixelCNN, Forgetful])
def test_cached_outputs_are_those_of_the_full_pass(kind):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 2)), jnp.float32)
    label = jnp.array([0, 2])
    network = kind((3, 3), 8, 2, 4, 1, 2, groups=2, num_classes=3)
    params = parameters(network, image, label)
    full = jax.jit(network.apply)({"params": params}, image, label)
    cached = jax.jit(lambda p: piecewise(network, p, image, label))(params)
    same = np.allclose(full, cached, rtol=1e-4, atol=1e-5)
    assert same == (kind is GatedPixelCNN)


def test_samples_are_those_of_drawing_from_full_passes():
    """With the same keys, recomputing the whole image for every channel of every pixel draws the same images."""
    spec = core.Spec((3, 4, 3), 5, 6)
    family, weights = enumeration.build(
        "pixelcnn", spec, likelihood="categorical", conditional=True, first_kernel_radius=2, features=12
    )
    keys, label = core.per_example_keys(jax.random.key(1), jnp.arange(16)), jnp.arange(16) % 5
    network = GatedPixelCNN((3, 4), 12, 2, 18, 1, 2, groups=3, num_classes=5)
    pixel = categorical(core.Spec((1, 1, 3), 0, 6))

    def draw(image, position):
        row, column, channel = position // 12, position // 3 % 4, position % 3
        outputs = network.apply({"params": weights.params["model"]}, image, label)
        outputs = jax.lax.dynamic_slice(outputs, (0, row, column, 0), (16, 1, 1, 18))
        drawn = pixel.sample(outputs, core.fold_in(keys, position // 3))[:, 0, 0]
        return image.at[:, row, column, channel].set(drawn[jnp.arange(16), channel]), None

    expected, _ = jax.jit(lambda x: jax.lax.scan(draw, x, jnp.arange(36)))(jnp.zeros((16, 3, 4, 3)))
    found = jax.jit(family.sample)(weights, keys, {"label": label})
    np.testing.assert_allclose(found, expected, atol=1e-6)
