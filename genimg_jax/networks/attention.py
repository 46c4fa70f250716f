"""A Transformer decoder over tokens on a grid (Vaswani et al. 2017; pre-norm, Radford et al. 2019), and its cache.

The tokens are in raster order on a grid of any dimension: an image's values on (height, width, channels), codes on
(height, width). The layers' sequence has a slot for each prefix token and for each token except the last. A slot
predicts the next token: its input is the previous token, and its position is that of the token that it predicts.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import backend
from genimg_jax.networks.conditioning import Condition, Fields, TokenEncoder, token_count, valid_tokens
from genimg_jax.networks.layers import Linear

INVALID = -1e9  # the score of an invalid slot; a finite one, so that the mean is taken where no slot is valid


class Cache(NamedTuple):
    blocks: tuple[tuple[jax.Array, jax.Array], ...]
    """Keys and values of each block, [B, heads, slots, features]"""
    valid: jax.Array | None
    """bool[B, slots], see `Decoder.valid_slots`"""


def causal_attention(query: jax.Array, key: jax.Array, value: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Scaled dot-product attention of every slot to itself and the valid slots before it."""
    # 3 x [B, heads, T, D], bool[B, T] -> [B, heads, T, D]
    formula = functools.partial(masked_attention, first=0, valid=valid)
    mask = None if valid is None else valid[:, None, None] | jnp.eye(query.shape[2], dtype=bool)[None, None]
    return backend.attention(formula, query, key, value, is_causal=True, mask=mask)


def full_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    forward_mode_ad: bool = False,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention of every slot to all valid slots.

    `forward_mode_ad`: with derivatives in forward mode.
    """
    # [B, heads, T, D], 2 x [B, heads, S, D], bool[B, S] -> [B, heads, T, D]
    mask = None if valid is None else valid[:, None, None]
    formula = functools.partial(_bidirectional_attention, mask=mask)
    return backend.attention(formula, query, key, value, forward_mode_ad=forward_mode_ad, mask=mask)


def _bidirectional_attention(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    # Scaling the query instead of the scores saves a pass over the largest array.
    scores = jnp.einsum("bhnd,bhsd->bhns", query / math.sqrt(query.shape[-1]), key).astype(jnp.float32)
    scores = scores if mask is None else jnp.where(mask, scores, INVALID)
    return jnp.einsum("bhns,bhsd->bhnd", jax.nn.softmax(scores).astype(value.dtype), value)


def masked_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, first: int | jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Attention of the slots `first`, `first` + 1, ... to their own and to all valid slots before it."""
    # [B, heads, N, D], 2 x [B, heads, S, D], bool[B, S] -> [B, heads, N, D]
    scores = jnp.einsum("bhnd,bhsd->bhns", query, key).astype(jnp.float32) / math.sqrt(query.shape[-1])
    slots, here = jnp.arange(key.shape[2])[None, :], first + jnp.arange(query.shape[2])[:, None]
    mask = (slots <= here)[None, None]
    if valid is not None:
        mask &= valid[:, None, None] | (slots == here)[None, None]
    scores = jnp.where(mask, scores, -jnp.inf)
    return jnp.einsum("bhns,bhsd->bhnd", jax.nn.softmax(scores).astype(value.dtype), value)


def grid_positions(shape: tuple[int, ...], prefix: int) -> np.ndarray:
    """The position that each slot predicts, on every axis of the grid; slots that predict none have negative ones."""
    # -> i32[prefix - 1 + tokens, axes]
    tokens = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), axis=-1)
    before = np.repeat(np.arange(1 - prefix, 0)[:, None], len(shape), axis=1)
    return np.concatenate([before, tokens]).astype(np.int32)


