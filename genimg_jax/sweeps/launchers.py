"""The launchers by name."""

from genimg_jax.sweeps import local
from genimg_jax.sweeps.cells import Launcher


def choose(name: str, workers: int) -> Launcher:
    """'auto', 'local', 'slurm' or 'vectorised'; `workers` are processes on this machine, 0: as many as fit."""
    return local.launcher(workers)
