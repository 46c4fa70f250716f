"""Inception-v3 as the Frechet inception distance uses it: TensorFlow's weights of 2015, ported to PyTorch's names.

It differs from the Inception-v3 of Szegedy et al. 2016, as those weights were trained: averages exclude padding, and
the pooling branch of the last block takes a maximum. Inference only: batch normalisation is folded into the
convolutions when the weights are read.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.backend import FULL_PRECISION
from genimg_jax.errors import CheckpointError

SIZE, FEATURES, CLASSES = 299, 2048, 1008
EPSILON = 1e-3  # of the batch normalisations that are folded in


class Convolution(nn.Module):
    """Convolution, bias, ReLU; `padding` rows and columns of zeros on each side."""

    features: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, h, w, features]
        padding, strides = [(p, p) for p in self.padding], (self.stride, self.stride)
        return nn.relu(nn.Conv(self.features, self.window, strides, padding, precision=FULL_PRECISION)(x))


def _same(features: int, height: int, width: int, name: str) -> Convolution:
    """A convolution that keeps height and width."""
    return Convolution(features, (height, width), 1, (height // 2, width // 2), name=name)


def _point(features: int, name: str) -> Convolution:
    return Convolution(features, name=name)


def _shrink(features: int, name: str) -> Convolution:
    return Convolution(features, (3, 3), 2, name=name)


_mean_around = partial(nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False)
_max_around = partial(nn.max_pool, window_shape=(3, 3), padding="SAME")
_max_shrink = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))


def _chain(x: jax.Array, *layers: nn.Module) -> jax.Array:
    for layer in layers:
        x = layer(x)
    return x


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


class BlockA(nn.Module):
    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, 35, 35, C] -> [B, 35, 35, 224 + pooled]
        return _join(
            _point(64, "branch1x1")(x),
            _chain(x, _point(48, "branch5x5_1"), _same(64, 5, 5, "branch5x5_2")),
            _chain(
                x,
                _point(64, "branch3x3dbl_1"),
                _same(96, 3, 3, "branch3x3dbl_2"),
                _same(96, 3, 3, "branch3x3dbl_3"),
            ),
            _point(self.pooled, "branch_pool")(_mean_around(x)),
        )


class BlockB(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, 35, 35, 288] -> [B, 17, 17, 768]
        return _join(
            _shrink(384, "branch3x3")(x),
            _chain(x, _point(64, "branch3x3dbl_1"), _same(96, 3, 3, "branch3x3dbl_2"), _shrink(96, "branch3x3dbl_3")),
            _max_shrink(x),
        )


class BlockC(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, 17, 17, 768] -> [B, 17, 17, 768]
        width = self.width
        return _join(
            _point(192, "branch1x1")(x),
            _chain(x, _point(width, "branch7x7_1"), _same(width, 1, 7, "branch7x7_2"), _same(192, 7, 1, "branch7x7_3")),
            _chain(
                x,
                _point(width, "branch7x7dbl_1"),
                _same(width, 7, 1, "branch7x7dbl_2"),
                _same(width, 1, 7, "branch7x7dbl_3"),
                _same(width, 7, 1, "branch7x7dbl_4"),
                _same(192, 1, 7, "branch7x7dbl_5"),
            ),
            _point(192, "branch_pool")(_mean_around(x)),
        )


class BlockD(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, 17, 17, 768] -> [B, 8, 8, 1280]
        return _join(
            _chain(x, _point(192, "branch3x3_1"), _shrink(320, "branch3x3_2")),
            _chain(
                x,
                _point(192, "branch7x7x3_1"),
                _same(192, 1, 7, "branch7x7x3_2"),
                _same(192, 7, 1, "branch7x7x3_3"),
                _shrink(192, "branch7x7x3_4"),
            ),
            _max_shrink(x),
        )


class BlockE(nn.Module):
    maximum: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, 8, 8, C] -> [B, 8, 8, 2048]
        middle = _point(384, "branch3x3_1")(x)
        double = _chain(x, _point(448, "branch3x3dbl_1"), _same(384, 3, 3, "branch3x3dbl_2"))
        return _join(
            _point(320, "branch1x1")(x),
            _same(384, 1, 3, "branch3x3_2a")(middle),
            _same(384, 3, 1, "branch3x3_2b")(middle),
            _same(384, 1, 3, "branch3x3dbl_3a")(double),
            _same(384, 3, 1, "branch3x3dbl_3b")(double),
            _point(192, "branch_pool")((_max_around if self.maximum else _mean_around)(x)),
        )


class Inception(nn.Module):
    """The pooled features, and the logits of 1,008 classes for the Inception score, without bias, as in its first
    implementation."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:  # [B, 299, 299, 3] -> [B, 2048], [B, 1008]
        x = Convolution(32, (3, 3), 2, name="Conv2d_1a_3x3")(x)
        x = Convolution(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = _max_shrink(_same(64, 3, 3, "Conv2d_2b_3x3")(x))
        x = _point(80, "Conv2d_3b_1x1")(x)
        x = _max_shrink(Convolution(192, (3, 3), name="Conv2d_4a_3x3")(x))
        blocks = {
            "Mixed_5b": partial(BlockA, 32),
            "Mixed_5c": partial(BlockA, 64),
            "Mixed_5d": partial(BlockA, 64),
            "Mixed_6a": BlockB,
            "Mixed_6b": partial(BlockC, 128),
            "Mixed_6c": partial(BlockC, 160),
            "Mixed_6d": partial(BlockC, 160),
            "Mixed_6e": partial(BlockC, 192),
            "Mixed_7a": BlockD,
            "Mixed_7b": partial(BlockE, False),
            "Mixed_7c": partial(BlockE, True),
        }
        x = _chain(x, *(block(name=name) for name, block in blocks.items()))
        features = x.mean(axis=(1, 2))
        return features, nn.Dense(CLASSES, use_bias=False, precision=FULL_PRECISION, name="fc")(features)


def _folded(arrays: Mapping[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    """The kernel [h, w, in, out] and bias [out] of a convolution with its batch normalisation folded in."""
    weight, scale, offset, mean, variance = (
        arrays[f"{layer}.{name}"].astype(np.float64)
        for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    )
    scale = scale / np.sqrt(variance + EPSILON)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    return {"kernel": kernel.astype(np.float32), "bias": (offset - mean * scale).astype(np.float32)}


@cache
def shapes() -> dict[str, Any]:
    """The tree of `Inception`'s parameters, as shapes."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    return jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]


def parameters(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters of `Inception` from the published file's arrays, under their PyTorch names.

    Raises `CheckpointError` naming what is missing or of another shape.
    """
    expected = shapes()

    def build(tree: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        if "Conv_0" in tree:
            return {"Conv_0": _folded(arrays, ".".join(path))}
        if "kernel" in tree:
            return {"kernel": arrays[f"{'.'.join(path)}.weight"].astype(np.float32).T}
        return {name: build(branch, (*path, name)) for name, branch in tree.items()}

    try:
        params = build(expected, ())
    except KeyError as error:
        raise CheckpointError(f"the weight file lacks {error}; it is not FID's Inception-v3.") from None
    for (path, wanted), given in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(params), strict=True):
        if wanted.shape != given.shape:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise CheckpointError(
                f"{name} has shape {given.shape} in the weight file, and FID's Inception-v3 {wanted.shape}."
            )
    return params
