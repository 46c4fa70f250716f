"""The terms of the variational bound of a diffusion model (Kingma et al. 2021, equation 11), in nats per image.

-log p(x) <= prior_divergence - reconstruction + the expectation of `diffusion_loss` (or of `discrete_diffusion_loss`)
over uniform times and noise. The path must preserve variance. Its ends may be learned.
"""

import jax
import jax.numpy as jnp

from genimg_jax.objectives.gaussian import kl_standard_normal
from genimg_jax.objectives.interpolants import Interpolant, per_example
from genimg_jax.objectives.likelihoods import to_levels, to_values


def _at(interpolant: Interpolant, end: int, images: int) -> jax.Array:  # -> f32[B]
    return jnp.full((images,), interpolant.bounds[end])


def prior_divergence(interpolant: Interpolant, image: jax.Array) -> jax.Array:
    """KL(q(x_1 | image) || N(0, 1)), x_1 the noisiest x_t."""  # [B, ...] -> f32[B]
    t = _at(interpolant, 1, len(image))
    log_variance = jnp.broadcast_to(per_example(2 * jnp.log(interpolant.sigma(t)), image), image.shape)
    return kl_standard_normal(per_example(interpolant.alpha(t), image) * image, log_variance)


def reconstruction(interpolant: Interpolant, image: jax.Array, noise: jax.Array, levels: int) -> jax.Array:
    """log p(image | x_0), where x_0 is the cleanest x_t, with this noise (Kingma et al. 2021, section 3.3).

    Pixels and channels are independent: the probability of a level is proportional to the density of x_0 given it.
    """  # [B, H, W, C], [B, H, W, C] -> f32[B]
    precision = jnp.exp(0.5 * interpolant.log_snr(_at(interpolant, 0, len(image))))
    values = to_values(jnp.arange(levels), levels).reshape(*[1] * image.ndim, -1)
    # x_0 / alpha minus each value, in standard deviations.
    distances = noise[..., None] + per_example(precision, values) * (image[..., None] - values)
    log_masses = jax.nn.log_softmax(-0.5 * distances**2)
    chosen = jnp.take_along_axis(log_masses, to_levels(image, levels)[..., None], axis=-1)
    return chosen.sum(axis=tuple(range(1, chosen.ndim)))


def diffusion_loss(interpolant: Interpolant, t: jax.Array, squared_error: jax.Array) -> jax.Array:
    """One draw of the continuous-time loss: -d log SNR / dt |noise error|^2 / 2 (Kingma et al. 2021, equation 17).

    `t` is uniform within the path's bounds. `squared_error` is that of the predicted noise, summed over the image.
    """  # [B], [B] -> f32[B]
    _, slope = jax.jvp(interpolant.log_snr, (t,), (jnp.ones_like(t),))
    return -0.5 * (interpolant.bounds[1] - interpolant.bounds[0]) * slope * squared_error


def discrete_diffusion_loss(interpolant: Interpolant, t: jax.Array, squared_error: jax.Array, steps: int) -> jax.Array:
    """One draw of the loss of a model of `steps` steps (Kingma et al. 2021, equation 14).

    The steps divide the path's bounds equally. `t` is the end of a step, each equally likely. `squared_error` is that
    of the noise predicted at t.
    """  # [B], [B] -> f32[B]
    before = t - (interpolant.bounds[1] - interpolant.bounds[0]) / steps
    return 0.5 * steps * jnp.expm1(interpolant.log_snr(before) - interpolant.log_snr(t)) * squared_error
