"""The launchers by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from genimg_jax.errors import ConfigError
from genimg_jax.options import nearest
from genimg_jax.sweeps.trials import Launcher

NAMES = ("auto", "local", "slurm", "vectorised")


def choose(name: str, workers: int, parameters: Mapping[str, Any] | None = None) -> Launcher:
    """The launcher with this name. 'auto' is 'vectorised' where that is faster. Both train other trials as 'local'
    does.

    `workers` is the number of processes on this machine, or of simultaneous trials on a cluster; 0: as many as fit.
    `parameters` are for Slurm only, see `slurm.launcher`.
    """
    if parameters and name != "slurm":
        raise ConfigError(f"--slurm has no meaning for --launcher {name}; leave it out.")
    if name == "local":
        from genimg_jax.sweeps import local

        return local.launcher(workers)
    if name == "slurm":
        from genimg_jax.sweeps import slurm

        return slurm.launcher(workers, parameters)
    if name in ("auto", "vectorised"):
        from genimg_jax.sweeps import vectorised

        return vectorised.launcher(workers, where_it_pays=name == "auto")
    raise ConfigError(f"--launcher is {name!r}{nearest(name, NAMES)} It must be one of {', '.join(NAMES)}.")


def parameters(given: Sequence[str]) -> dict[str, Any]:
    """["time=600", "partition=gpu"] as {"time": 600, "partition": "gpu"}."""
    parsed: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(f"--slurm has {text!r}; give NAME=VALUE, separated by commas.")
        parsed[name] = int(value) if value.isdecimal() else value
    return parsed
