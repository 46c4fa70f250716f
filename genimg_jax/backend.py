"""Workarounds for compilers and devices in networks and metrics: each once, with its reason.

Every function computes what a plain expression would, faster or with more digits. Settings of the process are in
`engine.runtime`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Precision of a float32 product of matrices. The default on a GPU keeps 10 bits of each factor: too few for distances
# of near elements, and the fourth digit of a Frechet distance.
FULL_PRECISION = "highest"

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


def materialize(x: jax.Array) -> jax.Array:
    """`x`, computed once. XLA may otherwise repeat its computation in everything that uses it.

    The gradient of a chain of residual blocks is then summed again for each of its uses, and a convolution that is
    fused with such a sum runs on one core of a CPU. Needs `cse_barrier_expander` off there: see `engine.runtime`.
    """  # [...] -> [...]
    return jax.lax.optimization_barrier(x)


def normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """The numbers of `jax.random.normal`, drawn flat: XLA compiles a draw of four axes ten times slower on a CPU."""
    # -> [*shape]
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def attention(
    formula: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    is_causal: bool = False,
    forward_mode_ad: bool = False,
    mask: jax.Array | None = None,
) -> jax.Array:
    """`formula(query, key, value)`, which is scaled dot-product attention, or a GPU's kernel for the same.

    On a GPU `jax.nn.dot_product_attention`: cuDNN's kernel for 16-bit numbers if it supports the size of the heads;
    XLA's for other sizes, for float32, with a `mask`, and for forward-mode derivatives, which cuDNN's lacks. On a CPU
    matrix products batched over heads are 1.35 times faster.
    """  # [B, heads, T, D], 2 x [B, heads, S, D], bool[B, 1, T or 1, S] -> [B, heads, T, D]
    if jax.default_backend() != "gpu":
        return formula(query, key, value)
    size = query.shape[-1]
    cudnn = query.dtype.itemsize == 2 and size % 8 == 0 and size <= 128 and not forward_mode_ad and mask is None
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    attended = jax.nn.dot_product_attention(
        query, key, value, mask=mask, is_causal=is_causal, implementation="cudnn" if cudnn else "xla"
    )
    return attended.swapaxes(1, 2)


def dense_product(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **settings: Any) -> jax.Array:
    """`jax.lax.dot_general` for Flax's dense layers: over one axis of rows on a CPU.

    The kernel's gradient is written as (g^T x)^T. XLA turns it into x^T g only if x and g are matrices, and otherwise
    copies g transposed. For a kernel of more inputs than outputs (g^T x)^T is the faster one: the barrier
    keeps it. It costs a copy of the kernel, little where there are more rows than inputs.
    """  # [..., K], [K, M] -> [..., M]
    if x.ndim == 2 or jax.default_backend() != "cpu":
        return jax.lax.dot_general(x, kernel, dimension_numbers, **settings)
    rows = x.reshape(-1, x.shape[-1])
    inputs, outputs = kernel.shape
    axis = 0
    if len(rows) > inputs > outputs:
        kernel, axis = materialize(kernel.T), 1
    product = jax.lax.dot_general(rows, kernel, (((1,), (axis,)), ((), ())), **settings)
    return product.reshape(*x.shape[:-1], outputs)


def downsample(x: jax.Array, kernel: jax.Array) -> jax.Array:  # [B, 2h, 2w, C], [4, 4, C, D] -> [B, h, w, D]
    """A convolution of stride 2 and padding 1."""
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=CHANNELS_LAST)


@jax.custom_vjp
def upsample(x: jax.Array, kernel: jax.Array) -> jax.Array:  # [B, h, w, D], [4, 4, C, D] -> [B, 2h, 2w, C]
    """The transpose of `downsample`, whose gradient is made of `downsample` and of its gradient.

    Left to itself, JAX takes the kernel's gradient as a convolution over an input with zeros inserted, which a CPU
    runs some twenty times slower.
    """
    return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=CHANNELS_LAST, transpose_kernel=True)


def _upsample_forward(x: jax.Array, kernel: jax.Array):
    return upsample(x, kernel), (x, kernel)


def _upsample_backward(inputs: tuple[jax.Array, jax.Array], gradient: jax.Array):
    # <upsample(x, k), g> = <x, downsample(g, k)>, so both gradients are those of the right-hand side.
    x, kernel = inputs
    x_gradient, pull_back = jax.vjp(lambda k: downsample(gradient, k), kernel)
    return x_gradient, *pull_back(x)


upsample.defvjp(_upsample_forward, _upsample_backward)
