"""Observations as functions of images, from options: their parts, their composition, their adjoints."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.observations import jpeg, masks, operators
from genimg_jax.observations.types import STEPS, Options
from genimg_jax.options import nearest

MASKED = ("inpaint", "outpaint")
Map = Callable[[jax.Array], jax.Array]
Shape = tuple[int, int, int]  # (height, width, channels)


class Observation(NamedTuple):
    """What is observed of images, as functions of f32[B, H, W, C] in [-1, 1]. Row i depends on row i alone."""

    apply: Callable[[jax.Array, jax.Array | None], jax.Array]
    """(image, mask bool[B, H, W] of known pixels if `needs_mask`, else None) -> f32[B, h, w, c], without noise. Unknown
    pixels are 0."""
    linear: bool
    """Whether `apply` is linear in the image, without a constant term."""
    noise: float
    """Standard deviation of the Gaussian noise that is added, in units of [-1, 1]."""
    show: Map
    """Observed f32[B, h, w, c] -> f32[B, H, W, c], of the image's height and width."""
    needs_mask: bool
    about: str
    """In words, such as '4 times smaller (means of blocks), noise 0.05'."""


class Step(NamedTuple):
    """A part of an observation."""

    apply: Map
    about: str
    factor: int = 1  # height and width of its argument over those of its result
    linear: bool = True


def build(options: Options, image_shape: Shape) -> Observation:
    """The observation of images of `image_shape`. Raises `ConfigError` if it does not suit them."""
    kinds = options.steps if options.kind == "several" else (options.kind,)
    _check(options, kinds)
    steps, shape = [], image_shape
    for kind in kinds:
        step = BUILDERS[kind](options, shape)
        shape = jax.eval_shape(step.apply, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]
        steps.append(step)
    needs_mask = kinds[-1] in MASKED
    factor = int(np.prod([step.factor for step in steps]))
    if needs_mask and factor > 1:
        raise ConfigError(f"observation.steps is {kinds}, and a mask is of the image's size: leave superres out.")

    def apply(image: jax.Array, mask: jax.Array | None) -> jax.Array:
        for step in steps:
            image = step.apply(image)
        return jnp.where(mask[..., None], image, 0) if needs_mask else image

    return Observation(
        apply,
        all(step.linear for step in steps),
        options.noise,
        functools.partial(operators.repeat, factor=factor),
        needs_mask,
        ", then ".join(step.about for step in steps) + (f", noise {options.noise:g}" if options.noise else ""),
    )


def observe(observation: Observation, image: jax.Array, mask: jax.Array | None, keys: jax.Array) -> jax.Array:
    """What is observed, with noise on all that is known, each example's from its own key."""
    # [B, H, W, C], bool[B, H, W], key[B] -> [B, h, w, c]
    observed = observation.apply(image, mask)
    if not observation.noise:
        return observed
    noisy = observed + observation.noise * core.normal(keys, observed.shape[1:])
    return noisy if mask is None else jnp.where(mask[..., None], noisy, 0)


def adjoint(observation: Observation, image_shape: Shape, mask: jax.Array | None) -> Map:
    """The adjoint A' of a linear observation A, for which <A x, y> = <x, A' y>: observed [B, h, w, c] to
    [B, *image_shape]. Raises `ConfigError` if the observation is not linear."""
    if not observation.linear:
        raise ConfigError(f"this observation ({observation.about}) is not linear, and has no adjoint.")

    def transposed(observed: jax.Array) -> jax.Array:
        image = jax.ShapeDtypeStruct((len(observed), *image_shape), observed.dtype)
        return jax.linear_transpose(lambda x: observation.apply(x, mask), image)(observed)[0]

    return transposed


def as_source(observation: Observation, observed: jax.Array, mask: jax.Array | None) -> jax.Array:
    """What is observed, as an image for a network to be conditioned on. A mask is one more channel: 1 where the pixel
    is known, -1 where it is not."""  # [B, h, w, c] -> [B, H, W, c], or with a mask [B, H, W, c + 1]
    shown = observation.show(observed)
    if mask is None:
        return shown
    return jnp.concatenate([shown, 2 * mask[..., None].astype(shown.dtype) - 1], axis=-1)


