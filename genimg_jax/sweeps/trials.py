"""What a sweep is made of, and what a launcher is: a function that trains trials.

A launcher is made by a small factory with options of its own, such as `local.launcher(workers=2)`. It trains every
trial that it is given in the trial's own run directory, in any order, and yields an outcome as soon as there is one. A
trial that fails stops no other; only an interruption of the whole sweep is raised. If the generator is closed early,
what is being trained is saved first.
"""

import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from genimg_jax.engine import config, config_files
from genimg_jax.errors import ConfigError

LOG = "log.txt"  # in a trial's run directory: what its training printed, every attempt below the one before
SHOWN_LINES = 8  # of a failed trial's log


class Trial(NamedTuple):
    """One run of a sweep."""

    name: str  # what tells it from the others, such as "beta=4.0,seed=2"
    overrides: Mapping[str, Any]  # what it sets over the base configuration, such as {"model.beta": 4.0, "seed": 2}
    values: Mapping[str, Any]  # its complete configuration, as `engine.training.train` takes it
    digest: str  # `engine.config.digest` of it: which run it is, whatever it is called
    workdir: pathlib.Path


class Outcome(NamedTuple):
    """How the training of a trial ended."""

    trial: Trial
    status: Literal["done", "failed", "preempted"]  # preempted: saved, and goes on from there when launched again
    seconds: float  # that its training took this time, as wall clock; of trials trained as one program, their share
    message: str = ""  # of one that failed, its log's last lines


Launcher = Callable[[Sequence[Trial]], Generator[Outcome, None, None]]


def last_checkpoint(trial: Trial) -> pathlib.Path:
    """Where it is, or will be."""
    return trial.workdir / "checkpoints" / str(trial.values["train"]["steps"])


def trained(trial: Trial) -> bool:
    """Whether the run directory holds the last checkpoint of this very trial. Looks at files alone."""
    if not all((last_checkpoint(trial) / part).is_dir() for part in ("state", "about")):
        return False
    try:
        return config.digest(config_files.of_run(trial.workdir)) == trial.digest
    except ConfigError:
        return False


def log_tail(workdir: pathlib.Path, lines: int = SHOWN_LINES) -> str:
    """The last lines of a trial's log; "" where there is none."""
    path = workdir / LOG
    text = path.read_text(errors="replace") if path.is_file() else ""
    return "\n".join(text.replace("\r", "\n").rstrip().splitlines()[-lines:])
