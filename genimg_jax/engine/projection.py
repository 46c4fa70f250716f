"""Projection of given images: the codes of a latent space whose images are nearest to them in mean square.

The search of Abdal et al. 2019 (a code for each layer) by Adam, from the best of some samples instead of the mean code:
the distance in pixels has many local minima, and no network of features is needed to leave them.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genimg_jax import core
from genimg_jax.data import Source
from genimg_jax.engine import conditions
from genimg_jax.engine.conditions import FieldValues
from genimg_jax.engine.program import Program, run
from genimg_jax.engine.tasks import given_batches
from genimg_jax.errors import ConfigError
from genimg_jax.objectives.distances import peak_signal_to_noise_ratio

RATE = 0.1  # Adam's, in standard deviations of the codes that are drawn


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

        def nearest(i, best):
            codes = draw(i)
            distance, spread = error(codes), best[2] + jnp.square(codes - first).mean(tuple(range(1, codes.ndim)))
            better = distance < best[1]
            return _where(better, codes, best[0]), jnp.where(better, distance, best[1]), spread

        first = draw(0)
        start, _, spread = jax.lax.fori_loop(1, self.starts, nearest, (first, error(first), jnp.zeros(len(keys))))
        # The mean squared difference of two draws is twice their variance.
        scale = jnp.sqrt(spread / (2 * (self.starts - 1))).reshape(-1, *(1,) * (first.ndim - 1))
        optimizer = optax.adam(optax.cosine_decay_schedule(RATE, max(self.steps, 1)))

        def step(_, carry):
            codes, state, best, least = carry
            (_, distance), gradient = jax.value_and_grad(total, has_aux=True)(codes)
            best, least = _where(distance < least, codes, best), jnp.minimum(distance, least)
            updates, state = optimizer.update(gradient * scale, state)
            return codes + updates * scale, state, best, least

        def total(codes: jax.Array) -> tuple[jax.Array, jax.Array]:
            each = error(codes)
            return each.sum(), each

        initial = start, optimizer.init(start), start, jnp.full(len(keys), jnp.inf)
        # One step more: the last codes are looked at too.
        codes = jax.lax.fori_loop(0, self.steps + 1, step, initial)[2]
        return Projected(
            batch["image"], space.decode(weights, codes, batch), codes, peak_signal_to_noise_ratio(error(codes))
        )


def _where(condition: jax.Array, one: jax.Array, two: jax.Array) -> jax.Array:  # bool[B], [B, ...], [B, ...]
    return jnp.where(condition.reshape(-1, *(1,) * (one.ndim - 1)), one, two)


def project(
    program: Program,
    weights: core.Weights,
    images: np.ndarray,
    task: Projection,
    seed: int,
    field_values: FieldValues = None,
    source: Source | None = None,
) -> Projected:  # u8[N, H, W, C]
    """The projections of images in the levels of the run's data. Conditions are those of `conditions.rows`.

    Raises `ConfigError` for a family that draws no codes on a continuous scale."""
    if space_of(program.family) is None:
        raise ConfigError(f"{program.config.family} draws no codes to search images among.")
    conditions_of = functools.partial(conditions.rows, program, field_values=field_values, source=source)
    return run(program, task, weights, given_batches(program, images, conditions_of), len(images), seed)
