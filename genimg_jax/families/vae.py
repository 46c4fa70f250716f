"""Variational autoencoder: Kingma and Welling 2014; beta, Higgins et al. 2017; IWAE, Burda et al. 2016.

Continuous-valued families can be trained on its codes, the means of the posterior. They are an image with network=grid,
else a single pixel.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.networks.grid import halved
from genimg_jax.networks.image import ImageDecoder, ImageEncoder
from genimg_jax.objectives.gaussian import kl_standard_normal, log_normal
from genimg_jax.objectives.likelihoods import LIKELIHOODS
from genimg_jax.options import bounded, choice, names

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    network: str = choice("mlp", "mlp", "conv", "grid")  # grid: fully convolutional, to a grid of codes
    width: int = bounded(512, 1)  # hidden units of the MLP, channels of the first convolution
    depth: int = bounded(2, 1)  # hidden layers of the MLP, or downsamplings of the grid
    latent: int = bounded(40, 1)  # dimensions of the code, or of each vector of a grid
    likelihood: str = choice("bernoulli", *LIKELIHOODS)
    beta: float = bounded(1.0, 0.0)  # weight of the KL divergence in the training loss
    kl_warmup: float = bounded(0.0, 0.0)  # steps over which that weight rises linearly from 0
    train_samples: int = bounded(1, 1)  # codes per image; more than 1 is the importance-weighted objective
    evaluate_samples: int = bounded(500, 1, inference_only=True)  # importance samples of `log_prob`
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


class Model(NamedTuple):
    """The networks and the likelihood. Codes z are [B, *shape]; a condition is a batch."""

    spec: core.Spec  # of the data
    shape: tuple[int, ...]
    init: Callable[[jax.Array, core.Batch], core.Tree]
    """(key, batch) -> parameters."""
    posterior: Callable[[core.Tree, core.Batch], tuple[jax.Array, jax.Array]]
    """(parameters, batch) -> mean and log variance of q(z | x), [B, *shape] both."""
    log_likelihood: Callable[[core.Tree, jax.Array, core.Batch], jax.Array]
    """(parameters, codes, batch) -> log p(x | z), f32[B], nats."""
    mean_image: Callable[[core.Tree, jax.Array, core.Batch], jax.Array]
    """(parameters, codes, condition) -> E[x | z], f32[B, H, W, C]."""


def build(options: Options, spec: core.Spec) -> Model:
    """Raises `ConfigError` if the likelihood does not fit the data, or the images cannot be halved so often."""
    likelihood = LIKELIHOODS[options.likelihood](spec)
    fields = core.fields_of(options.conditions, spec)
    encoder = ImageEncoder(options.network, options.width, options.depth, 2 * options.latent, fields)
    outputs_shape = (*spec.image_shape[:2], likelihood.channels)
    decoder = ImageDecoder(options.network, options.width, options.depth, outputs_shape, fields)
    grid = halved(*spec.image_shape[:2], options.depth, "model.depth") if options.network == "grid" else ()
    shape = (*grid, options.latent)

    def init(key, batch):
        code = jnp.zeros((batch["image"].shape[0], *shape))
        first, second = jax.random.split(key)
        return {
            "encoder": encoder.init(first, batch["image"], batch, False)["params"],
            "decoder": decoder.init(second, code, batch, False)["params"],
        }

    def posterior(params, batch):
        statistics = encoder.apply({"params": params["encoder"]}, batch["image"], batch, False)
        mean, log_variance = jnp.split(statistics.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, -20.0, 20.0)

    def outputs(params, codes, condition):  # -> [B, H, W, channels]
        return decoder.apply({"params": params["decoder"]}, codes, condition, False)

    def log_likelihood(params, codes, batch):
        return likelihood.log_prob(outputs(params, codes, batch), batch["image"])

    def mean_image(params, codes, condition):
        return likelihood.mean(outputs(params, codes, condition))

    return Model(spec, shape, init, posterior, log_likelihood, mean_image)


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` as `build` does."""
    model, optimizer = build(options, spec), optimizers["model"]

    def init(key, batch):
        return core.init_state({"model": model.init(key, batch)}, optimizers)

    def train_step(state, batch, key):
        # 1 + step, so that a warm-up of 0 needs no branch on a traced option.
        beta = options.beta * jnp.minimum(1.0, (1.0 + state.step) / jnp.maximum(options.kl_warmup, 1.0))

        def loss(params, part, key):
            keys = core.per_example_keys(key, part["index"])
            if options.train_samples == 1:
                reconstruction, kl = terms(model, params, part, core.normal(keys, model.shape))
                per_example = beta * kl - reconstruction
                metrics = {"reconstruction": -reconstruction.mean(), "kl": kl.mean()}
            else:
                noise = core.normal(keys, (options.train_samples, *model.shape)).swapaxes(0, 1)
                statistics = model.posterior(params, part)
                weights = jax.vmap(lambda n: log_weight(model, params, part, statistics, n, beta))(noise)
                per_example = jnp.log(options.train_samples) - jax.nn.logsumexp(weights, axis=0)
                metrics = {"kl": kl_standard_normal(*statistics).mean()}
            mean = per_example.mean()
            return mean, {"loss": mean, **metrics}

        state, metrics = core.train_group(optimizer, state, "model", loss, batch, key)
        return state.replace(step=state.step + 1), {"beta": beta, **metrics}

    def evaluate(weights, batch, key):
        noise = core.normal(core.per_example_keys(key, batch["index"]), model.shape)
        reconstruction, kl = terms(model, weights.params["model"], batch, noise)
        return {"loss": kl - reconstruction, "reconstruction": -reconstruction, "kl": kl}

    def sample(weights, keys, condition):
        return space.decode(weights, space.prior(weights, keys, condition), condition)

    space, samples = code_space(model), options.evaluate_samples
    half = samples // 2 or None  # there is no half of one sample
    return core.Family(
        init,
        train_step,
        evaluate,
        objective=("loss", "reconstruction", "kl", "log_prob"),
        sample=sample,
        log_prob=functools.partial(importance_bound, model, samples),
        log_prob_at_half=half and functools.partial(importance_bound, model, half),
        likelihood_kind="lower bound",
        latents=(space,),
        conditions=options.conditions,
        protocol={"importance samples": samples},
    )


