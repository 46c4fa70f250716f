"""MADE is a distribution over every image of a tiny space, sees no later value and no less than all earlier ones."""

import dataclasses

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genimg_jax import core
from genimg_jax.families import made
from genimg_jax.networks.masked import MaskedMLP

BINARY = core.Spec((3, 3, 1), 3, 2)
DEFAULT = made.Options(width=16, depth=2)
CASES = {
    "raster": (BINARY, {}),
    "mixture of orders, narrow": (BINARY, {"order": "random", "orders": 3, "width": 3}),
    "classes, without direct connections": (BINARY, {"conditional": True, "direct": False, "depth": 1}),
    "four levels": (core.Spec((2, 2, 1), 0, 4), {"likelihood": "categorical"}),
    "colour": (core.Spec((2, 2, 3), 0, 2), {"order": "random"}),
}


def build(spec, **changes):
    family = made.make(dataclasses.replace(DEFAULT, **changes), spec, {"model": core.Optimizer(optax.sgd(0.1))})
    batch = {"image": jnp.zeros((2, *spec.image_shape)), "label": jnp.zeros(2, jnp.int32), "index": jnp.arange(2)}
    return family, enumeration.enlarged(core.weights(jax.jit(family.init)(jax.random.key(0), batch)))


@pytest.mark.parametrize("name", CASES)
def test_is_a_distribution_and_is_sampled(name):
    spec, changes = CASES[name]
    family, weights = build(spec, **changes)
    condition = {"label": 2} if family.conditions else None
    enumeration.check_sums_to_one(family, weights, spec, condition)
    enumeration.check_sampling_frequencies(family, weights, spec, condition=condition)


def test_classes_differ():
    family, weights = build(BINARY, conditional=True)
    one, two = (enumeration.probabilities(family, weights, BINARY, {"label": c}) for c in (0, 1))
    assert np.abs(one - two).sum() > 0.1


PLACE = np.arange(9).reshape(3, 3)
CHESSBOARD = np.where(PLACE % 2, 1.0, -1.0).astype(np.float32)[..., None]


def test_completes_exactly_where_known_values_come_first():
    enumeration.check_completion_frequencies(*build(BINARY), BINARY, CHESSBOARD, PLACE < 4)


def test_many_candidates_make_up_for_known_values_that_come_later():
    several = {"order": "random", "orders": 3}
    enumeration.check_completion_frequencies(
        *build(BINARY, candidates=64, **several), BINARY, CHESSBOARD, PLACE > 4, 2000
    )
    with pytest.raises(AssertionError):
        enumeration.check_completion_frequencies(*build(BINARY, **several), BINARY, CHESSBOARD, PLACE > 4, 2000)


# ------------------------------------------------------------------------------------------------- planted faults


class LastMaskShifted(MaskedMLP):
    """Outputs see the hidden units of their own rank, which see their own value."""

    def masks(self, rank):
        first, _, direct = super().masks(rank)
        return first, self.degrees()[:, None] <= rank[None, :], direct


class FirstMaskShifted(MaskedMLP):
    """Hidden units do not see the value of their own rank."""

    def masks(self, rank):
        _, last, direct = super().masks(rank)
        return rank[:, None] < self.degrees()[None, :], last, direct


class SamplerShifted(MaskedMLP):
    def conditional(self, partial, index, rank):
        return super().conditional(partial, index, rank - 1)


ORDERS = {"raster": np.arange(9), "random": np.array([4, 0, 7, 2, 8, 1, 3, 6, 5])}


def dependence(order: str, kind=MaskedMLP, direct: bool = False, width: int = 16):
    module, rank = kind(9, 1, width, 2, direct), ORDERS[order]
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 9)), None, jnp.arange(9))["params"]
    params = enumeration.enlarged(core.Weights({"model": params}, {}, {})).params["model"]

    def outputs(image):
        return module.apply({"params": params}, image.reshape(1, 9), None, jnp.asarray(rank))

    enumeration.check_dependence(outputs, rank, (3, 3, 1))


@pytest.mark.parametrize(
    ("order", "direct", "width"), [("raster", False, 8), ("random", False, 16), ("random", True, 3)]
)
def test_sees_all_earlier_values_and_no_other(order, direct, width):
    dependence(order, direct=direct, width=width)


def test_faults_are_caught(monkeypatch):
    with pytest.raises(AssertionError, match="blind"):
        dependence("raster", width=7)  # a rank without a hidden unit
    with pytest.raises(AssertionError, match="blind"):
        dependence("random", FirstMaskShifted)
    with pytest.raises(AssertionError, match="not before"):
        dependence("random", LastMaskShifted)
    monkeypatch.setattr(made, "MaskedMLP", LastMaskShifted)
    with pytest.raises(AssertionError):
        enumeration.check_sums_to_one(*build(BINARY), BINARY)
    monkeypatch.setattr(made, "MaskedMLP", SamplerShifted)
    with pytest.raises(AssertionError):
        enumeration.check_sampling_frequencies(*build(BINARY, direct=False), BINARY)
