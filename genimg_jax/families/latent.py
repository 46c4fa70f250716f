"""A family over the codes of a trained tokenizer, as one family over images: the second stage of two.

van den Oord et al. 2017 (section 4), Esser et al. 2021; Rombach et al. 2022 where the codes are real numbers. They are
handed to the prior as an image of codes, so that any family of images can be one: of whole numbers, as pixels of so
many levels, or of real numbers, standardised. The tokenizer's weights are in `TrainState.frozen`: never trained, and
never saved a second time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families.standardized import standardized
from genimg_jax.objectives.likelihoods import to_levels, to_values


def latent(
    make_prior: Callable[[core.Spec], core.Family],
    tokenizer: core.Family,
    average: Callable[[core.Tree], core.Tree] = lambda tree: tree,
) -> core.Family:
    """The family that draws codes from the prior, and images from the codes.

    A prior that is `real` is made for the tokenizer's `continuous` codes, where it has them, any other for its whole
    numbers, `codes`. `average` is that of `core.Optimizer`. States that `init` makes lack the tokenizer's weights:
    whoever makes them attaches a `Weights` as `frozen`. The likelihood is that of the codes, not of pixels; of real
    numbers there is none, for their density says nothing of an image's probability. Raises `ConfigError` where the
    prior cannot be made for the codes.
    """
    codes = choose(make_prior, tokenizer)
    spec, whole = codes.spec, codes.spec.levels > 0
    prior = make_prior(spec) if whole else standardized(make_prior(spec), average)

    def stages(weights):
        return weights._replace(frozen={}), weights.frozen

    def coded(frozen, batch, key):
        """The batch with its images of codes in place of its images."""
        found = codes.encode(frozen, batch, key).reshape(-1, *spec.image_shape)
        return {**batch, "image": to_values(found, spec.levels) if whole else found}

    def decoded(frozen, image, condition):
        """Images, from images of codes."""  # [B, h, w, c] -> [B, H, W, C]
        return codes.decode(frozen, to_levels(image, spec.levels) if whole else image, condition)

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

    def log_prob_at_half(weights, batch, key):
        own, frozen = stages(weights)
        return prior.log_prob_at_half(own, coded(frozen, batch, key), key)

    def encode(weights, batch, key):
        return codes.encode(weights.frozen, batch, key)

    def decode(weights, found, condition):
        return codes.decode(weights.frozen, found, condition)

    def sample(weights, keys, condition):
        own, frozen = stages(weights)
        return decoded(frozen, prior.sample(own, keys, condition), condition)

    def complete(weights, image, mask, keys, condition):
        """Codes of cells that are known throughout are kept, all others drawn, and known pixels put back.

        An approximation besides the prior's own: a code near the unknown was made in sight of what stands there, grey.
        """
        own, frozen = stages(weights)
        rows, columns, _ = spec.image_shape
        cells = mask.reshape(len(mask), rows, -1, columns, mask.shape[2] // columns).all(axis=(2, 4))
        batch = {**condition, "image": jnp.where(mask[..., None], image, 0.0), "index": jnp.arange(len(image))}
        found = coded(frozen, batch, jax.random.key(0))["image"]  # a tokenizer draws nothing
        drawn = decoded(frozen, prior.complete(own, found, cells, keys, condition), condition)
        return jnp.where(mask[..., None], image, drawn)

    protocol = dict(prior.protocol)
    if not whole:
        protocol["log-likelihood"] = "none: the codes are real numbers, whose density is no probability of images"
    return core.Family(
        init,
        train_step,
        evaluate,
        objective=prior.objective,
        sample=None if prior.sample is None else sample,
        conditions=tuple(dict.fromkeys((*prior.conditions, *tokenizer.conditions))),
        log_prob=None if prior.log_prob is None else log_prob,
        log_prob_at_half=prior.log_prob_at_half and log_prob_at_half,
        bound=prior.bound,
        likelihood_of=spec if whole else None,
        protocol=protocol,
        encode=encode,
        decode=decode,
        codes=spec if whole else None,
        continuous=None if whole else core.Codes(spec, encode, decode),
        complete=None if prior.complete is None else complete,
        completion=prior.completion and f"of whole cells of pixels, as codes; {prior.completion}",
    )


def choose(make_prior: Callable[[core.Spec], core.Family], tokenizer: core.Family) -> core.Codes:
    """The codes of the tokenizer that suit the prior. Raises `ConfigError` where it has none that do."""
    offered = tokenizer.codes or tokenizer.continuous.spec
    # Any family can be made for binary images of one channel: so made, it tells what it could be made for.
    real = make_prior(core.Spec((*offered.image_shape[:2], 1), offered.num_classes, 2)).real
    if tokenizer.continuous and real:
        return tokenizer.continuous
    if tokenizer.codes:
        return core.Codes(tokenizer.codes, tokenizer.encode, tokenizer.decode)
    raise ConfigError(
        "the tokenizer's codes are real numbers, and the family models whole ones; choose a family of real numbers, "
        "such as diffusion or flow, or a tokenizer of whole ones, such as vq."
    )
