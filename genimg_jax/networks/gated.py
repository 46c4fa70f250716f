"""The gated PixelCNN of van den Oord et al. 2016 ("Conditional image generation with PixelCNN decoders"), section 2.

There are two stacks of features, so that no earlier pixel is in a blind spot: the vertical stack at (r, c) depends on
the rows above r, the horizontal stack also on the pixels to the left in row r. Shifts take the place of masks: the
input is shifted once, by a row down or a column right, and every window covers only rows above and columns to the left.
The current row of vertical features and the current pixel of horizontal features do not depend on later pixels, so
windows may include them.

A sampler computes a part of the image with the same code: in place of the padding it gives the cached features of the
rows above (`vertical`) or of the pixels to the left (`horizontal`).

With `groups` = C channels, features are split among the channels in their order (red, green, blue). The features of
channel c depend on the channels before c of the current pixel, and not on the others.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import backend
from genimg_jax.networks.conditioning import Condition, Fields, MapEncoder, VectorEncoder, map_fields, vector_fields
from genimg_jax.networks.layers import add

Cache = tuple[jax.Array | None, ...]  # per layer; None: only padding


class Convolution(nn.Module):
    """A convolution with a window [rows, columns], in the dtype of its parameters; `sides` zero columns on each side.

    With several `groups` the window's last column is the current pixel. There, output channels of group g depend on
    input channels of groups up to g; if `strict`, before g. Each of the `gates` parts of the output has these groups.
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
            connected = np.less.outer(source, target) if self.strict else np.less_equal.outer(source, target)
            mask = np.ones(shape, np.float32)
            mask[:, -1] = np.tile(connected, self.gates)
            kernel = kernel * mask.astype(kernel.dtype)
        x = x.astype(kernel.dtype)
        if self.window == (1, 1):
            return add(x @ kernel[0, 0], bias)
        padding = ((0, 0), (self.sides, self.sides))
        return add(backend.convolution(x, kernel, (1, 1), padding), bias)


def gate(x: jax.Array) -> jax.Array:
    """Equation 2 of the paper."""  # [..., 2 F] -> [..., F]
    value, opening = jnp.split(x, 2, axis=-1)
    return jnp.tanh(value) * nn.sigmoid(opening)


def before(x: jax.Array, cached: jax.Array | None, axis: int, size: int) -> jax.Array:
    """Prepends the `size` cached rows or columns before `x`, or zeros."""  # axis: N -> size + N
    if cached is not None:
        return jnp.concatenate([cached, x], axis)
    return jnp.pad(x, [(size, 0) if i == axis else (0, 0) for i in range(x.ndim)])


def last(x: jax.Array, axis: int, size: int) -> jax.Array:  # axis: N -> size
    return jax.lax.slice_in_dim(x, x.shape[axis] - size, None, axis=axis)


class GatedLayer(nn.Module):
    """Figure 2 of the paper. The link is what the vertical stack adds to the horizontal stack.

    The condition is a bias of the vertical stack (equation 4), which reaches the horizontal stack through the link.
    """

    features: int
    kernel_radius: int  # rows above, and columns to either side, in a layer's window
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
        """Features and link of the rows of `x`, and the cache for the rows below."""
        # [B, R, W, F], [B, kernel_radius, W, F] -> [B, R, W, F], [B, R, W, 2 F], [B, kernel_radius, W, F]
        rows = before(x, cached, 1, self.kernel_radius)
        x = self.down(rows)
        if self.fields:
            x = x + jnp.broadcast_to(self.condition(condition, len(x))[:, None, None], x.shape)
        return gate(x), self.link(x), last(rows, 1, self.kernel_radius)

    def horizontal(self, x: jax.Array, link: jax.Array, cached: jax.Array | None):
        """Features of the columns of `x`, and the cache for the columns to the right."""
        # [B, R, N, F], [B, R, N, 2 F], [B, R, kernel_radius, F] -> [B, R, N, F], [B, R, kernel_radius, F]
        columns = before(x, cached, 2, self.kernel_radius)
        return x + self.out(gate(self.across(columns) + link)), last(columns, 2, self.kernel_radius)


