"""What diffusion and flow models share: a network trained by regression on images at random noise levels.

Each family defines the sampled times, the regression and the sampler (`Model`). Conditions, dequantisation, the loop
over noise levels in evaluation, and the likelihood by the probability-flow ODE are here.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.networks import backbone
from genimg_jax.networks.conditioning import Condition, Fields
from genimg_jax.objectives.couplings import Coupling, independent_coupling
from genimg_jax.objectives.interpolants import Interpolant, noise_level
from genimg_jax.objectives.weightings import independent, stratified
from genimg_jax.options import bounded, is_enabled, names
from genimg_jax.samplers import ode
from genimg_jax.samplers.likelihood import adaptive_log_density, log_density, rademacher
from genimg_jax.samplers.sigma_schedules import karras

GROUPS = ("model",)
CONTINUOUS_VALUED = True
UNBIASED = "unbiased, and its noise is part of the interval"  # the interval is over images, each with its own noise


@dataclasses.dataclass(frozen=True)
class Options(backbone.Options):
    """The options that these families share; each adds its own."""

    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source
    # Share of images whose condition is dropped, for guidance.
    condition_dropout: float = bounded(0.1, 0.0, 1.0, structural=True)
    dequantize: bool = False  # train on images with uniform noise as wide as a level; `log_prob` is their density
    sigma_data: float = bounded(0.5, 1e-3)  # standard deviation of pixels: of network inputs, and of EDM's targets
    sigma_min: float = bounded(0.002, 1e-5, static=True)  # lowest noise level of likelihoods and of most samplers
    sigma_max: float = bounded(80.0, 1.0, static=True)  # noise level that sampling starts from
    evaluate_times: int = bounded(8, 1, inference_only=True)  # noise levels at which `evaluate` measures each image
    # Steps of the ODE of `log_prob`, or noise levels of a bound; tolerance of adaptive steps, 0 for fixed ones; random
    # directions for the trace, 0 for the exact one.
    likelihood_steps: int = bounded(32, 2, inference_only=True)
    likelihood_tolerance: float = bounded(0.0, 0.0, static=True, inference_only=True)
    likelihood_probes: int = bounded(4, 0, inference_only=True)


class Model(NamedTuple):
    """One such family. A condition may be dropped for some or all examples: see `networks.conditioning`."""

    init: Callable[[jax.Array, jax.Array, Condition], core.Tree]
    """(key, image, condition) -> parameters."""
    draw: Callable[[jax.Array, jax.Array], core.Batch]
    """(uniform f32[B] within (0, 1), keys[B]) -> what is sampled for each image besides its noise, such as times."""
    error: Callable[[core.Tree, core.Batch], tuple[jax.Array, core.Metrics]]
    """(parameters, {image, noise, condition, and the outputs of `draw`}) -> the loss f32[B], metrics {name: f32[B]}."""
    denoiser: Callable[[core.Tree, Condition], ode.Denoise]
    """(parameters, condition) -> the denoiser of `log_prob`."""
    guided: Callable[[core.Tree, Condition], ode.Denoise]
    """(parameters, condition) -> the denoiser of `denoise`."""
    from_noise: Callable[[core.Tree, Condition, jax.Array, jax.Array], jax.Array]
    """(parameters, condition, standard normal noise f32[B, H, W, C], keys[B]) -> images f32[B, H, W, C], unclipped."""
    interpolant: Callable[[core.Tree], Interpolant]
    to_noise: Callable[[core.Tree, Condition, jax.Array], jax.Array] | None = None
    """(parameters, condition, images) -> the noise that `from_noise` maps to them."""
    stochastic: bool = False  # whether `from_noise` uses its keys
    bounded: bool = False  # the negative of the metric 'loss' is a lower bound of the log-likelihood
    couple: Coupling = independent_coupling
    objective: tuple[str, ...] = ("loss",)  # the metrics of `error` that are minimised


def check_guidance(options: Options, guidance: float, needed: str = "model.conditions") -> None:
    """Raises `ConfigError` unless the network is trained both with conditions and without."""
    if not options.conditions:
        raise ConfigError(f"model.guidance is {guidance:g}, but there is nothing to be guided by; set {needed}.")
    if not is_enabled(options.condition_dropout):
        raise ConfigError(
            f"model.guidance is {guidance:g}, but with model.condition_dropout=0 the network learns no images "
            "without a condition, which guidance is away from; set it to 0.1, say."
        )


def level_range(options: Options, interpolant: Interpolant) -> tuple[jax.Array, jax.Array]:
    """sigma_min and sigma_max of the options, or of the path where its range is narrower."""  # -> f32[], f32[]
    first, last = noise_level(interpolant, jnp.asarray(interpolant.bounds))
    return jnp.maximum(options.sigma_min, first), jnp.minimum(options.sigma_max, last)


def family(
    options: Options,
    spec: core.Spec,
    optimizers: Mapping[str, core.Optimizer],
    model: Model,
) -> core.Family:
    """A family with one parameter group, `model`.

    Samples are clipped to [-1, 1]. Images of real numbers are not clipped, and have no `log_prob`: it would be a
    density. `log_prob` is that of the image given its condition, if it has one.
    """
    if options.sigma_min >= options.sigma_max:
        raise ConfigError(
            f"model.sigma_min is {options.sigma_min:g}, which is not below model.sigma_max={options.sigma_max:g}."
        )
    if options.dequantize and not spec.levels:
        raise ConfigError("model.dequantize is for images of levels, and these are of real numbers; set it to False.")
    shared = Shared(options, spec, core.fields_of(options.conditions, spec), model)

    def init(key, batch):
        return core.init_state({"model": model.init(key, batch["image"], batch)}, optimizers)

    def denoise(weights, noisy, level, condition):
        return model.guided(weights.params["model"], condition)(noisy, level)

    def sigmas(weights, steps):
        return karras()(steps, *level_range(options, model.interpolant(weights.params["model"])))

    def sample(weights, keys, batch):
        return from_noise(shared, weights, draw_noise(shared, keys), batch, keys)

    def bound(weights, batch, key):
        return -measure(shared, options.likelihood_steps, weights, batch, key)["loss"]

    base = core.Family(
        init,
        functools.partial(train_step, shared, optimizers["model"]),
        functools.partial(measure, shared, options.evaluate_times),
        objective=(*model.objective, "log_prob") if model.bounded else model.objective,
        sample=sample,
        conditions=options.conditions,
        latents=() if model.stochastic else (noise_space(shared),),
        denoise=denoise,
        sigmas=sigmas,
    )
    if not spec.levels:
        return base
    if model.bounded:
        return base._replace(log_prob=bound, likelihood_kind="lower bound", protocol=_bound_protocol(options))
    steps, tolerance = options.likelihood_steps, options.likelihood_tolerance
    # A tolerance is that of a step's error, and a step twice as long has 2^5 times the error.
    at_half = functools.partial(estimate, shared, steps // 2, 32 * tolerance)
    return base._replace(
        log_prob=functools.partial(estimate, shared, steps, tolerance),
        log_prob_at_half=at_half if tolerance or steps >= 4 else None,
        likelihood_kind="estimate",
        protocol=_estimate_protocol(options),
    )


class Shared(NamedTuple):
    """What the functions of one family have in common."""

    options: Options
    spec: core.Spec
    fields: Fields  # that the network is conditioned on
    model: Model


def level_width(spec: core.Spec) -> float:
    """The distance of two neighbouring levels of a pixel, in [-1, 1]."""
    return 2 / (spec.levels - 1)


def dequantized(spec: core.Spec, keys: jax.Array, image: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
    noise = jax.vmap(lambda key: jax.random.uniform(key, spec.image_shape))(keys)
    return image + level_width(spec) * (noise - 0.5)


def regression_batch(shared: Shared, keys: jax.Array, batch: core.Batch, uniform: jax.Array) -> core.Batch:
    """Images, noise, conditions and times of one regression, each example's from its own key."""
    options, spec, fields, model = shared
    image = dequantized(spec, core.fold_in(keys, 2), batch["image"]) if options.dequantize else batch["image"]
    noise = core.normal(core.fold_in(keys, 0), spec.image_shape)
    condition = core.condition_of(fields, batch)
    return {"image": image, "noise": noise, "condition": condition, **model.draw(uniform, core.fold_in(keys, 3))}


