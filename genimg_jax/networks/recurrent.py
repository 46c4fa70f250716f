"""Recurrent layers whose matrix products are outside the loop where possible.

The input's product with its kernel is one matmul before the loop, and the gradient of the recurrent kernel is one
matmul after it. Only the product that depends on the previous step is inside the loops.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genimg_jax.networks.conditioning import Condition, Fields, VectorEncoder
from genimg_jax.networks.layers import add

State = tuple[jax.Array, ...]  # each [B, width]; the hidden vector is the first


class Cell(NamedTuple):
    """One step of a recurrent layer, element by element."""

    gates: int
    """Number of `width`s in the projections that `advance` takes."""
    memories: int
    """Number of vectors in its state."""
    advance: Callable[[jax.Array, jax.Array, State], State]
    """(input's projection [B, gates width], hidden vector's projection [B, gates width], state) -> state."""


def _tanh(inputs: jax.Array, recurrent: jax.Array, state: State) -> State:
    """Elman 1990."""
    return (jnp.tanh(inputs + recurrent),)


def _gru(inputs: jax.Array, recurrent: jax.Array, state: State) -> State:
    """Cho et al. 2014, in the form that applies the reset gate after the product (version 1 of the preprint)."""
    (hidden,) = state
    reset, update, new = jnp.split(inputs, 3, axis=-1)
    recurrent_reset, recurrent_update, recurrent_new = jnp.split(recurrent, 3, axis=-1)
    candidate = jnp.tanh(new + nn.sigmoid(reset + recurrent_reset) * recurrent_new)
    keep = nn.sigmoid(update + recurrent_update)
    return (candidate + keep * (hidden - candidate),)


def _lstm(inputs: jax.Array, recurrent: jax.Array, state: State) -> State:
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, which starts open (bias 1)."""
    _, memory = state
    enter, forget, new, out = jnp.split(inputs + recurrent, 4, axis=-1)
    memory = nn.sigmoid(forget + 1) * memory + nn.sigmoid(enter) * jnp.tanh(new)
    return nn.sigmoid(out) * jnp.tanh(memory), memory


CELLS = {"tanh": Cell(1, 1, _tanh), "gru": Cell(3, 1, _gru), "lstm": Cell(4, 2, _lstm)}


