"""Editing of images: noise and denoising, another condition for the same noise, and moves in a space of codes.

`Edit` and the functions (family, weights, batch, key) are tasks for `program.run`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.objectives.likelihoods import to_levels, to_values
from genimg_jax.samplers import ode, sde

PREVIOUS = "previous_"  # begins the name of a condition that an image had before the edit
SOLVERS = {"ancestral": sde.ancestral, "heun": ode.heun}
EIGENVECTOR_TOLERANCE = 1e-6  # of eigenvalues, relative


class Edited(NamedTuple):
    """Rows of a batch: f32[B, H, W, C] in [-1, 1]."""

    original: jax.Array
    image: jax.Array


class Method(NamedTuple):
    lacks: Callable[[core.Family, bool], str]
    """(family, whether there is a mask) -> what lacks, as the end of a sentence; "" if nothing."""
    edit: Callable[["Edit", core.Family, core.Weights, core.Batch, jax.Array], jax.Array]
    """(edit, family, weights, batch, key[]) -> images f32[B, H, W, C]."""
    about: Callable[[core.Family], str]


@dataclasses.dataclass(frozen=True)
class Edit:
    """A task. Its batch has an image, the new condition, and `draw` i32[B], which numbers the results of one image.

    It may have the condition from before, under names that begin with `PREVIOUS`, and a `mask` bool[B, H, W] of the
    pixels that may change; all others are then kept exactly.
    """

    method: str  # of `METHODS`
    level: float = 1.0  # of `vary`: the share of the noise levels to go back, from 0 (the image) to 1 (noise alone)
    noise_levels: int = 100  # from noise alone to the image
    solver: str = "ancestral"  # of `vary`
    stream = "edit"

    def __call__(self, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> Edited:
        image = METHODS[self.method].edit(self, family, weights, batch, key)
        if "mask" in batch:
            image = jnp.where(batch["mask"][..., None], image, batch["image"])
        return Edited(batch["image"], image)


def plan(method: str, family: core.Family, masked: bool) -> tuple[str, str]:
    """The method, or of 'auto' the first that can, and what it does. Raises `ConfigError` that says what lacks."""
    wanted = (method,) if method != "auto" else ("inpaint", "vary", "invert") if masked else ("invert", "vary")
    lacking = {name: METHODS[name].lacks(family, masked) for name in wanted}
    for name, lack in lacking.items():
        if not lack:
            return name, METHODS[name].about(family)
    raise ConfigError(f"this run cannot edit so: {'; '.join(f'{name} {lack}' for name, lack in lacking.items())}.")


def previous(batch: core.Batch) -> core.Batch:
    """The batch with the condition from before the edit."""
    return batch | {name.removeprefix(PREVIOUS): x for name, x in batch.items() if name.startswith(PREVIOUS)}


# --------------------------------------------------------------------------------------------------- denoising


def sdedit(
    denoise: ode.Denoise,
    step: ode.Step,
    sigmas: jax.Array,
    image: jax.Array,
    level: float,
    keys: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """SDEdit (Meng et al. 2022, section 3): noise is added to the image, and removed by a sampler.

    `level` is the share of the schedule to go back, rounded to its steps. At 0 the result is the image; at 1 the start
    is noise alone, so the result is a sample. With a `mask`, which broadcasts to images, elements outside it are the
    image's with noise of the current level after every step: the others then only approximate their conditional
    distribution, as in the replacement method.
    """  # f32[steps + 1], [B, ...], key[B] -> [B, ...]
    steps = len(sigmas) - 1
    first = steps - round(level * steps)
    noise = core.normal(core.fold_in(keys, 0), image.shape[1:])
    start = sigmas[first] * noise + (image if first else 0.0)

    def masked(denoise, state, sigma, following, noise):
        state = step(denoise, state, sigma, following, noise)
        return state._replace(noisy=jnp.where(mask, state.noisy, image + following * noise))

    return ode.integrate(step if mask is None else masked, denoise, start, sigmas[first:], keys)


def _denoiser(family: core.Family, weights: core.Weights, batch: core.Batch) -> ode.Denoise:
    condition = {name: value for name, value in batch.items() if name != "image"}
    return lambda noisy, sigma: family.denoise(weights, noisy, sigma, condition)


def _to_denoised(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """The image in the space that `denoise` works in."""  # -> f32[B, h, w, c]
    if not (space := family.denoise_space):
        return batch["image"]
    codes = space.encode(weights, batch, key)
    return to_values(codes, space.spec.levels) if space.spec.levels else codes


def _from_denoised(family: core.Family, weights: core.Weights, codes: jax.Array, batch: core.Batch) -> jax.Array:
    if not (space := family.denoise_space):
        return jnp.clip(codes, -1, 1)
    return space.decode(weights, to_levels(codes, space.spec.levels) if space.spec.levels else codes, batch)


def changing_cells(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The codes of a grid `shape` any of whose pixels may change."""  # bool[B, H, W] -> bool[B, h, w, 1]
    rows, columns = shape[:2]
    cells = mask.reshape(len(mask), rows, mask.shape[1] // rows, columns, mask.shape[2] // columns)
    return cells.any((2, 4))[..., None]


def _vary(edit: Edit, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    codes = _to_denoised(family, weights, previous(batch), key)
    mask = changing_cells(batch["mask"], codes.shape[1:]) if "mask" in batch else None
    sigmas, denoise = family.sigmas(weights, edit.noise_levels), _denoiser(family, weights, batch)
    codes = sdedit(denoise, SOLVERS[edit.solver], sigmas, codes, edit.level, _draw_keys(batch, key), mask)
    return _from_denoised(family, weights, codes, batch)


def _invert(edit: Edit, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """The image of the new condition that has the same noise or code.

    The noise is that of the probability-flow ODE (Song et al. 2021, Score-based generative modeling, section 4.3),
    solved by Heun's method in both directions; DDIM inversion is the same by Euler's.
    """
    before = previous(batch)
    if not family.denoise:
        space = normal_space(family, "encode")
        return space.decode(weights, space.encode(weights, before, key), batch)
    sigmas, codes = family.sigmas(weights, edit.noise_levels), _to_denoised(family, weights, before, key)
    noise = ode.to_noise(ode.heun, _denoiser(family, weights, before), sigmas, codes)
    unused = _draw_keys(batch, key)
    codes = ode.from_noise(ode.heun, _denoiser(family, weights, batch), sigmas, noise, unused)
    return _from_denoised(family, weights, codes, batch)


def _inpaint(edit: Edit, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    return family.inpaint(weights, batch["image"], ~batch["mask"], _draw_keys(batch, key), batch)


def _draw_keys(batch: core.Batch, key: jax.Array) -> jax.Array:  # -> key[B]
    return jax.vmap(jax.random.fold_in)(core.per_example_keys(key, batch["index"]), batch["draw"])


def _cannot_vary(family: core.Family, masked: bool) -> str:
    return "" if family.denoise else "needs a family that denoises, such as diffusion"


def _cannot_invert(family: core.Family, masked: bool) -> str:
    able = family.denoise or normal_space(family, "encode")
    return "" if able else "needs a denoiser, or an encoder to normal codes as of vae"


def _cannot_inpaint(family: core.Family, masked: bool) -> str:
    if not family.inpaint:
        return "needs a family that completes images, such as transformer"
    return "" if masked else "needs a mask of the pixels that may change"


METHODS = {
    "invert": Method(
        _cannot_invert,
        _invert,
        lambda family: "the same noise, by the probability-flow ODE" if family.denoise else "the same code",
    ),
    "vary": Method(_cannot_vary, _vary, lambda family: "SDEdit: noise is added to the image, and sampled away"),
    "inpaint": Method(_cannot_inpaint, _inpaint, lambda family: family.inpaint_method),
}


# ------------------------------------------------------------------------------------------------------- codes


def normal_space(family: core.Family, *capabilities: str) -> core.Latents | None:
    """The space with these capabilities whose codes are standard normal under every condition."""
    space = core.space_with(family, *capabilities, "prior", "interpolate")
    return space if space and space.interpolate == "spherical" else None


def space_of(family: core.Family) -> core.Latents | None:
    """The space of vectors to move in: one with an encoder, else that with a code for each layer, else any prior's."""
    wanted = ("encode", "prior"), ("encode",), ("prior", "layered"), ("prior",)
    spaces = (core.space_with(family, "interpolate", *capabilities) for capabilities in wanted)
    return next(filter(None, spaces), None)


def encode_images(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    return space_of(family).encode(weights, batch, key)


def draw_codes(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    return space_of(family).prior(weights, core.per_example_keys(key, batch["index"]), batch)


def decode_codes(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """The images of the batch's `codes`."""  # -> f32[B, H, W, C]
    return space_of(family).decode(weights, batch["codes"], batch)


def jacobian_product(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """J'J v, with J the Jacobian of the decoder at the batch's `codes` and v its `direction`."""  # -> [B, ...]
    space = space_of(family)
    push_forward = jax.linearize(lambda codes: space.decode(weights, codes, batch), batch["codes"])[1]
    (product,) = jax.linear_transpose(push_forward, batch["codes"])(push_forward(batch["direction"]))
    return product


def leading_eigenvector(multiply: Callable[[np.ndarray], np.ndarray], size: int, rank: int) -> np.ndarray:
    """The unit eigenvector of the symmetric matrix of `multiply`, f[size] -> f[size], for its eigenvalue of this rank.

    Rank 0 is the greatest eigenvalue. The rank must be below size - 1, because the method is Lanczos' (ARPACK). The
    eigenvectors of J'J of a linear decoder are the directions of SeFa (Shen and Zhou 2021).
    """  # -> f64[size]
    if not 0 <= rank < size - 1:
        raise ConfigError(f"direction {rank} is none of 0 to {size - 2}, which codes of {size} numbers have.")
    start = np.random.default_rng(0).normal(size=size)
    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    values, vectors = eigsh(operator, rank + 1, which="LA", v0=start, tol=EIGENVECTOR_TOLERANCE)
    return _with_sign(vectors[:, np.argsort(values)[0]])


def principal_direction(codes: np.ndarray, rank: int) -> np.ndarray:
    """The unit direction of this rank, by variance, of codes (GANSpace, Härkönen et al. 2020)."""
    # [N, ...] -> [...]
    flat = codes.reshape(len(codes), -1).astype(np.float64)
    _, deviations, vectors = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    if not 0 <= rank < len(deviations):
        raise ConfigError(f"direction {rank} is none of 0 to {len(deviations) - 1}, which these codes have.")
    return _with_sign(vectors[rank]).reshape(codes.shape[1:])


def deviation_along(codes: np.ndarray, direction: np.ndarray) -> float:
    """The standard deviation of codes along a unit direction."""  # [N, ...], [...] -> f64[]
    return float((codes.reshape(len(codes), -1) @ direction.ravel()).std())


def label_direction(codes: np.ndarray, labels: np.ndarray, label: int) -> np.ndarray:
    """The mean of the codes of a class less that of all others: [N, ...], i[N] -> [...]."""
    chosen = labels == label
    if chosen.all() or not chosen.any():
        raise ConfigError(f"{chosen.sum()} of {len(labels)} images are of class {label}; examples of both are needed.")
    return codes[chosen].mean(0) - codes[~chosen].mean(0)


def _with_sign(vector: np.ndarray) -> np.ndarray:
    """The vector or its negative, whichever has its greatest element positive."""
    return vector * np.sign(vector[np.abs(vector).argmax()])
