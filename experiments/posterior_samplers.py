"""Do samplers of the posterior sample the posterior?

`python experiments/posterior_samplers.py` fits a mixture of Gaussians to the 8 x 8 digits, whose denoiser and whose
posterior given a linear observation are known, and writes `results/posterior_samplers.md`.
"""

import functools
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from genimg_jax.core import normal, per_example_keys, stream
from genimg_jax.objectives import gaussian_mixture
from genimg_jax.samplers import sigma_schedules
from genimg_jax.samplers.posterior import SOLVERS, Solve
from genimg_jax.samplers.posterior_observation import Observation
from genimg_jax.samplers.twisted import sample_particles

RESULT = pathlib.Path(__file__).parent / "results" / "posterior_samplers.md"
SHAPE = (8, 8, 1)
SAMPLES = 39  # of each observation: a further sample lies between the lowest and the highest with probability 38 / 40
SMALL = 0.05  # pixels of a smaller posterior deviation, a fortieth of the range, have no part in the coverage
HALF = (jnp.arange(8) >= 4).astype(jnp.float32).reshape(1, 1, 8, 1)


def blur(image: jax.Array) -> jax.Array:
    """Binomial weights of 3 x 3 pixels, zero outside of the image."""  # [B, 8, 8, 1] -> [B, 8, 8, 1]
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


FORWARD = {
    "right half": lambda image: image * HALF,
    "2 x 2 block means": lambda image: image.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4)),
    "blur": blur,
}


class World(NamedTuple):
    """Images of a mixture, an observation of each, and the exact posteriors' moments."""

    mixture: gaussian_mixture.Mixture
    observation: Observation
    images: np.ndarray  # [N, D]
    means: np.ndarray  # [N, D]
    deviations: np.ndarray  # [N, D]


class Row(NamedTuple):
    mean_error: float  # |mean of samples - exact mean| / |exact mean|, root mean square over observations
    mean_error_in_deviations: float  # the same over the posterior's deviation
    deviation: float  # of the samples over the posterior's
    pixels: float  # share of true pixels inside central 95 % intervals
    projections: float  # the same for 16 random projections of the image
    seconds: float  # an image


@functools.cache
def digits() -> gaussian_mixture.Mixture:
    points = load_digits().data[:1500] / 8 - 1
    return jax.jit(gaussian_mixture.fit, static_argnums=1)(jnp.asarray(points, jnp.float32), 5)


def world(mixture: gaussian_mixture.Mixture, forward, shape: tuple[int, ...], noise: float, count: int) -> World:
    keys = per_example_keys(stream(0, "images"), jnp.arange(count))
    images = gaussian_mixture.sample(mixture, keys)
    clean = forward(images.reshape(count, *shape))
    observed = clean + noise * normal(per_example_keys(stream(0, "noise"), jnp.arange(count)), clean.shape[1:])
    size = images.shape[1]
    matrix = forward(jnp.eye(size).reshape(size, *shape)).reshape(size, -1).T

    def moments(values):
        mean, covariance = gaussian_mixture.moments(gaussian_mixture.posterior(mixture, matrix, values, noise))
        return mean, jnp.sqrt(jnp.diagonal(covariance))

    means, deviations = jax.jit(jax.vmap(moments))(observed.reshape(count, -1))
    return World(mixture, Observation(forward, observed, noise, shape), *map(np.asarray, (images, means, deviations)))


def denoiser(mixture: gaussian_mixture.Mixture):
    flat = gaussian_mixture.denoiser(mixture)
    return lambda noisy, sigma: flat(noisy.reshape(len(noisy), -1), sigma).reshape(noisy.shape)


def compare(of: World, samples: np.ndarray, weights: np.ndarray, inside, seconds: float) -> Row:
    """`inside(samples, weights, truth)`: which true values are in the interval."""  # [N, L, D], [N, L]
    mean = np.einsum("nl,nld->nd", weights, samples)
    variance = np.einsum("nl,nld->nd", weights, samples**2) - mean**2
    error, total = np.sum((mean - of.means) ** 2), np.sum(of.deviations**2)
    directions = np.random.default_rng(0).normal(size=(samples.shape[-1], 16))
    pixels = inside(samples, weights, of.images)[of.deviations > SMALL].mean()
    projections = inside(samples @ directions, weights, of.images @ directions).mean()
    ratios = error / np.sum(of.means**2), error / total, variance.sum() / total
    return Row(*np.sqrt(ratios), pixels, projections, seconds)


