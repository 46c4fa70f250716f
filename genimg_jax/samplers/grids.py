"""The noise levels that a sampler visits: `steps` of them from the greatest to the least, then 0.

Each grid is equally spaced in a function of the level; without the 0 at its end it stops at the least level, as
whatever needs a smooth solution to the end must.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Grid = Callable[[int, float, float], jax.Array]
"""(steps, least, greatest) -> f32[steps + 1], falling."""


def spaced(warp: Callable[[jax.Array], jax.Array], unwarp: Callable[[jax.Array], jax.Array]) -> Grid:
    """Levels equally spaced after `warp`, a rising function whose inverse is `unwarp`."""

    def grid(steps: int, least: float, greatest: float) -> jax.Array:
        levels = unwarp(jnp.linspace(warp(jnp.asarray(greatest, float)), warp(jnp.asarray(least, float)), steps))
        return jnp.append(levels, 0.0)

    return grid


def karras(rho: float = 7.0) -> Grid:
    """Karras et al. 2022, equation 5, who use levels from 0.002 to 80."""
    return spaced(lambda level: level ** (1 / rho), lambda x: x**rho)


linear: Grid = spaced(lambda level: level / (1 + level), lambda t: t / (1 - t))
"""Equal steps of the rectified path's time, t = level / (1 + level)."""

cosine: Grid = spaced(jnp.arctan, jnp.tan)
"""Equal steps of the cosine path's time."""

log_uniform: Grid = spaced(jnp.log, jnp.exp)
"""Equal steps of the log signal-to-noise ratio, and so of a path on which it is linear."""
