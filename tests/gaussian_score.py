"""Data whose every noisy marginal is known: a mixture of Gaussians with full covariances, one of which is a Gaussian.

With noise of level s in it, a component N(m, C) is N(m, C + s^2), which is diagonal in the eigenvectors of C. Precision
is that of the arrays given, float64 under `jax.enable_x64`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Mixture(NamedTuple):
    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, D]
    bases: np.ndarray  # [K, D, D]: eigenvectors in columns
    spectra: np.ndarray  # [K, D]: eigenvalues


def mixture(weights, means, covariances):
    spectra, bases = np.linalg.eigh(np.asarray(covariances, float))
    return Mixture(np.asarray(weights, float), np.asarray(means, float), bases, spectra)


def gaussian(mean, covariance):
    return mixture([1.0], [mean], [covariance])


def random_covariance(rng, size, scale=1.0):
    factor = rng.normal(size=(size, size))
    return scale * (factor @ factor.T / size + 0.1 * np.eye(size))


def _components(toy, x, level):  # [B, D], [B] -> deviations [B, K, D] in the eigenvectors, variances [B, K, D]
    means, bases, spectra = (jnp.asarray(a, x.dtype)[None] for a in toy[1:])
    deviations = jnp.einsum("kde,bkd->bke", bases[0], x[:, None] - means)
    return deviations, spectra + level[:, None, None] ** 2


def _log_joint(toy, deviations, variances):  # -> [B, K]
    quadratic = jnp.sum(deviations**2 / variances + jnp.log(2 * jnp.pi * variances), axis=-1)
    return jnp.log(jnp.asarray(toy.weights, deviations.dtype))[None] - 0.5 * quadratic


def log_density(toy, x, level):  # [B, D], [B] -> [B]
    return jax.nn.logsumexp(_log_joint(toy, *_components(toy, x, level)), axis=-1)


def denoiser(toy):
    """The ideal denoiser: the expected clean value, without the cancellation of x + level^2 score at low levels."""

    def denoise(x, level):  # [B, ...], [B] -> [B, ...]
        flat = x.reshape(len(x), -1)
        deviations, variances = _components(toy, flat, level)
        shares = jax.nn.softmax(_log_joint(toy, deviations, variances))
        shrunk = deviations * jnp.asarray(toy.spectra, x.dtype)[None] / variances
        clean = jnp.asarray(toy.means, x.dtype)[None] + jnp.einsum(
            "kde,bke->bkd", jnp.asarray(toy.bases, x.dtype), shrunk
        )
        return jnp.einsum("bk,bkd->bd", shares, clean).reshape(x.shape)

    return denoise


def flow(toy, x, level, following):
    """Where the probability-flow ODE takes x of a single Gaussian, exactly."""  # [B, D] -> [B, D]
    scale = np.sqrt((toy.spectra[0] + following**2) / (toy.spectra[0] + level**2))
    return toy.means[0] + (np.asarray(x) - toy.means[0]) @ toy.bases[0] * scale @ toy.bases[0].T


def moments(toy):  # -> mean [D], covariance [D, D]
    covariances = np.einsum("kde,ke,kfe->kdf", toy.bases, toy.spectra, toy.bases)
    mean = toy.weights @ toy.means
    spread = toy.means - mean
    return mean, np.einsum("k,kdf->df", toy.weights, covariances + np.einsum("kd,kf->kdf", spread, spread))


def draw(toy, rng, count):  # -> [count, D]
    component = rng.choice(len(toy.weights), count, p=toy.weights)
    noise = rng.normal(size=(count, toy.means.shape[1])) * np.sqrt(toy.spectra[component])
    return toy.means[component] + np.einsum("bde,be->bd", toy.bases[component], noise)