def between(samples: np.ndarray, weights: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (truth > samples.min(1)) & (truth < samples.max(1))


def central(samples: np.ndarray, weights: np.ndarray, truth: np.ndarray) -> np.ndarray:
    below = np.einsum("nl,nld->nd", weights, samples < truth[:, None])
    return (below > 0.025) & (below < 0.975)


def by_samples(of: World, solve: Solve, sigmas: jax.Array, samples: int = SAMPLES) -> Row:
    """Independent runs of the solver."""
    count = len(of.images)
    keys = per_example_keys(stream(0, "sample"), jnp.arange(count * samples))
    observation = of.observation._replace(observed=jnp.repeat(of.observation.observed, samples, axis=0))
    run = jax.jit(lambda keys: solve(denoiser(of.mixture), observation, sigmas, keys)).lower(keys).compile()
    start = time.perf_counter()
    images = np.asarray(run(keys)).reshape(count, samples, -1)
    seconds = (time.perf_counter() - start) / (count * samples)
    return compare(of, images, np.full((count, samples), 1 / samples), between, seconds)


def by_particles(of: World, particles: int, sigmas: jax.Array) -> Row:
    """All weighted particles of one run of the twisted sampler."""
    keys = per_example_keys(stream(0, "particles"), jnp.arange(len(of.images)))
    function = jax.jit(lambda keys: sample_particles(denoiser(of.mixture), of.observation, sigmas, keys, particles))
    run = function.lower(keys).compile()
    start = time.perf_counter()
    images, log_weights = map(np.asarray, run(keys))
    seconds = (time.perf_counter() - start) / len(of.images)
    samples = images.reshape(*images.shape[:2], -1).swapaxes(0, 1)
    return compare(of, samples, np.exp(log_weights).T, central, seconds)


HEADER = """# Samplers of the posterior against exact posteriors

A mixture of 5 Gaussians fitted to the 8 x 8 digits, values in [-1, 1]; observations with noise of standard deviation
0.2. `python experiments/posterior_samplers.py` wrote this. The mean's error is |mean of samples - exact mean| over
|exact mean|, and over the posterior's deviation. The deviation is that of the samples over the posterior's. Of 39
independent exact samples the last two are 0.16 and 0.987. Coverage is that of the true image by central 95 % intervals:
between the lowest and the highest of 39 samples, or by the quantiles of weighted particles. Pixels of a posterior
deviation below 0.05 have no part in it; of few observations the coverage says little. `twisted`, with 64 particles
for each of the 39 samples, takes 64 steps, the other solvers take 256. Seconds are those of a busy machine.

| observation | solver | observations | mean error | in deviations | deviation | pixels | projections | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    RESULT.write_text(HEADER)
    fine, coarse = (sigma_schedules.karras()(steps, 0.02, 80.0) for steps in (256, 64))

    def write(observation: str, solver: str, count: int, row: Row) -> None:
        cells = *(f"{value:.3f}" for value in row[:-1]), f"{row.seconds:.4f}"
        with RESULT.open("a") as file:
            print(f"| {observation} | {solver} | {count} | {' | '.join(cells)} |", file=file)

    for name, forward in FORWARD.items():
        for solver, record in SOLVERS.items():
            if record.masks_only and name != "right half":
                continue
            steps, count = (coarse, 8) if solver == "twisted" else (fine, 24)
            write(name, solver, count, by_samples(world(digits(), forward, SHAPE, 0.2, count), record.solve, steps))
        for particles, count in ((16, 40), (64, 40), (256, 40), (4096, 3)):
            row = by_particles(world(digits(), forward, SHAPE, 0.2, count), particles, coarse)
            write(name, f"twisted, all of {particles} particles", count, row)


if __name__ == "__main__":
    main()
