"""Weights far from uniform for tests, without compiling an initialisation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def random_weights(init: Callable, *arguments: Any, scale: float = 1.0, seed: int = 0) -> Any:
    """Normal noise in the shape of `init(*arguments)`: of variance `scale`^2 / fan in for kernels, and else (`scale` /
    2)^2, biases included."""
    rng = np.random.default_rng(seed)

    def draw(like: jax.ShapeDtypeStruct) -> jax.Array:
        deviation = scale / math.sqrt(math.prod(like.shape[:-1])) if len(like.shape) > 1 else scale / 2
        return jnp.asarray(rng.normal(scale=deviation, size=like.shape), jnp.float32)

    return jax.tree.map(draw, jax.eval_shape(init, *arguments))
