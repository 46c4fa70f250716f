"""Normalising flow of affine coupling layers (real NVP): Dinh et al. 2017. Its likelihood is a lower bound.

An image of levels is dequantised with uniform noise and mapped to the real numbers by a logit. Coupling layers map it
to standard normal codes of the same size, and their inverse maps codes to images. The density of the dequantised image
is exact. The mean of its logarithm over the noise is a lower bound on the log probability of the image (Theis et al.
2016, section 3.1).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.networks.conditioning import Condition, Fields, VectorEncoder
from genimg_jax.networks.mlp import MLP
from genimg_jax.objectives.gaussian import log_normal
from genimg_jax.objectives.likelihoods import to_levels, to_values
from genimg_jax.options import bounded, names

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    couplings: int = bounded(8, 1)  # K, coupling layers; each transforms every second pixel
    width: int = bounded(256, 1)  # hidden units of a layer's MLP
    depth: int = bounded(2, 1)  # its hidden layers
    alpha: float = bounded(0.05, 1e-6, 0.49)  # least distance of the logit's argument from 0 and 1
    scale_limit: float = bounded(1.0, 0.0)  # a layer's scales are from exp(-limit) to exp(limit)
    evaluate_draws: int = bounded(32, 1, inference_only=True)  # of dequantising noise per image, in `log_prob`
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


class Coupling(nn.Module):
    """The log scales and shifts of one layer, from an MLP of the values that the layer does not transform."""

    mask: tuple[int, ...]  # of the flattened image: 0 is transformed, 1 is not
    width: int
    depth: int
    fields: Fields

    @nn.compact
    def __call__(self, x: jax.Array, condition: Condition, limit: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Log scales and shifts, 0 where the mask is 1."""  # [B, D] -> f32[B, D], f32[B, D]
        mask = jnp.asarray(self.mask, x.dtype)[None]
        inputs = x * mask
        if self.fields:
            vector = VectorEncoder(self.fields, self.width, name="condition")(condition, len(x))
            inputs = jnp.concatenate([inputs, vector], axis=-1)
        # With gains of 0 the flow starts as the identity: the scales of random layers would multiply.
        gain = self.param("gain", nn.initializers.zeros, (2 * len(self.mask),))
        outputs = MLP((self.width,) * self.depth, 2 * len(self.mask), "relu", name="network")(inputs, False)
        raw, shift = jnp.split((gain[None] * outputs).astype(jnp.float32), 2, axis=-1)
        return (1 - mask) * limit * jnp.tanh(raw), (1 - mask) * shift


