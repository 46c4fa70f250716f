"""Scores of one set, and the sliced distance, against closed forms, their definitions and SciPy."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from scipy.special import softmax

from genimg_jax.errors import DataError
from genimg_jax.metrics.diversity import inception_score, vendi_score
from genimg_jax.metrics.sliced import sliced_distance


def test_inception_score_of_certain_balanced_and_of_useless_predictions():
    np.testing.assert_allclose(inception_score(np.tile(np.eye(7), (3, 1))).score, 7)
    np.testing.assert_allclose(inception_score(np.full((9, 7), 1 / 7)).score, 1)


def test_inception_score_is_the_definition():
    probabilities = softmax(np.random.default_rng(0).normal(size=(40, 5)), axis=1)
    divergences = [scipy.stats.entropy(p, probabilities.mean(axis=0)) for p in probabilities]
    np.testing.assert_allclose(inception_score(probabilities).score, np.exp(np.mean(divergences)))


def test_inception_score_error_is_the_spread_of_repetitions():
    rng = np.random.default_rng(1)
    found = [inception_score(softmax(2 * rng.normal(size=(200, 4)), axis=1)) for _ in range(300)]
    spread = np.std([one.information for one in found])
    assert 0.9 < np.mean([one.standard_error for one in found]) / spread < 1.1


def test_inception_scores_bias_is_what_few_images_lose():
    """Twenty classes and 100 images: the information of 100,000 is 0.08 higher, and the correction finds 0.08."""
    rng = np.random.default_rng(3)
    whole = inception_score(softmax(8 * rng.normal(size=(100_000, 20)), axis=1)).information
    few = [inception_score(softmax(8 * rng.normal(size=(100, 20)), axis=1)) for _ in range(200)]
    lost = whole - np.mean([one.information for one in few])
    assert 0.06 < lost < 0.1
    np.testing.assert_allclose(np.mean([one.bias for one in few]), lost, rtol=0.1)


@pytest.mark.parametrize(("samples", "width"), [(30, 8), (8, 30)])
def test_vendi_score_is_its_definition(samples, width):
    features = np.random.default_rng(2).normal(size=(samples, width)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.linalg.eigvalsh((unit @ unit.T / samples).astype(np.float64))
    expected = np.exp(scipy.stats.entropy(np.maximum(weights, 0)))
    np.testing.assert_allclose(vendi_score(features), expected, rtol=1e-5)


def test_vendi_score_counts_different_elements():
    np.testing.assert_allclose(vendi_score(np.ones((9, 4))), 1)
    np.testing.assert_allclose(vendi_score(np.repeat(3 * np.eye(6), 5, axis=0)), 6)


@pytest.mark.parametrize(("n", "m"), [(20, 20), (20, 50), (7, 12), (1, 9)])
def test_sliced_distance_in_one_dimension_is_optimal_transport(n, m):
    """Both directions of the line give one distance; SciPy transports the same masses by linear programming."""
    rng = np.random.default_rng(n + m)
    x, y = rng.normal(size=(n, 1)).astype(np.float32), 2 + 3 * rng.normal(size=(m, 1)).astype(np.float32)
    costs = np.square(x.astype(np.float64) - y.astype(np.float64).T).ravel()
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    plan = scipy.optimize.linprog(costs, A_eq=np.concatenate([rows, columns]), b_eq=masses)
    np.testing.assert_allclose(sliced_distance(x, y, 8).estimate, np.sqrt(plan.fun), rtol=1e-5)


def test_sliced_distance_of_a_shift_is_known():
    """Moved by v, every direction u sees |u.v|, whose mean square is |v|^2 / D."""
    x = np.random.default_rng(4).normal(size=(30, 9)).astype(np.float32)
    shift = np.linspace(1, 2, 9).astype(np.float32)
    found = sliced_distance(x + shift, x, 4000)
    assert abs(found.estimate - np.linalg.norm(shift) / 3) < 4 * found.standard_error < 0.1
    assert sliced_distance(x[::-1], x) == (0, 0, 512)


def test_sliced_distance_follows_its_seed():
    x, y = np.random.default_rng(5).normal(size=(2, 30, 9))
    assert sliced_distance(x, y, 32, 1) == sliced_distance(x, y, 32, 1) != sliced_distance(x, y, 32, 2)


def test_refusals():
    with pytest.raises(DataError, match="softmax"):
        inception_score(np.array([[2.0, -1.0], [0.5, 0.5]]))
    with pytest.raises(DataError, match="zero"):
        vendi_score(np.eye(3, 2))
