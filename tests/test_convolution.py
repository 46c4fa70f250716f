"""Convolutions with derivatives of their own: JAX's values, in forms that a CPU runs fast."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genimg_jax import backend
from genimg_jax.backend import Window, convolve, general

WINDOWS = [
    (6, 3, Window(padding=((1, 1), (1, 1)))),
    (8, 4, Window(strides=(2, 2), padding=((1, 1), (1, 1)))),
    (7, 3, Window(strides=(2, 2), padding=((0, 1), (1, 2)))),
    (5, 4, Window(padding=((2, 2), (2, 2)), lhs_dilation=(2, 2))),
    (9, 3, Window(padding=((2, 2), (2, 1)), rhs_dilation=(2, 2))),
    (6, 1, Window(strides=(2, 1), padding=((0, 0), (1, 0)))),
]


def arrays(size: int, taps: int) -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(0)
    shapes = (2, size, size + 1, 3), (taps, taps, 3, 5)
    return tuple(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes)


def second_order(conv, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A value with a gradient and a directional derivative in it: its gradient has all second derivatives."""

    def total(x):
        return jnp.tanh(conv(x, kernel)).sum()

    return jnp.square(jax.grad(total)(x)).sum() + jax.jvp(total, (x,), (jnp.sin(x),))[1]


@pytest.mark.parametrize(("size", "taps", "window"), WINDOWS)
def test_first_and_second_derivatives_are_jaxs(size, taps, window):
    ours, theirs = (
        jax.jit(jax.grad(functools.partial(second_order, functools.partial(function, window=window)), (0, 1)))
        for function in (convolve, general)
    )
    for a, b in zip(ours(*arrays(size, taps)), theirs(*arrays(size, taps)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 1), (0, 1)])
def test_convolutions_of_several_runs(axes):
    size, taps, window = WINDOWS[1]
    both = [
        jnp.stack([a, 2 * a], axis or 0) if axis is not None else a
        for a, axis in zip(arrays(size, taps), axes, strict=True)
    ]
    mapped = jax.vmap(functools.partial(convolve, window=window), axes)(*both)
    for i in range(2):
        alone = [a if axis is None else jnp.take(a, i, axis) for a, axis in zip(both, axes, strict=True)]
        np.testing.assert_allclose(mapped[i], general(*alone, window=window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 1))])
def test_layers_pad_as_jax_does(padding):
    x, kernel = arrays(7, 3)
    ours = backend.convolution(x, kernel, (2, 1), padding, rhs_dilation=(1, 2))
    numbers = ("NHWC", "HWIO", "NHWC")
    theirs = jax.lax.conv_general_dilated(x, kernel, (2, 1), padding, None, (1, 2), dimension_numbers=numbers)
    np.testing.assert_array_equal(ours, theirs)


def test_derivatives_in_branches_have_the_order_of_a_convolution():
    """XLA puts the others in order, but not in branches, and its CPU backend then runs them by its slowest code."""
    x, kernel = arrays(8, 4)

    def program(function):
        def along(kernel):
            return jax.jvp(lambda x: jnp.tanh(function(x, kernel, window=WINDOWS[1][2])).sum(), (x,), (jnp.sin(x),))[1]

        def lazy(kernel, on):
            return jax.lax.cond(on, along, lambda kernel: 0.0, kernel)

        return jax.jit(jax.grad(lazy)).lower(kernel, True).compile().as_text()

    ours, theirs = (set(re.findall(r"dim_labels=(\S+?)[,\s]", program(function))) for function in (convolve, general))
    assert ours == {"b01f_01io->b01f"} < theirs
