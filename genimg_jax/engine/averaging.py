"""Post-hoc averages of weights, reconstructed from stored averages (Karras et al. 2024, section 3.2)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import averages, core
from genimg_jax.engine import checkpoint
from genimg_jax.engine.program import Program
from genimg_jax.errors import ConfigError

WORST = 0.05  # error of a reconstructed profile


def reconstruct(workdir: pathlib.Path, program: Program, step: int, relative_std: float) -> core.Weights:
    """The weights at `step`, averaged with a power-function profile of any width, from all checkpoints up to `step`.

    Groups without power-function averages keep their weights. Raises `ConfigError` if no group has such averages, no
    profile has this width, or the stored checkpoints do not determine it.
    """
    config = program.config
    widths = {group: options.ema_relative_stds for group, options in config.optimizer.items()}
    if not any(widths.values()):
        raise ConfigError(
            f"{workdir} kept no power-function averages to make others of; train with "
            "--config.optimizer.ema_relative_stds='(0.05, 0.1)' and a train.keep of some twenty checkpoints."
        )
    if not 0 < relative_std < averages.GREATEST_RELATIVE_STD:
        raise ConfigError(f"--relative_std is {relative_std}; it must be between 0 and 0.288.")
    store = checkpoint.open_store(workdir, config.train.keep, config.train.best, read_only=True)
    steps = [s for s in checkpoint.steps(store) if 0 < s <= step]
    factors = {group: _factors(steps, stds, step, relative_std) for group, stds in widths.items() if stds}
    total: dict[str, core.Tree] = {}
    for i, at in enumerate(steps):
        state = checkpoint.restore(store, at, program.abstract_state)
        for group, each in factors.items():
            names = core.average_names(core.Optimizer(None, ema_exponents=widths[group]), group)
            for name, factor in zip(names, each[i], strict=True):
                part = jax.tree.map(lambda x: jnp.float32(factor) * x, state.ema_params[name])  # noqa: B023
                total[group] = jax.tree.map(jnp.add, total[group], part) if group in total else part
    weights = core.weights(state)
    return weights._replace(params={**weights.params, **total})


def _factors(steps: list[int], stds: tuple[float, ...], step: int, relative_std: float) -> np.ndarray:
    """The factor of each average of each checkpoint."""  # -> f64[steps, stds]
    gammas = [averages.exponent(std) for std in stds]
    factors, error = averages.combination(
        np.repeat(steps, len(stds)), np.tile(gammas, len(steps)), step, averages.exponent(relative_std)
    )
    if error > WORST:
        raise ConfigError(
            f"--relative_std is {relative_std}, and the averages in {len(steps)} checkpoints, of "
            f"{', '.join(map(str, stds))}, come within {error:.0%} of its profile only; ask for a width nearer to "
            "those, or train with a higher train.keep."
        )
    return factors.reshape(len(steps), len(stds))
