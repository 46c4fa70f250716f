"""The noise levels that a sampler visits: `steps` of them from the greatest to the least, then 0.

Each grid is equally spaced in a function of the level; without the 0 at its end it stops at the least level, as
whatever needs a smooth solution to the end must.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

SigmaSchedule = Callable[[int, float, float], jax.Array]
"""(steps, least, greatest) -> f32[steps + 1], falling."""


def spaced(warp: Callable[[jax.Array], jax.Array], unwarp: Callable[[jax.Array], jax.Array]) -> SigmaSchedule:
    """Levels equally spaced after `warp`, a rising function whose inverse is `unwarp`."""

    def grid(steps: int, sigma_min: float, sigma_max: float) -> jax.Array:
        sigmas = unwarp(jnp.linspace(warp(jnp.asarray(sigma_max, float)), warp(jnp.asarray(sigma_min, float)), steps))
        return jnp.append(sigmas, 0.0)

    return grid


def karras(rho: float = 7.0) -> SigmaSchedule:
    """Karras et al. 2022, equation 5, who use levels from 0.002 to 80."""
    return spaced(lambda sigma: sigma ** (1 / rho), lambda x: x**rho)


linear: SigmaSchedule = spaced(lambda sigma: sigma / (1 + sigma), lambda t: t / (1 - t))
"""Equal steps of the rectified path's time, t = level / (1 + level)."""

cosine: SigmaSchedule = spaced(jnp.arctan, jnp.tan)
"""Equal steps of the cosine path's time."""

log_uniform: SigmaSchedule = spaced(jnp.log, jnp.exp)
"""Equal steps of the log signal-to-noise ratio, and so of a path on which it is linear."""
