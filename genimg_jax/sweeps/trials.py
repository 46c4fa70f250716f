"""Trials, their outcomes, and launchers: functions that train trials.

A factory such as `local.launcher(workers=2)` returns a launcher. A launcher trains each trial in its own run directory,
in any order, and yields each outcome as soon as it is known. A failed trial does not stop the others; only an
interruption of the whole sweep is raised. If the generator is closed early, running trials are saved first.
"""

import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from genimg_jax.engine import config, config_files
from genimg_jax.errors import ConfigError

LOG = "log.txt"  # in a trial's run directory: the output of its training, of all attempts in order
SHOWN_LINES = 8  # of a failed trial's log


class Trial(NamedTuple):
    """One run of a sweep."""

    name: str  # unique in the sweep, such as "beta=4.0,seed=2"
    overrides: Mapping[str, Any]  # of the base configuration, such as {"model.beta": 4.0, "seed": 2}
    values: Mapping[str, Any]  # its complete configuration, as `engine.training.train` takes it
    digest: str  # `engine.config.digest` of the values: identifies the run, whatever its name
    workdir: pathlib.Path


class Outcome(NamedTuple):
    """How the training of a trial ended."""

    trial: Trial
    status: Literal["done", "failed", "preempted"]  # preempted: saved, and resumes when launched again
    seconds: float  # wall-clock time of its training; an equal share for trials of one program
    message: str = ""  # of a failed trial: the last lines of its log


Launcher = Callable[[Sequence[Trial]], Generator[Outcome, None, None]]


def last_checkpoint(trial: Trial) -> pathlib.Path:
    """The path of the last checkpoint, which may not exist yet."""
    return trial.workdir / "checkpoints" / str(trial.values["train"]["steps"])


def trained(trial: Trial) -> bool:
    """Whether the run directory has the last checkpoint of this trial, with its configuration. Reads only files."""
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
