"""Encoders of a network's condition: any fields of the data, as a vector, as tokens or as a map.

A network uses the form that fits it: a vector for modulation or concatenation, tokens for attention, a map for
convolutions. A condition is a mapping, such as a batch, that holds the fields. Its optional key `keep` bool[B] says for
which examples the condition is kept; for the others it is dropped. None drops it for all examples. A network that is
`nullable` replaces a dropped condition by a learned null, as classifier-free guidance needs (Ho and Salimans 2022).
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.core import Field
from genimg_jax.networks.layers import Dense

Condition = Mapping[str, jax.Array] | None
Fields = tuple[tuple[str, Field], ...]

WORD = 64  # features of a word, before it is encoded with its position
SEGMENT = 8  # features of a pixel of a map or an image, before it is encoded as a vector
COARSEST = 8  # height or width to which maps and images are averaged for a vector


def spatial(field: Field) -> bool:
    """Whether it is a map or an image."""
    return len(field.shape) >= 2


def sequence(field: Field) -> bool:
    """Whether it is a sequence of tokens."""
    return len(field.shape) == 1 and field.size > 0


def token_count(fields: Fields, label_tokens: int = 1) -> int:
    """The number of tokens of `TokenEncoder` for these fields."""
    return sum(field.shape[0] if sequence(field) else 1 if field.shape else label_tokens for _, field in fields)


def valid_tokens(fields: Fields, condition: Condition, count: int, label_tokens: int = 1) -> jax.Array | None:
    """Which tokens of `TokenEncoder` can be attended to: all but padding; the nulls of dropped tokens are not padding.
    None if no field is a sequence."""  # -> bool[B, T]
    if not any(sequence(field) for _, field in fields):
        return None

    def valid(name: str, field: Field) -> jax.Array:
        if not sequence(field):
            return jnp.ones((count, token_count(((name, field),), label_tokens)), bool)
        dropped = ~keep_mask(condition, count)[:, None]
        return (_value(condition, name, field, count) != 0) | dropped

    return jnp.concatenate([valid(*field) for field in fields], axis=1)


def keep_mask(condition: Condition, count: int) -> jax.Array:  # -> bool[B]
    """The examples whose condition is not dropped."""
    if condition is None:
        return jnp.zeros(count, bool)
    return condition.get("keep", jnp.ones(count, bool))


def _value(condition: Condition, name: str, field: Field, count: int) -> jax.Array:  # -> [B, *field.shape]
    """The field's values, or zeros if the condition is None."""
    if condition is None:
        return jnp.zeros((count, *field.shape), jnp.int32 if field.size else jnp.float32)
    return condition[name]


class Pixels(nn.Module):
    """A map i32[B, H, W], or f32[B, H, W] or f32[B, H, W, C], to [B, H, W, features]."""

    field: Field
    features: int

    @nn.compact
    def __call__(self, value: jax.Array) -> jax.Array:
        if self.field.size:
            return nn.Embed(self.field.size, self.features, embedding_init=nn.initializers.normal(1.0))(value)
        return Dense(self.features)(value.reshape(*value.shape[:3], -1))


class Words(nn.Module):
    """Tokens i32[B, T] to [B, T, features]: each encoded with its position; 0 for padding."""

    field: Field
    features: int

    @nn.compact
    def __call__(self, value: jax.Array) -> jax.Array:
        init = nn.initializers.normal(math.sqrt(0.5))
        words = nn.Embed(self.field.size, WORD, embedding_init=init, name="word")(value)
        positions = self.param("place", init, (value.shape[1], WORD))
        hidden = nn.silu(
            Dense(2 * WORD, name="hidden")(words + jnp.broadcast_to(positions.astype(words.dtype), words.shape))
        )
        return jnp.where((value != 0)[..., None], Dense(self.features, name="out")(hidden), 0)


class FieldVector(nn.Module):
    """Any field except a class to a vector.

    Of tokens it is the sum over those that are not padding, divided by the square root of their number.
    """

    field: Field
    features: int

    @nn.compact
    def __call__(self, value: jax.Array) -> jax.Array:  # [B, *field.shape] -> [B, features]
        if sequence(self.field):
            total = Words(self.field, self.features, name="words")(value).sum(1)
            return total / jnp.sqrt(jnp.maximum((value != 0).sum(1, keepdims=True), 1)).astype(total.dtype)
        if spatial(self.field):
            x = Pixels(self.field, SEGMENT, name="pixels")(value)
            while max(x.shape[1:3]) > COARSEST:
                x = nn.avg_pool(x, (2, 2), (2, 2), "SAME")
            value = nn.silu(x).reshape(x.shape[0], -1)
        return Dense(self.features, name="out")(value)


