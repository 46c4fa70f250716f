"""A family over the codes of a trained tokenizer, as one family over images: the second stage of two.

van den Oord et al. 2017 (section 4) and Esser et al. 2021 for tokens, Rombach et al. 2022 for vectors. The prior is a
family over images of codes, so any family can be a prior: tokens are the levels of a pixel, vectors are standardised.
Images that the prior is conditioned on are encoded too. The tokenizer's weights are in `TrainState.frozen_params`: they
are not trained, and not saved a second time.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families.standardized import standardized
from genimg_jax.objectives.likelihoods import to_levels, to_values


def latent(
    make_prior: Callable[[core.Spec], core.Family],
    spec: core.Spec,
    tokenizer: core.Family,
    continuous_valued: bool,
    average: Callable[[core.Tree], core.Tree] = lambda tree: tree,
) -> core.Family:
    """The family that samples codes from the prior and decodes them to images.

    `spec` is that of the data; the prior can be conditioned on its fields. The codes are those of the space that
    `choose` returns. `average` is that of `core.Optimizer`. States from `init` lack the tokenizer's weights: the caller
    attaches its `Weights` as `frozen_params`. The likelihood is that of tokens, not of pixels. Vectors have none: their
    density does not determine the probability of an image. Raises `ConfigError` if no space suits the prior.
    """
    space = choose(tokenizer, continuous_valued)
    batches = coded_batches(space, spec)
    prior, tokens = make_prior(batches.spec), batches.spec.levels > 0
    prior = over_codes(prior if tokens else standardized(prior, average, batches.sources), batches)

    def sample_codes(weights, keys, batch):
        return batches.codes(prior.sample(weights, keys, batch))

    def sample(weights, keys, batch):
        return latents.decode(weights, sample_codes(weights, keys, batch), batch)

    def inpaint(weights, image, mask, keys, batch):
        """Keeps codes whose pixels are all in the mask, samples the others, and restores the pixels in the mask.

        An approximation besides the prior's: codes near unknown pixels are encoded from an image that is grey there.
        """
        grey = jnp.where(mask[..., None], image, 0.0)
        codes = batches.codes(prior.inpaint(weights, grey, known_cells(mask, batches.spec), keys, batch))
        return jnp.where(mask[..., None], image, latents.decode(weights, codes, batch))

    latents = space._replace(
        spec=batches.spec,
        decode=lambda weights, codes, batch: space.decode(weights.frozen_params, codes, batch),
        encode=lambda weights, batch, key: space.encode(weights.frozen_params, batch, key),
        prior=prior.sample and sample_codes,
    )
    return prior._replace(
        sample=prior.sample and sample,
        conditions=tuple(dict.fromkeys((*prior.conditions, *tokenizer.conditions))),
        likelihood_spec=batches.spec if tokens else None,
        protocol={**prior.protocol, **({} if tokens else NO_LIKELIHOOD)},
        latents=(latents,),
        denoise_space=prior.denoise and latents,
        inpaint=prior.inpaint and inpaint,
        inpaint_method=prior.inpaint_method and f"of whole cells of pixels, as codes; {prior.inpaint_method}",
    )


NO_LIKELIHOOD = {"log-likelihood": "none: the codes are real numbers, whose density is no probability of images"}


def choose(tokenizer: core.Family, continuous_valued: bool) -> core.Latents:
    """The first space of the tokenizer that suits a prior: of vectors if it is `continuous_valued`, else of tokens.

    A continuous-valued prior falls back to tokens. Raises `ConfigError` if no space suits the prior.
    """
    spaces = [space for space in tokenizer.latents if space.encode]
    vectors = [space for space in spaces if not space.spec.levels] if continuous_valued else []
    if suitable := vectors + [space for space in spaces if space.spec.levels]:
        return suitable[0]
    raise ConfigError(
        "the tokenizer's codes are vectors, and the family models tokens; choose a continuous-valued family, such as "
        "diffusion or flow, or a tokenizer that has tokens, such as vq."
    )


class CodedBatches(NamedTuple):
    """Conversions between batches of images and batches of codes, on which the prior is trained."""

    spec: core.Spec
    """The spec of the images of codes, that of the prior."""
    sources: tuple[str, ...]
    """The fields that are encoded: those that are images of the generated shape."""
    encode: Callable[..., core.Batch]
    """(tokenizer's weights, batch, key) -> the batch with codes in place of its image, if any, and its sources."""
    codes: Callable[[jax.Array], jax.Array]
    """(image of codes f32[B, h, w, c]) -> the codes of the space."""
    blank: Callable[[core.Batch], core.Batch]
    """(batch) -> zeros of the shapes that `encode` returns; needs no weights."""


def coded_batches(space: core.Latents, spec: core.Spec) -> CodedBatches:
    """The conversions for a tokenizer's space and the data's spec. Tokens are the levels of an image in [-1, 1].

    An encoded source is an image of vectors, or tokens from 1 to `levels` in raster order, like a caption's (0:
    padding).
    """
    shape, levels = space.spec.image_shape, space.spec.levels
    sources = tuple(name for name, field in spec.fields.items() if field == core.Field(spec.image_shape))
    field = core.Field((math.prod(shape),), levels + 1) if levels else core.Field(shape)

    def encode(weights, batch, key=None):
        key = jax.random.key(0) if key is None else key  # the same encoding of conditions for all samples

        def codes_of(name):
            return space.encode(weights, {**batch, "image": batch[name]}, key)

        encoded = {name: codes_of(name) for name in sources if name in batch}
        if levels:
            encoded = {name: tokens.reshape(len(tokens), -1) + 1 for name, tokens in encoded.items()}
        if "image" in batch:
            encoded["image"] = to_values(codes_of("image"), levels) if levels else codes_of("image")
        return {**batch, **encoded}

    def codes(image):
        return to_levels(image, levels) if levels else image

    def blank(batch):
        rows, dtype = len(batch["image"]), jnp.int32 if levels else jnp.float32
        zeros = {name: jnp.zeros((rows, *field.shape), dtype) for name in sources}
        return {**batch, **zeros, "image": jnp.zeros((rows, *shape))}

    fields = {**spec.fields, **dict.fromkeys(sources, field)}
    codes_spec = spec._replace(image_shape=shape, levels=levels, fields=fields)
    return CodedBatches(codes_spec, sources, encode, codes, blank)


def over_codes(prior: core.Family, batches: CodedBatches) -> core.Family:
    """The prior as functions of both stages' weights and of batches of images; it samples images of codes."""

    def prior_weights(weights):
        return weights._replace(frozen_params={})

    def encoded(function):
        """A function (weights, batch, key) of the prior, on encoded batches."""

        def run(weights, batch, key):
            return function(prior_weights(weights), batches.encode(weights.frozen_params, batch, key), key)

        return function and run

    def init(key, batch):
        return prior.init(key, batches.blank(batch))

    def train_step(state, batch, key):
        batch = batches.encode(state.frozen_params, batch, key)
        after, metrics = prior.train_step(state.replace(frozen_params={}), batch, key)
        return after.replace(frozen_params=state.frozen_params), metrics

    def sample(weights, keys, batch):
        return prior.sample(prior_weights(weights), keys, batches.encode(weights.frozen_params, batch))

    def denoise(weights, noisy, level, batch):
        return prior.denoise(prior_weights(weights), noisy, level, batches.encode(weights.frozen_params, batch))

    def sigmas(weights, steps):
        return prior.sigmas(prior_weights(weights), steps)

    def inpaint(weights, image, mask, keys, batch):
        batch = {**batch, "image": image, "index": jnp.arange(len(image))}
        batch = batches.encode(weights.frozen_params, batch)
        return prior.inpaint(prior_weights(weights), batch["image"], mask, keys, batch)

    return prior._replace(
        init=init,
        train_step=train_step,
        evaluate=encoded(prior.evaluate),
        sample=prior.sample and sample,
        log_prob=encoded(prior.log_prob),
        log_prob_at_half=encoded(prior.log_prob_at_half),
        condition_log_prob=encoded(prior.condition_log_prob),
        denoise=prior.denoise and denoise,
        sigmas=prior.sigmas and sigmas,
        inpaint=prior.inpaint and inpaint,
        latents=(),  # the prior's latents decode to images of codes
    )


def known_cells(mask: jax.Array, codes: core.Spec) -> jax.Array:  # bool[B, H, W] -> bool[B, h, w]
    """The codes whose pixels are all in the mask."""
    rows, columns, _ = codes.image_shape
    return mask.reshape(len(mask), rows, -1, columns, mask.shape[2] // columns).all(axis=(2, 4))
