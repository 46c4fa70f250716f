"""The best of several samples: the law of the likeliest of n draws, by enumeration."""

from types import SimpleNamespace

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genimg_jax import core
from genimg_jax.engine import tasks
from genimg_jax.errors import ConfigError

SPEC = core.Spec((2, 3, 1), 3, 2)


def drawn(family, weights, task, count, label=1):
    batch = {"index": jnp.arange(count), "label": jnp.full(count, label)}
    return np.asarray(jax.jit(lambda batch: task(family, weights, batch, jax.random.key(5)))(batch))


def test_the_best_of_n_has_the_law_of_a_maximum():
    """P(best = x) = F(x)^n - F(x-)^n, where F is the probability of an image that is at most as likely as x."""
    family, weights = enumeration.build("transformer", SPEC, conditions=("label",))
    masses = enumeration.probabilities(family, weights, SPEC, {"label": 1})
    order = np.argsort(masses)
    upto = np.cumsum(masses[order] / masses.sum())
    law = np.empty_like(masses)
    law[order] = np.diff(upto**3, prepend=0)
    enumeration.check_frequencies(drawn(family, weights, tasks.SampleBest(3), 20_000), law, SPEC.levels)


def test_the_best_of_one_is_the_sample():
    family, weights = enumeration.build("transformer", SPEC, conditions=("label",))
    one = drawn(family, weights, tasks.SampleBest(1), 200)
    np.testing.assert_array_equal(one, drawn(family, weights, tasks.sample_task, 200))


def test_a_family_without_a_likelihood_cannot_choose():
    family = enumeration.build("made", SPEC)[0]._replace(log_prob=None)
    program = SimpleNamespace(family=family, config=SimpleNamespace(family="gan"))
    with pytest.raises(ConfigError, match="gan has no likelihood to choose the best of 4 samples by"):
        tasks.sample_batches(program, None, 8, 0, best_of=4)
