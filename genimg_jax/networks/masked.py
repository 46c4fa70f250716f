"""A masked MLP (MADE, Germain et al. 2015): the outputs for a value depend on earlier values only."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.conditioning import Condition, Fields, VectorEncoder
from genimg_jax.networks.layers import add


class Partial(NamedTuple):
    """Partial sums over the values so far, to which one more value can be added without the others."""

    hidden: jax.Array  # [B, width]: the first layer before its activation
    outputs: jax.Array  # [B, D, K]: biases and direct connections


class MaskedMLP(nn.Module):
    """D values to K outputs for each of them. The outputs of rank r depend on the values of rank below r.

    A hidden unit of degree m is connected to values of rank up to m and to outputs of rank above m (section 4.1; ranks
    and degrees count from 0). Degrees are spread evenly over 0 .. D - 2 and are the same in every layer, so that later
    layers are residual (Nash and Durkan 2019, section 3.3), and only the first and last masks depend on the order.
    With fewer than D - 1 hidden units some ranks fall between degrees; their values reach the next outputs only through
    the direct connections (section 4.3).
    """

    values: int  # D
    outputs: int
    width: int
    depth: int  # hidden layers
    direct: bool  # connect inputs to outputs, with a mask too
    fields: Fields = ()

    def setup(self):
        dense = nn.initializers.lecun_normal()
        flat = nn.initializers.lecun_normal(in_axis=-3, out_axis=(-2, -1))
        each = (self.values, self.outputs)
        self.first_kernel = self.param("first_kernel", dense, (self.values, self.width))
        self.first_bias = self.param("first_bias", nn.initializers.zeros, (self.width,))
        shapes = [(f"middle_{i}", (self.width, self.width)) for i in range(1, self.depth)]
        self.middle = [
            (self.param(f"{name}_kernel", dense, shape), self.param(f"{name}_bias", nn.initializers.zeros, shape[1:]))
            for name, shape in shapes
        ]
        self.last_kernel = self.param("last_kernel", flat, (self.width, *each))
        self.last_bias = self.param("last_bias", nn.initializers.zeros, each)
        if self.direct:
            self.direct_kernel = self.param("direct_kernel", nn.initializers.zeros, (self.values, *each))
        if self.fields:
            # No hidden unit reaches the first value's outputs, so the condition is added to the outputs too.
            flat = self.values * self.outputs
            self.condition_hidden = VectorEncoder(self.fields, self.width, self.width**-0.5)
            self.condition_outputs = VectorEncoder(self.fields, flat, flat**-0.5)

    def __call__(self, x: jax.Array, condition: Condition, rank: jax.Array) -> jax.Array:
        """`rank` is the position of each value in the order, a permutation of 0 .. D - 1."""
        # [B, D], i32[D] -> [B, D, K]
        partial = self.start(x.shape[0], condition)
        x = x.astype(self.first_kernel.dtype)
        first, last, direct = self.masks(rank)
        hidden = partial.hidden + x @ (self.first_kernel * first)
        outputs = partial.outputs + jnp.einsum("bh,hdk->bdk", self.features(hidden), self.last_kernel * last[..., None])
        if self.direct:
            outputs = outputs + jnp.einsum("be,edk->bdk", x, self.direct_kernel * direct[..., None])
        return outputs

    def masks(self, rank: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Masks from values to the first layer, from hidden units to outputs, and from values to outputs directly."""
        # i32[D] -> bool[D, width], bool[width, D], bool[D, D]
        degree = self.degrees()
        return rank[:, None] <= degree[None, :], degree[:, None] < rank[None, :], rank[:, None] < rank[None, :]

    def degrees(self) -> jax.Array:  # -> i32[width], non-decreasing
        return jnp.arange(self.width) * max(self.values - 1, 1) // self.width

    def features(self, hidden: jax.Array) -> jax.Array:
        """The last hidden layer from the pre-activation of the first."""  # [B, width] -> [B, width]
        degree = self.degrees()
        mask = degree[:, None] <= degree[None, :]
        x = nn.relu(hidden)
        for kernel, bias in self.middle:
            x = x + nn.relu(add(x @ (kernel * mask), bias))
        return x

    def start(self, count: int, condition: Condition) -> Partial:
        """The sums before the first value: biases and the condition."""  # -> [B, width], [B, D, K]
        hidden = jnp.broadcast_to(self.first_bias, (count, self.width))
        outputs = jnp.broadcast_to(self.last_bias, (count, *self.last_bias.shape))
        if self.fields:
            hidden = hidden + self.condition_hidden(condition, count)
            outputs = outputs + self.condition_outputs(condition, count).reshape(outputs.shape)
        return Partial(hidden, outputs)

    def conditional(self, partial: Partial, index: jax.Array, rank: jax.Array) -> jax.Array:
        """The outputs of `__call__` for one value of each example, that at `index`, whose rank is `rank`.

        `extend` must have added every value of lower rank.
        """  # i32[B], i32[] -> [B, K]
        features = jnp.where(self.degrees()[None] < rank, self.features(partial.hidden), 0)
        outputs = jnp.take_along_axis(partial.outputs, index[:, None, None], axis=1)[:, 0]
        return outputs + jnp.einsum("bh,hbk->bk", features, jnp.take(self.last_kernel, index, axis=1))

    def extend(self, partial: Partial, value: jax.Array, index: jax.Array, rank: jax.Array) -> Partial:
        """Adds one value of each example, that at `index`, whose rank is `rank`."""  # [B], i32[B], i32[]
        mask = self.degrees()[None] >= rank
        hidden = partial.hidden + value[:, None] * jnp.where(mask, self.first_kernel[index], 0)
        outputs = partial.outputs
        if self.direct:
            # To all outputs: only those of higher rank will be read.
            outputs = outputs + value[:, None, None] * self.direct_kernel[index]
        return Partial(hidden, outputs)