def random_source(options: Options, image: jax.Array, keys: jax.Array) -> jax.Array:
    """`as_source` of images, with masks and noise from each example's key."""
    # [B, H, W, C] in [-1, 1], key[B] -> [B, H, W, c] or [B, H, W, c + 1]
    observation = build(options, image.shape[1:])
    mask = masks.draw(options, core.fold_in(keys, 0), image.shape[1:3]) if observation.needs_mask else None
    return as_source(observation, observe(observation, image, mask, core.fold_in(keys, 1)), mask)


def _check(options: Options, kinds: tuple[str, ...]) -> None:
    if not kinds:
        raise ConfigError("observation.kind is 'several'; name them in observation.steps.")
    if unknown := [kind for kind in kinds if kind not in BUILDERS]:
        where = "steps" if options.kind == "several" else "kind"
        listed = f"It must be {'some' if where == 'steps' else 'one'} of {', '.join(STEPS)}."
        raise ConfigError(f"observation.{where} has {unknown[0]!r}{nearest(unknown[0], STEPS)} {listed}")
    if any(kind in MASKED for kind in kinds[:-1]):
        raise ConfigError(f"observation.steps is {kinds}; name what hides pixels once, and last.")


def _superres(options: Options, shape: Shape) -> Step:
    factor = options.factor
    if shape[0] % factor or shape[1] % factor:
        raise ConfigError(f"observation.factor is {factor}, which does not divide a {shape[0]}x{shape[1]} image.")
    resize = {"mean": operators.block_mean, "bicubic": operators.bicubic}[options.resampling]
    how = {"mean": "means of blocks", "bicubic": "bicubic"}[options.resampling]
    return Step(functools.partial(resize, factor=factor), f"{factor} times smaller ({how})", factor)


def _deblur(options: Options, shape: Shape) -> Step:
    path = options.kernel_file
    kernel = _kernel(path) if path else operators.gaussian_kernel(options.sigma)
    how = f"the kernel of {path}" if path else f"a Gaussian of deviation {options.sigma:g}"
    blur = functools.partial(operators.blur, kernel=kernel, padding=options.padding)
    return Step(blur, f"blurred by {how} ({options.padding} padding)")


def _kernel(path: str) -> np.ndarray:  # -> f64[K, L]
    try:
        kernel = np.asarray(np.load(path, allow_pickle=False), np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"observation.kernel_file is {path}, which cannot be read: {error}") from error
    if kernel.ndim != 2 or not all(side % 2 for side in kernel.shape) or not kernel.sum() > 0:
        raise ConfigError(
            f"observation.kernel_file is {path}, with an array of shape {kernel.shape} and sum {kernel.sum():g}; a "
            "kernel is [K, L] of odd sides, and its sum is positive."
        )
    return kernel / kernel.sum()


def _colourise(options: Options, shape: Shape) -> Step:
    if shape[2] != 3:
        raise ConfigError("observation.kind is colourise, and the image is grey already; take colour images.")
    return Step(operators.luma, "without its colours (ITU-R BT.601 luma)")


def _jpeg(options: Options, shape: Shape) -> Step:
    if shape[2] not in (1, 3):
        raise ConfigError(f"observation.kind is jpeg, and the image has {shape[2]} channels, not 1 or 3.")
    compress = functools.partial(jpeg.compress, quality=options.quality)
    return Step(compress, f"JPEG of quality {options.quality}", linear=False)


def _inpaint(options: Options, shape: Shape) -> Step:
    how = {
        "box": f"a box of {options.share:.0%} of the pixels",
        "centre": f"a box of {options.share:.0%} of the pixels in the centre",
        "random": f"{options.share:.0%} of the pixels at random",
        "half": "a random half" if options.half == "any" else f"the {options.half} half",
        "file": f"the dark pixels of {options.mask_file}",
    }[options.mask]
    return Step(_identity, f"without {how}")


def _identity(image: jax.Array) -> jax.Array:
    return image


BUILDERS: dict[str, Callable[[Options, Shape], Step]] = {
    "inpaint": _inpaint,
    "outpaint": lambda options, _: Step(_identity, f"without the {options.share:.0%} of the pixels around a box"),
    "superres": _superres,
    "deblur": _deblur,
    "denoise": lambda *_: Step(_identity, "as it is"),
    "colourise": _colourise,
    "jpeg": _jpeg,
}