def _null_where_dropped(
    module: nn.Module, name: str, shape: tuple[int, ...], value: jax.Array, condition: Condition, scale: float = 1.0
) -> jax.Array:  # [B, ...] -> [B, ...]
    """The encoded field, or a learned null of the `shape` where the condition is dropped, if the module is nullable."""
    if not module.nullable:
        return value
    null = module.param(f"{name}_null", nn.initializers.normal(scale), shape).astype(value.dtype)
    keep = keep_mask(condition, len(value)).reshape(-1, *(1,) * (value.ndim - 1))
    return jnp.where(keep, value, null)


class VectorEncoder(nn.Module):
    """The sum of a vector for each field. A class's vector starts with independent values of deviation `scale`."""

    fields: Fields
    features: int
    scale: float = 1.0
    nullable: bool = False

    @nn.compact
    def __call__(self, condition: Condition, count: int) -> jax.Array:  # -> [B, features]
        return sum(self.encoded(name, field, condition, count) for name, field in self.fields)

    def encoded(self, name: str, field: Field, condition: Condition, count: int) -> jax.Array:
        init, value = nn.initializers.normal(self.scale), _value(condition, name, field, count)
        if not field.shape and field.size:
            if self.nullable:  # the null is the row after the classes'
                value = jnp.where(keep_mask(condition, count), value, field.size)
            return nn.Embed(field.size + self.nullable, self.features, embedding_init=init, name=name)(value)
        vector = self.scale * FieldVector(field, self.features, name=name)(value.reshape(count, *(field.shape or (1,))))
        return _null_where_dropped(self, name, (self.features,), vector, condition, self.scale)


class TokenEncoder(nn.Module):
    """A sequence of vectors: one for each token of a caption, `label_tokens` for a class, one for any other field."""

    fields: Fields
    features: int
    label_tokens: int = 1
    nullable: bool = False

    @nn.compact
    def __call__(self, condition: Condition, count: int) -> jax.Array:  # -> [B, T, features]
        return jnp.concatenate([self.encoded(*field, condition, count) for field in self.fields], axis=1)

    def encoded(self, name: str, field: Field, condition: Condition, count: int) -> jax.Array:
        if not sequence(field):
            tokens = token_count(((name, field),), self.label_tokens)
            encoder = VectorEncoder(((name, field),), tokens * self.features, nullable=self.nullable, name=name)
            return encoder(condition, count).reshape(count, tokens, self.features)
        tokens = Words(field, self.features, name=name)(_value(condition, name, field, count))
        return _null_where_dropped(self, name, (field.shape[0], self.features), tokens, condition)


class MapEncoder(nn.Module):
    """The sum of a map for each field of maps and images, resized to the `shape` of the network's image."""

    fields: Fields
    features: int
    shape: tuple[int, int]  # (height, width)
    nullable: bool = False

    @nn.compact
    def __call__(self, condition: Condition, count: int) -> jax.Array:  # -> [B, *shape, features]
        return sum(self.encoded(name, field, condition, count) for name, field in self.fields)

    def encoded(self, name: str, field: Field, condition: Condition, count: int) -> jax.Array:
        pixels = Pixels(field, self.features, name=name)(_value(condition, name, field, count))
        pixels = jax.image.resize(pixels, (count, *self.shape, self.features), "nearest")
        return _null_where_dropped(self, name, (self.features,), pixels, condition)


def with_channel(fields: Fields, image: jax.Array, condition: Condition) -> jax.Array:
    """The image with its condition's vector as one more channel, inside a compact module (Mirza and Osindero 2014)."""
    if not fields:
        return image
    count, height, width, _ = image.shape  # [B, H, W, C] -> [B, H, W, C + 1]
    channel = VectorEncoder(fields, height * width, name="condition")(condition, count)
    return jnp.concatenate([image, channel.reshape(-1, height, width, 1)], axis=-1)


def with_vector(fields: Fields, code: jax.Array, condition: Condition) -> jax.Array:
    """The code with its condition's vector beside each of its vectors, inside a compact module."""
    if not fields:
        return code
    vector = VectorEncoder(fields, code.shape[-1], name="condition")(condition, code.shape[0])
    vector = vector.reshape(-1, *(1,) * (code.ndim - 2), code.shape[-1])  # [B, ..., Z] -> [B, ..., 2 Z]
    return jnp.concatenate([code, jnp.broadcast_to(vector, code.shape)], axis=-1)


def map_fields(fields: Fields) -> Fields:
    """Maps and images, the fields that `MapEncoder` takes."""
    return tuple((name, field) for name, field in fields if spatial(field))


def vector_fields(fields: Fields) -> Fields:
    """The other fields, which a network with a `MapEncoder` encodes as vectors."""
    return tuple((name, field) for name, field in fields if not spatial(field))
