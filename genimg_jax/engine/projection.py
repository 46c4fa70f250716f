"""Projection of given images: the codes of a latent space whose images are nearest to them in mean square.

The search of Abdal et al. 2019 (a code for each layer) by Adam, from the best of some samples instead of the mean code:
the distance in pixels has many local minima, and no network of features is needed to leave them.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core
from genimg_jax.engine.program import Program, run
from genimg_jax.engine.tasks import given_batches
from genimg_jax.errors import ConfigError
from genimg_jax.objectives.distances import peak_signal_to_noise_ratio
from genimg_jax.samplers.latent_posterior import best_of, descend


class Projected(NamedTuple):
    original: np.ndarray
    """f32[N, H, W, C] in [-1, 1]"""
    image: np.ndarray
    """f32[N, H, W, C] in [-1, 1]"""
    codes: np.ndarray
    """f32[N, ...]"""
    psnr: np.ndarray
    """f32[N], dB"""


def space_of(family: core.Family) -> core.Latents | None:
    """The space to search in: that with a code for each layer, else that of samples; None: there is none."""
    return core.space_with(family, "prior", "layered") or core.space_with(family, "prior", "interpolate")


@dataclasses.dataclass(frozen=True)
class Projection:
    """A task. Each image has its own `starts` samples and `steps` steps, whose rate falls to 0 as half a cosine."""

    starts: int  # 2 or more
    steps: int
    stream = "project"

    def __call__(self, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> Projected:
        space, keys = space_of(family), core.per_example_keys(key, batch["index"])

        def error(codes: jax.Array) -> jax.Array:  # -> f32[B]
            return jnp.square(space.decode(weights, codes, batch) - batch["image"]).mean((1, 2, 3))

        def draw(i: jax.Array) -> jax.Array:
            return space.prior(weights, core.fold_in(keys, i), batch)

        start, scale = best_of(draw, lambda codes, i: error(codes), self.starts)
        codes = descend(error, start, scale, self.steps)
        return Projected(
            batch["image"], space.decode(weights, codes, batch), codes, peak_signal_to_noise_ratio(error(codes))
        )


def check(program: Program) -> core.Latents:
    """The space of `space_of`. Raises `ConfigError` for a family that draws no codes on a continuous scale."""
    if space := space_of(program.family):
        return space
    raise ConfigError(f"{program.config.family} draws no codes to search images among.")


def project(
    program: Program,
    weights: core.Weights,
    images: np.ndarray,
    task: Projection,
    seed: int,
    conditions_of: Callable[[np.ndarray], core.Batch] = lambda index: {},
) -> Projected:  # u8[N, H, W, C]
    """The projections of images in the levels of the run's data, under the conditions of their indices.

    Raises `ConfigError` as `check` does."""
    check(program)
    return run(program, task, weights, given_batches(program, images, conditions_of), len(images), seed)
