"""A sweep's statistics against SciPy, against figures worked out by hand, and their own error rates by simulation."""

import numpy as np
import pytest
import scipy.stats

from genimg_jax.metrics import significance
from genimg_jax.sweeps import statistics

SIMULATIONS = 20_000


def rng(seed):
    return np.random.default_rng(seed)


def near(rate, target):
    """Within four standard errors of what was simulated."""
    return abs(rate - target) < 4 * np.sqrt(target * (1 - target) / SIMULATIONS)


def test_a_paired_comparison_is_scipys():
    first, second = rng(0).normal(size=(2, 7))
    found = statistics.compare({"base": dict(enumerate(first)), "other": dict(enumerate(second))}, "base")["other"]
    reference = scipy.stats.ttest_rel(second, first)
    interval = reference.confidence_interval()
    assert found.p_value == pytest.approx(reference.pvalue)
    assert found.adjusted == pytest.approx(reference.pvalue), "one comparison needs no correction"
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(np.mean(second - first))


def test_only_shared_seeds_are_compared_in_pairs():
    values = {
        "base": {0: 1.0, 1: 2.0, 2: 3.0, 7: 100.0},
        "other": {2: 3.5, 1: 2.25, 0: 1.75, 9: -100.0},
        "alone": {8: 1.0},
    }
    found = statistics.compare(values, "base")
    assert set(found) == {"other"}
    assert found["other"].pairs == 3
    assert found["other"].difference == pytest.approx(0.5)
    assert statistics.compare(values, "absent") == {}


def test_few_seeds_are_an_anecdote_and_one_gives_no_interval():
    one, two, three = (statistics.summarize(np.arange(n, dtype=float)) for n in (1, 2, 3))
    assert one.too_few_seeds and two.too_few_seeds and not three.too_few_seeds
    assert one.interval is None and two.interval is not None
    single = statistics.compare({"base": {0: 1.0}, "other": {0: 3.0}}, "base")["other"]
    assert single.too_few_seeds and single.interval is None and single.difference == 2.0
    assert np.isnan([single.p_value, single.adjusted, single.effect, single.detectable]).all()


@pytest.mark.parametrize("shared_noise", [0.0, 3.0])
def test_identical_settings_are_told_apart_as_often_as_promised(shared_noise):
    """A null sweep: what seeds share goes away, and 5 % are called different before correction."""
    seeds = shared_noise * rng(1).normal(size=(SIMULATIONS, 5))
    base, other = (seeds + rng(n).normal(size=(SIMULATIONS, 5)) for n in (2, 3))
    assert near(np.mean(significance.p_value(other - base) < 0.05), 0.05)


def test_holm_keeps_the_chance_of_any_false_claim_below_the_level_though_all_share_a_baseline():
    base = rng(4).normal(size=(SIMULATIONS, 1, 5))
    trials = rng(5).normal(size=(SIMULATIONS, 8, 5))
    p_values = significance.p_value(trials - base)
    assert np.mean((p_values < 0.05).any(axis=-1)) > 0.15, "without it there are many"
    wrong = np.mean((significance.holm(p_values) < 0.05).any(axis=-1))
    assert 0.02 < wrong < 0.05


def test_holm_by_hand():
    # 4 hypotheses: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, then never below an earlier one.
    found = significance.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(significance.holm(np.array([0.9, 0.8])), [1.0, 1.0])
    np.testing.assert_allclose(significance.holm(np.array([0.02, np.nan, 0.03])), [0.04, np.nan, 0.04])
    assert significance.holm(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_a_detectable_difference_is_detected_as_often_as_it_says(pairs):
    shift = statistics.detectable_difference(2.0, pairs)
    differences = 2.0 * rng(pairs).normal(size=(SIMULATIONS, pairs)) + shift
    assert near(np.mean(significance.p_value(differences) < statistics.LEVEL), statistics.POWER)
    critical = scipy.stats.t.ppf(0.975, pairs - 1)
    power = scipy.stats.nct.sf(critical, pairs - 1, shift / 2 * np.sqrt(pairs))
    assert power == pytest.approx(statistics.POWER, abs=1e-3)


def test_more_seeds_detect_less():
    found = [statistics.detectable_difference(1.0, n) for n in (2, 3, 5, 20)]
    assert sorted(found, reverse=True) == found
    assert statistics.detectable_difference(1.0, 1) == np.inf


@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_the_effect_size_has_no_bias(pairs):
    differences = rng(6).normal(0.8, 1.0, size=(SIMULATIONS, pairs))
    found = statistics.effect_size(differences)
    error = found.std() / np.sqrt(SIMULATIONS)
    assert abs(found.mean() - 0.8) < 5 * error
    uncorrected = (differences.mean(-1) / differences.std(-1, ddof=1)).mean()
    assert abs(uncorrected - 0.8) > 5 * error, "which the plain ratio does"


def test_differences_without_spread():
    assert significance.p_value(np.zeros(4)) == 1
    assert significance.p_value(np.full(4, 0.5)) == 0
    assert np.isnan(statistics.effect_size(np.full(4, 0.5)))
    assert np.isnan(significance.p_value(np.ones(1)))
