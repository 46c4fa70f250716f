"""Padding of captions changes nothing: where pixels attend to words, and where words come before tokens."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import random_weights

from genimg_jax.core import Field
from genimg_jax.networks import attention, dit, unet

WORDS = jnp.zeros((4, 8), jnp.int32).at[0, :3].set(jnp.array([1, 2, 3])).at[1, :2].set(4).at[2, 0].set(5)  # and none
IMAGE = np.random.default_rng(0).standard_normal((4, 4, 4, 1)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(5, size=(4, 6))
LABEL, SHOWN = jnp.array([0, 1, 0, 1]), jnp.ones(4, bool)


class Network(NamedTuple):
    make: functools.partial  # (fields=) -> module
    inputs: tuple  # before the condition
    after: tuple
    told_by: object  # the module that looks up `valid_tokens`
    fields: tuple[str, ...] = ("label", "tokens")


DENOISER = (IMAGE, jnp.linspace(-1, 1, 4)), ()
DECODER = functools.partial(attention.Decoder, 5, (2, 3), 16, 2, 2)
NETWORKS = {
    "unet": Network(functools.partial(unet.UNet, 8, (1,), 1, (), 1), *DENOISER, unet),
    "dit": Network(functools.partial(dit.DiT, 2, 8, 2, 2, 1, registers=1, label_tokens=2), *DENOISER, dit),
    "transformer": Network(DECODER, (), (TOKENS,), attention),
    "transformer, words first": Network(DECODER, (), (TOKENS,), attention, ("tokens", "label")),
}


def call(name: str, words: jax.Array, **condition) -> tuple[nn.Module, tuple]:
    """The network of captions as long as `words`, and what it is given."""
    network, length = NETWORKS[name], words.shape[1]
    fields = {"label": Field((), 2), "tokens": Field((length,), 7)}
    module = network.make(fields=tuple((name, fields[name]) for name in network.fields))
    return module, (*network.inputs, {"label": LABEL, "tokens": words, **condition}, *network.after)


@functools.cache
def compiled(name: str, length: int) -> Callable[..., jax.Array]:
    """The network's outputs, from parameters, captions i32[4, length] and for whom they are shown."""

    def run(params: dict, words: jax.Array, keep: jax.Array = SHOWN) -> jax.Array:
        module, arguments = call(name, words, keep=keep)
        return module.apply({"params": params}, *arguments)

    return jax.jit(run)


@functools.cache
def params(name: str, length: int) -> dict:
    """Of captions of 8 tokens; of shorter ones the same, but for those of the places beyond."""

    def init(words: jax.Array) -> dict:
        module, arguments = call(name, words)
        return module.init(jax.random.key(0), *arguments)["params"]

    shapes = jax.eval_shape(init, WORDS[:, :length])
    return jax.tree.map(lambda x, like: x[tuple(map(slice, like.shape))], random_weights(init, WORDS), shapes)


def check_padding(name: str, outputs: Callable[..., jax.Array]) -> None:
    """Of captions of up to 3 words in 5 places, they are those of the same captions in 8."""
    expected = compiled(name, 8)(params(name, 8), WORDS)
    np.testing.assert_allclose(outputs(params(name, 5), WORDS[:, :5]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_changes_nothing(name, monkeypatch):
    check_padding(name, compiled(name, 5))
    monkeypatch.setattr(NETWORKS[name].told_by, "valid_tokens", lambda *_: None)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):  # padding that is attended to
        check_padding(name, compiled.__wrapped__(name, 5))


@pytest.mark.parametrize("name", NETWORKS)
def test_words_are_attended_to(name):
    """With the vector of the whole caption left out, words and their places still matter; of hidden ones nothing."""
    run, told = compiled(name, 8), params(name, 8)
    if modulator := told.get("condition", {}).get("fields"):
        told = {**told, "condition": {**told["condition"], "fields": jax.tree.map(jnp.zeros_like, modulator)}}
    plain = run(told, WORDS)
    for other in (WORDS.at[0, 1].set(6), WORDS.at[0, :3].set(WORDS[0, 2::-1]), WORDS.at[0, 3].set(6)):
        changes = np.abs(run(told, other) - plain).reshape(4, -1).max(1)
        assert changes[0] > 1e-3 and changes[1:].max() == 0
        if modulator:
            np.testing.assert_array_equal(run(told, other, ~SHOWN), run(told, WORDS, ~SHOWN))
