"""Intervals of accuracies against their published examples, their coverage by enumeration, and class balance."""

import numpy as np
import pytest
import scipy.stats

from genimg_jax.errors import DataError
from genimg_jax.metrics import classifier_tests as tests


def coverages(trials, probabilities):
    """By enumeration of all outcomes."""
    ends = np.array([tests.proportion(k, trials)[1:3] for k in range(trials + 1)])
    covered = (ends[:, :1] <= probabilities) & (probabilities <= ends[:, 1:])
    masses = scipy.stats.binom.pmf(np.arange(trials + 1)[:, None], trials, probabilities)
    return (masses * covered).sum(axis=0)


def test_wilson_covers_on_average():
    assert 0.94 < coverages(60, np.linspace(0.5, 0.99, 200)).mean() < 0.96


def test_wilson_is_the_root_of_the_score_equation():
    found = tests.proportion(8, 10)
    for end in (found.low, found.high):
        np.testing.assert_allclose((0.8 - end) ** 2, 1.959964**2 * end * (1 - end) / 10, rtol=1e-5)


def test_accuracies_by_class():
    labels = np.array([0, 0, 0, 2, 2])
    found = tests.class_accuracies(np.array([0, 0, 1, 2, 0]), labels, 3)
    assert [one and one.estimate for one in found] == [2 / 3, None, 1 / 2]
    assert tests.accuracy(np.array([0, 0, 1, 2, 0]), labels).estimate == 3 / 5


def test_paired_difference_of_accuracies():
    """With one image more on either side: (3 - 1) / 7 +- 1.96 sqrt((4 / 7 - (2 / 7)^2) / 7)."""
    labels, first, second = np.array([1, 1, 0, 0, 2]), np.array([1, 1, 0, 1, 2]), np.array([1, 0, 0, 1, 1])
    found = tests.accuracy_difference(first, second, labels)
    assert found.estimate == pytest.approx(0.4)
    np.testing.assert_allclose(np.add(found.low, found.high) / 2, 2 / 7)
    np.testing.assert_allclose((found.high - found.low) / 2, 1.959964 * np.sqrt((4 / 7 - 4 / 49) / 7), rtol=1e-6)
    swapped = tests.accuracy_difference(second, first, labels)
    np.testing.assert_allclose((-swapped.high, -swapped.low), (found.low, found.high))


def test_classifiers_that_never_differ_are_not_known_to_be_equal():
    found = tests.accuracy_difference(np.arange(100), np.arange(100), np.arange(100))
    assert found.low < found.estimate == 0 < found.high
    assert 0.01 < found.high < 0.05


def test_independent_difference_is_newcombes():
    """Newcombe 1998, table II, example (a): 56/70 - 48/80 has the interval 0.0524 to 0.3339."""
    found = tests.independent_difference(tests.proportion(56, 70), tests.proportion(48, 80))
    np.testing.assert_allclose(found[:3], (0.2, 0.0524, 0.3339), atol=5e-5)


def test_class_balance():
    reference = np.repeat(np.arange(4), 50)
    same = tests.class_balance(np.repeat(np.arange(4), 10), reference, 5)
    assert (same.total_variation, same.p_value) == (0, 1)
    swapped = tests.class_balance(np.repeat([0, 1, 2, 2], 10), reference, 5)
    np.testing.assert_allclose(swapped.shares, [0.25, 0.25, 0.5, 0, 0])
    np.testing.assert_allclose(swapped.total_variation, 0.25)
    assert swapped.p_value < 1e-3


def test_total_variation_by_chance():
    rng = np.random.default_rng(0)
    p = [0.4, 0.3, 0.2, 0.1, 0.0]
    pairs = [(rng.choice(5, 300, p=p), rng.choice(5, 500, p=p)) for _ in range(400)]
    found = [tests.class_balance(*pair, 5) for pair in pairs]
    np.testing.assert_allclose(
        np.mean([one.chance for one in found]), np.mean([one.total_variation for one in found]), rtol=0.05
    )


def test_class_balance_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(0)
    found = [tests.class_balance(*rng.integers(6, size=(2, 300)), 6).p_value for _ in range(500)]
    assert scipy.stats.kstest(found, "uniform").pvalue > 1e-3


def test_refusals():
    with pytest.raises(DataError, match="class numbers"):
        tests.accuracy(np.array([0.5]), np.array([1]))
    with pytest.raises(DataError, match="3 predictions for 2"):
        tests.accuracy(np.array([1, 2, 3]), np.array([1, 2]))
    with pytest.raises(DataError, match="there are 3 classes"):
        tests.class_balance(np.array([3]), np.array([0]), 3)
