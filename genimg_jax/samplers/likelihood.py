"""Log densities by the probability-flow ODE: Chen et al. 2018 and Song et al. 2021, section 4.3.

In the logarithm u of the noise level the ODE is dz/du = z - denoise(z), and the log density along it changes by
-trace of its Jacobian. From data at the least level up to the greatest, where the density is that of the samplers'
start, N(0, greatest^2): log p(x) = log N(z; 0, greatest^2) + the integral of trace(1 - d denoise / dz) du. It is the
density of the data with noise of the least level in it, and does not depend on the path that a model was trained on.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax.samplers.ode import Denoise, denoise_all

AT_ONCE = 32  # directions of a Jacobian that are in memory together


class LogDensity(NamedTuple):
    """Log densities of a batch, in nats."""

    log_prob: jax.Array  # f32[B]
    standard_error: jax.Array  # f32[B]: of the trace's estimate; 0 for the exact trace, NaN for a single probe
    latent: jax.Array  # [B, ...]: where the ODE has taken the data, at the greatest level
    log_volume: jax.Array  # f32[B]: the integral; `log_prob` is this and the latent's log density


def rademacher(keys: jax.Array, count: int, shape: tuple[int, ...]) -> jax.Array:
    """Random signs, whose products with a Jacobian estimate its trace (Hutchinson 1990)."""
    # key[B] -> [count, B, *shape]
    return jax.vmap(lambda key: jax.random.rademacher(key, (count, *shape), float))(keys).swapaxes(0, 1)


def _basis(image: jax.Array) -> jax.Array:  # [B, ...] -> [D, B, ...]
    size = math.prod(image.shape[1:])
    return jnp.broadcast_to(jnp.eye(size).reshape(size, 1, *image.shape[1:]), (size, *image.shape))


def _field(denoise: Denoise, noisy: jax.Array, level: jax.Array, vectors: jax.Array):
    """dz/du, and v . (v - J v) for each vector, J the denoiser's Jacobian."""
    # [B, ...], f32[], [K, B, ...] -> [B, ...], f32[K, B]

    def clean(z: jax.Array) -> jax.Array:
        return denoise_all(denoise, z, level)

    denoised, pull_back = jax.vjp(clean, noisy)

    def along(vector: jax.Array):
        return jnp.sum(vector * (vector - pull_back(vector)[0]), axis=tuple(range(1, noisy.ndim)))

    return noisy - denoised, jax.lax.map(along, vectors, batch_size=AT_ONCE)


def _finish(latent: jax.Array, products: jax.Array, greatest: jax.Array, exact: bool) -> LogDensity:
    """Exact: the integrals of the basis add up. Estimated: each probe's integral is an estimate of the whole."""
    # [B, ...], [K, B] -> LogDensity
    if exact:
        volume, error = products.sum(axis=0), jnp.zeros_like(products[0])
    else:
        volume, error = products.mean(axis=0), products.std(axis=0, ddof=1) / math.sqrt(len(products))
    size = math.prod(latent.shape[1:])
    squares = jnp.sum((latent / greatest) ** 2, axis=tuple(range(1, latent.ndim)))
    prior = -0.5 * squares - size * (jnp.log(greatest) + 0.5 * math.log(2 * math.pi))
    return LogDensity(prior + volume, error, latent, volume)


def log_density(denoise: Denoise, image: jax.Array, levels: jax.Array, probes: jax.Array | None = None) -> LogDensity:
    """In fixed steps of Heun's method over rising noise levels above 0.

    `probes` are those of `rademacher`; None is the exact trace, at the cost of one derivative a pixel.
    """  # [B, ...], f32[steps + 1], [K, B, ...] -> LogDensity
    vectors = _basis(image) if probes is None else probes

    def visit(state, ends):
        (noisy, total), (level, following) = state, ends
        # z in steps of the level and the volume in steps of its logarithm: exact where the denoiser is constant.
        width, log_width = following - level, jnp.log(following / level)
        change, products = _field(denoise, noisy, level, vectors)
        change_after, products_after = _field(denoise, noisy + width / level * change, following, vectors)
        noisy = noisy + 0.5 * width * (change / level + change_after / following)
        return (noisy, total + 0.5 * log_width * (products + products_after)), None

    start = image, jnp.zeros(vectors.shape[:2], image.dtype)
    (latent, products), _ = jax.lax.scan(visit, start, (levels[:-1], levels[1:]))
    return _finish(latent, products, levels[-1], probes is None)


def adaptive_log_density(
    denoise: Denoise,
    image: jax.Array,
    least: float,
    greatest: float,
    probes: jax.Array | None = None,
    tolerance: float = 1e-5,
    most_steps: int = 1000,
) -> LogDensity:
    """As `log_density`, in steps chosen for each image by its own error: Dormand and Prince's method of order 5.

    The `tolerance` is of each step, relative and absolute. An image that needs more than `most_steps` gets NaN.
    """  # [B, ...], [K, B, ...] -> LogDensity
    import diffrax  # here, as it takes seconds and only adaptive likelihoods need it

    vectors = _basis(image) if probes is None else probes
    ends = jnp.log(jnp.asarray((least, greatest), image.dtype))

    def field(log_level: jax.Array, state: tuple[jax.Array, jax.Array], vectors: jax.Array):
        return _field(denoise, state[0], jnp.exp(log_level), vectors)

    def solve(image: jax.Array, vectors: jax.Array):  # [...], [K, ...]: one image, as a batch of its own
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            *ends,
            None,
            (image[None], jnp.zeros((len(vectors), 1), image.dtype)),
            args=vectors[:, None],
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=most_steps,
            adjoint=diffrax.ForwardMode(),
            throw=False,
        )
        failed = solution.result != diffrax.RESULTS.successful
        return tuple(jnp.where(failed, jnp.nan, y[-1]) for y in solution.ys)

    latent, products = jax.vmap(solve, in_axes=(0, 1), out_axes=(0, 1))(image, vectors)
    return _finish(latent[:, 0], products[:, :, 0], jnp.asarray(greatest, image.dtype), probes is None)
