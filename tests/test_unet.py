"""The U-Net's resolutions, and what its blocks do before they have learned anything."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import random_weights

from genimg_jax.errors import ConfigError
from genimg_jax.networks.denoising import SelfAttention
from genimg_jax.networks.dit import patchify
from genimg_jax.networks.layers import unpatchify
from genimg_jax.networks.unet import ResidualBlock, UNet, avg_pool, upsample


@pytest.mark.parametrize(
    ("shape", "multipliers", "attention", "c_noise"),
    [
        ((28, 28, 1), (1, 2, 2), (14, 7), (2,)),
        ((32, 32, 3), (1, 2, 2), (16,), (2, 2)),
        ((64, 64, 3), (1, 2, 3, 4), (16, 8), (2,)),
        ((16, 24, 2), (1,), (), (2,)),
    ],
)
def test_fits_images(shape, multipliers, attention, c_noise):
    network = UNet(8, multipliers, 2, attention, 5)
    arguments = jnp.zeros((2, *shape)), jnp.zeros(c_noise), None
    outputs, variables = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), *arguments))
    assert outputs.shape == (2, *shape[:2], 5)
    params = variables["params"]
    attending = {name.split("_")[1] for name in params if name.startswith("down") and "attention" in params[name]}
    assert attending == {str(level) for level in range(len(multipliers)) if shape[0] >> level in attention}
    widest = f"down_{len(multipliers) - 1}_0"
    assert params[widest]["conv_in"]["kernel"].shape[-1] == 8 * multipliers[-1]


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (UNet(4, (1, 2, 2, 2), 1, (), 1), "a 28x28 image cannot be halved 3 times; .* multiples of 8"),
        (UNet(4, (1, 2), 1, (), 1, patch=3), "patches of 3x3 do not divide a 28x28 image"),
        (UNet(4, (1, 2), 1, (14, 16), 1), r"at height 16, but the levels' are \[28, 14\]"),
    ],
)
def test_refuses_what_cannot_be(network, sentence):
    with pytest.raises(ConfigError, match=sentence):
        jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), jnp.zeros(1), None))


def test_a_patch_is_one_pixel_of_a_plain_network():
    image, c_noise = jax.random.normal(jax.random.key(0), (2, 8, 12, 3)), jnp.linspace(-1, 1, 2)
    patched, plain = UNet(4, (1, 2), 1, (4,), 5, patch=2), UNet(4, (1, 2), 1, (4,), 20)
    params = random_weights(lambda: patched.init(jax.random.key(1), image, c_noise, None)["params"])
    grid = patchify(image, 2).reshape(2, 4, 6, 12)
    found = patched.apply({"params": params}, image, c_noise, None)
    wanted = unpatchify(plain.apply({"params": params}, grid, c_noise, None), 2, 8, 12)
    assert found.shape == (2, 8, 12, 5) and found.std() > 0.1
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_halving_and_doubling():
    rng = np.random.default_rng(0)
    small, large = jnp.asarray(rng.standard_normal((2, 3, 5, 4))), jnp.asarray(rng.standard_normal((2, 6, 10, 4)))
    np.testing.assert_allclose(avg_pool(upsample(small)), small, atol=1e-6)
    np.testing.assert_array_equal(upsample(small), np.kron(small, np.ones((1, 2, 2, 1))).astype(np.float32))
    np.testing.assert_allclose(jnp.vdot(upsample(small), large), 4 * jnp.vdot(small, avg_pool(large)), rtol=1e-4)


@pytest.mark.parametrize("resize", ["keep", "halve", "double"])
def test_a_new_block_only_rescales(resize):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 8)), jnp.float32)
    block = ResidualBlock(8, resize, attention=True)
    words = jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool)
    outputs, _ = jax.jit(block.init_with_output)(jax.random.key(0), x, jnp.ones((2, 6)), words)
    np.testing.assert_allclose(outputs, {"keep": x, "halve": avg_pool(x), "double": upsample(x)}[resize] / 2, atol=1e-6)


def test_a_block_keeps_variance_where_its_paths_are_alike():
    """Both of unit variance and independent: their scaled sum is so too."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16, 16, 32)), jnp.float32)
    block, condition = ResidualBlock(32), jnp.ones((4, 6))
    params = jax.jit(block.init)(jax.random.key(0), x, condition)["params"]
    kernel = jax.random.normal(jax.random.key(1), params["conv_out"]["kernel"].shape) / math.sqrt(9 * 32)
    learned = {**params, "conv_out": {**params["conv_out"], "kernel": kernel}}
    apply = jax.jit(lambda p: block.apply({"params": p}, x, condition))
    outputs, alone = apply(learned), apply(params)
    np.testing.assert_allclose(alone.var(), 0.5, rtol=0.05)
    assert 0.6 < outputs.var() < 1.1
    assert abs(np.corrcoef((outputs - alone).ravel(), x.ravel())[0, 1]) < 0.1


def test_attention_sees_no_positions():
    """Turning the middle's pixels about, where only attention mixes them, turns its outputs about."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 8)), jnp.float32)
    module = SelfAttention(4)
    params = random_weights(module.init, jax.random.key(0), x)
    order = np.random.default_rng(1).permutation(9)
    outputs = module.apply(params, x)
    np.testing.assert_allclose(module.apply(params, x[:, order]), outputs[:, order], atol=1e-5)
    assert np.abs(module.apply(params, x[:, order]) - outputs).max() > 0.1
