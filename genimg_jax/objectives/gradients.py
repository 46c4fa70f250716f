"""Measures of a network's gradient by its input, in losses of the network's parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genimg_jax import core


def of_input_gradient(
    measure: Callable[[jax.Array], jax.Array], function: Callable[[core.Tree], jax.Array], inputs: core.Tree
) -> jax.Array:
    """`measure`(f32[B, values] -> f32[B]) of the gradient of each output of `function` by its own input, from one
    backward pass through the sum of the outputs.

    This is exact only if an example's output depends on no other example. Batch normalisation and minibatch statistics
    couple the examples: row i is then the gradient of the sum of all outputs by input i.

    The derivative by parameters is reverse over forward: that of the directional derivative <v, g>, where g is the
    gradient, and v = dm/dg is held fixed. Reverse over reverse gives the same, and takes a DCGAN with R1 2.2 times as
    long. Second derivatives are not those of m.
    """  # tree of [B, ...] -> f32[B, ...]; -> f32[B]
    inputs = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)

    def outputs(inputs: core.Tree) -> jax.Array:
        return function(inputs).astype(jnp.float32)

    def measure_tree(gradient: core.Tree) -> jax.Array:
        return measure(jnp.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(gradient)], axis=1))

    gradient = jax.lax.stop_gradient(jax.grad(lambda x: outputs(x).sum())(inputs))
    value, pull_back = jax.vjp(measure_tree, gradient)
    (direction,) = pull_back(jnp.ones_like(value))
    along = jax.jvp(outputs, (inputs,), (direction,))[1]
    return value + (along - jax.lax.stop_gradient(along))
