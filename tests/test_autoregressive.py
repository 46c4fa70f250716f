"""Autoregressive families are distributions over every image of a tiny space, sample from them and complete by them."""

import enumeration
import numpy as np
import pytest

from genimg_jax import core

BINARY = core.Spec((3, 3, 1), 3, 2)
FOUR_LEVELS = core.Spec((2, 2, 1), 0, 4)
COLOUR = core.Spec((2, 2, 3), 0, 2)
CASES = {
    "made": ("made", BINARY, {}),
    "made, a mixture of orders, narrow": ("made", BINARY, {"order": "random", "orders": 3, "width": 3}),
    "made, classes": ("made", BINARY, {"conditions": ("label",), "direct": False, "depth": 1}),
    "made, four levels": ("made", FOUR_LEVELS, {"likelihood": "categorical"}),
    "made, colour": ("made", COLOUR, {"order": "random"}),
    "rnn, rows": ("rnn", BINARY, {"order": "row", "layers": 2}),
    "rnn, classes": ("rnn", BINARY, {"conditions": ("label",), "window": 2, "cell": "tanh"}),
    "rnn, pixels": ("rnn", BINARY, {"order": "pixel", "cell": "lstm", "window": 4}),
    "rnn, four levels": ("rnn", FOUR_LEVELS, {"order": "pixel", "likelihood": "categorical", "layers": 2}),
    "rnn, colour": ("rnn", COLOUR, {"order": "pixel"}),
    "pixelcnn, classes": ("pixelcnn", BINARY, {"conditions": ("label",)}),
    "pixelcnn, four levels": ("pixelcnn", FOUR_LEVELS, {"likelihood": "categorical"}),
    "pixelcnn, mixture": ("pixelcnn", FOUR_LEVELS, {"likelihood": "logistic_mixture", "positions": False}),
    "pixelcnn, colour": ("pixelcnn", COLOUR, {"layers": 1}),
    "pixelcnn, colour mixture": (
        "pixelcnn",
        core.Spec((1, 2, 3), 0, 4),
        {"likelihood": "logistic_mixture", "layers": 1},
    ),
    "transformer, rotary": ("transformer", BINARY, {"positions": "rotary"}),
    "transformer, classes": ("transformer", BINARY, {"conditions": ("label",)}),
    "transformer, four levels": ("transformer", FOUR_LEVELS, {}),
    "transformer, colour": ("transformer", COLOUR, {"depth": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_is_a_distribution_and_is_sampled(name):
    module, spec, changes = CASES[name]
    family, weights = enumeration.build(module, spec, **changes)
    condition = {"label": 2} if family.conditions else None
    enumeration.check_sums_to_one(family, weights, spec, condition)
    enumeration.check_sampling_frequencies(family, weights, spec, condition=condition)
    if condition:
        one, two = (enumeration.probabilities(family, weights, spec, {"label": c}) for c in (0, 1))
        assert np.abs(one - two).sum() > 0.1


PLACE = np.arange(9).reshape(3, 3)
CHESSBOARD = np.where(PLACE % 2, 1.0, -1.0).astype(np.float32)[..., None]
IN_A_ROW = (PLACE < 3) | (PLACE == 4)  # for a model whose pixels are independent within a row
EXACT = {
    "made": ("made", {}, PLACE < 4),
    "rnn, rows": ("rnn", {"order": "row"}, IN_A_ROW),
    "rnn, pixels": ("rnn", {"order": "pixel"}, PLACE < 4),
    "pixelcnn": ("pixelcnn", {}, PLACE < 4),
    "transformer": ("transformer", {}, PLACE < 4),
}


@pytest.mark.parametrize("name", EXACT)
def test_completes_exactly_where_known_values_come_first(name):
    module, changes, mask = EXACT[name]
    enumeration.check_completion_frequencies(*enumeration.build(module, BINARY, **changes), BINARY, CHESSBOARD, mask)


RESAMPLED = {
    "made": ("made", {"order": "random", "orders": 3}, PLACE > 4),
    "rnn": ("rnn", {"order": "row"}, ~IN_A_ROW),
    "pixelcnn": ("pixelcnn", {}, PLACE >= 4),
}


@pytest.mark.parametrize("name", RESAMPLED)
def test_many_candidates_make_up_for_known_values_that_come_later(name):
    module, changes, mask = RESAMPLED[name]
    several, one = (enumeration.build(module, BINARY, candidates=n, **changes) for n in (64, 1))
    enumeration.check_completion_frequencies(*several, BINARY, CHESSBOARD, mask, samples=2000)
    with pytest.raises(AssertionError):
        enumeration.check_completion_frequencies(*one, BINARY, CHESSBOARD, mask, samples=2000)