class GatedPixelCNN(nn.Module):
    """An image to the outputs of each pixel's distribution given the pixels before it in raster order.

    With `positions`, a learned vector for each pixel is added to the vertical stack's first features: convolutions are
    the same everywhere, but centred images are not. Maps and images of the condition are added to the vertical stack's
    first features too (equation 5).
    """

    shape: tuple[int, int]  # (height, width) of the image
    features: int
    layers: int
    out: int  # output channels
    kernel_radius: int = 1
    first_kernel_radius: int = 3  # of the first layer, whose input has few channels
    groups: int = 1  # of channels, each conditioned on those before it; 1: channels are not conditioned on one another
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
            GatedLayer(self.features, self.kernel_radius, self.groups, vector_fields(self.fields))
            for _ in range(self.layers)
        ]
        if map_fields(self.fields):
            self.map = MapEncoder(map_fields(self.fields), self.features, self.shape)
        self.hidden = Convolution(self.features, (1, 1), self.groups)
        self.output = Convolution(self.out, (1, 1), self.groups)

    def __call__(self, image: jax.Array, condition: Condition) -> jax.Array:
        # [B, H, W, C] -> [B, H, W, out]
        no_cache = (None,) * self.layers
        links, _ = self.vertical(before(image[:, :-1], None, 1, self.first_kernel_radius), 0, condition, no_cache)
        return self.horizontal(before(image[:, :, :-1], None, 2, self.first_kernel_radius), image, links, no_cache)[0]

    def vertical(
        self, above: jax.Array, first: int | jax.Array, condition: Condition, cache: Cache
    ) -> tuple[Cache, Cache]:
        """The links of all layers for R rows from row `first` on, from the pixels above them, and the next cache."""
        # [B, first_kernel_radius + R - 1, W, C], i32[]
        # -> tuple of [B, R, W, 2 F], tuple of [B, kernel_radius, W, F]
        x = self.first_down(above)
        if self.positions:
            place = jax.lax.dynamic_slice_in_dim(self.place, first, x.shape[1])
            x = x + jnp.broadcast_to(place[None], x.shape)
        if map_fields(self.fields):
            x = x + jax.lax.dynamic_slice_in_dim(self.map(condition, len(x)), first, x.shape[1], 1).astype(x.dtype)
        links, next_cache = [], []
        for layer, cached in zip(self.stack, cache, strict=True):
            x, link, rows = layer.vertical(x, condition, cached)
            links.append(link)
            next_cache.append(rows)
        return tuple(links), tuple(next_cache)

    def horizontal(self, left: jax.Array, current: jax.Array, links: Cache, cache: Cache) -> tuple[jax.Array, Cache]:
        """Outputs of N columns, from the pixels to their left and their own earlier channels, and the next cache."""
        # [B, R, first_kernel_radius + N - 1, C], [B, R, N, C], tuple of [B, R, N, 2 F]
        # -> [B, R, N, out], tuple of [B, R, kernel_radius, F]
        x = self.first_across(left)
        if self.groups > 1:
            x = x + self.first_current(current)
        next_cache = []
        for layer, link, cached in zip(self.stack, links, cache, strict=True):
            x, columns = layer.horizontal(x, link, cached)
            next_cache.append(columns)
        return self.output(nn.relu(self.hidden(nn.relu(x)))), tuple(next_cache)

    def empty(self, batch: int) -> tuple[Cache, Cache]:
        """The caches at the start of an image and of a row."""
        # -> tuples of [B, kernel_radius, W, F] and of [B, 1, kernel_radius, F]
        rows, columns = (
            (batch, self.kernel_radius, self.shape[1], self.features),
            (batch, 1, self.kernel_radius, self.features),
        )
        return (jnp.zeros(rows),) * self.layers, (jnp.zeros(columns),) * self.layers
