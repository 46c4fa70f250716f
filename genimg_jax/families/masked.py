"""Masked generation: a network predicts the masked values of an image from the others, and unmasks some in each step.

MaskGIT (Chang et al. 2022), trained as an any-order autoregressive model (Uria et al. 2014; Hoogeboom et al. 2022),
whose objective is that of masked discrete diffusion (Shi et al. 2024; Sahoo et al. 2024): the mean loss over random
masks is an upper bound of the negative log-likelihood. Every value of a pixel's channels is a token, as in
`transformer`; discrete codes are served alike.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families import denoising
from genimg_jax.networks import backbone
from genimg_jax.networks.conditioning import Condition, Fields
from genimg_jax.networks.masked_tokens import MaskedTokens
from genimg_jax.objectives import any_order
from genimg_jax.objectives.likelihoods import to_levels, to_values
from genimg_jax.objectives.weightings import independent, stratified
from genimg_jax.options import bounded, choice, names
from genimg_jax.samplers import unmask

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options(backbone.Options):
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source
    # Share of images whose condition is dropped, for guidance.
    condition_dropout: float = bounded(0.1, 0.0, 1.0, structural=True)
    # Guidance weight: 0 ignores the condition, 1 is the model itself, more than 1 exaggerates the condition. This and
    # the other options of sampling change no likelihood.
    guidance: float = bounded(1.0, 0.0, static=True, inference_only=True)
    # Of sampling, at most one a value: then one value is drawn in each, which is exact in random order.
    steps: int = bounded(16, 1, inference_only=True)
    schedule: str = choice("cosine", *unmask.SCHEDULES, inference_only=True)  # cosine: few values first, many last
    order: str = choice("random", "random", "confidence", inference_only=True)  # confidence: the likeliest values first
    temperature: float = bounded(1.0, 1e-3, inference_only=True)  # of the values that are drawn
    # Confidence: scale of the noise that is added to the log-probabilities, falling to 0.
    choice_temperature: float = bounded(4.5, 0.0, inference_only=True)
    evaluate_masks: int = bounded(8, 1, inference_only=True)  # random masks of each image in `evaluate`
    likelihood_masks: int = bounded(32, 1, inference_only=True)  # and in `log_prob`: more lower its variance


class Setup(NamedTuple):
    """What the functions of one family have in common."""

    options: Options
    spec: core.Spec
    fields: Fields  # that the network is conditioned on
    network: MaskedTokens


def setup(options: Options, spec: core.Spec) -> Setup:
    fields = core.fields_of(options.conditions, spec)
    if options.guidance != 1.0:
        denoising.check_guidance(options, options.guidance)
    network = backbone.build(options, spec.image_shape[-1] * spec.levels, fields)
    return Setup(options, spec, fields, MaskedTokens(network, spec.levels, min(spec.levels + 1, options.width)))


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` for guidance without a condition."""
    shared = setup(options, spec)

    def init(key, batch):
        image = batch["image"]
        params = shared.network.init(key, to_levels(image, spec.levels), jnp.ones(image.shape, bool), batch)["params"]
        return core.init_state({"model": params}, optimizers)

    def evaluate(weights, batch, key):
        return {"loss": -mean_bound(shared, options.evaluate_masks, weights, batch, key)}

    def sample(weights, keys, condition):
        nothing = jnp.zeros((len(keys), *spec.image_shape))
        return inpaint(shared, weights, nothing, jnp.zeros(nothing.shape[:3], bool), keys, condition)

    return core.Family(
        init,
        functools.partial(train_step, shared, optimizers["model"]),
        evaluate,
        objective=("loss", "log_prob"),
        sample=sample,
        conditions=options.conditions,
        log_prob=functools.partial(mean_bound, shared, options.likelihood_masks),
        likelihood_kind="lower bound",
        protocol={
            "bound": f"any order, {options.likelihood_masks} random masks an image: {denoising.UNBIASED}",
            "guidance": "none",
        },
        inpaint=functools.partial(inpaint, shared),
        inpaint_method=f"unmasked in {options.order} order in {options.steps} steps; "
        "exact in random order with as many steps as values, for a network whose conditionals agree with each other",
    )


