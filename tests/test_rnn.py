"""Recurrent models see all earlier steps and no other; the hand-written gradients equal those of a plain scan."""

import enumeration
import jax
import jax.numpy as jnp
import needs
import numpy as np
import pytest

from genimg_jax import core
from genimg_jax.families import rnn
from genimg_jax.networks import recurrent

BINARY = core.Spec((3, 3, 1), 3, 2)


def dependence(monkeypatch, order, fault=False, **changes):
    """Each value's outputs are recovered from the likelihood's arguments."""
    seen = {}

    def spy(spec):
        plain = rnn_bernoulli(spec)

        def log_prob(outputs, image):
            seen["outputs"] = outputs
            return plain.log_prob(outputs, image)

        return plain._replace(log_prob=log_prob)

    rnn_bernoulli = rnn.LIKELIHOODS["bernoulli"]
    with monkeypatch.context() as patch:
        patch.setitem(rnn.LIKELIHOODS, "bernoulli", spy)
        family, weights = enumeration.build("rnn", BINARY, order=order, **changes)

    def outputs(image):
        image = jnp.roll(image, -1, 2) if fault else image
        family.log_prob(weights, {"image": image}, None)
        return seen["outputs"].reshape(1, 9)

    place = np.arange(9)
    enumeration.check_dependence(outputs, place // 3 if order == "row" else place, (3, 3, 1))


@pytest.mark.parametrize(("order", "cell"), [("row", "tanh"), ("pixel", "gru"), ("pixel", "lstm")])
def test_sees_all_earlier_steps_and_no_other(monkeypatch, order, cell):
    dependence(monkeypatch, order, cell=cell, layers=2)


def test_an_image_shifted_by_one_is_caught(monkeypatch):
    with pytest.raises(AssertionError, match="not before"):
        dependence(monkeypatch, "pixel", fault=True)


# ------------------------------------------------------------------------------------------------------- layers


def plain(cell: recurrent.Cell, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """`recur` with the gradients that JAX derives."""

    def step(state, projected):
        state = cell.advance(projected, state[0] @ kernel, state)
        return state, state[0]

    return jax.lax.scan(step, recurrent.start(cell, inputs.shape[1], kernel.shape[0]), inputs)[1]


def problem(name: str):
    cell = recurrent.CELLS[name]
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (7, 4, 5 * cell.gates))
    return cell, inputs, jax.random.normal(keys[1], (5, 5 * cell.gates)), jax.random.normal(keys[2], (7, 4, 5))


@pytest.mark.parametrize("name", recurrent.CELLS)
def test_gradients_equal_the_plain_scan(name):
    cell, inputs, kernel, direction = problem(name)

    def gradients(function):
        return jax.value_and_grad(lambda x, k: (function(cell, x, k) * direction).sum(), argnums=(0, 1))(inputs, kernel)

    ours, plain_ones = gradients(recurrent.recur), gradients(plain)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain_ones), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", recurrent.CELLS)
def test_cells_equal_pytorch(name):
    torch = needs.module("torch")
    cell, inputs, kernel, _ = problem(name)
    kind = {"tanh": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[name]
    layer = kind(inputs.shape[-1], 5)
    # PyTorch's GRU keeps the other share of the old state; the order of gates is the same.
    forget = np.zeros(5 * cell.gates, np.float32)
    if name == "lstm":
        forget[5:10] = 1
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(inputs.shape[-1]))
        layer.weight_hh_l0.copy_(torch.from_numpy(np.array(kernel.T)))
        layer.bias_ih_l0.copy_(torch.from_numpy(forget))
        layer.bias_hh_l0.zero_()
        expected = layer(torch.from_numpy(np.array(inputs)))[0].numpy()
    np.testing.assert_allclose(recurrent.recur(cell, inputs, kernel), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", recurrent.CELLS)
def test_steps_equal_the_whole_pass(name):
    network = recurrent.RecurrentStack(name, 8, 2, 3, 4, (2, 3), fields=(("label", core.Field((), 5)),))
    x, label = jax.random.normal(jax.random.key(1), (6, 2, 3)), {"label": jnp.array([1, 4])}
    variables = jax.jit(network.init)(jax.random.key(0), x, label)
    whole = jax.jit(network.apply)(variables, x, label)
    step = jax.jit(lambda states, x, place: network.apply(variables, states, x, label, place, method="step"))
    states = network.apply(variables, 2, method="start")
    for place in range(6):
        states, outputs = step(states, x[place], place)
        np.testing.assert_allclose(outputs, whole[place], rtol=1e-5, atol=1e-5)
