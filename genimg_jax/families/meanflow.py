"""Images in one step or a few: a network of the mean velocity between two times of a flow.

The path is the straight line of `flow`, x_t = (1 - t) image + t noise. u(x_t, r, t) is the mean velocity of its ODE
between r <= t: x_r = x_t - (t - r) u. It is learned from its derivative (MeanFlow, Geng et al. 2025) or from two steps
of half the size (shortcut models, Frans et al. 2025). For r = t it is the velocity of `flow`, which `denoise` and
`log_prob` use. Guidance is learned, so each step is one evaluation (Geng et al. 2025, equation 19).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.families import denoising
from genimg_jax.families.denoising import CONTINUOUS_VALUED, GROUPS, Model
from genimg_jax.networks import backbone
from genimg_jax.networks.conditioning import keep_mask
from genimg_jax.objectives import interpolants, one_step, targets, weightings
from genimg_jax.objectives.interpolants import mix, per_example
from genimg_jax.objectives.weightings import independent
from genimg_jax.options import bounded, choice

__all__ = ["CONTINUOUS_VALUED", "GROUPS", "Options", "make"]

FINEST = 7  # the sizes of shortcuts are 1, 1/2, ..., 2^-FINEST


@dataclasses.dataclass(frozen=True)
class Options(denoising.Options):
    objective: str = choice("mean_flow", "mean_flow", "shortcut")
    shortcut_ratio: float = bounded(0.25, 0.0, 1.0)  # share of the images trained with r < t
    P_mean: float = bounded(-0.4, -100.0)  # of the logit of mean_flow's times
    P_std: float = bounded(1.0, 0.0)
    adaptivity: float = bounded(1.0, 0.0)  # an image's loss is its mean squared error over this power of it
    guidance: float = bounded(1.0, 0.0, static=True)  # 0 ignores the condition, more than 1 exaggerates it
    steps: int = bounded(1, 1, inference_only=True)  # of sampling, of equal size


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`."""
    fields = core.fields_of(options.conditions, spec)
    if options.guidance != 1.0:
        denoising.check_guidance(options, options.guidance)
    network = backbone.build(options, spec.image_shape[-1], fields, forward_mode_ad=options.objective == "mean_flow")
    interpolant = interpolants.rectified()

    def init(key, image, condition):
        return network.init(key, image, jnp.zeros((len(image), 2)), condition)["params"]

    def mean_velocity(params, condition):
        def velocity(noisy, r, t):  # [B, H, W, C], [B], [B] -> [B, H, W, C]
            scaled = per_example(targets.input_scale(interpolant, t, options.sigma_data), noisy) * noisy
            return network.apply({"params": params}, scaled, jnp.stack([t, t - r], axis=-1), condition)

        return velocity

    def target_velocity(params, part, noisy):
        """noise - image; with guidance, the velocity of the guided flow for images whose condition is kept."""
        velocity, t, condition = part["noise"] - part["image"], part["t"], part["condition"]
        if options.guidance == 1.0:
            return velocity
        unconditional = jax.lax.stop_gradient(mean_velocity(params, None)(noisy, t, t))
        keep = per_example(keep_mask(condition, len(noisy)), noisy)
        return jnp.where(keep, unconditional + options.guidance * (velocity - unconditional), velocity)

    def error(params, part):
        r, t = part["r"], part["t"]
        noisy, u = mix(interpolant, t, part["image"], part["noise"]), mean_velocity(params, part["condition"])
        velocity = target_velocity(params, part, noisy)
        if options.objective == "mean_flow":
            predicted, target = one_step.mean_flow(u, noisy, r, t, velocity)
        else:
            predicted = u(noisy, r, t)
            target = jnp.where(per_example(r < t, noisy), one_step.shortcut(u, noisy, r, t, 2.0**-FINEST), velocity)
        squares = jnp.mean((predicted - target) ** 2, axis=(1, 2, 3))
        return squares / jax.lax.stop_gradient(squares + 1e-3) ** options.adaptivity, {"loss": squares}

    def denoiser(params, condition):
        u = mean_velocity(params, condition)
        return targets.denoiser(interpolant, targets.flow_velocity_target, lambda noisy, t: u(noisy, t, t))

    def from_noise(params, condition, noise, keys):
        return jumps(mean_velocity(params, condition), noise, options.steps)

    model = Model(
        init,
        draw=functools.partial(DRAWS[options.objective], options),
        error=error,
        denoiser=denoiser,
        guided=denoiser,
        from_noise=from_noise,
        interpolant=lambda params: interpolant,
    )
    family = denoising.family(options, spec, optimizers, model)
    if options.guidance == 1.0:
        return family
    # The density of a guided flow is not that of the images.
    return family._replace(log_prob=None, log_prob_at_half=None, likelihood_kind=None, protocol={})


def jumps(velocity: one_step.AverageVelocity, noise: jax.Array, steps: int) -> jax.Array:
    """From time 1 to 0 in equal steps x_r = x_t - (t - r) u."""  # [B, H, W, C] -> [B, H, W, C]
    times = jnp.linspace(1.0, 0.0, steps + 1)

    def jump(noisy, ends):
        t, r = (jnp.full(len(noise), end) for end in ends)
        return noisy - per_example(t - r, noisy) * velocity(noisy, r, t), None

    return jax.lax.scan(jump, noise, (times[:-1], times[1:]))[0]


def mean_flow_times(options: Options, uniform: jax.Array, keys: jax.Array) -> core.Batch:
    """Two times for a share of the images, and r = t for the others (Geng et al. 2025, section 4.3)."""
    # [B], [B] -> {"r": f32[B], "t": f32[B]}
    times = weightings.logit_normal_times(options.P_mean, options.P_std)
    a, b = (times(interpolants.rectified(), u) for u in (uniform, independent(core.fold_in(keys, 0))))
    two_times = independent(core.fold_in(keys, 1)) < options.shortcut_ratio
    return {"r": jnp.where(two_times, jnp.minimum(a, b), a), "t": jnp.where(two_times, jnp.maximum(a, b), a)}


def shortcut_times(options: Options, uniform: jax.Array, keys: jax.Array) -> core.Batch:
    """For a share of the images a step of a sampler with 1, 2, 4, ... steps, and r = t for the others."""
    # [B], [B] -> {"r": f32[B], "t": f32[B]}
    steps = 2.0 ** jnp.floor(independent(core.fold_in(keys, 0)) * (FINEST + 1))
    end = (jnp.floor(uniform * steps) + 1) / steps
    two_times = independent(core.fold_in(keys, 1)) < options.shortcut_ratio
    return {"r": jnp.where(two_times, end - 1 / steps, uniform), "t": jnp.where(two_times, end, uniform)}


DRAWS: dict[str, Callable[[Options, jax.Array, jax.Array], core.Batch]] = {
    "mean_flow": mean_flow_times,
    "shortcut": shortcut_times,
}
