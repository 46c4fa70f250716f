"""What diffusion and flow models share: a network that sees images at a random noise level, trained by regression.

Path, target, weighting and distribution of times are given (`objectives.paths`, `targets`, `weightings`); the trained
network is a denoiser of z = image + level noise whatever they are, and sampler and likelihood know only that.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.networks import backbone
from genimg_jax.objectives import targets
from genimg_jax.objectives.paths import Path, mix, noise_level, per_example
from genimg_jax.objectives.weightings import Times, Weighting, independent, stratified
from genimg_jax.options import bounded, choice
from genimg_jax.samplers import grids, ode, sde
from genimg_jax.samplers.guidance import guide
from genimg_jax.samplers.likelihood import log_density, rademacher

GROUPS = ("model",)
SOLVERS: dict[str, Callable[[int], ode.Step]] = {  # of the number of steps
    "euler": lambda steps: ode.euler,
    "heun": lambda steps: ode.heun,
    "dpm_solver": lambda steps: ode.dpm_solver,
    "ancestral": lambda steps: sde.ancestral,
    "stochastic": sde.stochastic,
}
Couple = Callable[[jax.Array, jax.Array], jax.Array]
"""(image [B, ...], noise [B, ...]) -> the noises in the order in which they are paired with the images."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that these families share; each adds its own."""

    network: str = choice("unet", *backbone.NETWORKS)
    width: int = bounded(64, 1)  # channels of the U-Net's first level, features of a DiT's token
    multipliers: tuple[int, ...] = (1, 2, 2)  # U-Net: channels of each level over width; each level halves the image
    blocks: int = bounded(2, 1)  # U-Net: residual blocks a level
    attention: tuple[int, ...] = ()  # U-Net: heights at which pixels attend to each other, besides the lowest
    patch: int = bounded(2, 1)  # DiT: height and width of a token, in pixels
    depth: int = bounded(6, 1)  # DiT: blocks
    heads: int = bounded(4, 1)  # DiT: attention heads, which share the width
    remat: bool = False  # DiT: compute blocks again for their gradients, to save memory
    conditional: bool = False  # condition on the class
    label_dropout: float = bounded(0.1, 0.0, 1.0)  # share of training images whose class is hidden, for guidance
    guidance: float = bounded(1.0, 0.0, static=True)  # weight of the class: 0 ignores it, more than 1 exaggerates it
    dequantize: bool = False  # train on images with uniform noise as wide as a level, of which `log_prob` is a density
    data_std: float = bounded(0.5, 1e-3)  # standard deviation of pixels, which inputs (and EDM's targets) are scaled by
    solver: str = choice("heun", *SOLVERS)
    steps: int = bounded(18, 1)  # of the solver; Heun's method evaluates the network twice in each but the last
    least: float = bounded(0.002, 1e-5, static=True)  # lowest noise level of likelihoods and of most samplers' grids
    greatest: float = bounded(80.0, 1.0, static=True)  # noise level that sampling starts from
    evaluate_times: int = bounded(8, 1)  # noise levels at which `evaluate` measures each image
    likelihood_steps: int = bounded(64, 2)  # Heun steps of `log_prob`
    likelihood_probes: int = bounded(4, 1)  # random directions that estimate `log_prob`'s trace


def level_range(options: Options, path: Path) -> tuple[jax.Array, jax.Array]:
    """The least and greatest noise level of the options, or of the path where that is narrower."""  # -> f32[], f32[]
    first, last = noise_level(path, jnp.asarray(path.bounds))
    return jnp.maximum(options.least, first), jnp.minimum(options.greatest, last)


