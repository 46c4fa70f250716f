"""A diffusion Transformer with adaptive layer normalisation (Peebles and Xie 2023, "adaLN-Zero").

An image is cut into patches, one token each. Noise level and condition modulate every block by scales, shifts and
gates, which are 0 at initialisation: each block is then the identity. Prefix tokens come before the patches: registers
(Darcet et al. 2024), tokens of the class, the words of a caption. Maps and images of the condition are further channels
of the image. `denoising` describes inputs and outputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import backend
from genimg_jax.errors import ConfigError
from genimg_jax.networks.conditioning import (
    Condition,
    Fields,
    TokenEncoder,
    map_fields,
    sequence,
    valid_tokens,
    vector_fields,
)
from genimg_jax.networks.denoising import Modulator, SelfAttention, WithMaps, normal
from genimg_jax.networks.layers import Dense, Linear, unpatchify


def patchify(image: jax.Array, patch: int) -> jax.Array:
    """Patches of `patch` x `patch` pixels in raster order, the values of each in raster order.

    Raises `ConfigError` if they do not divide the image.
    """  # [B, H, W, C] -> [B, H W / patch^2, patch^2 C]
    batch, height, width, channels = image.shape
    if height % patch or width % patch:
        raise ConfigError(f"patches of {patch}x{patch} do not divide a {height}x{width} image; resize it or them.")
    x = image.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


def position_embedding(height: int, width: int, features: int) -> np.ndarray:
    """Sines and cosines of a token's row, then of its column (Vaswani et al. 2017 section 3.5, a half for each)."""
    # -> f32[height width, features]
    frequencies = 10_000.0 ** -(np.arange(features // 4) / (features / 4))
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = [np.outer(axis, frequencies) for axis in (rows, columns)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def modulate(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Normalised over its features, then scaled and shifted."""  # [B, S, F], 2 x [B, 1, F] -> [B, S, F]
    return nn.LayerNorm(use_bias=False, use_scale=False)(x) * (1 + scale) + shift


def modulation(parts: int, condition: jax.Array, features: int, name: str) -> list[jax.Array]:
    # [B, E] -> parts x [B, 1, features]
    all_parts = Linear(parts * features, kernel_init=nn.initializers.zeros, name=name)(condition)
    return jnp.split(all_parts[:, None], parts, axis=-1)


class Block(nn.Module):
    """Self-attention, then an MLP whose hidden layer is four times as wide; each is added through a gate."""

    heads: int
    forward_mode_ad: bool = False  # see `SelfAttention`

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        # [B, S, F], [B, E], bool[B, S] -> [B, S, F]
        features = x.shape[-1]
        scale, shift, gate, *following = modulation(6, condition, features, "modulation")
        attend = SelfAttention(features // self.heads, forward_mode_ad=self.forward_mode_ad, name="attention")
        x = x + gate * attend(modulate(x, scale, shift), valid)
        scale, shift, gate = following
        hidden = Linear(4 * features, kernel_init=normal, name="hidden")(modulate(x, scale, shift))
        x = x + gate * Linear(features, kernel_init=normal, name="out")(nn.gelu(hidden))
        return backend.materialize(x)


class Blocks(nn.Module):
    """`depth` blocks whose parameters are stacked: the first axis of each array is the block."""

    depth: int
    heads: int
    remat: bool
    scan_layers: bool
    forward_mode_ad: bool = False  # see `SelfAttention`

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        # [B, S, F], [B, E], bool[B, S] -> [B, S, F]
        def step(block, x, condition, valid):
            return block(x, condition, valid), None

        step = nn.remat(step, prevent_cse=False) if self.remat else step
        scan = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
            unroll=1 if self.scan_layers else self.depth,
        )
        return scan(Block(self.heads, self.forward_mode_ad, name="blocks"), x, condition, valid)[0]


class DiT(nn.Module):
    """Raises `ConfigError` for patches that do not divide the image, and heads that do not divide the width."""

    patch: int
    width: int
    depth: int
    heads: int
    out: int
    fields: Fields = ()
    registers: int = 0  # learned prefix tokens
    label_tokens: int = 0  # learned prefix tokens of each class
    remat: bool = False  # rematerialise: recompute blocks for their gradients, to save memory
    scan_layers: bool = False  # compile one block and loop over it: see `backbone.Options`
    forward_mode_ad: bool = False  # see `SelfAttention`

    @nn.compact
    def __call__(self, x: jax.Array, c_noise: jax.Array, condition: Condition) -> jax.Array:
        # [B, H, W, C], f32[B] or f32[B, K] -> f32[B, H, W, out]
        if self.width % (4 * self.heads):
            raise ConfigError(
                f"the DiT's width is {self.width}, which {self.heads} heads of a multiple of 4 cannot share; "
                f"use a multiple of {4 * self.heads}."
            )
        batch, height, width, _ = x.shape
        vector = Modulator(self.width, vector_fields(self.fields), name="condition")(c_noise, condition)
        x = WithMaps(map_fields(self.fields), name="maps")(x, condition)
        x = Dense(self.width, name="first")(patchify(x, self.patch))
        x = x + position_embedding(height // self.patch, width // self.patch, self.width).astype(x.dtype)[None]
        prefix_tokens, valid = self.prefix_tokens(condition, batch)
        patches = x.shape[1]
        if valid is not None:
            valid = jnp.pad(valid, ((0, 0), (self.registers, patches)), constant_values=True)
        blocks = Blocks(self.depth, self.heads, self.remat, self.scan_layers, self.forward_mode_ad, name="trunk")
        x = blocks(jnp.concatenate([*prefix_tokens, x], axis=1), vector, valid)[:, -patches:]
        scale, shift = modulation(2, vector, self.width, "last_modulation")
        last = Linear(self.patch**2 * self.out, kernel_init=nn.initializers.zeros, name="last")
        return unpatchify(last(modulate(x, scale, shift)).astype(jnp.float32), self.patch, height, width)

    def prefix_tokens(self, condition: Condition, batch: int) -> tuple[list[jax.Array], jax.Array | None]:
        """The tokens before the patches, registers first, and which of the others are valid."""
        # -> list of [B, any, width], bool[B, T]
        prefix_tokens = []
        if self.registers:
            registers = self.param("registers", nn.initializers.normal(1.0), (self.registers, self.width))
            prefix_tokens.append(jnp.broadcast_to(registers, (batch, *registers.shape)))
        token_fields = tuple((n, f) for n, f in self.fields if sequence(f) or (not f.shape and self.label_tokens))
        if token_fields:
            encoder = TokenEncoder(token_fields, self.width, self.label_tokens, nullable=True, name="tokens")
            prefix_tokens.append(encoder(condition, batch))
        return prefix_tokens, valid_tokens(token_fields, condition, batch, self.label_tokens)
