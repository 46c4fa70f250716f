"""Masked autoencoder for distribution estimation (MADE): Germain et al. 2015. Its likelihood is exact.

The values of an image are sampled one after another, in raster order (the channels of a pixel in turn) or in a random
order from a seed. One pass of a masked network gives all conditionals. With several orders, training alternates between
them, and the model is their mixture with equal weights, whose likelihood is exact too (section 4.2).
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core
from genimg_jax.families.autoregressive import autoregressive
from genimg_jax.networks.masked import MaskedMLP
from genimg_jax.objectives.likelihoods import LIKELIHOODS
from genimg_jax.options import bounded, choice, names
from genimg_jax.samplers import ancestral

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    width: int = bounded(500, 1)  # hidden units per layer; at least the number of values of an image, or direct=True
    depth: int = bounded(1, 1)  # hidden layers
    direct: bool = True  # also connect earlier values to each conditional directly
    likelihood: str = choice("bernoulli", *LIKELIHOODS)
    order: str = choice("raster", "raster", "random")  # the first order; all others are random
    orders: int = bounded(1, 1)
    order_seed: int = bounded(0, 0)
    # Inpaintings sampled per image, of which one is chosen: see `ancestral.resample`.
    candidates: int = bounded(1, 1, inference_only=True)
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`. Raises `ConfigError` if the likelihood does not fit the data."""
    count = int(np.prod(spec.image_shape))
    likelihood = LIKELIHOODS[options.likelihood](spec._replace(image_shape=(count, 1, 1)))
    fields = core.fields_of(options.conditions, spec)
    network = MaskedMLP(count, likelihood.channels, options.width, options.depth, options.direct, fields)
    orders = jnp.stack([variable_order(options, spec.image_shape, i) for i in range(options.orders)])
    ranks = jnp.argsort(orders)
    order_name = options.order if options.orders == 1 else "one of several"

    def apply(params, *arguments, method="__call__"):
        return network.apply({"params": params}, *arguments, method=method)

    def log_mass_given_order(params, batch, number):
        """log p(x | order `number`)."""  # [B, H, W, C], i32[] -> [B]
        image = batch["image"].reshape(-1, count)
        outputs = apply(params, image, batch, ranks[number])
        return likelihood.log_prob(outputs[:, :, None], image[:, :, None, None])

    def init(key, batch):
        return network.init(key, batch["image"].reshape(-1, count), batch, ranks[0])["params"]

    def train_log_mass(params, batch, step):
        return log_mass_given_order(params, batch, step % options.orders)

    def log_mass(params, batch):
        """log 1/K sum_k p(x | order k), exact."""  # -> f32[B]
        given_order = jax.lax.map(lambda k: log_mass_given_order(params, batch, k), jnp.arange(options.orders))
        return jax.nn.logsumexp(given_order, axis=0) - jnp.log(options.orders)

    def decode(params, image, mask, keys, condition):
        """Samples the values outside the mask, in a random order per example; also the log-likelihood of the others.

        A value costs less than a whole pass: the first and last layers are updated, and the others recomputed.
        """  # [B, H, W, C], bool[B, H, W], key[B] -> [B, H, W, C], f32[B]
        batch = image.shape[0]
        number = jax.vmap(lambda key: jax.random.randint(key, (), 0, options.orders))(core.fold_in(keys, count))
        order, rank_of = orders[number], ranks[number]  # i32[B, D]

        def step(partial, rank, observed, mask, keys):
            index = order[:, rank]
            outputs = apply(params, partial, index, rank, method="conditional")[:, None, None]
            value = jnp.where(mask[:, None], observed, likelihood.sample(outputs, keys)[:, 0, 0])
            partial = apply(params, partial, value[:, 0], index, rank, method="extend")
            return partial, value, likelihood.log_prob(outputs, value[:, None, None])

        mask = jnp.broadcast_to(mask[..., None], image.shape)
        observed, mask = (jnp.take_along_axis(x.reshape(batch, count), order, axis=1) for x in (image, mask))
        start = apply(params, batch, condition, method="start")
        _, values, weight = ancestral.decode(step, start, jnp.arange(count), observed[..., None], mask, keys)
        return jnp.take_along_axis(values[..., 0], rank_of, axis=1).reshape(image.shape), weight

    description = options.conditions, order_name, options.candidates
    return autoregressive(init, log_mass, decode, spec, optimizers, *description, train_log_mass)


def variable_order(options: Options, shape: tuple[int, int, int], number: int) -> jax.Array:
    """The indices of the values of a flattened image, in sampling order; a pixel's channels stay together."""
    # -> i32[H W C]
    pixels = np.arange(shape[0] * shape[1])
    if number or options.order == "random":
        pixels = np.random.default_rng([options.order_seed, number]).permutation(pixels)
    return jnp.asarray((pixels[:, None] * shape[2] + np.arange(shape[2])).reshape(-1), jnp.int32)