def terms(model: Model, params: core.Tree, batch: core.Batch, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reconstruction log-likelihood and KL divergence with one code per image, in nats."""  # [B, ..., Z] -> [B], [B]
    mean, log_variance = model.posterior(params, batch)
    codes = mean + jnp.exp(0.5 * log_variance) * noise
    return model.log_likelihood(params, codes, batch), kl_standard_normal(mean, log_variance)


def log_weight(
    model: Model,
    params: core.Tree,
    batch: core.Batch,
    statistics: tuple[jax.Array, jax.Array],
    noise: jax.Array,
    beta: jax.Array | float,
) -> jax.Array:
    """log p(x|z) + beta (log p(z) - log q(z|x)): Burda et al. 2016, equation 8."""  # [B, ..., Z] -> [B]
    mean, log_variance = statistics
    codes = mean + jnp.exp(0.5 * log_variance) * noise
    ratio = log_normal(codes, jnp.zeros_like(mean), jnp.zeros_like(mean)) - log_normal(codes, mean, log_variance)
    return model.log_likelihood(params, codes, batch) + beta * ratio


def importance_bound(
    model: Model, samples: int, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> jax.Array:  # -> f32[B]
    """log 1/k sum_k p(x, z_k) / q(z_k | x), z_k ~ q(z | x): a lower bound on log p(x) in expectation.

    It rises with the number of samples k. If the weights have a finite variance, the gap falls as 1 / k (Nowozin 2018,
    equation 7): doubling k raises the bound by about the remaining gap. Else the gap falls more slowly.
    """
    params = weights.params["model"]
    statistics = model.posterior(params, batch)
    keys = core.per_example_keys(key, batch["index"])

    def add(total, k):
        noise = core.normal(core.fold_in(keys, k), model.shape)
        return jnp.logaddexp(total, log_weight(model, params, batch, statistics, noise, 1.0)), None

    start = jnp.full(batch["image"].shape[:1], -jnp.inf)
    total, _ = jax.lax.scan(add, start, jnp.arange(samples))
    return total - jnp.log(samples)


def code_space(model: Model) -> core.Latents:
    """The latents: posterior means, as an image of one pixel unless they are a grid."""
    code_spec = model.spec._replace(image_shape=(1,) * (3 - len(model.shape)) + model.shape, levels=0)

    def encode(weights, batch, key):  # [B, H, W, C] -> [B, h, w, Z]
        return model.posterior(weights.params["model"], batch)[0].reshape(-1, *code_spec.image_shape)

    def decode(weights, codes, condition):  # [B, h, w, Z] -> [B, H, W, C], the expected image
        return model.mean_image(weights.params["model"], codes.reshape(-1, *model.shape), condition)

    def prior(weights, keys, condition):  # -> [B, h, w, Z]
        return core.normal(keys, code_spec.image_shape)

    return core.Latents(code_spec, decode, encode, prior, "spherical")
