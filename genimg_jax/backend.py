"""Workarounds for compilers and devices in networks and metrics: each once, with its reason.

Every function computes what a plain expression would, faster or with more digits. Settings of the process are in
`engine.runtime`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

# Precision of a float32 product of matrices. The default on a GPU keeps 10 bits of each factor: too few for distances
# of near elements, and the fourth digit of a Frechet distance.
FULL_PRECISION = "highest"


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


# ------------------------------------------------------------------------------------------------- convolutions

# XLA has fast code for convolutions of [B, H, W, C] by [h, w, C, D] on a CPU. JAX differentiates them into others that
# read the same arrays in another order, of which XLA rewrites some: not those within `lax.cond`, `scan` and `while`, as
# of lazy penalties and gradient accumulation. A step of StyleGAN2 with path lengths took 24 times as long as one
# without. Here the arrays are put in order, and derivatives are convolutions of this kind again.

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]


class Window(NamedTuple):
    """As `jax.lax.conv_general_dilated` has it, of height and width."""

    strides: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    lhs_dilation: Pair = (1, 1)
    rhs_dilation: Pair = (1, 1)


def general(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """JAX's own convolution."""
    strides, padding, lhs_dilation, rhs_dilation = window
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation, dimension_numbers=CHANNELS_LAST
    )


def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """`general`, whose derivatives of any order are such convolutions too."""
    # [B, H, W, C], [h, w, C, D] -> [B, H', W', D]
    return _convolution.bind(x, kernel, window=window)


def _sizes(x: jax.Array, kernel: jax.Array, out: jax.Array, window: Window) -> list[tuple[int, int, int]]:
    """The size of each with zeros inserted, as the window says, along height and along width."""

    def dilated(size: int, by: int) -> int:
        return 1 + (size - 1) * by

    return [
        (
            dilated(x.shape[1 + i], window.lhs_dilation[i]),
            dilated(kernel.shape[i], window.rhs_dilation[i]),
            dilated(out.shape[1 + i], window.strides[i]),
        )
        for i in range(2)
    ]


def _input_gradient(gradient: jax.Array, x: ad.UndefinedPrimal, kernel: jax.Array, *, window: Window) -> jax.Array:
    padding = []
    for (size, taps, out), (low, _) in zip(_sizes(x.aval, kernel, gradient, window), window.padding, strict=True):
        padding.append((taps - low - 1, size + low - out))
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return convolve(gradient, turned, Window(window.lhs_dilation, tuple(padding), window.strides, window.rhs_dilation))


def _kernel_gradient(gradient: jax.Array, x: jax.Array, kernel: ad.UndefinedPrimal, *, window: Window) -> jax.Array:
    padding = []
    for (size, taps, out), (low, _) in zip(_sizes(x, kernel.aval, gradient, window), window.padding, strict=True):
        padding.append((low, out + taps - size - low - 1))
    images, kernels = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    transposed = Window(window.rhs_dilation, tuple(padding), window.lhs_dilation, window.strides)
    return convolve(images, kernels, transposed).transpose(1, 2, 0, 3)


def _batched(arrays: tuple, axes: tuple, *, window: Window) -> tuple[jax.Array, int]:
    return jax.vmap(functools.partial(general, window=window), in_axes=axes)(*arrays), 0


def _result(x: jax.core.ShapedArray, kernel: jax.core.ShapedArray, *, window: Window) -> jax.core.ShapedArray:
    out = jax.eval_shape(functools.partial(general, window=window), x, kernel)
    return jax.core.ShapedArray(out.shape, out.dtype)


_convolution = jax.extend.core.Primitive("convolution")
_convolution.def_impl(general)
_convolution.def_abstract_eval(_result)
ad.defbilinear(_convolution, _input_gradient, _kernel_gradient)
batching.primitive_batchers[_convolution] = _batched
mlir.register_lowering(_convolution, mlir.lower_fun(general, multiple_results=False))


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str | Sequence[tuple[int, int]],
    dimension_numbers: Any = CHANNELS_LAST,
    **settings: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for Flax's layers: on a CPU with the derivatives of `convolve`."""
    # [B, H, W, C], [h, w, C, D] -> [B, H', W', D]
    if jax.default_backend() != "cpu" or settings.get("feature_group_count", 1) > 1:
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=dimension_numbers, **settings
        )
    inserted, dilation = (tuple(settings.get(name) or (1, 1)) for name in ("lhs_dilation", "rhs_dilation"))
    if isinstance(padding, str):
        taps = [1 + (size - 1) * by for size, by in zip(kernel.shape[:2], dilation, strict=True)]
        padding = jax.lax.padtype_to_pads(x.shape[1:3], taps, strides, padding)
    return convolve(x, kernel, Window(tuple(strides), tuple(map(tuple, padding)), inserted, dilation))


def downsample(x: jax.Array, kernel: jax.Array) -> jax.Array:  # [B, 2h, 2w, C], [4, 4, C, D] -> [B, h, w, D]
    """A convolution of stride 2 and padding 1."""
    return convolution(x, kernel, (2, 2), ((1, 1), (1, 1)))


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
