"""Autoencoder of discrete codes: VQ-VAE (van den Oord et al. 2017), or with FSQ's fixed levels (Mentzer et al. 2023).

It is a tokenizer: it has no distribution over codes, and does not sample. Any family of discrete images can be trained
on its tokens. Continuous-valued families are trained on the encoder's vectors, which the decoder quantises (Rombach et
al. 2022, section 3.1).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.networks.grid import GridDecoder, GridEncoder, halved
from genimg_jax.objectives.distances import DISTANCES, peak_signal_to_noise_ratio, squared_error
from genimg_jax.objectives.quantizers import Quantizer, finite_scalar_quantizer, vector_quantizer
from genimg_jax.options import bounded, choice, names, several

GROUPS = ("autoencoder",)


@dataclasses.dataclass(frozen=True)
class Options:
    width: int = bounded(32, 1)  # channels at half the image's size; doubled at each further level, up to fourfold
    blocks: int = bounded(1, 0)  # residual blocks at each size
    num_downsamples: int = bounded(2, 1)  # of height and width, from image to codes
    quantizer: str = choice("vq", "vq", "fsq")
    codebook_size: int = bounded(512, 2)  # of 'vq'
    features: int = bounded(32, 1)  # values of a code's vector, of 'vq'
    levels: tuple[int, ...] = several((8, 5, 5, 5), 2)  # of a code's values, of 'fsq'; their product is the size
    commitment: float = bounded(0.25, 0.0)  # weight of the encoder's distance from its codes, of 'vq'
    decay: float = bounded(0.99, 0.0, 1.0)  # a step, of the codes' moving averages
    dead_code_threshold: float = bounded(0.03, 0.0)  # share of uniform usage at which a code of 'vq' is replaced
    reconstruction: str = choice("squared_error", "squared_error", "absolute_error")  # mean over an image's values
    conditions: tuple[str, ...] = names()  # fields that encoder and decoder are conditioned on


class Outputs(NamedTuple):
    """The outputs for a batch of images in training."""

    outputs: jax.Array  # f32[B, H, W, C], not clipped
    vectors: jax.Array  # f32[B, h, w, D], of the encoder
    codes: jax.Array  # i32[B, h, w]
    commitment: jax.Array  # f32[B]
    loss: jax.Array  # f32[B]


class Autoencoder(NamedTuple):
    """The networks and their quantiser, shared by `vq` and `vqgan`. `codebook` is in `model_state`."""

    quantizer: Quantizer
    init: Callable[[jax.Array, core.Batch], tuple[core.Tree, core.Tree]]
    """(key, batch) -> params, codebook"""
    forward: Callable[[core.Tree, core.Tree, core.Batch], Outputs]
    """(params, codebook, batch) -> Outputs"""
    finish: Callable[[core.Tree, core.Tree], tuple[core.Metrics, core.Tree]]
    """(model_state, statistics of the batch's codes) -> metrics, {"codebook": the updated codebook}"""
    capabilities: Mapping[str, object]
    """`evaluate`, `objective`, `conditions` and `latents` (tokens, vectors) of a `core.Family`."""


def build(options: Options, spec: core.Spec) -> Autoencoder:
    """Raises `ConfigError` for images that cannot be halved so often, or invalid `levels`."""
    height, width, channels = spec.image_shape
    grid = halved(height, width, options.num_downsamples, "model.num_downsamples")
    if options.quantizer == "vq":
        size, features = options.codebook_size, options.features
        quantizer = vector_quantizer(size, features, options.decay, options.dead_code_threshold)
    else:
        quantizer = finite_scalar_quantizer(tuple(options.levels), options.decay, options.dead_code_threshold)
    fields = core.fields_of(options.conditions, spec)
    encoder = GridEncoder(options.width, options.blocks, options.num_downsamples, quantizer.features, fields)
    decoder = GridDecoder(options.width, options.blocks, options.num_downsamples, channels, fields)

    def vectors_of(params, batch):  # [B, H, W, C] -> f32[B, h, w, D]
        return encoder.apply({"params": params["encoder"]}, batch["image"], batch).astype(jnp.float32)

    def outputs(params, vectors, batch):  # [B, h, w, D] -> f32[B, H, W, C]
        return decoder.apply({"params": params["decoder"]}, vectors, batch).astype(jnp.float32)

    def init(key, batch):
        first, second, third = jax.random.split(key, 3)
        vectors = jnp.zeros((batch["image"].shape[0], *grid, quantizer.features))
        params = {
            "encoder": encoder.init(first, batch["image"], batch)["params"],
            "decoder": decoder.init(second, vectors, batch)["params"],
        }
        return params, quantizer.init(third)

    def forward(params, codebook, batch):
        vectors = vectors_of(params, batch)
        quantized, codes, commitment = quantizer.quantize(codebook, vectors)
        images, commitment = outputs(params, quantized, batch), commitment.mean(axis=(1, 2))
        distance = DISTANCES[options.reconstruction](images - batch["image"]).mean(axis=(1, 2, 3))
        return Outputs(images, vectors, codes, commitment, distance + options.commitment * commitment)

    def finish(model_state, statistics):
        codebook, usage = quantizer.update(model_state["codebook"], statistics)
        return usage, {"codebook": codebook}

    def evaluate(weights, batch, key):
        """The training loss, and the mean squared error and PSNR (dB) of the reconstruction clipped to [-1, 1]."""
        reconstructed = forward(weights.params["autoencoder"], weights.model_state["codebook"], batch)
        error = squared_error(jnp.clip(reconstructed.outputs, -1, 1) - batch["image"]).mean(axis=(1, 2, 3))
        return {"loss": reconstructed.loss, "reconstruction": error, "psnr": peak_signal_to_noise_ratio(error)}

    capabilities = {
        "evaluate": evaluate,
        "conditions": options.conditions,
        "latents": tokens_and_vectors(spec, grid, quantizer, vectors_of, outputs),
        # The metric `reconstruction` is a squared error.
        "objective": ("loss", "reconstruction", "psnr") if options.reconstruction == "squared_error" else ("loss",),
    }
    return Autoencoder(quantizer, init, forward, finish, capabilities)


def tokens_and_vectors(
    spec: core.Spec,
    grid: tuple[int, int],
    quantizer: Quantizer,
    vectors_of: Callable[[core.Tree, core.Batch], jax.Array],
    outputs: Callable[[core.Tree, jax.Array, core.Batch], jax.Array],
) -> tuple[core.Latents, core.Latents]:
    """The two latent spaces of an autoencoder on a grid (h, w). Vectors are quantised before they are decoded."""

    def encode_vectors(weights, batch, key):  # [B, H, W, C] -> f32[B, h, w, D]
        return vectors_of(weights.params["autoencoder"], batch)

    def quantize(weights, vectors):  # f32[B, h, w, D] -> i32[B, h, w, 1]
        return quantizer.encode(weights.model_state["codebook"], vectors)[..., None]

    def encode(weights, batch, key):  # [B, H, W, C] -> i32[B, h, w, 1]
        return quantize(weights, encode_vectors(weights, batch, key))

    def decode(weights, codes, batch):  # i32[B, h, w, 1] -> f32[B, H, W, C]
        vectors = quantizer.decode(weights.model_state["codebook"], codes[..., 0])
        return jnp.clip(outputs(weights.params["autoencoder"], vectors, batch), -1, 1)

    def decode_vectors(weights, vectors, batch):  # f32[B, h, w, D] -> f32[B, H, W, C]
        return decode(weights, quantize(weights, vectors), batch)

    tokens = spec._replace(image_shape=(*grid, 1), levels=quantizer.size)
    vectors = spec._replace(image_shape=(*grid, quantizer.features), levels=0)
    return (
        core.Latents(tokens, decode, encode),
        core.Latents(vectors, decode_vectors, encode_vectors, interpolate="linear"),
    )


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `autoencoder`. Raises `ConfigError` as `build` does."""
    autoencoder, optimizer = build(options, spec), optimizers["autoencoder"]

    def init(key, batch):
        params, codebook = autoencoder.init(key, batch)
        return core.init_state({"autoencoder": params}, optimizers, {"codebook": codebook})

    def train_step(state, batch, key):
        codebook, size = state.model_state["codebook"], batch["image"].shape[0]

        def loss(params, part, key):
            outputs = autoencoder.forward(params, codebook, part)
            statistics = autoencoder.quantizer.observe(key, size, part["index"], outputs.vectors, outputs.codes)
            value = outputs.loss.mean()
            return value, ({"loss": value, **measures(outputs, part["image"])}, statistics)

        state, metrics = core.train_group(optimizer, state, "autoencoder", loss, batch, key, autoencoder.finish)
        return state.replace(step=state.step + 1), metrics

    return core.Family(init, train_step, **autoencoder.capabilities)


def measures(outputs: Outputs, image: jax.Array) -> core.Metrics:  # -> {name: f32[]}
    """Means over the batch: the squared error of the reconstruction, and the unweighted commitment loss."""
    return {"reconstruction": squared_error(outputs.outputs - image).mean(), "commitment": outputs.commitment.mean()}
