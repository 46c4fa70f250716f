"""Flow matching along straight lines: rectified flow (Liu et al. 2023), conditional flow matching (Lipman et al. 2023).

The network predicts noise - image. With coupling=optimal_transport the noises of a batch are paired with its images by
least squared distance (Tong et al. 2024), before the split into microbatches, which do not change the pairs. The noise
of an example then depends on its whole batch. With parallel.compile=pmap each device pairs only its own part of the
batch, so the trained model depends on the number of devices. The work grows with the cube of the batch.
"""

import dataclasses
from collections.abc import Mapping

import jax

from genimg_jax import core
from genimg_jax.families import denoising, prediction
from genimg_jax.families.denoising import CONTINUOUS_VALUED, GROUPS
from genimg_jax.families.prediction import SOLVERS, Regression
from genimg_jax.objectives import interpolants, targets, weightings
from genimg_jax.objectives.couplings import independent_coupling, optimal_transport
from genimg_jax.options import bounded, choice
from genimg_jax.samplers import sigma_schedules

__all__ = ["CONTINUOUS_VALUED", "GROUPS", "Options", "make"]

COUPLINGS = {"independent": independent_coupling, "optimal_transport": optimal_transport}
TIMES = ("uniform_times", "logit_normal_times")


@dataclasses.dataclass(frozen=True)
class Options(prediction.Options):
    # Heun's steps are linear in sigma, and inaccurate where they are long in sigma, as the first steps are.
    solver: str = choice("euler", *SOLVERS, inference_only=True)
    steps: int = bounded(32, 1, inference_only=True)  # of the solver, equal in time
    sigma_max: float = bounded(1000.0, 1.0, static=True)  # noise level that sampling starts from: almost pure noise
    times: str = choice("uniform_times", *TIMES)  # distribution of training times
    P_mean: float = bounded(0.0, -100.0)  # of the time's logit, for logit_normal_times
    P_std: float = bounded(1.0, 0.0)
    coupling: str = choice("independent", *COUPLINGS)  # which noise is paired with which image


def equal_steps(steps: int, sigma_max: float) -> jax.Array:
    """Noise levels at equal steps of time, from sigma_max to 0."""  # -> f32[steps + 1]
    last = sigma_max / (1 + sigma_max) / steps  # the time one step above 0
    return sigma_schedules.linear(steps, last / (1 - last), sigma_max)


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`."""
    times = weightings.uniform_times
    if options.times == "logit_normal_times":
        times = weightings.logit_normal_times(options.P_mean, options.P_std)

    regression = Regression(
        interpolants.rectified(),
        targets.flow_velocity_target,
        weightings.uniform,
        times,
        lambda interpolant: equal_steps(options.steps, options.sigma_max),
        COUPLINGS[options.coupling],
    )
    return denoising.family(options, spec, optimizers, prediction.model(options, spec, regression))
