"""What diffusion and flow models share: a network that sees images at a random noise level, trained by regression.

What is drawn, what is regressed and how samples are made are each family's own (`Model`); conditions, dequantisation,
the loop over noise levels in evaluation and the likelihood by the probability-flow ODE are here.
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
from genimg_jax.networks.conditioning import Condition
from genimg_jax.objectives.couplings import Coupling, independent_coupling
from genimg_jax.objectives.interpolants import Interpolant, noise_level
from genimg_jax.objectives.weightings import independent, stratified
from genimg_jax.options import bounded, is_enabled, names
from genimg_jax.samplers import ode
from genimg_jax.samplers.likelihood import adaptive_log_density, log_density, rademacher

GROUPS = ("model",)
CONTINUOUS_VALUED = True
UNBIASED = "unbiased, and its noise is part of the interval"  # which is over images, each with draws of its own


@dataclasses.dataclass(frozen=True)
class Options(backbone.Options):
    """The options that these families share; each adds its own."""

    conditions: tuple[str, ...] = names()  # fields of the data that it is told: label, tokens, map, features, source
    # Share of images whose condition is hidden, for guidance.
    condition_dropout: float = bounded(0.1, 0.0, 1.0, structural=True)
    dequantize: bool = False  # train on images with uniform noise as wide as a level, of which `log_prob` is a density
    sigma_data: float = bounded(
        0.5, 1e-3
    )  # standard deviation of pixels, which inputs (and EDM's targets) are scaled by
    sigma_min: float = bounded(
        0.002, 1e-5, static=True
    )  # lowest noise level of likelihoods and of most samplers' grids
    sigma_max: float = bounded(80.0, 1.0, static=True)  # noise level that sampling starts from
    evaluate_times: int = bounded(8, 1, inference_only=True)  # noise levels at which `evaluate` measures each image
    likelihood_steps: int = bounded(
        32, 2, inference_only=True
    )  # of the ODE of `log_prob`, or the noise levels of a bound
    likelihood_tolerance: float = bounded(
        0.0, 0.0, static=True, inference_only=True
    )  # of adaptive steps; 0: fixed ones
    likelihood_probes: int = bounded(
        4, 0, inference_only=True
    )  # random directions for `log_prob`'s trace; 0: the exact one


class Model(NamedTuple):
    """One kind of these families. A condition may be hidden, for some examples or all: see `networks.conditioning`."""

    init: Callable[[jax.Array, jax.Array, Condition], core.Tree]
    """(key, image, condition) -> parameters."""
    draw: Callable[[jax.Array, jax.Array], core.Batch]
    """(uniform f32[B] within (0, 1), keys[B]) -> what is drawn for each image besides its noise: times."""
    error: Callable[[core.Tree, core.Batch], tuple[jax.Array, core.Metrics]]
    """(parameters, {image, noise, condition, what `draw` drew}) -> f32[B] to be minimised, {name: f32[B]} to report."""
    denoiser: Callable[[core.Tree, Condition], ode.Denoise]
    """(parameters, condition) -> the denoiser of `log_prob`."""
    guided: Callable[[core.Tree, Condition], ode.Denoise]
    """(parameters, condition) -> the denoiser of `denoise`."""
    from_noise: Callable[[core.Tree, Condition, jax.Array, jax.Array], jax.Array]
    """(parameters, condition, standard normal noise f32[B, H, W, C], keys[B]) -> images f32[B, H, W, C], unclipped."""
    interpolant: Callable[[core.Tree], Interpolant]
    to_noise: Callable[[core.Tree, Condition, jax.Array], jax.Array] | None = None
    """(parameters, condition, images) -> the noise that they are made from."""
    stochastic: bool = False  # whether `from_noise` draws further noise
    bounded: bool = False  # the negative of the metric 'loss' is a lower bound of the log-likelihood
    couple: Coupling = independent_coupling
    objective: tuple[str, ...] = ("loss",)  # the metrics of `error` that are minimised


def check_guidance(options: Options, guidance: float, needed: str = "model.conditions") -> None:
    """Raises `ConfigError` unless the network learns images both with their condition and without."""
    if not options.conditions:
        raise ConfigError(f"model.guidance is {guidance:g}, but there is nothing to be guided by; set {needed}.")
    if not is_enabled(options.condition_dropout):
        raise ConfigError(
            f"model.guidance is {guidance:g}, but with model.condition_dropout=0 the network learns no images "
            "without a condition, which guidance is away from; set it to 0.1, say."
        )


def level_range(options: Options, interpolant: Interpolant) -> tuple[jax.Array, jax.Array]:
    """The least and greatest noise level of the options, or of the path where that is narrower."""  # -> f32[], f32[]
    first, last = noise_level(interpolant, jnp.asarray(interpolant.bounds))
    return jnp.maximum(options.sigma_min, first), jnp.minimum(options.sigma_max, last)


def family(
    options: Options,
    spec: core.Spec,
    optimizers: Mapping[str, core.Optimizer],
    model: Model,
) -> core.Family:
    """A family with one parameter group, `model`.

    Samples are clipped to [-1, 1], but for images of real numbers, which have no `log_prob`: theirs would be a density.
    `log_prob` is of the image given its condition, where it has one.
    """
    if options.sigma_min >= options.sigma_max:
        raise ConfigError(
            f"model.sigma_min is {options.sigma_min:g}, which is not below model.sigma_max={options.sigma_max:g}."
        )
    if options.dequantize and not spec.levels:
        raise ConfigError("model.dequantize is for images of levels, and these are of real numbers; set it to False.")
    fields, optimizer = core.fields_of(options.conditions, spec), optimizers["model"]
    width = 2 / (spec.levels - 1) if spec.levels else 0.0  # of a level

    def dequantized(keys, image):  # [B, H, W, C] -> [B, H, W, C]
        return image + width * (jax.vmap(lambda key: jax.random.uniform(key, spec.image_shape))(keys) - 0.5)

    def part(keys, batch, uniform):
        """An image as the network is to see it in one regression, each example's from its own key."""
        image = dequantized(core.fold_in(keys, 2), batch["image"]) if options.dequantize else batch["image"]
        noise = core.normal(core.fold_in(keys, 0), spec.image_shape)
        condition = core.condition_of(fields, batch)
        return {"image": image, "noise": noise, "condition": condition, **model.draw(uniform, core.fold_in(keys, 3))}

    def init(key, batch):
        return core.init_state({"model": model.init(key, batch["image"], batch)}, optimizers)

    def train_step(state, batch, key):
        times_key, key = jax.random.split(key)
        keys = core.per_example_keys(key, batch["index"])
        drawn = part(keys, batch, stratified(times_key, batch["index"]))
        drawn["noise"] = model.couple(drawn["image"], drawn["noise"], drawn["condition"])
        if fields:
            dropped = independent(core.fold_in(keys, 1)) < options.condition_dropout
            drawn["condition"]["keep"] = ~dropped

        def loss(params, part, _):
            objective, metrics = model.error(params, part)
            return objective.mean(), {name: value.mean() for name, value in metrics.items()}

        state, metrics = core.train_group(optimizer, state, "model", loss, drawn, key)
        return state.replace(step=state.step + 1), metrics

    def measured(weights, batch, key, times):
        """Metrics, with every condition shown, at one noise level in each of `times` equally likely ranges."""
        keys = core.per_example_keys(key, batch["index"])

        def measure(k):
            own = core.fold_in(keys, k)
            uniform = (k + independent(core.fold_in(own, 1))) / times
            uniform = jnp.minimum(uniform, 1 - 2.0**-24)  # the sum may round up to 1
            return model.error(weights.params["model"], part(own, batch, uniform))[1]

        return jax.tree.map(lambda x: x.mean(0), jax.lax.map(measure, jnp.arange(times)))

    def evaluate(weights, batch, key):
        return measured(weights, batch, key, options.evaluate_times)

    def denoise(weights, noisy, level, condition):
        return model.guided(weights.params["model"], condition)(noisy, level)

    def draw_noise(weights, keys):
        return core.normal(core.fold_in(keys, 0), spec.image_shape)

    def from_noise(weights, noise, batch, keys):
        image = model.from_noise(weights.params["model"], batch, noise, keys)
        return jnp.clip(image, -1.0, 1.0) if spec.levels else image

    def sample(weights, keys, batch):
        return from_noise(weights, draw_noise(weights, keys), batch, keys)

    def decode(weights, noise, batch):
        unused = core.per_example_keys(jax.random.key(0), jnp.arange(len(noise)))
        return from_noise(weights, noise, batch, unused)

    def encode(weights, batch, key):
        return model.to_noise(weights.params["model"], batch, batch["image"])

    noise_space = core.Latents(
        spec._replace(levels=0), decode, model.to_noise and encode, draw_noise, interpolate="spherical"
    )

    def bound(weights, batch, key):
        return -measured(weights, batch, key, options.likelihood_steps)["loss"]

    def estimate(steps, tolerance, weights, batch, key):
        """The log density at the image with uniform noise as wide as a level, times that width a value."""
        params, keys = weights.params["model"], core.per_example_keys(key, batch["index"])
        image, condition = dequantized(core.fold_in(keys, 0), batch["image"]), core.condition_of(fields, batch)
        probes = None
        if options.likelihood_probes:
            probes = rademacher(core.fold_in(keys, 1), options.likelihood_probes, spec.image_shape)
        ends = level_range(options, model.interpolant(params))

        def density(image, probes, condition):  # [B, H, W, C], [K, B, H, W, C] -> f32[B]
            denoiser = model.denoiser(params, condition)
            if tolerance:
                return adaptive_log_density(denoiser, image, *ends, probes, tolerance).log_prob
            return log_density(denoiser, image, *ends, steps, probes).log_prob

        if tolerance:  # each image is a batch of its own, with its own steps, and is told its own condition
            singles = jax.vmap(lambda *one: density(*one)[0], in_axes=(0, None if probes is None else 1, 0))
            values = singles(
                image[:, None],
                probes if probes is None else probes[:, :, None],
                jax.tree.map(lambda x: x[:, None], condition),
            )
        else:
            values = density(image, probes, condition)
        return values + math.prod(spec.image_shape) * math.log(width)

    made = core.Family(
        init,
        train_step,
        evaluate,
        objective=(*model.objective, "log_prob") if model.bounded else model.objective,
        sample=sample,
        conditions=options.conditions,
        latents=() if model.stochastic else (noise_space,),
        denoise=denoise,
    )
    if not spec.levels:
        return made
    if model.bounded:
        return made._replace(log_prob=bound, likelihood_kind="lower bound", protocol=_bound_protocol(options))
    steps, tolerance = options.likelihood_steps, options.likelihood_tolerance
    return made._replace(
        log_prob=functools.partial(estimate, steps, tolerance),
        # Steps twice as long make an error 2^5 times as great in each, which is what a tolerance is of.
        log_prob_at_half=functools.partial(estimate, steps // 2, 32 * tolerance) if tolerance or steps >= 4 else None,
        likelihood_kind="estimate",
        protocol=_estimate_protocol(options),
    )


def _bound_protocol(options: Options) -> dict[str, Any]:
    drawn = f"{options.likelihood_steps} random noise levels an image: {UNBIASED}"
    return {"bound": f"variational, in continuous time, {drawn}", "guidance": "none"}


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
