"""Layers against direct sums, exact singular values and hand-made statistics."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.signal import convolve2d, correlate2d

from genimg_jax.backend import dense_product, downsample, upsample
from genimg_jax.errors import ConfigError
from genimg_jax.networks.layers import (
    Conv,
    Dense,
    Downsample,
    Normalization,
    SpectralScale,
    Upsample,
    activate,
    promotion,
)


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def correlate(image, kernel):
    """[H, W, C], [a, b, C, D] -> [H - a + 1, W - b + 1, D], by SciPy, one pair of channels at a time."""
    channels, features = kernel.shape[2:]
    planes = [
        sum(correlate2d(image[..., c], kernel[..., c, d], mode="valid") for c in range(channels))
        for d in range(features)
    ]
    return np.stack(planes, axis=-1)


def test_conv_is_a_padded_correlation():
    x, layer = random(0, 2, 5, 7, 3), Conv(4)
    variables = layer.init(jax.random.key(0), x)
    params = {**variables["params"], "bias": random(1, 4)}
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.stack([correlate(image, np.asarray(params["kernel"])) for image in padded]) + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-4)


def test_downsample_keeps_every_second_sum():
    x, layer = random(0, 2, 6, 10, 3), Downsample(4)
    params = {**layer.init(jax.random.key(0), x)["params"], "bias": random(1, 4)}
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.stack([correlate(image, np.asarray(params["kernel"]))[::2, ::2] for image in padded])
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected + params["bias"], atol=1e-4)


def test_upsample_spreads_every_pixel():
    x, layer = random(0, 1, 3, 5, 2), Upsample(3)
    params = {**layer.init(jax.random.key(0), x)["params"], "bias": random(1, 3)}
    kernel, spread = np.asarray(params["kernel"]), np.zeros((6, 10, 2), np.float32)
    spread[::2, ::2] = x[0]
    expected = np.stack(
        [sum(convolve2d(spread[..., c], kernel[..., f, c]) for c in range(2)) for f in range(3)], axis=-1
    )
    # The full convolution of the spread pixels, less the padding of 1 before and what is past the image after.
    np.testing.assert_allclose(layer.apply({"params": params}, x)[0], expected[1:7, 1:11] + params["bias"], atol=1e-5)


def test_upsample_is_the_adjoint_of_downsample():
    x, kernel, y = random(0, 2, 4, 6, 5), random(1, 4, 4, 3, 5), random(2, 2, 8, 12, 3)
    np.testing.assert_allclose(jnp.vdot(upsample(x, kernel), y), jnp.vdot(x, downsample(y, kernel)), rtol=1e-4)


def test_gradients_of_upsample_to_second_order():
    check_grads(upsample, (random(0, 1, 2, 3, 2), random(1, 4, 4, 2, 2)), order=2, modes=["rev"], atol=0.05, rtol=0.05)


def test_upsample_keeps_the_variance_of_rectified_inputs():
    x = np.maximum(random(0, 8, 16, 16, 32), 0)
    y, _ = Upsample(32).init_with_output(jax.random.key(0), x)
    assert 0.9 < np.var(np.asarray(y)[:, 2:-2, 2:-2]) < 1.1


@pytest.mark.parametrize("shape", [(6, 4), (4, 4, 3, 5)])
def test_spectral_scale_divides_by_the_largest_singular_value(shape):
    kernel, layer = 3 * random(0, *shape), SpectralScale()
    statistics = layer.init(jax.random.key(0), kernel, True)
    for _ in range(100):
        scaled, statistics = layer.apply(statistics, kernel, True, mutable=["batch_stats"])
    expected = kernel / np.linalg.norm(kernel.reshape(-1, shape[-1]), 2)
    np.testing.assert_allclose(scaled, expected, rtol=1e-4)

    # Miyato et al. 2018, equation 12: the gradient passes through the singular value too.
    weight = random(1, *shape)
    gradient = jax.grad(lambda k: (layer.apply(statistics, k, False) * weight).sum())(jnp.asarray(kernel))
    exact = jax.grad(lambda k: (k / jnp.linalg.norm(k.reshape(-1, shape[-1]), 2) * weight).sum())(jnp.asarray(kernel))
    np.testing.assert_allclose(gradient, exact, atol=1e-4)


def test_evaluation_leaves_the_singular_vector_alone():
    x = random(0, 2, 6)
    training, evaluation = (Dense(4, promote_dtype=promotion(True, flag)) for flag in (True, False))
    variables = training.init(jax.random.key(0), x)
    _, after_training = training.apply(variables, x, mutable=["batch_stats"])
    _, after_evaluation = evaluation.apply(variables, x, mutable=["batch_stats"])
    before = jax.tree.leaves(variables["batch_stats"])[0]
    assert not np.allclose(jax.tree.leaves(after_training)[0], before)
    np.testing.assert_array_equal(jax.tree.leaves(after_evaluation)[0], before)


@pytest.mark.parametrize("layer", [Dense(4), Conv(4), Downsample(4)])
def test_layers_compute_in_the_dtype_of_their_parameters(layer):
    x = random(0, 2, 4, 4, 3)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), layer.init(jax.random.key(0), x))
    assert layer.apply(variables, x).dtype == jnp.bfloat16


def test_batch_normalization_uses_the_batch_in_training_and_averages_in_evaluation():
    x, layer = 2 + 3 * random(0, 64, 4, 4, 5), Normalization("batch")
    variables = layer.init(jax.random.key(0), x, True)
    y, changed = layer.apply(variables, x, True, mutable=["batch_stats"])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), atol=1e-3)
    (statistics,) = changed["batch_stats"].values()
    np.testing.assert_allclose(statistics["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * variance, rtol=1e-4)
    evaluated = layer.apply({**variables, **changed}, x, False)
    expected = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * variance + 1e-5)
    np.testing.assert_allclose(evaluated, expected, atol=1e-3)


def test_group_normalization_is_each_example_alone():
    x, layer = 2 + 3 * random(0, 3, 4, 4, 64), Normalization("group")
    variables = layer.init(jax.random.key(0), x, True)
    groups = x.reshape(3, 16, 4, 16)
    expected = (groups - groups.mean((1, 3), keepdims=True)) / groups.std((1, 3), keepdims=True)
    np.testing.assert_allclose(layer.apply(variables, x, True), expected.reshape(x.shape), atol=1e-3)


def test_leaky_relu_has_the_slope_of_dcgan():
    np.testing.assert_allclose(activate("leaky_relu", jnp.array([-1.0, 2.0])), [-0.2, 2.0], rtol=1e-6)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"activation is 'rely'; it must be one of leaky_relu, relu"):
        activate("rely", jnp.ones(1))
    with pytest.raises(ConfigError, match=r"normalization is 'bach'; it must be 'none', 'batch' or 'group'"):
        Normalization("bach").init(jax.random.key(0), jnp.ones((1, 2)), True)


@pytest.mark.parametrize("inputs, outputs", [(3, 5), (5, 3)])
def test_products_over_rows_are_those_of_matrices(inputs, outputs):
    """Also their derivatives, in reverse mode (twice) and in forward mode, and mapped over kernels."""
    x, kernel, dimensions = random(0, 2, 4, inputs), random(1, inputs, outputs), (((2,), (0,)), ((), ()))
    product = functools.partial(dense_product, dimension_numbers=dimensions)
    np.testing.assert_allclose(product(x, kernel), x @ kernel, atol=1e-5)
    check_grads(product, (x, kernel), order=2, rtol=1e-2)
    xs, kernels, cotangents = random(2, 3, *x.shape), random(3, 3, *kernel.shape), random(4, 3, 2, 4, outputs)

    def backward(f):
        return jax.vmap(lambda x, kernel, g: jax.vjp(f, x, kernel)[1](g))(xs, kernels, cotangents)

    for found, expected in zip(backward(product), backward(jnp.matmul), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("inputs, outputs", [(32, 64), (64, 32)])
def test_the_kernels_gradient_copies_no_rows_transposed(inputs, outputs):
    def transposed_rows(dot_general):
        layer = nn.Dense(outputs, dot_general=dot_general)
        params = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((4, 32, inputs)))
        arguments = params, jnp.ones((4, 32, inputs)), jnp.ones((4, 32, outputs))
        gradient = jax.jit(lambda params, x, g: jax.vjp(lambda p: layer.apply(p, x), params)[1](g))
        return re.findall(rf"f32\[{outputs},128\]", gradient.lower(*arguments).compile().as_text())

    assert transposed_rows(None) and not transposed_rows(dense_product)
