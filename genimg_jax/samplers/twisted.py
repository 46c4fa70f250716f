"""The twisted diffusion sampler: sequential Monte Carlo whose limit is the posterior (Wu et al. 2023)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax.core import fold_in, normal
from genimg_jax.samplers.ode import Denoise
from genimg_jax.samplers.posterior_observation import Likelihood, Observation, kernel, likelihood


class Particles(NamedTuple):
    """Weighted samples of each example's posterior."""

    images: jax.Array  # [K, B, ...]
    log_weights: jax.Array  # f32[K, B], normalised over K


def effective_size(log_weights: jax.Array) -> jax.Array:
    """The effective sample size, 1 / sum of squared weights (Kong 1992)."""  # f32[K, B] -> f32[B]
    return 1 / jnp.sum(jax.nn.softmax(log_weights, axis=0) ** 2, axis=0)


def systematic(keys: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Indices by systematic resampling: each particle i is there K w_i times, rounded up or down at random.

    One uniform number for each example shifts K equally spaced points (Kitagawa 1996).
    """  # key[B], f32[K, B] -> i32[K, B]
    count = len(log_weights)

    def one(key: jax.Array, weights: jax.Array) -> jax.Array:
        points = (jnp.arange(count) + jax.random.uniform(key)) / count
        return jnp.minimum(jnp.searchsorted(jnp.cumsum(weights), points), count - 1)

    return jax.vmap(one, (0, 1), 1)(keys, jax.nn.softmax(log_weights, axis=0))


def select(tree, indices: jax.Array):
    """The particles at these indices of each example."""  # [K, B, ...], i32[N, B] -> [N, B, ...]
    return jax.tree.map(lambda x: x[indices, jnp.arange(indices.shape[1])[None]], tree)


def sample_particles(
    denoise: Denoise, observation: Observation, sigmas: jax.Array, keys: jax.Array, count: int
) -> Particles:
    """`count` particles of each example (Wu et al. 2023, algorithm 1), resampled if the effective size is below half.

    The prior's step is that of stochastic DPM-Solver++(2M) (Lu et al. 2022): the ancestral one, with the denoised image
    extrapolated by half a step of log sigma. Any Gaussian step is valid here. This one is less biased: of a mixture
    fitted to digits the variance after 64 steps is right within 2 %, and by ancestral steps it is 14 % too small. The
    proposal adds the score of `likelihood`, extrapolated as well.
    As `count` grows this is the posterior under these steps, for an observation whose noise has the covariance
    noise^2 I + r^2 A A', r that of the last sigma above 0.
    """  # f32[steps + 1], key[B] -> [K, B, ...]

    def twist(noisy: jax.Array, sigma: jax.Array) -> tuple[Likelihood, jax.Array]:
        now = jax.vmap(lambda z: likelihood(denoise, observation, z, sigma))(noisy)
        return now, sigma**2 * now.score

    def noise(number: int | jax.Array) -> jax.Array:
        return normal(fold_in(keys, 2 * number), (count, *observation.shape)).swapaxes(0, 1)

    def advance(state, at):
        number, before, sigma, following = at
        particles, log_weights = state
        low = effective_size(log_weights) < 0.5 * count
        chosen = systematic(fold_in(keys, 2 * number + 1), log_weights)
        particles = select(particles, jnp.where(low[None], chosen, jnp.arange(count)[:, None]))
        log_weights = jnp.where(low[None], 0.0, log_weights)
        noisy, (old, old_guidance), (now, now_guidance) = particles
        ahead = 0.5 * jnp.log(sigma / following) / jnp.log(before / sigma)
        denoised = now.denoised + ahead * (now.denoised - old.denoised)
        guidance = now_guidance + ahead * (now_guidance - old_guidance)
        share, deviation = kernel(sigma, following)
        fresh, shift = noise(number), share * guidance / deviation
        noisy = noisy + share * (denoised - noisy) + deviation * (shift + fresh)
        after = twist(noisy, following)
        # The log density of the prior's step less that of the proposal, which have the same variance.
        ratio = -jnp.sum(shift * (fresh + 0.5 * shift), axis=tuple(range(2, noisy.ndim)))
        log_weights = log_weights + ratio + after[0].log_prob - now.log_prob
        return ((noisy, (now, now_guidance), after), log_weights), None

    start = sigmas[0] * noise(0)
    first = twist(start, sigmas[0])
    before = jnp.concatenate([jnp.full(1, jnp.inf), sigmas])[: len(sigmas) - 2]
    steps = jnp.arange(1, len(sigmas) - 1), before, sigmas[:-2], sigmas[1:-1]
    ((*_, (last, _)), log_weights), _ = jax.lax.scan(advance, ((start, first, first), first[0].log_prob), steps)
    return Particles(last.denoised, jax.nn.log_softmax(log_weights, axis=0))


def twisted(count: int) -> Callable[..., jax.Array]:
    """The solver that returns one of `count` particles of each example, chosen by their weights.

    In `experiments/posterior_samplers.py` the mean of 39 runs with 64 particles is off by 0.15 to 0.17 posterior
    deviations, as that of 39 exact samples is (0.16), and 95 % intervals cover 95 to 98 %. All particles of one run are
    worth fewer samples than their number: 256 of them are off by 0.13 to 0.24, and cover 93 to 95 %.
    """

    def solver(denoise: Denoise, observation: Observation, sigmas: jax.Array, keys: jax.Array) -> jax.Array:
        images, log_weights = sample_particles(denoise, observation, sigmas, keys, count)
        chosen = jax.vmap(jax.random.categorical, (0, 1))(fold_in(keys, 2 * len(sigmas)), log_weights)
        return select(images, chosen[None])[0]

    return solver