def tokens_of(spec: core.Spec, image: jax.Array) -> jax.Array:  # [B, H, W, C] -> i32[B, T]
    return to_levels(image, spec.levels).reshape(len(image), -1)


def logits(shared: Setup, params: core.Tree, condition: Condition) -> unmask.Logits:
    def of(tokens, known):  # i32[B, T], bool[B, T] -> f32[B, T, levels]
        as_image = (x.reshape(-1, *shared.spec.image_shape) for x in (tokens, known))
        return shared.network.apply({"params": params}, *as_image, condition).reshape(*tokens.shape, -1)

    return of


def guided_logits(shared: Setup, params: core.Tree, condition: Condition) -> unmask.Logits:
    """Ho and Salimans 2022, on logits as in Muse (Chang et al. 2023, section 2.7)."""
    weight, model, unconditional = shared.options.guidance, *(logits(shared, params, c) for c in (condition, None))
    if weight in (0.0, 1.0):  # to the bit, and for half the cost
        return model if weight else unconditional
    return lambda tokens, known: (1 - weight) * unconditional(tokens, known) + weight * model(tokens, known)


def train_step(
    shared: Setup, optimizer: core.Optimizer, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    counts_key, key = jax.random.split(key)
    keys = core.per_example_keys(key, batch["index"])
    tokens, condition = tokens_of(shared.spec, batch["image"]), core.condition_of(shared.fields, batch)
    known = any_order.random_mask(stratified(counts_key, batch["index"]), core.fold_in(keys, 0), tokens.shape[1])
    if shared.fields:
        condition["keep"] = independent(core.fold_in(keys, 1)) >= shared.options.condition_dropout

    def loss(params, part, _):
        predicted = logits(shared, params, part["condition"])(part["tokens"], part["known"])
        value = -any_order.bound(predicted, part["tokens"], part["known"]).mean()
        return value, {"loss": value}

    part = {"tokens": tokens, "known": known, "condition": condition}
    state, metrics = core.train_group(optimizer, state, "model", loss, part, key)
    return state.replace(step=state.step + 1), metrics


def mean_bound(shared: Setup, masks: int, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """The bound with every condition kept, from one mask in each of `masks` equally likely ranges of their sizes."""
    # -> f32[B]
    keys, tokens = core.per_example_keys(key, batch["index"]), tokens_of(shared.spec, batch["image"])
    predict = logits(shared, weights.params["model"], core.condition_of(shared.fields, batch))

    def at(k):
        mask_keys = core.fold_in(keys, k)
        uniform = (k + independent(core.fold_in(mask_keys, 1))) / masks
        known = any_order.random_mask(uniform, core.fold_in(mask_keys, 0), tokens.shape[1])
        return any_order.bound(predict(tokens, known), tokens, known)

    return jax.lax.map(at, jnp.arange(masks)).mean(axis=0)


def inpaint(
    shared: Setup, weights: core.Weights, image: jax.Array, mask: jax.Array, keys: jax.Array, condition: core.Batch
) -> jax.Array:  # [B, H, W, C], bool[B, H, W] -> [B, H, W, C]
    options, spec = shared.options, shared.spec
    model = guided_logits(shared, weights.params["model"], core.condition_of(shared.fields, condition))
    order = unmask.random_order if options.order == "random" else unmask.confidence_order(options.choice_temperature)
    schedule = unmask.known_after(options.schedule, options.steps, math.prod(spec.image_shape))
    known = jnp.broadcast_to(mask[..., None], image.shape).reshape(len(image), -1)
    sampled = unmask.unmask(
        lambda *now: model(*now) / options.temperature, order, schedule, tokens_of(spec, image), known, keys
    )
    return jnp.where(mask[..., None], image, to_values(sampled.reshape(image.shape), spec.levels))
