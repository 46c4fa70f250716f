"""Prediction targets along a path, and exact conversions between predictions.

x_t is a linear combination of image and noise, and so is every target: a(t) x_0 + b(t) n. A `Target` gives the factors
(a, b). From x_t and one prediction, every other prediction follows by solving two linear equations.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax.objectives.interpolants import Interpolant, derivatives, per_example

Target = Callable[[Interpolant, jax.Array], tuple[jax.Array, jax.Array]]
"""(path, t f32[B]) -> the factors (a f32[B], b f32[B]) of image and noise in the prediction."""
Predict = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t [B, ...], t f32[B]) -> the prediction [B, ...]."""


def x0_target(interpolant: Interpolant, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x_0. At sigma = 0 it does not determine the noise."""
    return jnp.ones_like(t), jnp.zeros_like(t)


def epsilon_target(interpolant: Interpolant, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """n (Ho et al. 2020, equation 14). At alpha = 0 it does not determine the image."""
    return jnp.zeros_like(t), jnp.ones_like(t)


def v_target(interpolant: Interpolant, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """v = alpha n - sigma x_0, the `v-prediction` of Salimans and Ho 2022, appendix D.

    On a variance preserving path this is the derivative of x_t by the angle arctan(sigma / alpha), not by time.
    """
    return -interpolant.sigma(t), interpolant.alpha(t)


def flow_velocity_target(interpolant: Interpolant, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """dx_t / dt = alpha' x_0 + sigma' n, the target of flow matching (Lipman et al. 2023, equation 14)."""
    return derivatives(interpolant, t)


def edm_target(sigma_data: float) -> Target:
    """The raw network F of Karras et al. 2022, equation 7: expected image = c_skip(level) z + c_out(level) F.

    Solved for F, with r^2 = sigma^2 + alpha^2 sigma_data^2: (sigma x_0 / sigma_data - alpha sigma_data n) / r. It is -v
    if sigma_data is 1 and the path preserves variance.
    """

    def target(interpolant: Interpolant, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        alpha, sigma, scale = interpolant.alpha(t), interpolant.sigma(t), input_scale(interpolant, t, sigma_data)
        return scale * sigma / sigma_data, -scale * alpha * sigma_data

    return target


def input_scale(interpolant: Interpolant, t: jax.Array, sigma_data: float) -> jax.Array:
    """The factor that gives x_t unit variance: c_in of Karras et al. 2022, table 1."""  # [B] -> [B]
    return jax.lax.rsqrt(interpolant.sigma(t) ** 2 + (interpolant.alpha(t) * sigma_data) ** 2)


def determinant(interpolant: Interpolant, target: Target, t: jax.Array) -> jax.Array:
    """alpha b - sigma a. If it is 0, x_t and the prediction do not determine image and noise.

    The prediction's error is |determinant| / sigma times the error of the image that it implies.
    """  # [B] -> [B]
    a, b = target(interpolant, t)
    return interpolant.alpha(t) * b - interpolant.sigma(t) * a


def value(target: Target, interpolant: Interpolant, t: jax.Array, image: jax.Array, noise: jax.Array) -> jax.Array:
    """The value of the target."""  # [B], [B, ...], [B, ...] -> [B, ...]
    a, b = target(interpolant, t)
    return per_example(a, image) * image + per_example(b, image) * noise


def convert(
    interpolant: Interpolant, t: jax.Array, noisy: jax.Array, prediction: jax.Array, source: Target, target: Target
) -> jax.Array:
    """A prediction of `source` at x_t = `noisy`, converted to a prediction of `target`.

    Exact. Not finite where the source does not determine the target: from noise at alpha = 0, from the image at
    sigma = 0.
    """  # [B], [B, ...], [B, ...] -> [B, ...]
    if source is target:
        return prediction
    (a, b), (c, d) = source(interpolant, t), target(interpolant, t)
    divisor = determinant(interpolant, source, t)
    noisy_factor, prediction_factor = (b * c - a * d) / divisor, determinant(interpolant, target, t) / divisor
    return per_example(noisy_factor, noisy) * noisy + per_example(prediction_factor, noisy) * prediction


def denoiser(interpolant: Interpolant, target: Target, predict: Predict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The callback of every sampler, (z [B, ...], sigma f32[B]) -> the expected clean image [B, ...].

    z = x_0 + sigma n. The network's input is x_t = alpha(t) z at the time t with this noise level, which must be above
    0.
    """

    def denoise(noisy: jax.Array, sigma: jax.Array) -> jax.Array:
        t = interpolant.time(-2 * jnp.log(sigma))
        x = per_example(interpolant.alpha(t), noisy) * noisy
        return convert(interpolant, t, x, predict(x, t), target, x0_target)

    return denoise
