"""A mixture of Gaussians with full covariances, fitted by expectation maximisation inside a compiled program.

The updates are those of scikit-learn's `GaussianMixture`, with which the tests compare them. That class runs on the
host, so it cannot be part of a compiled sampler.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

ITERATIONS = 50
RIDGE = 1e-3  # added to the covariances' diagonals, in units of the mean variance of the points


class Mixture(NamedTuple):
    weights: jax.Array  # f32[K], sums to one
    means: jax.Array  # f32[K, Z]
    covariances: jax.Array  # f32[K, Z, Z]


def init(points: jax.Array, components: int, seed: int = 0) -> Mixture:
    """The means are random points; each covariance is that of all points."""
    # [N, Z] -> [K], [K, Z], [K, Z, Z]
    number, size = points.shape
    chosen = jax.random.choice(jax.random.key(seed), number, (components,), replace=number < components)
    centred = points - points.mean(0, keepdims=True)
    covariance = centred.T @ centred / number + ridge(points) * jnp.eye(size)
    return Mixture(
        jnp.full(components, 1 / components), points[chosen], jnp.broadcast_to(covariance, (components, size, size))
    )


def ridge(points: jax.Array) -> jax.Array:  # [N, Z] -> []
    # The constant keeps the covariances invertible if all points are the same.
    return RIDGE * points.var(0).mean() + 1e-6


def log_joint(mixture: Mixture, points: jax.Array) -> jax.Array:
    """log p(point, component)."""  # [N, Z] -> [N, K]
    factors = jnp.linalg.cholesky(mixture.covariances)
    centred = points[None] - mixture.means[:, None]  # [K, N, Z]
    whitened = jax.scipy.linalg.solve_triangular(factors, centred.swapaxes(1, 2), lower=True)  # [K, Z, N]
    half_log_determinant = jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)).sum(1)
    constant = jnp.log(mixture.weights) - half_log_determinant - 0.5 * points.shape[1] * jnp.log(2 * jnp.pi)
    return (constant[:, None] - 0.5 * jnp.square(whitened).sum(1)).T


def em_step(mixture: Mixture, points: jax.Array) -> Mixture:
    """One step of expectation maximisation (Dempster et al. 1977; Bishop 2006, equations 9.23 to 9.26)."""
    shares = jax.nn.softmax(log_joint(mixture, points), axis=1)  # [N, K]
    mass = shares.sum(0) + 1e-6  # a component that has lost all its points keeps finite parameters
    means = shares.T @ points / mass[:, None]
    centred = points[None] - means[:, None]  # [K, N, Z]
    covariances = jnp.einsum("nk,kny,knz->kyz", shares, centred, centred) / mass[:, None, None]
    covariances = covariances + (ridge(points) * jnp.eye(points.shape[1]))[None]
    return Mixture(mass / mass.sum(), means, covariances)


def fit(points: jax.Array, components: int) -> Mixture:
    """A fixed number of EM steps from `init` with a fixed seed: a function of the points alone."""
    # [N, Z] -> [K], [K, Z], [K, Z, Z]
    first = init(points, components)
    return jax.lax.scan(lambda mixture, _: (em_step(mixture, points), None), first, length=ITERATIONS)[0]


def sample(mixture: Mixture, keys: jax.Array) -> jax.Array:
    """One point for each key."""  # key[B] -> f32[B, Z]
    factors = jnp.linalg.cholesky(mixture.covariances)

    def sample_one(key):
        component_key, noise_key = jax.random.split(key)
        component = jax.random.categorical(component_key, jnp.log(mixture.weights))
        return mixture.means[component] + factors[component] @ jax.random.normal(noise_key, mixture.means.shape[1:])

    return jax.vmap(sample_one)(keys)


def moments(mixture: Mixture) -> tuple[jax.Array, jax.Array]:
    """The mean and the covariance of all components together."""  # -> [Z], [Z, Z]
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean[None]
    return mean, jnp.einsum("k,kyz->yz", mixture.weights, mixture.covariances + centred[:, :, None] * centred[:, None])


def posterior(mixture: Mixture, matrix: jax.Array, observed: jax.Array, noise: float | jax.Array) -> Mixture:
    """The distribution of a point x given observed = matrix x + noise n, with standard normal n: a mixture as well.

    Bishop 2006, equations 2.113 to 2.117, for each component. `noise`, a standard deviation, is above 0.
    """  # [M, Z], [M], [] -> [K], [K, Z], [K, Z, Z]
    crossed = mixture.covariances @ matrix.T  # [K, Z, M]
    spread = matrix @ crossed + (noise**2 * jnp.eye(len(matrix)))[None]
    evidence = log_joint(Mixture(mixture.weights, mixture.means @ matrix.T, spread), observed[None])[0]
    gains = jnp.linalg.solve(spread, crossed.swapaxes(1, 2)).swapaxes(1, 2)
    means = mixture.means + jnp.einsum("kzm,km->kz", gains, observed[None] - mixture.means @ matrix.T)
    return Mixture(jax.nn.softmax(evidence), means, mixture.covariances - gains @ crossed.swapaxes(1, 2))


def denoiser(mixture: Mixture) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function (z, sigma) -> E[x | z] for z = x + sigma n, x a point of the mixture and n standard normal."""
    # -> ([B, Z], f32[B] -> [B, Z])
    spectra, bases = jnp.linalg.eigh(mixture.covariances)  # [K, Z], [K, Z, Z]

    def denoise(noisy: jax.Array, sigma: jax.Array) -> jax.Array:
        variances = spectra[None] + jnp.square(sigma)[:, None, None]  # [B, K, Z]
        rotated = jnp.einsum("kyz,bky->bkz", bases, noisy[:, None] - mixture.means[None])
        log_densities = -0.5 * jnp.sum(rotated**2 / variances + jnp.log(variances), axis=2)
        shares = jax.nn.softmax(jnp.log(mixture.weights)[None] + log_densities, axis=1)
        means = mixture.means[None] + jnp.einsum("kyz,bkz->bky", bases, spectra[None] * rotated / variances)
        return jnp.einsum("bk,bky->by", shares, means)

    return denoise