def rotations(positions: np.ndarray, features: int) -> np.ndarray:
    """Angles of rotary positions (Su et al. 2021), the features shared among the axes of the grid.

    Pairs that are left over are not rotated. Wavelengths are from 2 pi to 200 pi, enough for grids of this size.
    """  # i32[S, axes], -> f32[S, features / 2]
    axes, pairs = positions.shape[1], features // 2
    each = pairs // axes
    frequency = 100.0 ** -(np.arange(each) / max(each, 1))
    angles = (positions[:, :, None] * frequency).reshape(len(positions), axes * each)
    return np.pad(angles, ((0, 0), (0, pairs - axes * each))).astype(np.float32)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates the pairs of feature i of the first half and feature i of the second half."""
    # [B, heads, S, D], f32[S, D / 2] -> [B, heads, S, D]
    first, second = jnp.split(x, 2, axis=-1)
    sine, cosine = (f(angles).astype(x.dtype)[None, None] for f in (jnp.sin, jnp.cos))
    return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1)


class Block(nn.Module):
    """Attention, then an MLP whose hidden layer is four times as wide; each is added to its input."""

    width: int
    heads: int
    depth: int  # of the whole network: the more blocks, the less each adds at initialisation (Radford et al. 2019)

    def setup(self):
        small = nn.initializers.variance_scaling(0.5 / self.depth, "fan_in", "truncated_normal")
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(), nn.LayerNorm()
        self.heads_in = Linear(3 * self.width, use_bias=False)
        self.heads_out = Linear(self.width, kernel_init=small)
        self.hidden = Linear(4 * self.width)
        self.out = Linear(self.width, kernel_init=small)

    def __call__(self, x: jax.Array, angles: jax.Array | None, valid: jax.Array | None = None) -> jax.Array:
        # [B, S, width], bool[B, S] -> [B, S, width]
        return self.add_and_mlp(x, causal_attention(*self.split(x, angles), valid))

    def extend(
        self,
        x: jax.Array,
        angles: jax.Array | None,
        cache: tuple[jax.Array, jax.Array],
        first: int | jax.Array,
        valid: jax.Array | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The same for the N slots from `first` on; the slots before them are in the cache."""
        # [B, N, width], f32[N, D / 2] -> [B, N, width], the cache with them
        query, *new = self.split(x, angles)
        cache = [jax.lax.dynamic_update_slice_in_dim(old, n, first, 2) for old, n in zip(cache, new, strict=True)]
        return self.add_and_mlp(x, masked_attention(query, *cache, first, valid)), tuple(cache)

    def split(self, x: jax.Array, angles: jax.Array | None) -> list[jax.Array]:
        # [B, S, width] -> query, key and value, [B, heads, S, width / heads] each
        parts = self.heads_in(self.attention_norm(x)).reshape(*x.shape[:2], 3, self.heads, -1)
        query, key, value = (parts[:, :, i].swapaxes(1, 2) for i in range(3))
        return [query, key, value] if angles is None else [rotate(query, angles), rotate(key, angles), value]

    def add_and_mlp(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        # [B, S, width], [B, heads, S, width / heads] -> [B, S, width]
        x = x + self.heads_out(attended.swapaxes(1, 2).reshape(x.shape))
        return x + self.out(nn.gelu(self.hidden(self.perceptron_norm(x))))


class Decoder(nn.Module):
    """A prefix and the tokens so far to the logits of each next token.

    `positions` is 'learned' (the sum of a vector for each coordinate on each axis of the grid) or 'rotary'.
    """

    vocabulary: int
    grid: tuple[int, ...]  # of the tokens, in raster order
    width: int
    depth: int
    heads: int
    positions: str = "learned"
    fields: Fields = ()  # of the condition, which is a prefix of tokens
    model_condition: bool = False  # whether it is a single field of tokens that are predicted too

    @property
    def prefix_length(self) -> int:
        return token_count(self.fields) or 1

    def setup(self):
        # Unit variance, like what the blocks add: normalising smaller vectors would enlarge their gradients.
        embed = functools.partial(nn.Embed, features=self.width, embedding_init=nn.initializers.normal(1.0))
        self.token = embed(self.vocabulary)
        if self.fields:
            self.condition = TokenEncoder(self.fields, self.width)
        else:
            self.prefix = embed(1)
        if self.positions == "learned":
            self.place = [embed(size) for size in self.grid]
            if self.prefix_length > 1:
                self.prefix_place = embed(self.prefix_length - 1)
        self.blocks = [Block(self.width, self.heads, self.depth) for _ in range(self.depth)]
        self.norm = nn.LayerNorm()
        self.logits = Linear(self.vocabulary, kernel_init=nn.initializers.zeros)  # uniform at initialisation
        if self.model_condition:
            words = self.fields[0][1].size
            self.first_word = self.param("first_word", nn.initializers.zeros, (words,))
            self.next_word = Linear(words, kernel_init=nn.initializers.zeros)

    def prefix_tokens(self, condition: Condition, count: int) -> jax.Array:  # -> [B, prefix_length, width]
        if self.fields:
            return self.condition(condition, count)
        return self.prefix(jnp.zeros((count, 1), jnp.int32))

    def valid_slots(self, condition: Condition, count: int) -> jax.Array | None:  # -> bool[B, slots]
        """The slots that others attend to: all but padding. None: all."""
        valid = valid_tokens(self.fields, condition, count)
        if valid is None:
            return None
        return jnp.pad(valid, ((0, 0), (0, math.prod(self.grid) - 1)), constant_values=True)

    def __call__(self, condition: Condition, tokens: jax.Array) -> jax.Array:
        """Logits of every token given the condition and the tokens before it."""  # i32[B, T] -> f32[B, T, vocabulary]
        x = jnp.concatenate([self.prefix_tokens(condition, len(tokens)), self.token(tokens[:, :-1])], axis=1)
        x, angles = self.with_positions(x, 0)
        valid = self.valid_slots(condition, len(tokens))
        for block in self.blocks:
            x = backend.materialize(block(x, angles, valid))
        return self.logits(self.norm(x[:, self.prefix_length - 1 :])).astype(jnp.float32)

    def condition_logits(self, condition: Condition, count: int) -> jax.Array:
        """Logits of every token of the condition given those before it."""  # -> f32[B, prefix_length, words]
        # Without a mask: padding follows all words, and what is predicted after the first 0 counts for nothing.
        x, angles = self.with_positions(self.prefix_tokens(condition, count)[:, :-1], 0)
        for block in self.blocks:
            x = backend.materialize(block(x, angles))
        first = jnp.broadcast_to(self.first_word, (count, 1, *self.first_word.shape))
        return jnp.concatenate([first, self.next_word(self.norm(x))], axis=1).astype(jnp.float32)

    def joint_logits(self, condition: Condition, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of every token, and of every token of the condition."""
        return self(condition, tokens), self.condition_logits(condition, len(tokens))

    def with_positions(self, x: jax.Array, first: int | jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The slots from `first` on with their positions: learned vectors are added, or rotary angles returned."""
        # [B, N, width] -> [B, N, width], f32[N, D / 2] or None
        count = x.shape[1]
        positions = grid_positions(self.grid, self.prefix_length)
        if self.positions == "rotary":
            angles = jnp.asarray(rotations(positions, self.width // self.heads))
            return x, jax.lax.dynamic_slice_in_dim(angles, first, count)
        coordinates = jnp.maximum(jax.lax.dynamic_slice_in_dim(jnp.asarray(positions), first, count), 0)
        positions_embedded = sum(embed(coordinates[:, axis]) for axis, embed in enumerate(self.place))
        if self.prefix_length > 1:
            slots = first + jnp.arange(count)
            before = self.prefix_place(jnp.minimum(slots, self.prefix_length - 2))
            positions_embedded = jnp.where(slots[:, None] < self.prefix_length - 1, before, positions_embedded)
        return x + positions_embedded[None], None

    def start(self, condition: Condition, count: int) -> tuple[jax.Array, Cache]:
        """The input of the slot that predicts the first token, and the cache of the slots before it."""
        # -> [B, 1, width], cache
        x = self.prefix_tokens(condition, count)
        slots = self.prefix_length - 1 + math.prod(self.grid)
        empty = jnp.zeros((x.shape[0], self.heads, slots, self.width // self.heads), x.dtype)
        cache = Cache(((empty, empty),) * self.depth, self.valid_slots(condition, count))
        if self.prefix_length > 1:
            _, cache = self.extend(x[:, :-1], cache, 0)
        return x[:, -1:], cache

    def step(self, slot: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        """Logits of the token at `position` from the input of its slot."""
        # [B, 1, width], i32[] -> f32[B, vocabulary]
        x, cache = self.extend(slot, cache, self.prefix_length - 1 + position)
        return self.logits(self.norm(x[:, 0])).astype(jnp.float32), cache

    def embed_next(self, token: jax.Array) -> jax.Array:
        """The input of the next slot, after this token."""  # i32[B] -> [B, 1, width]
        return self.token(token)[:, None]

    def extend(self, x: jax.Array, cache: Cache, first: int | jax.Array) -> tuple[jax.Array, Cache]:
        # [B, N, width] -> [B, N, width]
        x, angles = self.with_positions(x, first)
        caches = []
        for block, block_cache in zip(self.blocks, cache.blocks, strict=True):
            x, block_cache = block.extend(x, angles, block_cache, first, cache.valid)
            caches.append(block_cache)
        return x, cache._replace(blocks=tuple(caches))
