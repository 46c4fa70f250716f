"""Log densities by the probability-flow ODE: Chen et al. 2018 and Song et al. 2021, section 4.3.

In u = log sigma the ODE is dz/du = z - denoise(z). It is solved for y = z / sqrt(1 + sigma^2), whose scale is nearly
constant: dy/du = y / (1 + sigma^2) - denoise(z) / sqrt(1 + sigma^2), with Jacobian J. The solution goes from the data
at sigma_min up to sigma_max, where the density is N(0, sigma_max^2), from which samplers start: log p(x) = log N(z; 0,
sigma_max^2) + log |dz/dx|. The last term is the integral of trace J du, plus that of the scale in closed form. This is
the density of the data with noise of sigma_min. It does not depend on the path that a model was trained on.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.samplers.ode import Denoise, denoise_all

AT_ONCE = 32  # directions of a Jacobian that are in memory at the same time
PIVOT = 20.0  # sigma above which steps are equal in 1 / sigma instead of log sigma


class LogDensity(NamedTuple):
    """Log densities of a batch, in nats."""

    log_prob: jax.Array  # f32[B]
    standard_error: jax.Array  # f32[B]: of the trace's estimate; 0 for the exact trace, NaN for a single probe
    latent: jax.Array  # [B, ...]: the ODE's solution at sigma_max
    log_volume: jax.Array  # f32[B]: log |dz/dx|; `log_prob` is the sum of this and the latent's log density


def rademacher(keys: jax.Array, count: int, shape: tuple[int, ...]) -> jax.Array:
    """Random signs, whose products with a Jacobian estimate its trace (Hutchinson 1990)."""
    # key[B] -> [count, B, *shape]
    return jax.vmap(lambda key: jax.random.rademacher(key, (count, *shape), float))(keys).swapaxes(0, 1)


def _basis(image: jax.Array) -> jax.Array:  # [B, ...] -> [D, B, ...]
    size = math.prod(image.shape[1:])
    return jnp.broadcast_to(jnp.eye(size).reshape(size, 1, *image.shape[1:]), (size, *image.shape))


def _velocity(denoise: Denoise, sigma: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """dy/du as a function of y, at one sigma."""  # f32[] -> ([B, ...] -> [B, ...])
    spread = jnp.sqrt(1 + sigma**2)
    return lambda scaled: scaled / spread**2 - denoise_all(denoise, spread * scaled, sigma) / spread


def _divergence(velocity: Callable, scaled: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The velocity, and v . J v for each vector, J its Jacobian."""  # [B, ...], [K, B, ...] -> [B, ...], f32[K, B]
    change, derivative = jax.linearize(velocity, scaled)

    def quadratic_form(vector: jax.Array) -> jax.Array:
        return jnp.sum(vector * derivative(vector), axis=tuple(range(1, scaled.ndim)))

    return change, jax.lax.map(quadratic_form, vectors, batch_size=AT_ONCE)


def _finish(scaled: jax.Array, products: jax.Array, ends: tuple[jax.Array, jax.Array], exact: bool) -> LogDensity:
    """Exact: the trace is the sum over basis vectors. Estimated: the mean over probes."""
    # [B, ...], [K, B], (sigma_min, sigma_max) -> LogDensity
    if exact:
        volume, error = products.sum(axis=0), jnp.zeros_like(products[0])
    else:
        volume, error = products.mean(axis=0), products.std(axis=0, ddof=1) / math.sqrt(len(products))
    (sigma_min, sigma_max), size = ends, math.prod(scaled.shape[1:])
    volume = volume + 0.5 * size * (jnp.log1p(sigma_max**2) - jnp.log1p(sigma_min**2))
    latent = scaled * jnp.sqrt(1 + sigma_max**2)
    squares = jnp.sum((latent / sigma_max) ** 2, axis=tuple(range(1, latent.ndim)))
    prior = -0.5 * squares - size * (jnp.log(sigma_max) + 0.5 * math.log(2 * math.pi))
    return LogDensity(prior + volume, error, latent, volume)


