"""Scores of images under candidate conditions, such as log-likelihoods for inference of conditions by Bayes' rule."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from genimg_jax import core
from genimg_jax.engine import parallel
from genimg_jax.engine.program import Program, Task, batch_size, run
from genimg_jax.engine.tasks import EVALUATION_SEED

Score = Callable[[core.Family, core.Weights, core.Batch, jax.Array], jax.Array]
"""(family, weights, batch, key) -> f32[B]"""


def log_prob(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """log p(image | condition), f32[B]."""
    return family.log_prob(weights, batch, key)


def negative_loss(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """Minus the training loss, f32[B]. For a loss of denoising this is the diffusion classifier (Li et al. 2023)."""
    return -family.evaluate(weights, batch, key)["loss"]


@dataclasses.dataclass(frozen=True)
class Scores:
    """The score of each image under each candidate, f32[B, K]: the batch holds K candidates [B, K, ...] for `field`,
    and the other conditions of the image.

    Random numbers are those of the held-out likelihood, the same for every candidate. Values that depend on the image
    alone, such as its codes, are computed once.
    """

    field: str
    score: Score = log_prob
    stream = "log_prob"

    def __call__(self, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
        def under(candidate):
            return self.score(family, weights, {**batch, self.field: candidate}, key)

        return jax.vmap(under, 1, 1)(batch[self.field])


def condition_log_prob(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """log p(condition), f32[B]."""
    return family.condition_log_prob(weights, batch, key)


def scores(
    program: Program,
    weights: core.Weights,
    examples: core.Batch,
    field: str,
    candidates: np.ndarray,
    score: Score = log_prob,
) -> np.ndarray:
    """The score, by default log p(image | candidate), of N images under K candidates each, [N, K, ...], for one of
    their conditions.

    `examples` hold the images [N, ...] as a source reads them, the other conditions, and `index`. The cost is N K
    evaluations of the score, at most `batch_size(program)` in one call.
    """  # -> f32[N, K]
    total, limit = candidates.shape[1], batch_size(program)
    per_call = -(-total // -(-total // limit))  # candidates a call: equal parts of all
    parts = []
    for first in range(0, total, per_call):
        columns = np.minimum(np.arange(first, first + per_call), total - 1)
        some = {**examples, field: candidates[:, columns]}
        parts.append(run_over(program, Scores(field, score), weights, some, max(1, limit // per_call)))
    return np.concatenate(parts, axis=-1)[..., :total]


def run_over(program: Program, task: Task, weights: core.Weights, examples: core.Batch, limit: int) -> np.ndarray:
    """The results of a task for N examples, which have an `index`, about `limit` in one call."""  # -> [N, ...]
    count = len(examples["index"])
    size = parallel.round_up(program.mesh, min(count, limit))

    def batches() -> Iterator[core.Batch]:
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)[parallel.local_rows(size)]
            yield {name: values[rows] for name, values in examples.items()}

    return run(program, task, weights, batches(), count, EVALUATION_SEED)
