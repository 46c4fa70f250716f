"""MADE sees no later value and no less than all earlier ones."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.families import made
from genimg_jax.networks.masked import MaskedMLP

BINARY = core.Spec((3, 3, 1), 3, 2)


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
    params = random_weights(module.init, jax.random.key(0), jnp.zeros((1, 9)), None, jnp.arange(9))["params"]

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
        enumeration.check_sums_to_one(*enumeration.build("made", BINARY), BINARY)
    monkeypatch.setattr(made, "MaskedMLP", SamplerShifted)
    with pytest.raises(AssertionError):
        enumeration.check_sampling_frequencies(*enumeration.build("made", BINARY, direct=False), BINARY)


def test_orders_are_the_model_s_and_no_protocol_of_its_likelihood():
    one, several = (made.make(made.Options(order=o, orders=n), BINARY, {}) for o, n in (("raster", 1), ("random", 4)))
    assert (one.likelihood_kind, one.protocol) == (several.likelihood_kind, several.protocol) == ("exact", {})
    assert one.inpaint_method != several.inpaint_method