class Flow(nn.Module):
    """Coupling layers whose masks are the two colours of a checkerboard in turn (section 3.4)."""

    shape: tuple[int, int, int]  # (height, width, channels)
    couplings: int
    width: int
    depth: int
    fields: Fields = ()

    def setup(self):
        height, width, channels = self.shape
        odd = [(row + column) % 2 for row in range(height) for column in range(width) for _ in range(channels)]
        masks = [tuple(odd), tuple(1 - colour for colour in odd)]
        self.layers = [Coupling(masks[k % 2], self.width, self.depth, self.fields) for k in range(self.couplings)]

    def __call__(self, x: jax.Array, condition: Condition, limit: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Codes, and the log determinant of their Jacobian: equations 9 and 6."""  # [B, D] -> f32[B, D], f32[B]
        log_determinant = jnp.zeros(len(x))
        for layer in self.layers:
            log_scale, shift = layer(x, condition, limit)
            x = x * jnp.exp(log_scale) + shift
            log_determinant += log_scale.sum(axis=1)
        return x, log_determinant

    def inverse(self, z: jax.Array, condition: Condition, limit: jax.Array) -> jax.Array:
        """The values that have these codes: equation 8."""  # [B, D] -> f32[B, D]
        for layer in reversed(self.layers):
            log_scale, shift = layer(z, condition, limit)
            z = (z - shift) * jnp.exp(-log_scale)
        return z


class Model(NamedTuple):
    """The flow between dequantised images v and codes, both [B, D]. The values of v are in [0, levels)."""

    options: Options
    spec: core.Spec
    network: Flow

    def to_codes(
        self, params: core.Tree, image: jax.Array, noise: jax.Array, condition: Condition
    ) -> tuple[jax.Array, jax.Array]:
        """Codes of the image with noise in [0, 1), and the log determinant of dz / dv."""
        # [B, H, W, C], [B, H, W, C] -> f32[B, D], f32[B]
        dequantised = (to_levels(image, self.spec.levels) + noise).reshape(len(image), -1)
        x, stretch = logit(dequantised, self.options.alpha, self.spec.levels)
        codes, log_determinant = self.network.apply({"params": params}, x, condition, self.options.scale_limit)
        return codes, log_determinant + stretch

    def from_codes(self, params: core.Tree, codes: jax.Array, condition: Condition) -> jax.Array:
        """The image whose dequantised values have these codes; values outside [0, levels) are clipped."""
        # [B, D] -> f32[B, H, W, C] in [-1, 1]
        limit, levels = self.options.scale_limit, self.spec.levels
        x = self.network.apply({"params": params}, codes, condition, limit, method="inverse")
        level = jnp.clip(jnp.floor(unlogit(x, self.options.alpha, levels)), 0, levels - 1)
        return to_values(level, levels).reshape(-1, *self.spec.image_shape)

    def log_density(self, params: core.Tree, batch: core.Batch, keys: jax.Array) -> jax.Array:
        """Log density of the image with noise from each key, in nats: equations 2 and 3."""  # key[B] -> f32[B]
        noise = jax.vmap(lambda key: jax.random.uniform(key, self.spec.image_shape))(keys)
        codes, log_determinant = self.to_codes(params, batch["image"], noise, batch)
        return log_normal(codes, 0.0, 0.0) + log_determinant


def logit(v: jax.Array, alpha: jax.Array, levels: int) -> tuple[jax.Array, jax.Array]:
    """x = logit(alpha + (1 - 2 alpha) v / levels), and the log determinant of dx / dv.

    Section 4.1, with alpha at both ends as in Papamakarios et al. 2017.
    """  # [B, D] -> f32[B, D], f32[B]
    p = alpha + (1 - 2 * alpha) * v / levels
    x = jnp.log(p) - jnp.log1p(-p)
    return x, (jnp.log((1 - 2 * alpha) / levels) - jnp.log(p) - jnp.log1p(-p)).sum(axis=1)


def unlogit(x: jax.Array, alpha: jax.Array, levels: int) -> jax.Array:
    """The inverse of `logit`; below 0 or above `levels` for an x that is not in its range."""  # [B, D] -> f32[B, D]
    return (jax.nn.sigmoid(x) - alpha) / (1 - 2 * alpha) * levels


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`."""
    fields, flat = core.fields_of(options.conditions, spec), (-1, math.prod(spec.image_shape))
    network = Flow(spec.image_shape, options.couplings, options.width, options.depth, fields)
    model = Model(options, spec, network)

    def init(key, batch):
        image = batch["image"].reshape(flat)
        return core.init_state({"model": network.init(key, image, batch, options.scale_limit)["params"]}, optimizers)

    def train_step(state, batch, key):
        def loss(params, part, key):
            value = -model.log_density(params, part, core.per_example_keys(key, part["index"])).mean()
            return value, {"loss": value}

        state, metrics = core.train_group(optimizers["model"], state, "model", loss, batch, key)
        return state.replace(step=state.step + 1), metrics

    def evaluate(weights, batch, key):
        keys = core.per_example_keys(key, batch["index"])
        return {"loss": -model.log_density(weights.params["model"], batch, keys)}

    def log_prob(weights, batch, key):
        """The mean log density over dequantising noise: E log q(v) <= log E q(v), the image's log probability."""
        keys = core.per_example_keys(key, batch["index"])
        draws = jnp.arange(options.evaluate_draws)
        values = jax.lax.map(lambda k: model.log_density(weights.params["model"], batch, core.fold_in(keys, k)), draws)
        return values.mean(axis=0)

    def encode(weights, batch, key):  # [B, H, W, C] -> f32[B, H, W, C]
        # Noise of 0.5: furthest from values that `decode` would round to another level.
        middle = jnp.full_like(batch["image"], 0.5)
        codes, _ = model.to_codes(weights.params["model"], batch["image"], middle, batch)
        return codes.reshape(-1, *spec.image_shape)

    def decode(weights, codes, condition):
        return model.from_codes(weights.params["model"], codes.reshape(flat), condition)

    def prior(weights, keys, condition):
        return core.normal(keys, spec.image_shape)

    space = core.Latents(spec._replace(levels=0), decode, encode, prior, "spherical")
    noise = f"uniform, {options.evaluate_draws} draws an image: unbiased, and their noise is part of the interval"
    return core.Family(
        init,
        train_step,
        evaluate,
        objective=("loss", "log_prob"),
        sample=lambda weights, keys, condition: decode(weights, prior(weights, keys, condition), condition),
        conditions=options.conditions,
        log_prob=log_prob,
        likelihood_kind="lower bound",
        protocol={"bound": "mean log density of the dequantised image", "dequantisation": noise},
        latents=(space,),
    )
