"""Sigma schedules: the noise levels that a sampler visits, `steps` of them from sigma_max to sigma_min, then 0.

The levels of each schedule, without the 0, are equally spaced in a function of sigma.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

SigmaSchedule = Callable[[int, float, float], jax.Array]
"""(steps, sigma_min, sigma_max) -> f32[steps + 1], falling."""


def spaced(warp: Callable[[jax.Array], jax.Array], unwarp: Callable[[jax.Array], jax.Array]) -> SigmaSchedule:
    """Equally spaced after `warp`, an increasing function of sigma whose inverse is `unwarp`."""

    def schedule(steps: int, sigma_min: float, sigma_max: float) -> jax.Array:
        sigmas = unwarp(jnp.linspace(warp(jnp.asarray(sigma_max, float)), warp(jnp.asarray(sigma_min, float)), steps))
        return jnp.append(sigmas, 0.0)

    return schedule


def karras(rho: float = 7.0) -> SigmaSchedule:
    """Karras et al. 2022, equation 5; they use sigmas from 0.002 to 80."""
    return spaced(lambda sigma: sigma ** (1 / rho), lambda x: x**rho)


linear: SigmaSchedule = spaced(lambda sigma: sigma / (1 + sigma), lambda t: t / (1 - t))
"""Equal steps of the rectified path's time, t = sigma / (1 + sigma)."""

cosine: SigmaSchedule = spaced(jnp.arctan, jnp.tan)
"""Equal steps of the cosine path's time."""

log_uniform: SigmaSchedule = spaced(jnp.log, jnp.exp)
"""Equal steps of the log signal-to-noise ratio, and so of a path on which it is linear."""