def denoising(
    options: Options,
    spec: core.Spec,
    optimizers: Mapping[str, core.Optimizer],
    path: Path,
    target: targets.Target,
    weighting: Weighting,
    times: Times,
    levels: Callable[[], jax.Array],
    couple: Couple = lambda image, noise: noise,
) -> core.Family:
    """A family with one parameter group, `model`; `levels()` are those that its sampler visits, f32[steps + 1].

    The loss is the weighted squared error of the prediction, a mean over pixels and channels. Samples are clipped to
    [-1, 1], but for images of real numbers, which have no `log_prob`: theirs would be a density. Where there is a
    class, `denoise` is guided; `log_prob` is not: it is that of the image given its class.
    """
    classes = core.classes(options.conditional, spec)
    network = backbone.build(options, spec.image_shape[-1], classes)
    optimizer, step = optimizers["model"], SOLVERS[options.solver](options.steps)
    width = 2 / (spec.levels - 1)  # of a level

    def dequantized(keys, image):  # [B, H, W, C] -> [B, H, W, C]
        return image + width * jax.vmap(lambda k: jax.random.uniform(k, spec.image_shape, minval=-0.5, maxval=0.5))(
            keys
        )

    def seen(keys, image):
        return dequantized(keys, image) if options.dequantize else image

    def label(batch):
        return batch["label"] if classes else None

    def predict(params, noisy, t, label):  # x_t [B, H, W, C], [B], i32[B] -> [B, H, W, C]
        scaled = per_example(targets.input_scale(path, t, options.data_std), noisy) * noisy
        return network.apply({"params": params}, scaled, -path.log_snr(t) / 8, label, False)  # ln(level) / 4

    def error(params, t, image, noise, label):  # [B], 2 x [B, H, W, C], i32[B] -> f32[B]
        predicted = predict(params, mix(path, t, image, noise), t, label)
        squares = (predicted - targets.value(target, path, t, image, noise)) ** 2
        return weighting(path, target, t) * squares.mean(axis=(1, 2, 3))

    def denoiser(params, condition, guidance):
        def told(label):
            return targets.denoiser(path, target, lambda noisy, t: predict(params, noisy, t, label))

        if not classes or guidance == 1.0:
            return told(label(condition))
        return guide(told(label(condition)), told(None), guidance)

    def init(key, batch):
        image = batch["image"]
        params = network.init(key, image, jnp.zeros(len(image)), label(batch), False)["params"]
        return core.init_state({"model": params}, optimizers)

    def train_step(state, batch, key):
        times_key, key = jax.random.split(key)
        keys = core.item_keys(key, batch["index"])
        noise = core.normal(core.fold_in(keys, 0), spec.image_shape)
        image = seen(core.fold_in(keys, 2), batch["image"])
        t = times(path, stratified(times_key, batch["index"]))
        drawn = {"image": image, "t": t, "noise": couple(image, noise)}
        if classes:
            hidden = independent(core.fold_in(keys, 1)) < options.label_dropout
            drawn["label"] = jnp.where(hidden, classes, batch["label"])

        def loss(params, part, _):
            return error(params, part["t"], part["image"], part["noise"], label(part)).mean(), {}

        gradient = core.value_and_grad(optimizer, loss)
        (value, _), gradients = gradient(state.params["model"], {**batch, **drawn}, key)
        state, updated = core.update(optimizer, state, "model", gradients)
        return state.replace(step=state.step + 1), {"loss": value, **updated}

    def evaluate(weights, batch, key):
        """The training loss with every class shown, at one time in each of as many equally likely ranges."""
        keys = core.item_keys(key, batch["index"])

        def measure(total, k):
            own = core.fold_in(keys, k)
            uniform = (k + independent(core.fold_in(own, 0))) / options.evaluate_times
            t = times(path, jnp.minimum(uniform, 1 - 2.0**-24))  # the sum may round up to 1
            noise = core.normal(core.fold_in(own, 1), spec.image_shape)
            image = seen(core.fold_in(own, 2), batch["image"])
            return total + error(weights.params["model"], t, image, noise, label(batch)), None

        start = jnp.zeros(batch["image"].shape[0])
        total, _ = jax.lax.scan(measure, start, jnp.arange(options.evaluate_times))
        return {"loss": total / options.evaluate_times}

    def denoise(weights, noisy, level, condition):
        return denoiser(weights.params["model"], condition, options.guidance)(noisy, level)

    def sample(weights, keys, condition):
        guided = denoiser(weights.params["model"], condition, options.guidance)
        drawn = ode.sample(step, guided, levels(), keys, spec.image_shape)
        return jnp.clip(drawn, -1.0, 1.0) if spec.levels else drawn

    def log_prob(weights, batch, key):
        """The log density at the image with uniform noise as wide as a level, times that width a value."""
        keys = core.item_keys(key, batch["index"])
        probes = rademacher(core.fold_in(keys, 1), options.likelihood_probes, spec.image_shape)
        rising = grids.karras()(options.likelihood_steps + 1, *level_range(options, path))[-2::-1]
        plain = denoiser(weights.params["model"], batch, 1.0)
        found = log_density(plain, dequantized(core.fold_in(keys, 0), batch["image"]), rising, probes)
        return found.log_prob + math.prod(spec.image_shape) * math.log(width)

    return core.Family(
        init,
        train_step,
        evaluate,
        sample=sample,
        conditions=("label",) if classes else (),
        log_prob=log_prob if spec.levels else None,
        bound="estimate" if spec.levels else None,
        protocol=_protocol(options, classes) if spec.levels else {},
        denoise=denoise,
        real=True,
    )


def _protocol(options: Options, classes: int) -> dict[str, Any]:
    protocol = {
        "solver": f"probability-flow ODE, {options.likelihood_steps} Heun steps",
        "noise levels": f"{options.least} to {options.greatest}, or the path's where narrower",
        "trace": f"Hutchinson, {options.likelihood_probes} random sign vectors an image",
        "dequantisation": "uniform, one draw an image",
    }
    return {**protocol, "given": "the class, without guidance"} if classes else protocol
