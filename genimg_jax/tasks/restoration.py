"""Restoration: samples of images given what is observed of them, by whichever capability a family has.

What is observed is made of whole images by `observations`, so that results can be compared with these. All samples of
an image have one observation.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core, observations
from genimg_jax.errors import ConfigError
from genimg_jax.observations import masks, observing
from genimg_jax.observations.observing import Observation
from genimg_jax.options import bounded, choice
from genimg_jax.samplers import latent_posterior, posterior, posterior_observation
from genimg_jax.tasks.editing import normal_space


@dataclasses.dataclass(frozen=True)
class Options(observations.Options):
    """An observation, and how images are sampled given it."""

    solver: str = choice("auto", "auto", "conditional", "inpaint", *posterior.SOLVERS, *latent_posterior.SOLVERS)
    noise_levels: int = bounded(50, 2)  # of solvers that denoise: from noise alone to the image
    iterations: int = bounded(500, 4)  # of Adam, or transitions of a Markov chain, half of them warm-up
    draws: int = bounded(128, 2)  # samples of the prior, one of which Adam or a chain starts from
    decoder_noise: float = bounded(0.1, 1e-3, static=True)  # least noise that these assume: the decoder's error


class Restored(NamedTuple):
    """Rows of a batch."""

    original: jax.Array
    """f32[B, H, W, C] in [-1, 1]"""
    image: jax.Array
    """f32[B, H, W, C] in [-1, 1]"""
    shown: jax.Array
    """What is observed, in the image's size: f32[B, H, W, c]."""
    residual: jax.Array
    """f32[B], the root mean square of what would be observed of `image` less what is."""
    known: jax.Array
    """bool[B, H, W], True for pixels that are known exactly. These are kept."""


class Problem(NamedTuple):
    options: Options
    observation: Observation
    observed: jax.Array  # f32[B, h, w, c]
    mask: jax.Array | None  # bool[B, H, W], True for observed pixels; None without a mask
    image_shape: tuple[int, int, int]


