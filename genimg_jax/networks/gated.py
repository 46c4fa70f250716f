"""The gated PixelCNN of van den Oord et al. 2016 ("Conditional image generation with PixelCNN decoders"), section 2.

Two stacks of features, so that no earlier pixel is out of sight: the vertical stack at (r, c) sees the rows above r,
the horizontal one also the pixels to the left in row r. Nothing is masked that could be left out: the input is moved
down a row or right a column once, and every window holds only rows above and columns to the left. The current row of
vertical features, and the current pixel of horizontal ones, are already free of what they must not see.

A padded image is also how a part of one is computed: where the padding would be, a sampler puts the features that it
has kept of the rows above (`vertical`) or of the pixels to the left (`horizontal`). Full passes and cached ones are
the same code.

With `groups` = C channels, features are split among the channels in their order (red, green, blue): those of channel
c see the channels before c of the current pixel, and nothing of the others.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.backend import CHANNELS_LAST
from genimg_jax.networks.conditioning import Condition, Fields, MapEncoder, VectorEncoder, maps, others
from genimg_jax.networks.layers import add

Cache = tuple[jax.Array | None, ...]  # per layer; None: nothing but padding


class Convolution(nn.Module):
    """A convolution of a window [rows, columns], in the dtype of its parameters, `sides` zero columns on either side.

    With several `groups` the window's last column is the current pixel, where output channels of group g see input
    channels of groups up to g; `strict`: before g. `gates` output arms are grouped alike.
    """

    features: int
    window: tuple[int, int] = (1, 1)
    groups: int = 1
    strict: bool = False
    gates: int = 1
    sides: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # [B, R + rows - 1, N + columns - 1 - 2 sides, F] -> [B, R, N, features]
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.groups > 1:
            source, target = (np.arange(n) * self.groups // n for n in (x.shape[-1], self.features // self.gates))
            seen = np.less.outer(source, target) if self.strict else np.less_equal.outer(source, target)
            mask = np.ones(shape, np.float32)
            mask[:, -1] = np.tile(seen, self.gates)
            kernel = kernel * mask.astype(kernel.dtype)
        x = x.astype(kernel.dtype)
        if self.window == (1, 1):
            return add(x @ kernel[0, 0], bias)
        padding = ((0, 0), (self.sides, self.sides))
        return add(jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=CHANNELS_LAST), bias)


def gate(x: jax.Array) -> jax.Array:
    """Equation 2 of the paper."""  # [..., 2 F] -> [..., F]
    value, opening = jnp.split(x, 2, axis=-1)
    return jnp.tanh(value) * nn.sigmoid(opening)


def before(x: jax.Array, cached: jax.Array | None, axis: int, size: int) -> jax.Array:
    """`x` after the `size` rows or columns that come before it."""  # axis: N -> size + N
    if cached is not None:
        return jnp.concatenate([cached, x], axis)
    return jnp.pad(x, [(size, 0) if i == axis else (0, 0) for i in range(x.ndim)])


def last(x: jax.Array, axis: int, size: int) -> jax.Array:  # axis: N -> size
    return jax.lax.slice_in_dim(x, x.shape[axis] - size, None, axis=axis)


class GatedLayer(nn.Module):
    """Figure 2 of the paper; the vertical stack's contribution to the horizontal one is called its link.

    The bias by which the vertical stack is told its condition (equation 4) reaches the horizontal one through the link.
    """

    features: int
    kernel_radius: int  # rows above, and columns to either side, that a layer sees
    groups: int
    fields: Fields

    def setup(self):
        columns = 2 * self.kernel_radius + 1
        self.down = Convolution(2 * self.features, (self.kernel_radius + 1, columns), sides=self.kernel_radius)
        self.link = Convolution(2 * self.features)
        self.across = Convolution(2 * self.features, (1, self.kernel_radius + 1), self.groups, gates=2)
        self.out = Convolution(self.features, (1, 1), self.groups)
        if self.fields:
            self.condition = VectorEncoder(self.fields, 2 * self.features, (2 * self.features) ** -0.5)

    def vertical(self, x: jax.Array, condition: Condition, cached: jax.Array | None):
        """Features and link of the rows of `x`, and what to keep of them for the rows below."""
        # [B, R, W, F], [B, kernel_radius, W, F] -> [B, R, W, F], [B, R, W, 2 F], [B, kernel_radius, W, F]
        rows = before(x, cached, 1, self.kernel_radius)
        x = self.down(rows)
        if self.fields:
            x = x + jnp.broadcast_to(self.condition(condition, len(x))[:, None, None], x.shape)
        return gate(x), self.link(x), last(rows, 1, self.kernel_radius)

    def horizontal(self, x: jax.Array, link: jax.Array, cached: jax.Array | None):
        """Features of the columns of `x`, and what to keep of them for the columns to the right."""
        # [B, R, N, F], [B, R, N, 2 F], [B, R, kernel_radius, F] -> [B, R, N, F], [B, R, kernel_radius, F]
        columns = before(x, cached, 2, self.kernel_radius)
        return x + self.out(gate(self.across(columns) + link)), last(columns, 2, self.kernel_radius)


class GatedPixelCNN(nn.Module):
    """An image to the outputs of each pixel's distribution given the pixels before it in raster order.

    With `positions`, a learned vector for each pixel is added to the vertical stack's first features: windows are the
    same everywhere, and images that are centred are not. Maps and images are told as features of the vertical stack's
    pixels (equation 5).
    """

    shape: tuple[int, int]  # (height, width) of the image
    features: int
    layers: int
    out: int  # output channels
    kernel_radius: int = 1
    first_kernel_radius: int = 3  # of the first layer, whose input has few channels
    groups: int = 1  # channels whose outputs are conditioned on one another; 1: none
    positions: bool = True
    fields: Fields = ()

    def setup(self):
        if self.positions:
            self.place = self.param("place", nn.initializers.zeros, (*self.shape, self.features))
        window = (self.first_kernel_radius, 2 * self.first_kernel_radius + 1)
        self.first_down = Convolution(self.features, window, sides=self.first_kernel_radius)
        self.first_across = Convolution(self.features, (1, self.first_kernel_radius))
        if self.groups > 1:
            self.first_current = Convolution(self.features, (1, 1), self.groups, strict=True)
        self.stack = [
            GatedLayer(self.features, self.kernel_radius, self.groups, others(self.fields)) for _ in range(self.layers)
        ]
        if maps(self.fields):
            self.map = MapEncoder(maps(self.fields), self.features, self.shape)
        self.hidden = Convolution(self.features, (1, 1), self.groups)
        self.output = Convolution(self.out, (1, 1), self.groups)

    def __call__(self, image: jax.Array, condition: Condition) -> jax.Array:
        # [B, H, W, C] -> [B, H, W, out]
        nothing = (None,) * self.layers
        links, _ = self.vertical(before(image[:, :-1], None, 1, self.first_kernel_radius), 0, condition, nothing)
        return self.horizontal(before(image[:, :, :-1], None, 2, self.first_kernel_radius), image, links, nothing)[0]

    def vertical(
        self, above: jax.Array, first: int | jax.Array, condition: Condition, cache: Cache
    ) -> tuple[Cache, Cache]:
        """Every layer's link for R rows from row `first` on, from the pixels above them, and the next cache."""
        # [B, first_kernel_radius + R - 1, W, C], i32[]
        # -> tuple of [B, R, W, 2 F], tuple of [B, kernel_radius, W, F]
        x = self.first_down(above)
        if self.positions:
            place = jax.lax.dynamic_slice_in_dim(self.place, first, x.shape[1])
            x = x + jnp.broadcast_to(place[None], x.shape)
        if maps(self.fields):
            x = x + jax.lax.dynamic_slice_in_dim(self.map(condition, len(x)), first, x.shape[1], 1).astype(x.dtype)
        links, kept = [], []
        for layer, cached in zip(self.stack, cache, strict=True):
            x, link, keep = layer.vertical(x, condition, cached)
            links.append(link)
            kept.append(keep)
        return tuple(links), tuple(kept)

    def horizontal(self, left: jax.Array, current: jax.Array, links: Cache, cache: Cache) -> tuple[jax.Array, Cache]:
        """Outputs of N columns, from the pixels to their left and their own earlier channels, and the next cache."""
        # [B, R, first_kernel_radius + N - 1, C], [B, R, N, C], tuple of [B, R, N, 2 F]
        # -> [B, R, N, out], tuple of [B, R, kernel_radius, F]
        x = self.first_across(left)
        if self.groups > 1:
            x = x + self.first_current(current)
        kept = []
        for layer, link, cached in zip(self.stack, links, cache, strict=True):
            x, keep = layer.horizontal(x, link, cached)
            kept.append(keep)
        return self.output(nn.relu(self.hidden(nn.relu(x)))), tuple(kept)

    def empty(self, batch: int) -> tuple[Cache, Cache]:
        """The caches at the start of an image and of a row."""
        # -> tuples of [B, kernel_radius, W, F] and of [B, 1, kernel_radius, F]
        rows, columns = (
            (batch, self.kernel_radius, self.shape[1], self.features),
            (batch, 1, self.kernel_radius, self.features),
        )
        return (jnp.zeros(rows),) * self.layers, (jnp.zeros(columns),) * self.layers
