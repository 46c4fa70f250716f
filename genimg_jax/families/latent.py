"""A family over the codes of a trained tokenizer, as one family over images: the second stage of two.

van den Oord et al. 2017 (section 4), Esser et al. 2021. Codes are handed to the prior as an image of codes, so that
any family of discrete images can be one. The tokenizer's weights are in `TrainState.frozen`: never trained, and
never saved a second time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.objectives.likelihoods import to_levels, to_values


def latent(make_prior: Callable[[core.Spec], core.Family], tokenizer: core.Family) -> core.Family:
    """The family that draws codes from the prior, and images from the codes.

    `tokenizer` has `codes`, `encode` and `decode`. States that `init` makes lack the tokenizer's weights: whoever
    makes them attaches a `Weights` as `frozen`. The likelihood is that of the codes, not of pixels.
    """
    spec = tokenizer.codes
    prior = make_prior(spec)

    def stages(weights):
        return weights._replace(frozen={}), weights.frozen

    def coded(frozen, batch, key):
        """The batch with its images of codes in place of its images."""
        codes = tokenizer.encode(frozen, batch, key)
        return {**batch, "image": to_values(codes, spec.levels)}

    def init(key, batch):
        rows = len(batch["image"])
        return prior.init(key, {**batch, "image": jnp.zeros((rows, *spec.image_shape))})

    def train_step(state, batch, key):
        batch = coded(state.frozen, batch, key)
        after, metrics = prior.train_step(state.replace(frozen={}), batch, key)
        return after.replace(frozen=state.frozen), metrics

    def evaluate(weights, batch, key):
        own, frozen = stages(weights)
        return prior.evaluate(own, coded(frozen, batch, key), key)

    def log_prob(weights, batch, key):
        own, frozen = stages(weights)
        return prior.log_prob(own, coded(frozen, batch, key), key)

    def encode(weights, batch, key):
        return tokenizer.encode(weights.frozen, batch, key)

    def decode(weights, codes, condition):
        return tokenizer.decode(weights.frozen, codes, condition)

    def sample(weights, keys, condition):
        codes = to_levels(prior.sample(stages(weights)[0], keys, condition), spec.levels)
        return decode(weights, codes, condition)

    def complete(weights, image, mask, keys, condition):
        """Codes of cells that are known throughout are kept, all others drawn, and known pixels put back.

        An approximation besides the prior's own: a code near the unknown was made in sight of what stands there, grey.
        """
        own, frozen = stages(weights)
        rows, columns, _ = spec.image_shape
        cells = mask.reshape(len(mask), rows, -1, columns, mask.shape[2] // columns).all(axis=(2, 4))
        batch = {**condition, "image": jnp.where(mask[..., None], image, 0.0), "index": jnp.arange(len(image))}
        codes = coded(frozen, batch, jax.random.key(0))["image"]  # a tokenizer draws nothing
        codes = prior.complete(own, codes, cells, keys, condition)
        drawn = decode(weights, to_levels(codes, spec.levels), condition)
        return jnp.where(mask[..., None], image, drawn)

    protocol = dict(prior.protocol)
    if prior.complete is not None:
        protocol["complete"] = f"of whole cells of pixels, as codes; {protocol['complete']}"
    return core.Family(
        init,
        train_step,
        evaluate,
        sample=None if prior.sample is None else sample,
        conditions=tuple(dict.fromkeys((*prior.conditions, *tokenizer.conditions))),
        log_prob=None if prior.log_prob is None else log_prob,
        bound=prior.bound,
        likelihood_of=spec,
        protocol=protocol,
        encode=encode,
        decode=decode,
        codes=spec,
        complete=None if prior.complete is None else complete,
    )
