"""Loss weightings, and distributions of training times.

They are separate options, as in most papers, but the expected loss depends only on their product. Weightings are stated
for the squared error of the image (Karras et al. 2022, section 5), and converted to factors of the squared error of the
prediction, for any target. Times are sampled by inverse transform from uniform numbers, so all can be stratified.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax.objectives.interpolants import Interpolant, cosine
from genimg_jax.objectives.targets import Target, determinant

Weighting = Callable[[Interpolant, Target, jax.Array], jax.Array]
"""(path, target, t f32[B]) -> f32[B], the factor of the squared error of the prediction."""
Times = Callable[[Interpolant, jax.Array], jax.Array]
"""(path, uniform f32[B] within (0, 1)) -> t f32[B] within the path's bounds, increasing in `uniform`."""


# ---------------------------------------------------------------------------------------------------- weightings


def uniform(interpolant: Interpolant, target: Target, t: jax.Array) -> jax.Array:
    """Weight 1: the simple loss of DDPM for epsilon, conditional flow matching for the velocity."""
    return jnp.ones_like(t)


def of_image(weight: Callable[[Interpolant, jax.Array], jax.Array]) -> Weighting:
    """The weighting whose factor of the image's squared error is `weight(path, t)`, for any target."""

    def weighting(interpolant: Interpolant, target: Target, t: jax.Array) -> jax.Array:  # [B] -> [B]
        return weight(interpolant, t) * (interpolant.sigma(t) / determinant(interpolant, target, t)) ** 2

    return weighting


@of_image
def noise_error(interpolant: Interpolant, t: jax.Array) -> jax.Array:
    """DDPM's simple loss for any target: the squared error of the noise is SNR times that of the image."""
    return jnp.exp(interpolant.log_snr(t))


def edm(sigma_data: float) -> Weighting:
    """(level^2 + sigma_data^2) / (level sigma_data)^2 = SNR + 1 / sigma_data^2: Karras et al. 2022, table 1.

    For `edm_target`, the weight of the network's squared error is then 1 everywhere.
    """
    return of_image(lambda interpolant, t: jnp.exp(interpolant.log_snr(t)) + 1 / sigma_data**2)


def min_snr(limit: float = 5.0) -> Weighting:
    """min(SNR, limit): Hang et al. 2023, section 3.4."""
    return of_image(lambda interpolant, t: jnp.minimum(jnp.exp(interpolant.log_snr(t)), limit))


# --------------------------------------------------------------------------------------------------------- times


def independent(keys: jax.Array) -> jax.Array:
    """A uniform number from each example's own key, never 0 or 1."""  # key[B] -> f32[B]
    return _to_unit(jax.vmap(lambda key: jax.random.bits(key, (), jnp.uint32))(keys))


def stratified(key: jax.Array, index: jax.Array) -> jax.Array:
    """Uniform numbers, evenly spread over a batch, from one key and the examples' indices.

    Multiples of the golden ratio modulo 1, from a random start: any range of indices is spread nearly as evenly as by
    an equal division of [0, 1] (Kingma et al. 2021, appendix I.1), which would depend on the batch size. Computed in
    integers, so that no index is too large.
    """  # key[], i32[B] -> f32[B]
    return _to_unit(index.astype(jnp.uint32) * jnp.uint32(2654435769) + jax.random.bits(key, (), jnp.uint32))


def _to_unit(bits: jax.Array) -> jax.Array:  # u32[B] -> f32[B]: odd multiples of 2^-24
    return ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23


def uniform_times(interpolant: Interpolant, uniform: jax.Array) -> jax.Array:
    """Uniform within the path's bounds."""  # [B] -> [B]
    first, last = interpolant.bounds
    return first + (last - first) * uniform


def discrete_times(steps: int) -> Times:
    """1 / steps, 2 / steps, ..., 1, equally likely: the times of `interpolants.discrete`."""
    return lambda interpolant, uniform: (jnp.floor(uniform * steps) + 1) / steps


def log_normal_levels(mean: float = -1.2, std: float = 1.2) -> Times:
    """The logarithm of the noise level is normal (Karras et al. 2022, table 1; the defaults are theirs)."""

    def times(interpolant: Interpolant, uniform: jax.Array) -> jax.Array:  # [B] -> [B]
        t = interpolant.time(-2 * (mean + std * jax.scipy.special.ndtri(uniform)))
        return jnp.clip(t, *interpolant.bounds)

    return times


def logit_normal_times(mean: float = 0.0, std: float = 1.0) -> Times:
    """The logit of time, as a fraction of the bounds, is normal: Esser et al. 2024, equation 19."""

    def times(interpolant: Interpolant, uniform: jax.Array) -> jax.Array:  # [B] -> [B]
        return uniform_times(interpolant, jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(uniform)))

    return times


def cosine_times(interpolant: Interpolant, uniform: jax.Array) -> jax.Array:
    """The noise levels of the cosine path at uniform times (Esser et al. 2024, equation 21)."""
    # [B] -> [B]
    return jnp.clip(interpolant.time(cosine().log_snr(uniform)), *interpolant.bounds)
