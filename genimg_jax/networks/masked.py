"""A masked multilayer perceptron (MADE, Germain et al. 2015): the outputs for a value see the earlier values alone."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.conditioning import Condition, Fields, VectorEncoder
from genimg_jax.networks.layers import add


class Partial(NamedTuple):
    """What the network has gathered from the values known so far: enough to add one without the others."""

    hidden: jax.Array  # [B, width]: the first layer before its activation
    outputs: jax.Array  # [B, D, K]: biases and direct connections


class MaskedMLP(nn.Module):
    """D values to K outputs for each of them, of which those of rank r depend on the values of rank below r.

    A hidden unit of degree m sees the ranks up to m and is seen by outputs of rank above m (section 4.1; ranks and
    degrees count from 0). Degrees are spread evenly over 0 .. D - 2 and are the same in every layer, so that later
    layers add to what is there (Nash and Durkan 2019, section 3.3), and only the first and last masks depend on the
    order. With fewer than D - 1 hidden units some ranks fall between degrees, and what the nearest earlier ones hold
    reaches an output only through the direct connections (section 4.3).
    """

    values: int  # D
    outputs: int
    width: int
    depth: int  # hidden layers
    direct: bool  # connect inputs to outputs, masked likewise
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
            # The first value has no hidden units, so the condition reaches the outputs themselves as well.
            flat = self.values * self.outputs
            self.condition_hidden = VectorEncoder(self.fields, self.width, self.width**-0.5)
            self.condition_outputs = VectorEncoder(self.fields, flat, flat**-0.5)

    def __call__(self, x: jax.Array, condition: Condition, rank: jax.Array) -> jax.Array:
        """`rank` is the place of each value in the order, a permutation of 0 .. D - 1."""
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
        """Which values the first layer, which hidden units the outputs, and which values the outputs see directly."""
        # i32[D] -> bool[D, width], bool[width, D], bool[D, D]
        degree = self.degrees()
        return rank[:, None] <= degree[None, :], degree[:, None] < rank[None, :], rank[:, None] < rank[None, :]

    def degrees(self) -> jax.Array:  # -> i32[width], non-decreasing
        return jnp.arange(self.width) * max(self.values - 1, 1) // self.width

    def features(self, hidden: jax.Array) -> jax.Array:
        """The last hidden layer from the first one's pre-activation."""  # [B, width] -> [B, width]
        degree = self.degrees()
        mask = degree[:, None] <= degree[None, :]
        x = nn.relu(hidden)
        for kernel, bias in self.middle:
            x = x + nn.relu(add(x @ (kernel * mask), bias))
        return x

    def start(self, count: int, condition: Condition) -> Partial:
        """Before any value is known."""  # -> [B, width], [B, D, K]
        hidden = jnp.broadcast_to(self.first_bias, (count, self.width))
        outputs = jnp.broadcast_to(self.last_bias, (count, *self.last_bias.shape))
        if self.fields:
            hidden = hidden + self.condition_hidden(condition, count)
            outputs = outputs + self.condition_outputs(condition, count).reshape(outputs.shape)
        return Partial(hidden, outputs)

    def conditional(self, partial: Partial, index: jax.Array, rank: jax.Array) -> jax.Array:
        """The whole pass's outputs for each example's value `index`, the one of this rank, without the others'.

        Every value of lower rank must have been given to `extend`.
        """  # i32[B], i32[] -> [B, K]
        seen = jnp.where(self.degrees()[None] < rank, self.features(partial.hidden), 0)
        own = jnp.take_along_axis(partial.outputs, index[:, None, None], axis=1)[:, 0]
        return own + jnp.einsum("bh,hbk->bk", seen, jnp.take(self.last_kernel, index, axis=1))

    def extend(self, partial: Partial, known: jax.Array, index: jax.Array, rank: jax.Array) -> Partial:
        """With each example's own value `index`, the one of this rank, known to be `known`."""  # [B], i32[B], i32[]
        sees = self.degrees()[None] >= rank
        hidden = partial.hidden + known[:, None] * jnp.where(sees, self.first_kernel[index], 0)
        outputs = partial.outputs
        if self.direct:
            # To all outputs: only later ones will be read.
            outputs = outputs + known[:, None, None] * self.direct_kernel[index]
        return Partial(hidden, outputs)
