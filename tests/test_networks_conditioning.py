"""Conditions of every kind of field, encoded as vectors, tokens and maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import random_weights

from genimg_jax.core import Field
from genimg_jax.networks import conditioning
from genimg_jax.networks.conditioning import MapEncoder, TokenEncoder, VectorEncoder

RNG = np.random.default_rng(0)
FIELDS = {
    "label": Field((), 10),
    "tokens": Field((5,), 7),
    "features": Field((6,)),
    "map": Field((12, 10), 3),
    "depth": Field((12, 10)),
    "source": Field((16, 16, 3)),
}
VALUES = {
    name: jnp.asarray(
        RNG.integers(field.size, size=(4, *field.shape)) if field.size else RNG.normal(size=(4, *field.shape)),
        jnp.int32 if field.size else jnp.float32,
    )
    for name, field in FIELDS.items()
}
ALL = tuple(FIELDS.items())
ENCODERS = {
    "vector": lambda fields: VectorEncoder(fields, 8, nullable=True),
    "tokens": lambda fields: TokenEncoder(fields, 8, 2, nullable=True),
    "map": lambda fields: MapEncoder(conditioning.map_fields(fields), 8, (6, 5), nullable=True),
}


def encoder(form: str, fields=ALL):
    """The compiled function of a condition of 4 examples, its parameters drawn at random."""
    module = ENCODERS[form](fields)
    params = random_weights(lambda key, condition: module.init(key, condition, 4), jax.random.key(0), VALUES)
    return jax.jit(lambda condition: module.apply(params, condition, 4))


@pytest.mark.parametrize(("form", "shape"), [("vector", (8,)), ("tokens", (5 + 2 + 4, 8)), ("map", (6, 5, 8))])
def test_every_field_is_told_and_examples_are_independent(form, shape):
    apply = encoder(form)
    whole = apply(VALUES)
    assert whole.shape == (4, *shape)
    for name, values in VALUES.items():
        changed = apply({**VALUES, name: values.at[0].set(values[0, ::-1] if values.ndim > 1 else values[0] + 1)})
        np.testing.assert_array_equal(changed[1:], whole[1:], name)
        told = name in dict(conditioning.map_fields(ALL)) or form != "map"
        assert (np.abs(changed[0] - whole[0]).max() > 1e-4) == told, name


@pytest.mark.parametrize("form", ENCODERS)
@pytest.mark.parametrize("name", FIELDS)
def test_what_is_hidden_is_one_null_for_all(form, name):
    fields = ((name, FIELDS[name]),)
    if form == "map" and not conditioning.map_fields(fields):
        return
    apply = encoder(form, fields)
    nothing, shown = apply(None), apply(VALUES)
    np.testing.assert_array_equal(nothing, np.broadcast_to(nothing[:1], nothing.shape))
    assert np.abs(nothing - shown).max(axis=tuple(range(1, shown.ndim))).min() > 1e-3
    keep = jnp.array([True, False, True, False])
    some = apply({**VALUES, "keep": keep})
    np.testing.assert_allclose(some[keep], shown[keep], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(some[~keep], nothing[~keep], rtol=1e-5, atol=1e-6)


def test_classes_have_vectors_of_their_own():
    module = VectorEncoder((("label", Field((), 200)),), 64)
    vectors, variables = module.init_with_output(jax.random.key(0), {"label": jnp.array([3, 0, 3])}, 3)
    (table,) = jax.tree.leaves(variables)
    np.testing.assert_array_equal(vectors, table[np.array([3, 0, 3])])
    assert 0.95 < np.std(table) < 1.05


def test_a_captions_vector_knows_the_order_of_words_and_no_padding():
    field = Field((5,), 7)
    module = VectorEncoder((("tokens", field),), 8)
    words = jnp.array([[1, 2, 3, 0, 0], [3, 2, 1, 0, 0], [1, 2, 3, 4, 0]])
    params = random_weights(lambda key: module.init(key, {"tokens": words}, 3), jax.random.key(0))
    vectors = module.apply(params, {"tokens": words}, 3)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3, "the order is unknown"
    # The vectors of single words at their places add up, but for the factor that keeps their variance.
    alone = jnp.diag(jnp.array([1, 2, 3, 0, 0]))[:3]
    each = module.apply(params, {"tokens": alone}, 3)
    np.testing.assert_allclose(vectors[0], each.sum(0) / np.sqrt(3), rtol=1e-5, atol=1e-6)


def test_maps_keep_their_places():
    """A map twice as large as the image is told where it is: each pixel by those that it covers."""
    field = Field((12, 10), 3)
    module = MapEncoder((("map", field),), 8, (6, 5))
    half = jnp.zeros((1, 12, 10), jnp.int32).at[:, :6].set(1)
    params = random_weights(lambda key: module.init(key, {"map": half}, 1), jax.random.key(0))
    told = module.apply(params, {"map": half}, 1)[0]
    np.testing.assert_array_equal(told[:3], np.broadcast_to(told[0, 0], (3, 5, 8)))
    np.testing.assert_array_equal(told[3:], np.broadcast_to(told[5, 0], (3, 5, 8)))
    assert np.abs(told[0, 0] - told[5, 0]).max() > 1e-3