def _levels(steps: int, sigma_min: jax.Array, sigma_max: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sigma at both ends and in the middle of each step, and the step's length in u at each of them.

    Steps are equal in w = -log(1 + PIVOT / sigma): the data have structure at every order of magnitude up to their own
    scale, and far above it the ODE is smooth in 1 / sigma. PIVOT is well above the data's scale, because the errors of
    a trained network, whose input is log sigma, need shorter steps there than an ideal denoiser.
    """  # -> f32[2 steps + 1], f32[2 steps + 1]
    warped = jnp.linspace(jnp.log1p(PIVOT / sigma_min), jnp.log1p(PIVOT / sigma_max), 2 * steps + 1)
    sigmas = PIVOT / jnp.expm1(warped)
    return sigmas, (1 + sigmas / PIVOT) * (warped[0] - warped[-1]) / steps


def _gregory(steps: int) -> np.ndarray:
    """Quadrature weights of `steps` + 1 equally spaced values: Gregory's rule of order 4.

    That is the trapezoidal rule with corrections at both ends. The error is of far higher order for integrands that are
    flat at both ends, as these nearly are. For 2 and 3 steps it is Simpson's rule.
    """  # -> f64[steps + 1]
    weights, correction = np.ones(steps + 1), np.array([-5 / 8, 1 / 6, -1 / 24])
    weights[:3] += correction
    weights[-3:] += correction[::-1]
    return weights


def log_density(
    denoise: Denoise,
    image: jax.Array,
    sigma_min: float | jax.Array,
    sigma_max: float | jax.Array,
    steps: int,
    probes: jax.Array | None = None,
) -> LogDensity:
    """Log density by 2 or more fixed steps of the classical Runge-Kutta method of order 4.

    The ODE does not depend on the trace, so the trace is evaluated only at the start of each step: a step costs four
    evaluations of the denoiser and the derivatives of one. `probes` are those of `rademacher`. None gives the exact
    trace, which costs one derivative per pixel and channel.
    """  # [B, ...], f32[], f32[], [K, B, ...] -> LogDensity
    vectors = _basis(image) if probes is None else probes
    sigma_min, sigma_max = jnp.asarray(sigma_min, image.dtype), jnp.asarray(sigma_max, image.dtype)
    sigmas, rates = (x.astype(image.dtype) for x in _levels(steps, sigma_min, sigma_max))
    weights = rates[::2] * jnp.asarray(_gregory(steps), image.dtype)
    nodes, stage_weights = jnp.array([0.5, 0.5, 1.0], image.dtype), jnp.array([2.0, 2.0, 1.0], image.dtype) / 6

    def advance(state, at):
        (scaled, total), (weight, sigmas, rates) = state, at
        change, products = _divergence(_velocity(denoise, sigmas[0]), scaled, vectors)

        def stage(state, at):
            (slope, increment), (sigma, rate, node, stage_weight) = state, at
            slope = rate * _velocity(denoise, sigma)(scaled + node * slope)
            return (slope, increment + stage_weight * slope), None

        first = rates[0] * change
        stages = jnp.stack([sigmas[1], *sigmas[1:]]), jnp.stack([rates[1], *rates[1:]]), nodes, stage_weights
        (_, increment), _ = jax.lax.scan(stage, (first, first / 6), stages)
        return (scaled + increment, total + weight * products), None

    def per_step(values, last):  # f32[2 steps + 1] -> f32[steps + 1, 3]: start, middle and end of each step; `last`
        return jnp.concatenate([jnp.stack([values[:-2:2], values[1::2], values[2::2]], axis=1), jnp.full((1, 3), last)])

    # The trace at the end comes from one more step of length 0: the network is compiled once less.
    start = image / jnp.sqrt(1 + sigmas[0] ** 2), jnp.zeros(vectors.shape[:2], image.dtype)
    inputs = weights, per_step(sigmas, sigmas[-1]), per_step(rates, jnp.zeros_like(rates[-1]))
    (scaled, total), _ = jax.lax.scan(advance, start, inputs)
    return _finish(scaled, total, (sigmas[0], sigmas[-1]), probes is None)


def adaptive_log_density(
    denoiser: Callable[[Any], Denoise],
    condition: Any,
    image: jax.Array,
    sigma_min: float | jax.Array,
    sigma_max: float | jax.Array,
    probes: jax.Array | None = None,
    tolerance: float = 1e-5,
    most_steps: int = 1000,
) -> LogDensity:
    """`log_density` with adaptive steps for each image: Dormand and Prince's method of order 5.

    `denoiser(condition)` is the denoiser; `condition` is a tree of [B, ...], sliced for each image. The `tolerance` of
    each step is both relative and absolute. An image that needs more than `most_steps` gets NaN.
    """  # [B, ...], [K, B, ...] -> LogDensity
    import diffrax  # imported here: it takes seconds, and only adaptive likelihoods need it

    vectors = _basis(image) if probes is None else probes
    ends = jnp.asarray((sigma_min, sigma_max), image.dtype)

    def field(log_level: jax.Array, state: tuple[jax.Array, jax.Array], args: tuple[Any, jax.Array]):
        condition, vectors = args
        return _divergence(_velocity(denoiser(condition), jnp.exp(log_level)), state[0], vectors)

    def solve(scaled: jax.Array, vectors: jax.Array, condition: Any):  # [...], [K, ...]: one image, as a batch
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            *jnp.log(ends),
            None,
            (scaled[None], jnp.zeros((len(vectors), 1), scaled.dtype)),
            args=(jax.tree.map(lambda x: x[None], condition), vectors[:, None]),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=most_steps,
            adjoint=diffrax.ForwardMode(),
            throw=False,
        )
        failed = solution.result != diffrax.RESULTS.successful
        return tuple(jnp.where(failed, jnp.nan, y[-1]) for y in solution.ys)

    start = image / jnp.sqrt(1 + ends[0] ** 2)
    scaled, products = jax.vmap(solve, in_axes=(0, 1, 0), out_axes=(0, 1))(start, vectors, condition)
    return _finish(scaled[:, 0], products[:, :, 0], tuple(ends), probes is None)
