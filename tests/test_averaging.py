"""Averages made of those that a run kept, against a run that kept them."""

import jax
import numpy as np
import pytest
import tiny_runs

from genimg_jax.engine import averaging, restore
from genimg_jax.engine import run as runs
from genimg_jax.errors import ConfigError

STEPS = 48
FLAGS = ["--config.train.checkpoint_every=2", "--config.train.keep=99"]
FLAGS += ["--config.train.evaluate_every=0", "--config.train.sample_every=0", "--config.train.best="]


def flat(weights) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(weights.params))])


def opened(workdir):
    return restore.open_run(workdir, runs.read_json(workdir, "config.json"), "last")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Runs of the same weights, with averages of two widths and with one of another."""
    directory = tmp_path_factory.mktemp("averages")
    for name, widths in {"two": "(0.05, 0.1)", "other": "(0.15,)", "none": "()"}.items():
        steps = [f"--config.train.steps={STEPS if name != 'none' else 2}"]
        found = tiny_runs.train(directory / name, *FLAGS, *steps, f"--config.optimizer.ema_relative_stds={widths}")
        assert found == 0
    return directory


def test_a_width_that_was_not_kept_is_that_of_a_run_that_kept_it(kept):
    two, other = opened(kept / "two"), opened(kept / "other")
    made = averaging.reconstruct(kept / "two", two.program, STEPS, 0.15)
    found, before, expected = (flat(weights) for weights in (made, two.weights, other.weights))
    wrong, moved = np.linalg.norm(found - expected), np.linalg.norm(before - expected)
    assert wrong < 0.05 * moved, wrong / moved  # from 24 checkpoints of so few steps


def test_a_width_that_was_kept_is_itself(kept):
    two = opened(kept / "two")
    made = averaging.reconstruct(kept / "two", two.program, STEPS, 0.05)
    np.testing.assert_allclose(flat(made), flat(two.weights), atol=1e-6)


def test_runs_without_such_averages_are_refused(kept):
    run = opened(kept / "none")
    with pytest.raises(ConfigError, match="kept no power-function averages"):
        averaging.reconstruct(kept / "none", run.program, STEPS, 0.1)
    with pytest.raises(ConfigError, match="between 0 and"):
        averaging.reconstruct(kept / "two", opened(kept / "two").program, STEPS, 0.5)


def test_a_width_that_the_checkpoints_do_not_give_is_refused(kept):
    with pytest.raises(ConfigError, match="the averages in 1 checkpoints"):
        averaging.reconstruct(kept / "two", opened(kept / "two").program, 2, 0.15)
