"""The Transformer sees what it must and no more, and its cache changes nothing."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.networks import attention
from genimg_jax.networks.attention import Decoder
from genimg_jax.samplers import ancestral

BINARY = core.Spec((3, 3, 1), 3, 2)


def test_heads_must_share_the_width():
    with pytest.raises(ConfigError, match="multiple of 6"):
        enumeration.build("transformer", BINARY, heads=3)


# --------------------------------------------------------------------------------------------------- the network

GRIDS = {"learned": ("learned", (3, 3), 1), "rotary": ("rotary", (2, 2, 2), 1), "long prefix": ("learned", (2, 3), 4)}


def network(name, kind=Decoder):
    """The module, its parameters enlarged, and eight prefixes and sequences."""
    positions, grid, prefix_length = GRIDS[name]
    module = kind(5, grid, 16, 2, 2, positions, (("tokens", core.Field((prefix_length,), 3)),))
    rng, count = np.random.default_rng(0), int(np.prod(grid))
    prefix = {"tokens": jnp.asarray(rng.integers(3, size=(8, prefix_length)))}
    tokens = jnp.asarray(rng.integers(5, size=(8, count)))
    params = random_weights(module.init, jax.random.key(0), prefix, tokens)["params"]
    return module, params, prefix, tokens


@pytest.mark.parametrize("name", GRIDS)
def test_sees_all_earlier_tokens_and_no_other(name):
    module, params, prefix, tokens = network(name)
    count = tokens.shape[1]

    def outputs(image):
        drawn = jnp.round(2 * image.reshape(1, count) + 2).astype(jnp.int32)
        return module.apply({"params": params}, {"tokens": prefix["tokens"][:1]}, drawn)

    enumeration.check_dependence(outputs, np.arange(count), (1, count, 1), levels=5)


def cached(module, params, prefix, tokens):
    """The logits of every token, from the cache."""  # prefix i32[B, P], i32[B, T] -> f32[B, T, V]

    def apply(method, *arguments):
        return module.apply({"params": params}, *arguments, method=method)

    def step(state, at):
        logits, cache = apply("step", *state, at[0])
        return (apply("embed_next", at[1]), cache), logits

    along = jnp.arange(tokens.shape[1]), tokens.T
    return jax.lax.scan(step, apply("start", prefix, len(tokens)), along)[1].swapaxes(0, 1)


class Forgetful(Decoder):
    """One position is never written to the cache."""

    def extend(self, x, cache, first):
        x, new = super().extend(x, cache, first)
        return x, jax.tree.map(lambda n, o: jnp.where(first == 3, o, n), new, cache)


class Displaced(Decoder):
    """Its cache knows every token one place too early."""

    def with_positions(self, x, first):
        return super().with_positions(x, first if isinstance(first, int) else first - 1)


def check_cache(name, kind=Decoder):
    module, params, prefix, tokens = network(name, kind)
    full = jax.jit(module.apply)({"params": params}, prefix, tokens)
    found = jax.jit(lambda *arguments: cached(module, *arguments))(params, prefix, tokens)
    np.testing.assert_allclose(found, full, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_cached_logits_are_those_of_the_full_pass(name):
    check_cache(name)


def test_an_uncached_or_displaced_position_is_caught():
    for name, kind in (("learned", Forgetful), ("rotary", Displaced)):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check_cache(name, kind)


def test_the_prefix_is_seen_in_its_order():
    module, params, _, tokens = network("long prefix")
    prefix = jnp.tile(jnp.array([[0, 1, 2, 0]]), (8, 1))
    swapped = prefix[:, jnp.array([1, 0, 2, 3])]
    one, two = (jax.jit(module.apply)({"params": params}, {"tokens": p}, tokens) for p in (prefix, swapped))
    assert (np.abs(one - two).max(axis=(0, 2)) > 1e-3).all()


def test_a_mask_shifted_by_one_is_caught(monkeypatch):
    masked = attention.masked_attention
    monkeypatch.setattr(attention, "masked_attention", lambda q, k, v, first, valid: masked(q, k, v, first + 1))
    with pytest.raises(AssertionError, match="not before"):
        test_sees_all_earlier_tokens_and_no_other("learned")
    with pytest.raises(AssertionError):
        enumeration.check_sums_to_one(*enumeration.build("transformer", BINARY), BINARY)


def test_attention_is_the_same_on_every_backend(monkeypatch):
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 3, 7, 4))
    products = jax.jit(lambda *x: attention.causal_attention(*x))(query, key, value)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    library = jax.jit(lambda *x: attention.causal_attention(*x))(query, key, value)
    np.testing.assert_allclose(products, library, rtol=1e-5, atol=1e-5)


def test_rotary_scores_depend_on_displacements_alone():
    positions = attention.grid_positions((6, 5), 3)
    angles = attention.rotations(positions, 8)
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    turned = [attention.rotate(jnp.broadcast_to(x, (1, 1, len(positions), 8)), angles) for x in (query, key)]
    scores = np.asarray(jnp.einsum("bhnd,bhsd->ns", *turned))
    displacements = positions[:, None] - positions[None, :]
    kinds, which = np.unique(displacements.reshape(-1, 2), axis=0, return_inverse=True)
    means = np.bincount(which.ravel(), scores.ravel()) / np.bincount(which.ravel())
    np.testing.assert_allclose(scores.ravel(), means[which.ravel()], atol=1e-5)
    assert len(np.unique(np.round(means, 4))) > len(kinds) / 3


# ------------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 3, 1.0), (0.7, 0, 0.6)]
)
def test_restricted_logits_are_the_truncated_distribution(temperature, top_k, top_p):
    """Against sorting and adding up probabilities by hand, in float64."""
    logits = 3 * np.random.default_rng(0).normal(size=(50, 7))
    found = scipy.special.softmax(
        np.asarray(ancestral.filter_logits(logits.astype(np.float32), temperature, top_k, top_p)), -1
    )
    for row, result in zip(logits, found, strict=True):
        probability = scipy.special.softmax(row / temperature)
        order = np.argsort(-probability)
        needed = next(n for n in range(1, 8) if n == 7 or probability[order[:n]].sum() >= top_p)
        kept = order[: min(needed, top_k or 7)]
        expected = np.zeros(7)
        expected[kept] = probability[kept] / probability[kept].sum()
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)


def test_the_nucleus_is_never_empty():
    np.testing.assert_array_equal(ancestral.filter_logits(jnp.array([0.0, 1.0]), 1.0, 0, 0.0), [-np.inf, 1.0])


@pytest.mark.parametrize("changes", [{"top_k": 1}, {"top_p": 0.0}, {"temperature": 1e-3}])
def test_the_coldest_samples_are_the_likeliest_tokens(changes):
    family, weights = enumeration.build("transformer", BINARY, **changes)
    images = np.asarray(jax.jit(family.sample)(weights, jax.random.split(jax.random.key(0), 16), {}))
    assert len(np.unique(images, axis=0)) == 1
    masses = enumeration.probabilities(family, weights, BINARY).reshape((2,) * 9, order="F")
    for value in (images[0].ravel() > 0).astype(int):
        ahead = masses.reshape(2, -1).sum(1)
        assert ahead.argmax() == value
        masses = masses[value]
