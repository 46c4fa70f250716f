"""The log-likelihood of images under candidate conditions, for inference of conditions by Bayes' rule."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from genimg_jax import core
from genimg_jax.engine import parallel
from genimg_jax.engine.program import Program, Task, batch_size, run
from genimg_jax.engine.tasks import EVALUATION_SEED


@dataclasses.dataclass(frozen=True)
class LogProbs:
    """log p(image | candidate), f32[B, K]: the batch holds K candidates [B, K, ...] for `field`, and the other
    conditions of the image.

    Random numbers are those of the held-out likelihood, the same for every candidate. Values that depend on the image
    alone, such as its codes, are computed once.
    """

    field: str
    stream = "log_prob"

    def __call__(self, family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
        def log_prob(candidate):
            return family.log_prob(weights, {**batch, self.field: candidate}, key)

        return jax.vmap(log_prob, 1, 1)(batch[self.field])


def condition_log_prob(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """log p(condition), f32[B]."""
    return family.condition_log_prob(weights, batch, key)


def log_probs(
    program: Program, weights: core.Weights, examples: core.Batch, field: str, candidates: np.ndarray
) -> np.ndarray:
    """log p(image | candidate) of N images under K candidates each, [N, K, ...], for one of their conditions.

    `examples` hold the images [N, ...] as a source reads them, the other conditions, and `index`. The cost is N K
    evaluations of the family's `log_prob`, at most `batch_size(program)` in one call.
    """  # -> f32[N, K]
    total, limit = candidates.shape[1], batch_size(program)
    per_call = -(-total // -(-total // limit))  # candidates a call: equal parts of all
    parts = []
    for first in range(0, total, per_call):
        columns = np.minimum(np.arange(first, first + per_call), total - 1)
        some = {**examples, field: candidates[:, columns]}
        parts.append(run_over(program, LogProbs(field), weights, some, max(1, limit // per_call)))
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