def start(cell: Cell, batch: int, width: int, dtype: jnp.dtype = jnp.float32) -> State:  # -> memories x [B, width]
    return tuple(jnp.zeros((batch, width), dtype) for _ in range(cell.memories))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(cell: Cell, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """The hidden vectors after each step, from a state of zeros; `inputs` are already projected."""
    # [S, B, gates width], [width, gates width] -> [S, B, width]
    return _forward(cell, inputs, kernel)[0]


def _forward(cell: Cell, inputs: jax.Array, kernel: jax.Array):
    def step(state, projected):
        recurrent = state[0] @ kernel
        after = cell.advance(projected, recurrent, state)
        return after, (after[0], recurrent, state)

    first = start(cell, inputs.shape[1], kernel.shape[0], inputs.dtype)
    _, (hidden, recurrent, states) = jax.lax.scan(step, first, inputs)
    return hidden, (inputs, kernel, recurrent, states)


def _backward(cell: Cell, saved, gradient: jax.Array):
    inputs, kernel, recurrent, states = saved

    def step(after, at):
        projected, product, state, from_outputs = at
        _, pull = jax.vjp(cell.advance, projected, product, state)
        to_inputs, to_product, before = pull((after[0] + from_outputs, *after[1:]))
        return (before[0] + to_product @ kernel.T, *before[1:]), (to_inputs, to_product)

    last = jax.tree.map(lambda x: jnp.zeros_like(x[0]), states)
    _, (to_inputs, to_products) = jax.lax.scan(step, last, (inputs, recurrent, states, gradient), reverse=True)
    return to_inputs, jnp.einsum("sbh,sbg->hg", states[0], to_products)


recur.defvjp(_forward, _backward)


class RecurrentStack(nn.Module):
    """Stacked layers of one kind of cell between linear maps: inputs of S steps to outputs of S steps.

    `steps` is (rows, columns) with rows x columns = S. Every step's input has a learned bias for its row and one for
    its column, because a recurrent layer cannot count far.
    """

    cell: str
    width: int
    layers: int
    inputs: int
    outputs: int
    steps: tuple[int, int]
    fields: Fields = ()

    def setup(self):
        cell, dense = CELLS[self.cell], nn.initializers.lecun_normal()
        gates = cell.gates * self.width
        sizes = [self.inputs] + [self.width] * (self.layers - 1)
        self.input_kernels = [self.param(f"input_kernel_{i}", dense, (n, gates)) for i, n in enumerate(sizes)]
        self.input_biases = [self.param(f"input_bias_{i}", nn.initializers.zeros, (gates,)) for i in range(self.layers)]
        self.recurrent_kernels = [
            # Orthogonal, so that state and gradient neither vanish nor explode at initialisation (Saxe et al. 2014).
            self.param(f"recurrent_kernel_{i}", _orthogonal_gates, (self.width, gates))
            for i in range(self.layers)
        ]
        position_init = nn.initializers.normal(0.1)
        self.row_bias = self.param("row_bias", position_init, (self.steps[0], gates))
        self.column_bias = self.param("column_bias", position_init, (self.steps[1], gates))
        self.output_kernel = self.param("output_kernel", dense, (self.width, self.outputs))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.outputs,))
        if self.fields:
            self.condition = VectorEncoder(self.fields, gates, gates**-0.5)

    def project(self, x: jax.Array, condition: Condition) -> jax.Array:
        """The first layer's projection, without the position's bias."""  # [..., B, inputs] -> [..., B, gates width]
        kernel = self.input_kernels[0]
        projected = add(x.astype(kernel.dtype) @ kernel, self.input_biases[0])
        return add(projected, self.condition(condition, x.shape[-2])) if self.fields else projected

    def __call__(self, x: jax.Array, condition: Condition) -> jax.Array:  # [S, B, inputs] -> [S, B, outputs]
        cell = CELLS[self.cell]
        bias = self.row_bias[:, None] + self.column_bias[None, :]
        projected = self.project(x, condition) + bias.reshape(-1, 1, bias.shape[-1])
        hidden = recur(cell, projected, self.recurrent_kernels[0])
        for layer in range(1, self.layers):
            projected = add(hidden @ self.input_kernels[layer], self.input_biases[layer])
            hidden = recur(cell, projected, self.recurrent_kernels[layer])
        return add(hidden @ self.output_kernel, self.output_bias)

    def start(self, batch: int) -> tuple[State, ...]:  # -> layers x memories x [B, width]
        return (start(CELLS[self.cell], batch, self.width, self.row_bias.dtype),) * self.layers

    def step(self, states: tuple[State, ...], x: jax.Array, condition: Condition, position: jax.Array):
        """Step `position` of `__call__`: the next states, and the outputs."""
        # [B, inputs], i32[] -> states, [B, outputs]
        row, column = position // self.steps[1], position % self.steps[1]
        projected = add(self.project(x, condition), self.row_bias[row] + self.column_bias[column])
        following = []
        for layer, (state, kernel) in enumerate(zip(states, self.recurrent_kernels, strict=True)):
            if layer:
                projected = add(following[-1][0] @ self.input_kernels[layer], self.input_biases[layer])
            following.append(CELLS[self.cell].advance(projected, state[0] @ kernel, state))
        return tuple(following), add(following[-1][0] @ self.output_kernel, self.output_bias)


def _orthogonal_gates(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """One orthogonal matrix for each gate, concatenated."""  # -> [width, gates width]
    width, gates = shape
    square = nn.initializers.orthogonal()
    matrices = [square(k, (width, width), dtype) for k in jax.random.split(key, gates // width)]
    return jnp.concatenate(matrices, axis=1)
