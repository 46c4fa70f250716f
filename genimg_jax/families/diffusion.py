"""Diffusion: EDM (Karras et al. 2022) by default. Noise schedule, target, weighting and times are independent options.

DDPM (Ho et al. 2020) is noise_schedule=discrete, target=epsilon, weighting=uniform, times=discrete_times,
solver=ancestral, sigma_schedule=schedule_times, steps=1000; DDIM is solver=euler, which is its deterministic case. VDM
(Kingma et al. 2021) is noise_schedule=learned, target=epsilon, weighting=variational, times=uniform_times: the loss is
then the variational bound in nats an image, and `log_prob` its negative. Any schedule that preserves variance can have
it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import denoising, prediction
from genimg_jax.families.denoising import CONTINUOUS_VALUED, GROUPS
from genimg_jax.families.prediction import Regression
from genimg_jax.objectives import interpolants, targets, weightings
from genimg_jax.objectives.interpolants import Interpolant
from genimg_jax.options import bounded, choice
from genimg_jax.samplers import sigma_schedules

__all__ = ["CONTINUOUS_VALUED", "GROUPS", "Options", "make"]


def first_log_snr(levels: int) -> float:
    """The first log SNR: relative to the distance of two levels, the noise is that of 13.3 with 256 levels.

    13.3 is from Kingma et al. 2021. Less noise has no more information, and the bound of such times is loose unless the
    network models them well.
    """
    return 13.3 - 2 * math.log(255 / (levels - 1)) if levels else 13.3


# The choices of each option; some depend on further options.
NOISE_SCHEDULES: dict[str, Callable[["Options", int], Interpolant]] = {  # arguments: options, number of levels
    "variance_exploding": lambda options, levels: interpolants.variance_exploding(options.sigma_min, options.sigma_max),
    "linear_beta": lambda options, levels: interpolants.linear_beta(),
    "discrete": lambda options, levels: interpolants.discrete(),
    "linear_log_snr": lambda options, levels: interpolants.linear_log_snr(first_log_snr(levels)),
    "learned": lambda options, levels: interpolants.linear_log_snr(first_log_snr(levels)),  # initial values
    "cosine": lambda options, levels: interpolants.cosine(),
    "rectified": lambda options, levels: interpolants.rectified(),
}
TARGETS: dict[str, Callable[["Options"], targets.Target]] = {
    "edm": lambda options: targets.edm_target(options.sigma_data),
    "x0": lambda options: targets.x0_target,
    "epsilon": lambda options: targets.epsilon_target,
    "v": lambda options: targets.v_target,
    "flow_velocity": lambda options: targets.flow_velocity_target,
}
WEIGHTINGS: dict[str, Callable[["Options"], weightings.Weighting]] = {
    "edm": lambda options: weightings.edm(options.sigma_data),
    "uniform": lambda options: weightings.uniform,
    "noise_error": lambda options: weightings.noise_error,
    "variational": lambda options: weightings.noise_error,  # the bound is a weighting of epsilon's error
    "min_snr": lambda options: weightings.min_snr(),
}
TIMES: dict[str, Callable[["Options"], weightings.Times]] = {
    "log_normal_levels": lambda options: weightings.log_normal_levels(options.P_mean, options.P_std),
    "logit_normal_times": lambda options: weightings.logit_normal_times(options.P_mean, options.P_std),
    "uniform_times": lambda options: weightings.uniform_times,
    "cosine_times": lambda options: weightings.cosine_times,
    "discrete_times": lambda options: weightings.discrete_times(len(interpolants.DDPM_BETAS)),
}
SIGMA_SCHEDULES: dict[str, Callable[[Interpolant], sigma_schedules.SigmaSchedule]] = {
    "karras": lambda interpolant: sigma_schedules.karras(),
    "linear": lambda interpolant: sigma_schedules.linear,
    "cosine": lambda interpolant: sigma_schedules.cosine,
    "log_uniform": lambda interpolant: sigma_schedules.log_uniform,
    "schedule_times": lambda interpolant: sigma_schedules.spaced(
        lambda level: interpolant.time(-2 * jnp.log(level)), lambda t: interpolants.noise_level(interpolant, t)
    ),  # equal steps of the path's time; 1000 steps of noise_schedule=discrete are its chain
}
BOUNDED = ("linear_beta", "linear_log_snr", "learned")  # smooth paths whose ends keep the bound finite


@dataclasses.dataclass(frozen=True)
class Options(prediction.Options):
    noise_schedule: str = choice("variance_exploding", *NOISE_SCHEDULES)
    target: str = choice("edm", *TARGETS)  # what the network predicts
    weighting: str = choice("edm", *WEIGHTINGS)  # of the loss at each time
    times: str = choice("log_normal_levels", *TIMES)  # distribution of training times
    P_mean: float = bounded(-1.2, -100.0)  # of the level's logarithm, or of the time's logit
    P_std: float = bounded(1.2, 0.0)
    sigma_schedule: str = choice("karras", *SIGMA_SCHEDULES, inference_only=True)  # noise levels of the sampler


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` for options that contradict each other."""
    bound = options.weighting == "variational"
    if bound and (options.noise_schedule not in BOUNDED or options.times != "uniform_times" or options.dequantize):
        raise ConfigError(
            f"model.weighting=variational needs model.noise_schedule among {', '.join(BOUNDED)}, "
            "model.times=uniform_times and model.dequantize=False; "
            f"found {options.noise_schedule}, {options.times} and {options.dequantize}."
        )
    if bound and not spec.levels:
        raise ConfigError("model.weighting=variational bounds probabilities, and these images are of real numbers.")
    if options.noise_schedule == "learned" and not bound:
        raise ConfigError(
            "model.noise_schedule=learned is learned by its variational bound; set model.weighting=variational."
        )
    if options.noise_schedule == "learned" and optimizers["model"].compute_dtype != jnp.float32:
        raise ConfigError("model.noise_schedule=learned is a schedule of fine steps; set train.precision=float32.")
    if options.times == "discrete_times" and options.noise_schedule != "discrete":
        raise ConfigError(
            f"model.times=discrete_times needs model.noise_schedule=discrete, and it is {options.noise_schedule}."
        )
    regression = Regression(
        NOISE_SCHEDULES[options.noise_schedule](options, spec.levels),
        TARGETS[options.target](options),
        WEIGHTINGS[options.weighting](options),
        TIMES[options.times](options),
        lambda interpolant: SIGMA_SCHEDULES[options.sigma_schedule](interpolant)(
            options.steps, *denoising.level_range(options, interpolant)
        ),
        bounded=bound,
        learned=options.noise_schedule == "learned",
    )
    return denoising.family(options, spec, optimizers, prediction.model(options, spec, regression))
