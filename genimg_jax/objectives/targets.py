"""What a network may predict along a path, and exact conversions between those predictions.

x_t is one mixture of image and noise, and whatever a network predicts is another, a(t) x_0 + b(t) n. A target is that
pair of factors; x_t and any one prediction give every other by solving two linear equations.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax.objectives.paths import Path, derivatives, per_example

Target = Callable[[Path, jax.Array], tuple[jax.Array, jax.Array]]
"""(path, t f32[B]) -> the factors (a f32[B], b f32[B]) of image and noise in what a network predicts."""
Predict = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t [B, ...], t f32[B]) -> the prediction [B, ...]."""


def image_target(path: Path, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x_0. At sigma = 0 it says nothing of the noise."""
    return jnp.ones_like(t), jnp.zeros_like(t)


def noise_target(path: Path, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """n (Ho et al. 2020, equation 14). At alpha = 0 it says nothing of the image."""
    return jnp.zeros_like(t), jnp.ones_like(t)


def angular_velocity_target(path: Path, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """v = alpha n - sigma x_0, the `v-prediction` of Salimans and Ho 2022, appendix D.

    On a variance preserving path, the derivative of x_t by the angle arctan(sigma / alpha), and not by time.
    """
    return -path.sigma(t), path.alpha(t)


def flow_velocity_target(path: Path, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """dx_t / dt = alpha' x_0 + sigma' n, what flow matching regresses (Lipman et al. 2023, equation 14)."""
    return derivatives(path, t)


def edm_target(data_std: float) -> Target:
    """The raw network F of Karras et al. 2022, equation 7: expected image = c_skip(level) z + c_out(level) F.

    Solved for F, with r^2 = sigma^2 + alpha^2 data_std^2: (sigma x_0 / data_std - alpha data_std n) / r. It is -v
    where images have unit variance and the path preserves it.
    """

    def target(path: Path, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        alpha, sigma, scale = path.alpha(t), path.sigma(t), input_scale(path, t, data_std)
        return scale * sigma / data_std, -scale * alpha * data_std

    return target


def input_scale(path: Path, t: jax.Array, data_std: float) -> jax.Array:
    """What x_t is multiplied with to have unit variance; c_in of Karras et al. 2022, table 1."""  # [B] -> [B]
    return jax.lax.rsqrt(path.sigma(t) ** 2 + (path.alpha(t) * data_std) ** 2)


def determinant(path: Path, target: Target, t: jax.Array) -> jax.Array:
    """alpha b - sigma a: where it is 0, x_t and the prediction do not determine image and noise.

    An error of the prediction is |determinant| / sigma times the error of the image it implies.
    """  # [B] -> [B]
    a, b = target(path, t)
    return path.alpha(t) * b - path.sigma(t) * a


def value(target: Target, path: Path, t: jax.Array, image: jax.Array, noise: jax.Array) -> jax.Array:
    """What a network with this target should predict."""  # [B], [B, ...], [B, ...] -> [B, ...]
    a, b = target(path, t)
    return per_example(a, image) * image + per_example(b, image) * noise


def convert(
    path: Path, t: jax.Array, noisy: jax.Array, prediction: jax.Array, source: Target, target: Target
) -> jax.Array:
    """The prediction of `target` that a prediction of `source` at x_t = `noisy` implies.

    Exact, and not finite where the source does not determine it: from noise at alpha = 0, from the image at sigma = 0.
    """  # [B], [B, ...], [B, ...] -> [B, ...]
    if source is target:
        return prediction
    (a, b), (c, d) = source(path, t), target(path, t)
    area = determinant(path, source, t)
    of_prediction = determinant(path, target, t) / area
    of_noisy = (b * c - a * d) / area
    return per_example(of_noisy, noisy) * noisy + per_example(of_prediction, noisy) * prediction


def denoiser(path: Path, target: Target, predict: Predict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The callback of every sampler, (z [B, ...], level f32[B]) -> the expected clean image [B, ...].

    z = x_0 + level n. The network sees x_t = alpha(t) z at the time t of that level, which must be above 0.
    """

    def denoise(noisy: jax.Array, level: jax.Array) -> jax.Array:
        t = path.time(-2 * jnp.log(level))
        x = per_example(path.alpha(t), noisy) * noisy
        return convert(path, t, x, predict(x, t), target, image_target)

    return denoise
