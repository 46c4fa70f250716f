"""A Transformer over the values of an image, one level after another in raster order: an exact likelihood.

Every value of a pixel's channels is a token (Chen et al. 2020, Image GPT; Parmar et al. 2018), so that channels are
conditioned on one another in their order. The condition comes before the first token: a token for a class, the words of
a caption. The network works on tokens of any grid, so discrete codes are modelled in the same way.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families.autoregressive import autoregressive
from genimg_jax.networks.attention import Decoder
from genimg_jax.networks.conditioning import sequence
from genimg_jax.objectives.likelihoods import to_levels, to_values
from genimg_jax.options import bounded, choice, names
from genimg_jax.samplers import ancestral

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    width: int = bounded(128, 2)
    depth: int = bounded(6, 1)
    heads: int = bounded(4, 1)
    positions: str = choice("learned", "learned", "rotary")
    # Of samples, not of the likelihood: the softmax's temperature; how many of the likeliest levels are drawn from (0:
    # all); the probability of the set of levels that are drawn from (1: all).
    temperature: float = bounded(1.0, 1e-3, inference_only=True)
    top_k: int = bounded(0, 0, inference_only=True)
    top_p: float = bounded(1.0, 0.0, 1.0, static=True, inference_only=True)
    # Inpaintings sampled per image, of which one is chosen: see `ancestral.resample`.
    candidates: int = bounded(1, 1, inference_only=True)
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source
    model_condition: bool = False  # train on the probability of captions too; conditions must be ('tokens',)


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` for heads that do not divide the width."""
    if options.width % (2 * options.heads):
        raise ConfigError(
            f"model.width is {options.width}, which {options.heads} heads of an even size cannot share; "
            f"use a multiple of {2 * options.heads}."
        )
    fields = core.fields_of(options.conditions, spec)
    channels = spec.image_shape[-1]
    grid = tuple(size for size in spec.image_shape if size > 1)
    if options.model_condition and not (len(fields) == 1 and sequence(fields[0][1])):
        raise ConfigError(
            f"model.model_condition is for conditions=('tokens',), and model.conditions is {options.conditions}."
        )
    sizes = options.width, options.depth, options.heads
    network = Decoder(spec.levels, grid, *sizes, options.positions, fields, options.model_condition)
    filter_logits = functools.partial(
        ancestral.filter_logits, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
    )

    def tokens(image):  # [B, H, W, C] -> i32[B, T]
        return to_levels(image, spec.levels).reshape(image.shape[0], -1)

    def log_mass(params, batch):  # [B, H, W, C] -> f32[B]
        sequence = tokens(batch["image"])
        logits = network.apply({"params": params}, batch, sequence)
        return log_masses(logits, sequence).sum(axis=1)

    def init(key, batch):
        method = "joint_logits" if options.model_condition else "__call__"
        return network.init(key, batch, tokens(batch["image"]), method=method)["params"]

    def decode(params, image, mask, keys, condition):
        """Samples the tokens outside the mask, one after another; also the log-likelihood of the others."""
        # [B, H, W, C], bool[B, H, W], key[B] -> [B, H, W, C], f32[B]
        apply = functools.partial(network.apply, {"params": params})
        observed = tokens(image)
        keep = jnp.repeat(mask.reshape(mask.shape[0], -1), channels, axis=1)

        def step(state, position, observed, keep, keys):
            slot, cache = state
            logits, cache = apply(slot, cache, position, method="step")
            sampled = jax.vmap(jax.random.categorical)(keys, filter_logits(logits))
            token = jnp.where(keep, observed[:, 0], sampled)
            return (apply(token, method="embed_next"), cache), token[:, None], log_masses(logits, token)

        state = apply(condition, len(observed), method="start")
        positions = jnp.arange(observed.shape[1])
        _, values, weight = ancestral.decode(step, state, positions, observed[..., None], keep, keys)
        sampled = to_values(values, spec.levels).reshape(image.shape)
        return jnp.where(mask[..., None], image, sampled), weight

    described = options.conditions, "raster", options.candidates
    family = functools.partial(autoregressive, init, log_mass, decode, spec, optimizers, *described)
    return _with_condition(family, network, log_mass) if options.model_condition else family()


def log_masses(logits: jax.Array, token: jax.Array) -> jax.Array:  # [..., V], i32[...] -> f32[...]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), token[..., None], axis=-1)[..., 0]


def _with_condition(family: Callable[..., core.Family], network: Decoder, log_mass: Callable) -> core.Family:
    """The family, trained on captions too: p(image, caption) = p(caption) p(image | caption)."""

    def condition_log_mass(params, batch):  # -> f32[B]
        """The first 0 is predicted, as the end of the caption; later ones are not."""
        words = batch[network.fields[0][0]]
        logits = network.apply({"params": params}, batch, len(words), method="condition_logits")
        ended = jnp.cumsum(words == 0, axis=1) > (words == 0)
        return jnp.where(ended, 0.0, log_masses(logits, words)).sum(axis=1)

    def joint_log_mass(params, batch, step):
        return log_mass(params, batch) + condition_log_mass(params, batch)

    def condition_log_prob(weights, batch, key):
        return condition_log_mass(weights.params["model"], batch)

    return family(train_log_mass=joint_log_mass)._replace(condition_log_prob=condition_log_prob)
