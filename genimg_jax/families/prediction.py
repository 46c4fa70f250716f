"""The regression of diffusion and flow models: a network predicts a target along a path from images to noise.

Path, target, weighting and distribution of times are arguments. For any of them the trained network is converted to a
denoiser of z = image + sigma noise, which samplers and likelihoods use.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families import denoising
from genimg_jax.families.denoising import Model
from genimg_jax.networks import backbone
from genimg_jax.networks.conditioning import Condition
from genimg_jax.objectives import interpolants, targets, variational, weightings
from genimg_jax.objectives.couplings import Coupling, independent_coupling
from genimg_jax.objectives.interpolants import Interpolant, mix, per_example
from genimg_jax.options import bounded, choice
from genimg_jax.samplers import ode, sde
from genimg_jax.samplers.guidance import guide

SOLVERS: dict[str, Callable[[int], ode.Step]] = {  # of the number of steps
    "euler": lambda steps: ode.euler,
    "heun": lambda steps: ode.heun,
    "dpm_solver": lambda steps: ode.dpm_solver,
    "ancestral": lambda steps: sde.ancestral,
    "stochastic": sde.stochastic,
}
STOCHASTIC = ("ancestral", "stochastic")  # solvers that add noise
SEGMENTS = 32  # of a learned path


@dataclasses.dataclass(frozen=True)
class Options(denoising.Options):
    # Guidance weight: 0 ignores the condition, 1 is the model itself, more than 1 exaggerates the condition.
    guidance: float = bounded(1.0, 0.0, static=True, inference_only=True)
    # Width of a narrower guide network, trained beside; 0: guidance is away from the network without a condition.
    autoguidance_width: int = bounded(0, 0)
    solver: str = choice("heun", *SOLVERS, inference_only=True)
    # Steps of the solver; Heun's evaluates the network twice in every step except the last.
    steps: int = bounded(18, 1, inference_only=True)
    # Guidance acts at noise levels above guidance_sigma_min, up to guidance_sigma_max.
    guidance_sigma_min: float = bounded(0.0, 0.0, static=True, inference_only=True)
    guidance_sigma_max: float = bounded(1e6, 0.0, static=True, inference_only=True)


class Regression(NamedTuple):
    """The path, the target, and the weight and distribution of times."""

    interpolant: Interpolant
    target: targets.Target
    weighting: weightings.Weighting
    times: weightings.Times
    levels: Callable[[Interpolant], jax.Array]  # of the sampler, f32[steps + 1]
    couple: Coupling = independent_coupling
    bounded: bool = False  # the loss is the variational bound in nats per image; `weighting` is for epsilon
    learned: bool = False  # the path's ends and shape are parameters, initialised to `interpolant`


class Setup(NamedTuple):
    """What the functions of one model have in common."""

    options: Options
    spec: core.Spec
    regression: Regression
    network: nn.Module
    guide_model: nn.Module


def model(options: Options, spec: core.Spec, regression: Regression) -> Model:
    """The loss is the weighted squared error, a mean over pixels and channels. A bound is a sum over them.

    Guidance extrapolates away from the network without the condition, or from a narrower network trained with it:
    autoguidance (Karras et al. 2024). The shape of a learned path does not change the bound but its variance, so it is
    trained on the square of the diffusion loss, with one more evaluation of the network (Kingma et al. 2021, appendix
    I).
    """
    fields = core.fields_of(options.conditions, spec)
    if options.guidance != 1.0 and not options.autoguidance_width:
        denoising.check_guidance(options, options.guidance, "model.conditions or model.autoguidance_width")
    network = backbone.build(options, spec.image_shape[-1], fields)
    guide_model = backbone.build(options, spec.image_shape[-1], fields, options.autoguidance_width)
    setup = Setup(options, spec, regression, network, guide_model)
    step = SOLVERS[options.solver](options.steps)

    def levels(params):
        return regression.levels(interpolant_of(regression, params))

    def from_noise(params, condition, noise, keys):
        return ode.from_noise(step, guided(setup, params, condition), levels(params), noise, keys)

    def to_noise(params, condition, image):
        return ode.to_noise(step, guided(setup, params, condition), levels(params), image)

    return Model(
        init=functools.partial(init, setup),
        draw=lambda uniform, keys: {"t": regression.times(regression.interpolant, uniform)},
        error=functools.partial(error, setup),
        denoiser=functools.partial(denoiser, setup, network),
        guided=functools.partial(guided, setup),
        from_noise=from_noise,
        to_noise=to_noise,
        stochastic=options.solver in STOCHASTIC,
        interpolant=functools.partial(interpolant_of, regression),
        bounded=regression.bounded,
        couple=regression.couple,
        objective=(
            "loss",
            *(("diffusion", "prior", "reconstruction") if regression.bounded else ()),
            *(("loss_guide",) if options.autoguidance_width else ()),
        ),
    )


def interpolant_of(regression: Regression, params: core.Tree) -> Interpolant:
    return interpolants.learned(**params["schedule"]) if regression.learned else regression.interpolant


def init(setup: Setup, key: jax.Array, image: jax.Array, condition: Condition) -> core.Tree:
    first = setup.regression.interpolant
    arguments = image, jnp.zeros(len(image)), condition
    params = dict(setup.network.init(key, *arguments)["params"])
    if setup.options.autoguidance_width:
        params["guide"] = setup.guide_model.init(jax.random.fold_in(key, 1), *arguments)["params"]
    if setup.regression.learned:
        params["schedule"] = {"ends": first.log_snr(jnp.asarray(first.bounds)), "steps": jnp.zeros(SEGMENTS)}
    return params


def predict(setup, module, params, interpolant, noisy, t, condition):  # x_t [B, H, W, C], [B] -> [B, H, W, C]
    scaled = per_example(targets.input_scale(interpolant, t, setup.options.sigma_data), noisy) * noisy
    return module.apply({"params": params}, scaled, -interpolant.log_snr(t) / 8, condition)  # ln(level) / 4


def squared_error(setup, module, params, interpolant, part):  # -> f32[B], of the image, weighted
    target, t, image, noise = setup.regression.target, *(part[name] for name in ("t", "image", "noise"))
    predicted = predict(setup, module, params, interpolant, mix(interpolant, t, image, noise), t, part["condition"])
    squares = (predicted - targets.value(target, interpolant, t, image, noise)) ** 2
    return setup.regression.weighting(interpolant, target, t) * squares.sum(axis=(1, 2, 3))


def diffusion_loss(setup, module, params, interpolant, part):  # -> f32[B]
    return variational.diffusion_loss(interpolant, part["t"], squared_error(setup, module, params, interpolant, part))


def mean_error(setup, module, params, interpolant, part):  # -> f32[B]
    return squared_error(setup, module, params, interpolant, part) / math.prod(setup.spec.image_shape)


def bound_terms(setup: Setup, params: core.Tree, interpolant: Interpolant, part: core.Batch) -> core.Metrics:
    """The negative bound and its terms, in nats per image."""  # -> {name: f32[B]}
    image, noise = part["image"], part["noise"]
    terms = {
        "diffusion": diffusion_loss(setup, setup.network, params, interpolant, part),
        "prior": variational.prior_divergence(interpolant, image),
        "reconstruction": -variational.reconstruction(interpolant, image, noise, setup.spec.levels),
    }
    return {"loss": sum(terms.values()), **terms}


def error(setup: Setup, params: core.Tree, part: core.Batch) -> tuple[jax.Array, core.Metrics]:
    """`Model.error`."""
    regression, stopped = setup.regression, jax.lax.stop_gradient(params)
    interpolant, variance_loss = regression.interpolant, 0.0
    if regression.learned:
        schedule, fixed = params["schedule"], stopped["schedule"]
        interpolant = interpolants.learned(schedule["ends"], fixed["steps"])
        shape_only = interpolants.learned(fixed["ends"], schedule["steps"])
        loss = diffusion_loss(setup, setup.network, stopped, shape_only, part)
        variance_loss = (loss / math.prod(setup.spec.image_shape)) ** 2
    if regression.bounded:
        metrics = bound_terms(setup, params, interpolant, part)
    else:
        metrics = {"loss": mean_error(setup, setup.network, params, interpolant, part)}
    objective = metrics["loss"] + variance_loss
    if setup.options.autoguidance_width:
        loss, current = diffusion_loss if regression.bounded else mean_error, interpolant_of(regression, stopped)
        metrics["loss_guide"] = loss(setup, setup.guide_model, params["guide"], current, part)
        objective = objective + metrics["loss_guide"]
    return objective, metrics


def denoiser(setup: Setup, module: nn.Module, params: core.Tree, condition: Condition) -> ode.Denoise:
    """The denoiser of the network, or of the guide model."""
    interpolant = interpolant_of(setup.regression, params)
    module_params = params if module is setup.network else params["guide"]

    def predicted(noisy, t):
        return predict(setup, module, module_params, interpolant, noisy, t, condition)

    return targets.denoiser(interpolant, setup.regression.target, predicted)


def guided(setup: Setup, params: core.Tree, condition: Condition) -> ode.Denoise:
    options, network = setup.options, setup.network
    model = denoiser(setup, network, params, condition)
    if options.guidance == 1.0:
        return model
    if options.autoguidance_width:
        guide_model = denoiser(setup, setup.guide_model, params, condition)
    else:
        guide_model = denoiser(setup, network, params, None)
    return guide(model, guide_model, options.guidance, (options.guidance_sigma_min, options.guidance_sigma_max))
