"""The launchers by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from genimg_jax.errors import ConfigError
from genimg_jax.options import nearest
from genimg_jax.sweeps.trials import Launcher

NAMES = ("auto", "local", "slurm", "vectorised")


def choose(name: str, workers: int, parameters: Mapping[str, Any] | None = None) -> Launcher:
    """'auto' is 'vectorised' where it pays; either trains what is no part of one program as 'local' does.

    `workers` are processes on this machine, or trials at a time on a cluster; 0: as many as fit. `parameters` are
    Slurm's alone, see `slurm.launcher`.
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
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(f"--slurm has {text!r}; give NAME=VALUE, separated by commas.")
        found[name] = int(value) if value.isdecimal() else value
    return found
