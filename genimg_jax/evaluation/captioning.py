"""The caption of an image, chosen among candidates by Bayes' rule from the likelihood of the image under each."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.special

from genimg_jax import core
from genimg_jax.data import text
from genimg_jax.engine import candidates
from genimg_jax.engine.program import Program
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import zero_shot


class Posterior(NamedTuple):
    captions: list[str]
    """The candidates: captions that differ in their tokens"""
    probabilities: np.ndarray
    """f64[N, candidates], of each image's candidates; a row adds up to 1"""


def check(program: Program) -> None:
    """Raises `ConfigError` where the family has no likelihood under a caption alone."""
    family = program.family
    if family.log_prob is None or family.conditions != ("tokens",):
        conditions = ", ".join(family.conditions) or "nothing"
        raise ConfigError(
            f"captioning needs log p(image | caption); this {program.config.family} is conditioned on {conditions} and "
            f"has {'a' if family.log_prob else 'no'} likelihood. Train one that has it, such as a transformer with "
            "model.conditions=('tokens',)."
        )
    if reason := zero_shot.why_not(program, "tokens"):
        raise ConfigError(f"images cannot be captioned: {reason}.")


def posterior(program: Program, weights: core.Weights, images: np.ndarray, captions: Iterable[str]) -> Posterior:
    """p(caption | image) among candidates, of u8 images [N, H, W, C] as the data stores them. A priori the candidates
    are as likely as the family's `condition_log_prob` says, or equally likely where it has none.

    It is exact in the candidates where `log_prob` is exact. Raises `ConfigError` as `check` does, and `DataError` for a
    caption that is too long.
    """
    check(program)
    family = program.family
    texts = sorted(set(captions))
    if not texts:
        raise ConfigError("there are no captions to choose from; give --task.captions=FILE.")
    vocabulary, (length,) = text.load(program.config.data.captions.vocabulary), program.spec.fields["tokens"].shape
    tokens, first = np.unique(text.rows(vocabulary, texts, texts, length), axis=0, return_index=True)
    examples = {"image": images, "index": np.arange(len(images), dtype=np.int32)}
    among = np.broadcast_to(tokens, (len(images), *tokens.shape))
    logs = candidates.scores(program, weights, examples, "tokens", among).astype(np.float64)
    if family.condition_log_prob:
        conditions = {"tokens": tokens, "index": np.arange(len(tokens), dtype=np.int32)}
        most = program.config.evaluate.batch_size
        logs += candidates.run_over(program, candidates.condition_log_prob, weights, conditions, most)
    return Posterior([texts[i] for i in first], scipy.special.softmax(logs, axis=1))
