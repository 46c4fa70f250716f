"""Paired tests over images hold their error rates for models whose likelihoods go up and down together."""

import numpy as np
import pytest
import scipy.stats

from genimg_jax.metrics import intervals, significance

IMAGES = 360


def rng(seed):
    return np.random.default_rng(seed)


def log_probs(seed: int, simulations: int, left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Two exact likelihoods of the same images: 8 fair pixels, which the models take to be 1 with probability 0.5 plus
    `left` or `right`, and others that both know alike, harder or easier from image to image."""  # -> 2 x [S, IMAGES]
    ones = rng(seed).binomial(8, 0.5, size=(simulations, IMAGES))
    shared = 30 * rng(seed + 1).exponential(size=(simulations, IMAGES))
    return tuple(shared + ones * np.log(0.5 + e) + (8 - ones) * np.log(0.5 - e) for e in (left, right))


def test_two_models_of_equal_expected_likelihood_are_told_apart_as_often_as_promised():
    """Equal by symmetry. Both share what makes an image hard."""
    count = 4000
    one, other = log_probs(0, count, 0.2, -0.2)
    assert 0.99 < np.corrcoef(one[0], other[0])[0, 1] < 1
    p_values = significance.p_value(one - other)
    assert abs(np.mean(p_values < 0.05) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / count)
    # Without pairs, hardly any would be: the test would have no power either.
    unpaired = scipy.stats.ttest_ind(one, other, axis=-1).pvalue
    assert np.mean(unpaired < 0.05) < 0.001


def test_skewed_differences_of_few_hundred_images_keep_the_level():
    count = 20_000
    for seed in (0, 1):
        differences = rng(seed).exponential(size=(count, IMAGES)) - 1
        assert abs(np.mean(significance.p_value(differences) < 0.05) - 0.05) < 0.01


def test_a_thousandth_of_a_nat_is_found_where_the_intervals_overlap():
    deviation, images, count = 0.02, 10_000, 200
    found = []
    for seed in range(count):
        shared = 30 * rng(seed).normal(size=images)
        one, other = shared, shared + 1e-3 + deviation * rng(count + seed).normal(size=images)
        first, second = intervals.mean(one), intervals.mean(other)
        assert first.high > second.low and second.high > first.low
        found.append(significance.paired({"other": other - one})["other"])
    assert np.mean([one.p_value < 0.05 for one in found]) > 0.99
    inside = np.mean([one.interval.low < 1e-3 < one.interval.high for one in found])
    assert abs(inside - 0.95) < 4 * np.sqrt(0.05 * 0.95 / count)


def test_a_model_does_not_differ_from_itself():
    values = rng(0).normal(size=IMAGES).astype(np.float32)
    found = significance.paired({"same": values - values, "other": rng(1).normal(0.2, 1, IMAGES)})
    assert (found["same"].difference, found["same"].p_value, found["same"].interval[:3]) == (0, 1, (0, 0, 0))
    reference = scipy.stats.ttest_1samp(rng(1).normal(0.2, 1, IMAGES), 0)
    assert found["other"].p_value == pytest.approx(reference.pvalue)
    assert found["other"].adjusted == pytest.approx(2 * reference.pvalue), "two are compared"
    assert significance.shown(found["same"]) == "+0 [+0, +0]"


def test_an_image_that_a_model_rules_out_leaves_no_test():
    found = significance.paired({"out": np.array([0.0, -np.inf, 1.0]), "one": np.array([0.5])})
    assert found["out"].difference == -np.inf and found["out"].interval is found["one"].interval is None
    assert np.isnan([found["out"].p_value, found["out"].adjusted, found["one"].p_value]).all()
