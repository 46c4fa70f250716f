"""The regression of diffusion and flow models: a network predicts a target along a path from images to noise.

Path, target, weighting and distribution of times are given; the trained network is a denoiser of z = image + level
noise whatever they are, and samplers and likelihoods know only that.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families import denoising
from genimg_jax.families.denoising import Model
from genimg_jax.networks import backbone
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
STOCHASTIC = ("ancestral", "stochastic")  # solvers that draw noise
SEGMENTS = 32  # of a learned path


@dataclasses.dataclass(frozen=True)
class Options(denoising.Options):
    guidance: float = bounded(
        1.0, 0.0, static=True, inference_only=True
    )  # 0 ignores the class, more than 1 exaggerates it
    autoguidance_width: int = bounded(
        0, 0
    )  # width of a worse network trained beside, to be guided away from; 0: no class
    solver: str = choice("heun", *SOLVERS, inference_only=True)
    steps: int = bounded(
        18, 1, inference_only=True
    )  # of the solver; Heun's evaluates the network twice in each but one
    guidance_sigma_min: float = bounded(
        0.0, 0.0, static=True, inference_only=True
    )  # noise levels above which it guides
    guidance_sigma_max: float = bounded(1e6, 0.0, static=True, inference_only=True)  # and up to which it does


class Regression(NamedTuple):
    """What is predicted, along which path, and how much each time counts."""

    interpolant: Interpolant
    target: targets.Target
    weighting: weightings.Weighting
    times: weightings.Times
    levels: Callable[[Interpolant], jax.Array]  # that the sampler visits, f32[steps + 1]
    couple: Coupling = independent_coupling
    bounded: bool = False  # the loss is the variational bound in nats an image; `weighting` is that of its noise
    learned: bool = False  # the path's ends and shape are parameters, `interpolant` what they are at first


def model(options: Options, spec: core.Spec, regression: Regression) -> Model:
    """The loss is the weighted squared error, a mean over pixels and channels; a bound is a sum, with its terms.

    Guidance is away from the network that is told no condition, or from a narrower one trained beside: autoguidance
    (Karras et al. 2024). The path's shape does not change the bound, and lowers its variance (Kingma et al. 2021,
    appendix I): it is trained on the square of the diffusion loss, at the cost of evaluating the network once more.
    """
    fields = core.fields_of(options.conditions, spec)
    if options.guidance != 1.0 and not options.autoguidance_width:
        denoising.check_guidance(options, options.guidance, "model.conditions or model.autoguidance_width")
    network = backbone.build(options, spec.image_shape[-1], fields)
    guide_model = backbone.build(options, spec.image_shape[-1], fields, options.autoguidance_width)
    target, weighting = regression.target, regression.weighting

    step, size = SOLVERS[options.solver](options.steps), math.prod(spec.image_shape)
    stochastic = options.solver in STOCHASTIC

    def interpolant_of(params):
        return interpolants.learned(**params["schedule"]) if regression.learned else regression.interpolant

    def init(key, image, condition):
        arguments = image, jnp.zeros(len(image)), condition, False
        params = dict(network.init(key, *arguments)["params"])
        if options.autoguidance_width:
            params["guide"] = guide_model.init(jax.random.fold_in(key, 1), *arguments)["params"]
        if regression.learned:
            ends = regression.interpolant.log_snr(jnp.asarray(regression.interpolant.bounds))
            params["schedule"] = {"ends": ends, "steps": jnp.zeros(SEGMENTS)}
        return params

    def predict(module, params, interpolant, noisy, t, condition):  # x_t [B, H, W, C], [B] -> [B, H, W, C]
        scaled = per_example(targets.input_scale(interpolant, t, options.sigma_data), noisy) * noisy
        return module.apply({"params": params}, scaled, -interpolant.log_snr(t) / 8, condition, False)  # ln(level) / 4

    def squared_error(module, params, interpolant, part):  # -> f32[B], of the image, weighted
        t, image, noise = (part[name] for name in ("t", "image", "noise"))
        predicted = predict(module, params, interpolant, mix(interpolant, t, image, noise), t, part["condition"])
        squares = (predicted - targets.value(target, interpolant, t, image, noise)) ** 2
        return weighting(interpolant, target, t) * squares.sum(axis=(1, 2, 3))

    def diffusion_loss(module, params, interpolant, part):  # -> f32[B]
        return variational.diffusion_loss(interpolant, part["t"], squared_error(module, params, interpolant, part))

    def mean_error(module, params, interpolant, part):  # -> f32[B]
        return squared_error(module, params, interpolant, part) / size

    def terms(params, interpolant, part):
        """The negative bound and its terms, in nats an image."""  # -> {name: f32[B]}
        found = {
            "diffusion": diffusion_loss(network, params, interpolant, part),
            "prior": variational.prior_divergence(interpolant, part["image"]),
            "reconstruction": -variational.reconstruction(interpolant, part["image"], part["noise"], spec.levels),
        }
        return {"loss": sum(found.values()), **found}

    def error(params, part):
        stopped = jax.lax.stop_gradient(params)
        if regression.learned:
            schedule, still = params["schedule"], stopped["schedule"]
            interpolant = interpolants.learned(schedule["ends"], still["steps"])
            spread = (
                diffusion_loss(network, stopped, interpolants.learned(still["ends"], schedule["steps"]), part) / size
            ) ** 2
        else:
            interpolant, spread = regression.interpolant, 0.0
        metrics = (
            terms(params, interpolant, part)
            if regression.bounded
            else {"loss": mean_error(network, params, interpolant, part)}
        )
        objective = metrics["loss"] + spread
        if options.autoguidance_width:
            of_guide = diffusion_loss if regression.bounded else mean_error
            metrics["loss_guide"] = of_guide(guide_model, params["guide"], interpolant_of(stopped), part)
            objective = objective + metrics["loss_guide"]
        return objective, metrics

    def denoiser(params, condition, module=network):
        interpolant = interpolant_of(params)
        own = params if module is network else params["guide"]
        return targets.denoiser(
            interpolant, target, lambda noisy, t: predict(module, own, interpolant, noisy, t, condition)
        )

    def guided(params, condition):
        if options.guidance == 1.0:
            return denoiser(params, condition)
        less = denoiser(params, condition, guide_model) if options.autoguidance_width else denoiser(params, None)
        interval = options.guidance_sigma_min, options.guidance_sigma_max
        return guide(denoiser(params, condition), less, options.guidance, interval)

    def from_noise(params, condition, noise, keys):
        return ode.from_noise(step, guided(params, condition), regression.levels(interpolant_of(params)), noise, keys)

    def to_noise(params, condition, image):
        return ode.to_noise(step, guided(params, condition), regression.levels(interpolant_of(params)), image)

    return Model(
        init=init,
        draw=lambda uniform, keys: {"t": regression.times(regression.interpolant, uniform)},
        error=error,
        denoiser=denoiser,
        guided=guided,
        from_noise=from_noise,
        to_noise=None if stochastic else to_noise,
        stochastic=stochastic,
        interpolant=interpolant_of,
        bounded=regression.bounded,
        couple=regression.couple,
        objective=(
            "loss",
            *(("diffusion", "prior", "reconstruction") if regression.bounded else ()),
            *(("loss_guide",) if options.autoguidance_width else ()),
        ),
    )
