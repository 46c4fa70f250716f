"""Variational autoencoder: Kingma and Welling 2014; beta, Higgins et al. 2017; IWAE, Burda et al. 2016.

Continuous-valued families can be trained over its codes, the posterior's means: an image of them with network=grid,
else a single pixel of as many channels.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.networks.grid import halved
from genimg_jax.networks.image import ImageDecoder, ImageEncoder
from genimg_jax.objectives.gaussian import kl_standard_normal, log_normal
from genimg_jax.objectives.likelihoods import LIKELIHOODS
from genimg_jax.options import bounded, choice

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    network: str = choice("mlp", "mlp", "conv", "grid")  # grid: fully convolutional, to a grid of codes
    width: int = bounded(512, 1)  # hidden units of the MLP, channels of the first convolution
    depth: int = bounded(2, 1)  # hidden layers of the MLP, or times that the grid is halved
    latent: int = bounded(40, 1)  # dimensions of the code, or of each one of a grid
    likelihood: str = choice("bernoulli", *LIKELIHOODS)
    beta: float = bounded(1.0, 0.0)  # weight of the KL divergence in the training loss
    kl_warmup: float = bounded(0.0, 0.0)  # steps over which that weight rises linearly from 0
    train_samples: int = bounded(1, 1)  # codes an image; more than 1 is the importance-weighted objective
    evaluate_samples: int = bounded(500, 1, inference_only=True)  # importance samples of `log_prob`
    conditional: bool = False  # condition encoder and decoder on the class


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`.

    Raises `ConfigError` where the data cannot have the likelihood, or images cannot be halved so often.
    """
    likelihood = LIKELIHOODS[options.likelihood](spec)
    classes = core.classes(options.conditional, spec)
    encoder = ImageEncoder(options.network, options.width, options.depth, 2 * options.latent, classes)
    outputs_shape = (*spec.image_shape[:2], likelihood.channels)
    decoder = ImageDecoder(options.network, options.width, options.depth, outputs_shape, classes)
    grid = halved(*spec.image_shape[:2], options.depth, "model.depth") if options.network == "grid" else ()
    shape = (*grid, options.latent)  # of an image's code, in the networks
    codes_shape = (*(grid or (1, 1)), options.latent)
    optimizer = optimizers["model"]

    def label(batch):
        return batch["label"] if classes else None

    def posterior(params, batch):  # -> mean [B, ..., Z], log variance [B, ..., Z]
        statistics = encoder.apply({"params": params["encoder"]}, batch["image"], label(batch), False)
        mean, log_variance = jnp.split(statistics.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, -20.0, 20.0)

    def outputs(params, codes, condition):  # [B, ..., Z] -> [B, H, W, channels]
        return decoder.apply({"params": params["decoder"]}, codes, label(condition), False)

    def terms(params, batch, noise):
        """Reconstruction log-likelihood and KL divergence at one code an image, in nats."""  # [B, ..., Z] -> [B], [B]
        mean, log_variance = posterior(params, batch)
        codes = mean + jnp.exp(0.5 * log_variance) * noise
        reconstruction = likelihood.log_prob(outputs(params, codes, batch), batch["image"])
        return reconstruction, kl_standard_normal(mean, log_variance)

    def log_weight(params, batch, statistics, noise, beta):
        """log p(x|z) + beta (log p(z) - log q(z|x)): Burda et al. 2016, equation 8."""  # [B, ..., Z] -> [B]
        mean, log_variance = statistics
        codes = mean + jnp.exp(0.5 * log_variance) * noise
        ratio = log_normal(codes, jnp.zeros_like(mean), jnp.zeros_like(mean)) - log_normal(codes, mean, log_variance)
        return likelihood.log_prob(outputs(params, codes, batch), batch["image"]) + beta * ratio

    def init(key, batch):
        code = jnp.zeros((batch["image"].shape[0], *shape))
        first, second = jax.random.split(key)
        params = {
            "encoder": encoder.init(first, batch["image"], label(batch), False)["params"],
            "decoder": decoder.init(second, code, label(batch), False)["params"],
        }
        return core.init_state({"model": params}, optimizers)

    def train_step(state, batch, key):
        # The weight is 1 + step over the warm-up, so that a warm-up of 0 needs no branch on a traced option.
        beta = options.beta * jnp.minimum(1.0, (1.0 + state.step) / jnp.maximum(options.kl_warmup, 1.0))

        def loss(params, part, key):
            keys = core.per_example_keys(key, part["index"])
            if options.train_samples == 1:
                reconstruction, kl = terms(params, part, core.normal(keys, shape))
                per_example = beta * kl - reconstruction
                metrics = {"reconstruction": -reconstruction.mean(), "kl": kl.mean()}
            else:
                noise = core.normal(keys, (options.train_samples, *shape)).swapaxes(0, 1)
                statistics = posterior(params, part)
                weights = jax.vmap(lambda n: log_weight(params, part, statistics, n, beta))(noise)
                per_example = jnp.log(options.train_samples) - jax.nn.logsumexp(weights, axis=0)
                metrics = {"kl": kl_standard_normal(*statistics).mean()}
            mean = per_example.mean()
            return mean, {"loss": mean, **metrics}

        state, metrics = core.train_group(optimizer, state, "model", loss, batch, key)
        return state.replace(step=state.step + 1), {"beta": beta, **metrics}

    def evaluate(weights, batch, key):
        noise = core.normal(core.per_example_keys(key, batch["index"]), shape)
        reconstruction, kl = terms(weights.params["model"], batch, noise)
        return {"loss": kl - reconstruction, "reconstruction": -reconstruction, "kl": kl}

    def importance_bound(samples, weights, batch, key):
        """log 1/k sum_k p(x, z_k) / q(z_k | x), z_k ~ q(z | x): a lower bound on log p(x) in expectation.

        It is higher for more samples k, by about its remaining gap each time that k doubles: the gap falls as 1 / k
        where the weights have a variance (Nowozin 2018, equation 7), and slower where they have none.
        """
        params = weights.params["model"]
        statistics = posterior(params, batch)
        keys = core.per_example_keys(key, batch["index"])

        def add(total, k):
            noise = core.normal(core.fold_in(keys, k), shape)
            return jnp.logaddexp(total, log_weight(params, batch, statistics, noise, 1.0)), None

        start = jnp.full(batch["image"].shape[:1], -jnp.inf)
        total, _ = jax.lax.scan(add, start, jnp.arange(samples))
        return total - jnp.log(samples)

    def encode(weights, batch, key):  # [B, H, W, C] -> [B, h, w, Z], the posterior's mean
        return posterior(weights.params["model"], batch)[0].reshape(-1, *codes_shape)

    def decode(weights, codes, condition):  # [B, h, w, Z] -> [B, H, W, C], the expected image
        return likelihood.mean(outputs(weights.params["model"], codes.reshape(-1, *shape), condition))

    def prior(weights, keys):  # -> [B, h, w, Z]
        return core.normal(keys, codes_shape)

    def sample(weights, keys, condition):
        return decode(weights, prior(weights, keys), condition)

    half = options.evaluate_samples // 2 or None  # the bound of one sample is compared with none
    codes = spec._replace(image_shape=codes_shape, levels=0)
    return core.Family(
        init,
        train_step,
        evaluate,
        objective=("loss", "reconstruction", "kl", "log_prob"),
        sample=sample,
        log_prob=functools.partial(importance_bound, options.evaluate_samples),
        log_prob_at_half=half and functools.partial(importance_bound, half),
        likelihood_kind="lower bound",
        latents=(core.Latents(codes, decode, encode, prior, "spherical"),),
        conditions=("label",) if classes else (),
        protocol={"importance samples": options.evaluate_samples},
    )