class Solver(NamedTuple):
    lacks: Callable[[core.Family, Observation], str]
    """What a family or an observation lacks, as the end of a sentence; "" if nothing."""
    solve: Callable[[Problem, core.Family, core.Weights, core.Batch, jax.Array], jax.Array]
    """(problem, family, weights, condition, keys[B]) -> images f32[B, H, W, C]."""
    about: Callable[[core.Family], str]
    """How exact it is."""


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A task for `program.run`. The batch has `draw` i32[B] too: the number of a sample, of those of one image."""

    options: Options
    solver: str
    stream = "restore"

    def __call__(self, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> Restored:
        image, keys = batch["image"], core.per_example_keys(key, batch["index"])
        shape, options = image.shape[1:], self.options
        observation = observing.build(options, shape)
        mask = masks.draw(options, core.fold_in(keys, 0), shape[:2]) if observation.needs_mask else None
        observed = observing.observe(observation, image, mask, core.fold_in(keys, 1))
        problem = Problem(options, observation, observed, mask, shape)
        condition = {name: value for name, value in batch.items() if name != "image"}
        sample_keys = jax.vmap(jax.random.fold_in)(core.fold_in(keys, 2), batch["draw"])
        result = jnp.clip(SOLVERS[self.solver].solve(problem, family, weights, condition, sample_keys), -1, 1)
        known = mask if keeps_known(options) else jnp.zeros(image.shape[:3], bool)
        result = jnp.where(known[..., None], image, result)
        error = observation.apply(result, mask) - observed
        rms = jnp.sqrt(jnp.square(error).mean(tuple(range(1, error.ndim))))
        return Restored(image, result, observation.show(observed), rms, known)


def keeps_known(options: Options) -> bool:
    """Whether observed pixels are those of the image."""
    return options.kind in observing.MASKED and not options.noise


def plan(
    options: Options, family: core.Family, spec: core.Spec, trained_for: observations.Options
) -> tuple[Restoration, str]:
    """The restoration by `options.solver`, or by the first that can, and how exact it is.

    The family's condition 'source' is made by the observation `trained_for`. Raises `ConfigError` that says what lacks.
    """
    observation, wanted = observing.build(options, spec.image_shape), (options.solver,)
    if options.solver == "auto":
        wanted = AUTOMATIC
    lacking = {name: SOLVERS[name].lacks(family, observation) for name in wanted}
    if lacking.get("conditional") == "" and not _same(trained_for, observation, spec.image_shape):
        lacking["conditional"] = "needs a run that was trained for this observation, by data.observation"
    for name, lack in lacking.items():
        if not lack:
            return Restoration(options, name), SOLVERS[name].about(family)
    whys = "; ".join(f"{name} {lack}" for name, lack in lacking.items())
    raise ConfigError(f"this run cannot be asked for {options.kind}: {whys}.")


def _same(trained_for: observations.Options, observation: Observation, shape: tuple[int, int, int]) -> bool:
    return bool(trained_for.kind) and observing.build(trained_for, shape).about == observation.about


# ------------------------------------------------------------------------------------------------------- solvers


def _no_source(family: core.Family, observation: Observation) -> str:
    return "" if "source" in family.conditions else "needs a family that is told 'source', such as regressor"


def _sample(problem: Problem, family: core.Family, weights: core.Weights, condition: core.Batch, keys: jax.Array):
    source = observing.as_source(problem.observation, problem.observed, problem.mask)
    return family.sample(weights, keys, {**condition, "source": source})


def _cannot_inpaint(family: core.Family, observation: Observation) -> str:
    if not family.inpaint:
        return "needs a family that completes images, such as transformer"
    if not observation.needs_mask or observation.noise or observation.about.count(", then "):
        return "needs pixels that are known exactly"
    return _is_told_source(family)


def _inpaint(problem: Problem, family: core.Family, weights: core.Weights, condition: core.Batch, keys: jax.Array):
    return family.inpaint(weights, problem.observed, problem.mask, keys, condition)


def _cannot_denoise(solver: posterior.Solver, family: core.Family, observation: Observation) -> str:
    if not family.denoise or family.denoise_space:
        return "needs a family that denoises images, such as diffusion"
    if not observation.linear:
        return "needs a linear observation"
    if solver.masks_only and not observation.needs_mask:
        return "needs an observation of some pixels"
    return _is_told_source(family)


def _denoise(
    solver: posterior.Solver,
    problem: Problem,
    family: core.Family,
    weights: core.Weights,
    condition: core.Batch,
    keys: jax.Array,
) -> jax.Array:
    given = posterior_observation.Observation(
        lambda image: problem.observation.apply(image, problem.mask),
        problem.observed,
        problem.observation.noise,
        problem.image_shape,
    )
    sigmas = family.sigmas(weights, problem.options.noise_levels)
    return solver.solve(lambda noisy, sigma: family.denoise(weights, noisy, sigma, condition), given, sigmas, keys)


def _cannot_decode(solver: latent_posterior.Solver, family: core.Family, observation: Observation) -> str:
    if not normal_space(family):
        return "needs a family with normal codes, such as vae or gan"
    return _is_told_source(family) if observation.linear else "needs an observation with a gradient"


def _is_told_source(family: core.Family) -> str:
    return "needs a family that is not told 'source'" if "source" in family.conditions else ""


def _decode(
    solver: latent_posterior.Solver,
    problem: Problem,
    family: core.Family,
    weights: core.Weights,
    condition: core.Batch,
    keys: jax.Array,
) -> jax.Array:
    space, options = normal_space(family), problem.options
    data = {**condition, "observed": problem.observed}
    data |= {} if problem.mask is None else {"mask": problem.mask}

    def predict(codes: jax.Array, data: core.Batch) -> jax.Array:
        return problem.observation.apply(space.decode(weights, codes, data), data.get("mask"))

    log_likelihood = latent_posterior.gaussian(predict, max(problem.observation.noise, options.decoder_noise))
    start = solver.start(log_likelihood, data, space.spec.image_shape, keys, options.draws)
    codes = solver.solve(log_likelihood, data, start, keys, options.iterations).codes
    return space.decode(weights, codes, condition)


def _of(solver, lacks: Callable, solve: Callable) -> Solver:
    return Solver(functools.partial(lacks, solver), functools.partial(solve, solver), lambda family: solver.about)


SOLVERS = {
    "conditional": Solver(_no_source, _sample, lambda family: "samples of a family that was trained for it"),
    "inpaint": Solver(_cannot_inpaint, _inpaint, lambda family: family.inpaint_method),
    **{name: _of(solver, _cannot_denoise, _denoise) for name, solver in posterior.SOLVERS.items()},
    **{name: _of(solver, _cannot_decode, _decode) for name, solver in latent_posterior.SOLVERS.items()},
}
AUTOMATIC = ("conditional", "inpaint", "pigdm", "hamiltonian")
"""The solvers to choose from, the first that can."""
