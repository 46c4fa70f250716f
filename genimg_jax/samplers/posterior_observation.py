"""Linear observations of images with Gaussian noise, and what a denoiser says about their likelihood."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax.samplers.ode import Denoise, denoise_all

ITERATIONS = 50  # of conjugate gradients, at most; masks and block means need one
TOLERANCE = 1e-6  # of a solution: the residual's norm, as a share of the right-hand side's


class Observation(NamedTuple):
    """observed = forward(image) + noise n, with standard normal n."""

    forward: Callable[[jax.Array], jax.Array]  # linear, [B, ...] -> [B, ...]; no row reads another one
    observed: jax.Array  # [B, ...]; for a mask, 0 where nothing is observed
    noise: float | jax.Array  # standard deviation, 0 or more
    shape: tuple[int, ...]  # of one image


def adjoint(observation: Observation) -> Callable[[jax.Array], jax.Array]:
    """The transpose of `forward`."""  # -> ([B, ...] -> [B, *shape])
    images = jax.ShapeDtypeStruct((len(observation.observed), *observation.shape), observation.observed.dtype)
    transpose = jax.linear_transpose(observation.forward, images)
    return lambda values: transpose(values)[0]


def dot(first: jax.Array, second: jax.Array) -> jax.Array:
    """The inner product of each row."""  # [B, ...], [B, ...] -> f32[B]
    return jnp.sum(first * second, axis=tuple(range(1, first.ndim)))


def per_row(values: jax.Array, ndim: int) -> jax.Array:  # f32[B] -> f32[B, 1, ...]
    return values.reshape(-1, *[1] * (ndim - 1))


def solve(observation: Observation, variance: jax.Array, scale: jax.Array, right: jax.Array) -> jax.Array:
    """The solution u of (variance I + scale A A') u = right, A the observation's `forward`.

    Conjugate gradients (Hestenes and Stiefel 1952) for each row by itself. With variance 0 `right` must be in the range
    of A; A' u is then A's pseudo-inverse of `right`, over `scale`.
    """  # f32[], f32[], [B, ...] -> [B, ...]
    transpose, goal = adjoint(observation), TOLERANCE**2 * dot(right, right)

    def multiply(values: jax.Array) -> jax.Array:
        return variance * values + scale * observation.forward(transpose(values))

    def improve(state):
        number, solution, residual, direction, square = state
        product = multiply(direction)
        active = square > goal
        length = jnp.where(active, square / jnp.where(active, dot(direction, product), 1.0), 0.0)
        solution = solution + per_row(length, right.ndim) * direction
        residual = residual - per_row(length, right.ndim) * product
        following = dot(residual, residual)
        ratio = jnp.where(active, following / jnp.where(active, square, 1.0), 0.0)
        return number + 1, solution, residual, residual + per_row(ratio, right.ndim) * direction, following

    def unfinished(state):
        number, *_, square = state
        return (number < ITERATIONS) & jnp.any(square > goal)

    start = jnp.zeros((), jnp.int32), jnp.zeros_like(right), right, right, dot(right, right)
    return jax.lax.while_loop(unfinished, improve, start)[1]


class Likelihood(NamedTuple):
    """The observation's approximate likelihood given a noisy image."""

    denoised: jax.Array  # [B, ...]
    log_prob: jax.Array  # f32[B], up to a constant that depends on sigma alone
    score: jax.Array  # [B, ...]: the gradient of `log_prob` with respect to the noisy image


def likelihood(denoise: Denoise, observation: Observation, noisy: jax.Array, sigma: jax.Array) -> Likelihood:
    """p(y | z) = N(y; A x, noise^2 I + r^2 A A') with x = E[x_0 | z] and r^2 = sigma^2 / (1 + sigma^2).

    Pseudo-inverse guidance (Song et al. 2023, section 3): x_0 given z is approximated by N(x, r^2 I), which is its
    posterior for standard normal data.
    """  # [B, ...], f32[]
    denoised, pull_back = jax.vjp(lambda z: denoise_all(denoise, z, sigma), noisy)
    residual = observation.observed - observation.forward(denoised)
    weighted = solve(observation, observation.noise**2, sigma**2 / (1 + sigma**2), residual)
    (score,) = pull_back(adjoint(observation)(weighted))
    return Likelihood(denoised, -0.5 * dot(residual, weighted), score)


def ancestral(
    noisy: jax.Array, denoised: jax.Array, sigma: jax.Array, following: jax.Array, noise: jax.Array
) -> jax.Array:
    """An image at the following sigma (Ho et al. 2020, equations 6 and 7), with standard normal noise."""
    # [B, ...], [B, ...], f32[], f32[], [B, ...] -> [B, ...]
    share, deviation = kernel(sigma, following)
    return noisy + share * (denoised - noisy) + deviation * noise


def kernel(sigma: jax.Array, following: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weight of the denoised image in an ancestral step's mean, and the step's standard deviation."""
    share = (sigma - following) * (sigma + following) / sigma**2
    return share, following * jnp.sqrt(share)
