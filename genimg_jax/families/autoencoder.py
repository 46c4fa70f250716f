"""Autoencoder, plain or denoising (Vincent et al. 2008), with a mixture of Gaussians over its codes to sample from.

An autoencoder has no distribution over codes. `model_state` keeps the codes of the latest training images, encoded by
the averaged weights, which costs training one more encoder pass. Sampling first fits the mixture to them, inside the
same compiled call (well under a second), so samples are a function of the weights and the keys. Continuous-valued
families can be trained on the codes too: a code is an image of one pixel.

With `conditions`, both encoder and decoder are conditioned on the fields. The mixture is not: a code is sampled
without the condition, and decoded with it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.networks.image import ImageDecoder, ImageEncoder
from genimg_jax.objectives import gaussian_mixture
from genimg_jax.options import bounded, choice, names

GROUPS = ("model",)


@dataclasses.dataclass(frozen=True)
class Options:
    network: str = choice("mlp", "mlp", "conv")
    width: int = bounded(512, 1)  # hidden units of the MLP, channels of the first convolution
    depth: int = bounded(2, 1)  # hidden layers of the MLP
    latent: int = bounded(16, 1)  # dimensions of the code
    loss: str = choice("squared_error", "squared_error", "cross_entropy")
    corruption: str = choice("none", "none", "gaussian", "masking")  # of the images that are encoded in training
    corruption_level: float = bounded(0.3, 0.0)  # standard deviation of the noise, or share of pixels set to mid-grey
    components: int = bounded(10, 1)  # Gaussians in the mixture over codes
    bank: int = bounded(4096, 1)  # training images whose codes the mixture is fitted to
    conditions: tuple[str, ...] = names()  # fields that it is conditioned on: label, tokens, map, features, source


class Model(NamedTuple):
    """The networks. A condition is a batch that holds the fields."""

    init: Callable[[jax.Array, core.Batch], core.Tree]
    """(key, batch) -> parameters."""
    encode: Callable[[core.Tree, jax.Array, core.Batch], jax.Array]
    """(parameters, images [B, H, W, C], condition) -> f32[B, Z]."""
    decode: Callable[[core.Tree, jax.Array, core.Batch], jax.Array]
    """(parameters, codes [B, Z], condition) -> f32[B, H, W, C], logits of intensities."""


def build(options: Options, spec: core.Spec) -> Model:
    fields = core.fields_of(options.conditions, spec)
    encoder = ImageEncoder(options.network, options.width, options.depth, options.latent, fields)
    decoder = ImageDecoder(options.network, options.width, options.depth, spec.image_shape, fields)

    def init(key, batch):
        first, second = jax.random.split(key)
        codes = jnp.zeros((batch["image"].shape[0], options.latent))
        return {
            "encoder": encoder.init(first, batch["image"], batch, False)["params"],
            "decoder": decoder.init(second, codes, batch, False)["params"],
        }

    def encode(params, image, condition):
        return encoder.apply({"params": params["encoder"]}, image, condition, False).astype(jnp.float32)

    def decode(params, codes, condition):
        return decoder.apply({"params": params["decoder"]}, codes, condition, False).astype(jnp.float32)

    return Model(init, encode, decode)


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`."""
    model, optimizer = build(options, spec), optimizers["model"]

    def loss_from(params, image, batch):  # of reconstructing the batch's images from `image` [B, H, W, C] -> [B]
        outputs = model.decode(params, model.encode(params, image, batch), batch)
        return LOSSES[options.loss](outputs, batch["image"]).sum((1, 2, 3))

    def corrupted(image, keys):
        return CORRUPTIONS[options.corruption](image, keys, options.corruption_level)

    def init(key, batch):
        bank = {"codes": jnp.zeros((options.bank, options.latent))}
        return core.init_state({"model": model.init(key, batch)}, optimizers, bank)

    def train_step(state, batch, key):
        def loss(params, part, key):
            inputs = corrupted(part["image"], core.per_example_keys(key, part["index"]))
            value = loss_from(params, inputs, part).mean()
            return value, ({"loss": value}, {})

        codes = model.encode(core.weights(state).params["model"], batch["image"], batch)
        latest = jnp.concatenate([codes, state.model_state["codes"]])[: options.bank]
        # The first batch fills the bank, so that every row is a code.
        latest = jnp.where(state.step == 0, jnp.resize(codes, latest.shape), latest)
        changed = {"codes": latest}
        state, metrics = core.train_group(optimizer, state, "model", loss, batch, key, lambda *_: ({}, changed))
        return state.replace(step=state.step + 1), metrics

    def evaluate(weights, batch, key):
        """`loss` from the corrupted image, as in training, and `reconstruction` from the image itself."""
        params, image = weights.params["model"], batch["image"]
        inputs = corrupted(image, core.per_example_keys(key, batch["index"]))
        return {"loss": loss_from(params, inputs, batch), "reconstruction": loss_from(params, image, batch)}

    def sample(weights, keys, condition):
        return space.decode(weights, space.prior(weights, keys, condition), condition)

    space = code_space(options, spec, model)
    return core.Family(
        init,
        train_step,
        evaluate,
        objective=("loss", "reconstruction"),
        sample=sample,
        latents=(space,),
        conditions=options.conditions,
    )


def code_space(options: Options, spec: core.Spec, model: Model) -> core.Latents:
    """The space of the codes, with the mixture as its prior."""

    def encode(weights, batch, key):  # [B, H, W, C] -> [B, 1, 1, Z]
        return model.encode(weights.params["model"], batch["image"], batch)[:, None, None]

    def decode(weights, codes, condition):  # [B, 1, 1, Z] -> [B, H, W, C]
        outputs = model.decode(weights.params["model"], codes.reshape(-1, options.latent), condition)
        return jnp.tanh(outputs / 2)

    def prior(weights, keys, condition):  # -> [B, 1, 1, Z]
        mixture = gaussian_mixture.fit(weights.model_state["codes"], options.components)
        return gaussian_mixture.sample(mixture, keys)[:, None, None]

    codes = spec._replace(image_shape=(1, 1, options.latent), levels=0)
    return core.Latents(codes, decode, encode, prior, "linear")


def squared_error(outputs: jax.Array, image: jax.Array) -> jax.Array:
    """Half the squared error of the image: up to a constant, the nats of a Gaussian of unit variance."""
    # [B, H, W, C], [B, H, W, C] -> f32[B, H, W, C]
    return 0.5 * jnp.square(jnp.tanh(outputs / 2) - image)


def cross_entropy(outputs: jax.Array, image: jax.Array) -> jax.Array:
    """Cross-entropy of intensities, in nats. A likelihood only for binary images; the minimum is the entropy, not 0."""
    # [B, H, W, C], [B, H, W, C] -> f32[B, H, W, C]
    return jax.nn.softplus(outputs) - 0.5 * (image + 1) * outputs


def gaussian_noise(image: jax.Array, keys: jax.Array, level: jax.Array) -> jax.Array:
    return image + level * core.normal(keys, image.shape[1:])  # key[B] -> f32[B, H, W, C]


def masking_noise(image: jax.Array, keys: jax.Array, level: jax.Array) -> jax.Array:
    """Each pixel set to mid-grey, in all its channels, with probability `level`."""  # key[B] -> f32[B, H, W, C]
    shape = (*image.shape[1:3], 1)
    kept = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys) >= level
    return jnp.where(kept, image, 0.0)


LOSSES = {"squared_error": squared_error, "cross_entropy": cross_entropy}
CORRUPTIONS = {"none": lambda image, keys, level: image, "gaussian": gaussian_noise, "masking": masking_noise}
