"""Moving averages of weights with power-function profiles, and any of them after training from a few snapshots.

Karras et al. 2024, Analyzing and improving the training dynamics of diffusion models, section 3.1 and appendix C.
After step t the average with exponent gamma weights the parameters of step s <= t in proportion to s^gamma. Profiles
are named by their standard deviation as a fraction of t, `relative_std`: memory grows with training.
"""

from collections.abc import Sequence

import jax
import numpy as np

GREATEST_RELATIVE_STD = 12**-0.5  # of gamma = 0, the mean of all steps


def exponent(relative_std: float) -> float:
    """gamma from the relative standard deviation, which is between 0 and `GREATEST_RELATIVE_STD`."""
    target = relative_std**-2
    return float(np.roots([1, 7, 16 - target, 12 - target]).real.max())


def relative_std(gamma: float) -> float:
    """The inverse of `exponent`."""
    return float((gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5))


def power_decay(gamma: float | jax.Array, step: jax.Array) -> jax.Array:
    """The decay (1 - 1 / step)^(gamma + 1) of the average's update in training step 1, 2, ....

    average <- decay average + (1 - decay) parameters; the first step takes the parameters as they are.
    """  # i32[] -> f32[]
    return (1 - 1 / step) ** (gamma + 1)


def _products(steps: np.ndarray, gammas: np.ndarray, at: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Inner products of profiles: appendix C.2, with powers of the ratio of steps only, which cannot overflow."""
    # [N], [N], [M], [M] -> [N, M]
    steps, gammas = steps[:, None], gammas[:, None]
    # The profile that ends later is cut where the other ends, and counts with its own exponent.
    later = np.where(steps < at, others, gammas)
    ratio = np.minimum(steps, at) / np.maximum(steps, at)
    return (gammas + 1) * (others + 1) / (gammas + others + 1) * ratio**later / np.maximum(steps, at)


def combination(steps: Sequence[float], gammas: Sequence[float], step: float, gamma: float) -> tuple[np.ndarray, float]:
    """The factors of stored snapshots whose sum is nearest to the average with `gamma` at `step`: appendix C.2.

    Snapshot i is the average with exponent gammas[i] after steps[i]; take those with steps up to `step`. The factors
    add up to about 1 and may be negative. Float64, as the equations are close to singular. The error is the distance
    that is left between the sum's profile and the one wanted, relative to that one (both as L2 norms).
    """  # [N], [N] -> f64[N], the error
    steps, gammas = np.asarray(steps, np.float64), np.asarray(gammas, np.float64)
    matrix = _products(steps, gammas, steps, gammas)
    wanted = np.full(1, step, np.float64), np.full(1, gamma, np.float64)
    target = _products(steps, gammas, *wanted)[:, 0]
    # Scaled to a unit diagonal, so that late snapshots, whose profiles are wide and low, count as much.
    scale = 1 / np.sqrt(np.diagonal(matrix))
    solution = np.linalg.lstsq(scale[:, None] * matrix * scale, scale * target, rcond=None)[0]
    factors = scale * solution
    square = _products(*wanted, *wanted)[0, 0]
    rest = factors @ matrix @ factors - 2 * factors @ target + square
    return factors, float(np.sqrt(max(rest, 0.0) / square))