def train_step(
    shared: Shared, optimizer: core.Optimizer, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    options, model = shared.options, shared.model
    times_key, key = jax.random.split(key)
    keys = core.per_example_keys(key, batch["index"])
    regression = regression_batch(shared, keys, batch, stratified(times_key, batch["index"]))
    regression["noise"] = model.couple(regression["image"], regression["noise"], regression["condition"])
    if shared.fields:
        dropped = independent(core.fold_in(keys, 1)) < options.condition_dropout
        regression["condition"]["keep"] = ~dropped

    def loss(params, part, _):
        objective, metrics = model.error(params, part)
        return objective.mean(), {name: value.mean() for name, value in metrics.items()}

    state, metrics = core.train_group(optimizer, state, "model", loss, regression, key)
    return state.replace(step=state.step + 1), metrics


def measure(shared: Shared, times: int, weights: core.Weights, batch: core.Batch, key: jax.Array) -> core.Metrics:
    """Metrics with all conditions kept, at one noise level in each of `times` equally likely ranges."""
    keys = core.per_example_keys(key, batch["index"])

    def metrics_at(k):
        level_keys = core.fold_in(keys, k)
        uniform = (k + independent(core.fold_in(level_keys, 1))) / times
        uniform = jnp.minimum(uniform, 1 - 2.0**-24)  # the sum may round up to 1
        return shared.model.error(weights.params["model"], regression_batch(shared, level_keys, batch, uniform))[1]

    return jax.tree.map(lambda x: x.mean(0), jax.lax.map(metrics_at, jnp.arange(times)))


def draw_noise(shared: Shared, keys: jax.Array) -> jax.Array:  # -> f32[B, H, W, C]
    return core.normal(core.fold_in(keys, 0), shared.spec.image_shape)


def from_noise(
    shared: Shared, weights: core.Weights, noise: jax.Array, batch: core.Batch, keys: jax.Array
) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
    image = shared.model.from_noise(weights.params["model"], batch, noise, keys)
    return jnp.clip(image, -1.0, 1.0) if shared.spec.levels else image


def noise_space(shared: Shared) -> core.Latents:
    """The initial noise of samples as latents, for samplers that add no further noise."""
    model = shared.model

    def decode(weights, noise, batch):
        unused = core.per_example_keys(jax.random.key(0), jnp.arange(len(noise)))
        return from_noise(shared, weights, noise, batch, unused)

    def encode(weights, batch, key):
        return model.to_noise(weights.params["model"], batch, batch["image"])

    def prior(weights, keys, condition):
        return draw_noise(shared, keys)

    return core.Latents(shared.spec._replace(levels=0), decode, model.to_noise and encode, prior, "spherical")


def estimate(
    shared: Shared, steps: int, tolerance: float, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> jax.Array:  # -> f32[B]
    """The log density of the dequantised image, plus the log volume of a level: an estimate of log p(image)."""
    options, spec, fields, model = shared
    params, keys = weights.params["model"], core.per_example_keys(key, batch["index"])
    image, condition = dequantized(spec, core.fold_in(keys, 0), batch["image"]), core.condition_of(fields, batch)
    probes = None
    if options.likelihood_probes:
        probes = rademacher(core.fold_in(keys, 1), options.likelihood_probes, spec.image_shape)
    sigmas, denoiser = level_range(options, model.interpolant(params)), functools.partial(model.denoiser, params)
    if tolerance:
        density = adaptive_log_density(denoiser, condition, image, *sigmas, probes, tolerance)
    else:
        density = log_density(denoiser(condition), image, *sigmas, steps, probes)
    return density.log_prob + math.prod(spec.image_shape) * math.log(level_width(spec))


def _bound_protocol(options: Options) -> dict[str, Any]:
    levels = f"{options.likelihood_steps} random noise levels an image: {UNBIASED}"
    return {"bound": f"variational, in continuous time, {levels}", "guidance": "none"}


def _estimate_protocol(options: Options) -> dict[str, Any]:
    adaptive = f"Dormand-Prince to a tolerance of {options.likelihood_tolerance:g} a step"
    fixed, probes = f"{options.likelihood_steps} Runge-Kutta steps of order 4", options.likelihood_probes
    return {
        "solver": f"probability-flow ODE, {adaptive if options.likelihood_tolerance else fixed}",
        "noise levels": f"{options.sigma_min} to {options.sigma_max}, or the path's where narrower",
        "guidance": "none",
        "trace": f"Hutchinson, {probes} random sign vectors an image: {UNBIASED}" if probes else "exact",
        "dequantisation": f"uniform, one draw an image: {UNBIASED}",
    }
