"""Bradley-Terry scores of simulated raters whose ranking is known."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from genimg_jax.errors import DataError
from genimg_jax.metrics.preferences import bradley_terry, score_difference

NAMES = np.array(["data", "diffusion", "gan", "vae"])
SCORES = np.array([1.0, 0.5, -0.2, -1.3])


def choices(rng, raters, each, spread=0.0):  # -> (winners, losers, raters), each [raters x each]
    """Raters with taste: their own scores vary around the common ones by `spread`. `each` is one number, or a list."""
    tastes = SCORES + spread * rng.normal(size=(raters, 4))
    who = np.repeat(np.arange(raters), each)
    pairs = np.array([rng.permutation(4)[:2] for _ in who])
    margin = tastes[who, pairs[:, 0]] - tastes[who, pairs[:, 1]]
    swap = rng.random(len(who)) > 1 / (1 + np.exp(-margin))
    pairs[swap] = pairs[swap, ::-1]
    return NAMES[pairs[:, 0]], NAMES[pairs[:, 1]], who


def test_the_known_ranking_is_found():
    found = bradley_terry(*choices(np.random.default_rng(0), 30, 40)[:2])
    assert found.names == sorted(NAMES)
    estimates = np.array([score.estimate for score in found.scores])
    np.testing.assert_allclose(estimates, SCORES, atol=0.2)
    np.testing.assert_allclose(estimates.sum(), 0, atol=1e-9)


def test_two_names_have_a_closed_form():
    """The penalty adds half a win to each side, so the difference is log((w + 1/2) / (l + 1/2))."""
    found = bradley_terry(["a"] * 7 + ["b"] * 2, ["b"] * 7 + ["a"] * 2)
    np.testing.assert_allclose(score_difference(found, "a", "b").estimate, np.log(7.5 / 2.5), rtol=1e-9)


def test_matches_the_maximum_of_the_penalised_likelihood():
    winners, losers, _ = choices(np.random.default_rng(1), 5, 12)
    first, second = np.searchsorted(NAMES, winners), np.searchsorted(NAMES, losers)
    rows = np.eye(4)[first] - np.eye(4)[second]

    def objective(free):
        design = rows[:, :3]  # the last name's score is 0
        probability = 1 / (1 + np.exp(-design @ free))
        information = design.T @ ((probability * (1 - probability))[:, None] * design)
        return -np.log(probability).sum() - np.linalg.slogdet(information)[1] / 2

    free = scipy.optimize.minimize(objective, np.zeros(3), tol=1e-12).x
    expected = np.append(free, 0) - np.append(free, 0).mean()
    np.testing.assert_allclose([s.estimate for s in bradley_terry(winners, losers).scores], expected, atol=1e-4)


def test_intervals_cover_independent_answers():
    rng = np.random.default_rng(2)
    hits = []
    for _ in range(200):
        found = bradley_terry(*choices(rng, 1, 300)[:2])
        hits += [s.low <= true <= s.high for s, true in zip(found.scores, SCORES, strict=True)]
    assert 0.92 <= np.mean(hits) <= 0.98


def test_raters_with_tastes_need_their_names():
    """Scores are fitted to 20 raters of 60 answers whose tastes differ; the target is what very many raters give."""
    rng = np.random.default_rng(3)
    target = [s.estimate for s in bradley_terry(*choices(rng, 4000, 10, spread=1.0)[:2]).scores]
    by_rater, blind = [], []
    for _ in range(100):
        answers = choices(rng, 20, 60, spread=1.0)
        for hits, found in ((by_rater, bradley_terry(*answers)), (blind, bradley_terry(*answers[:2]))):
            hits += [s.low <= true <= s.high for s, true in zip(found.scores, target, strict=True)]
    assert 0.92 <= np.mean(by_rater) <= 0.98
    assert np.mean(blind) < 0.8


@pytest.mark.parametrize(("each", "least"), [([60, 60], 0.93), ([60] * 4, 0.93), ([200, 40, 20, 20, 20], 0.88)])
def test_few_raters_make_intervals_wide_and_not_wrong(each, least):
    """Two raters of four sets, though their covariance has rank 1; and raters of unequal diligence. Answers taken for
    independent cover 60 to 80 %."""
    rng = np.random.default_rng(6)
    target = np.array([s.estimate for s in bradley_terry(*choices(rng, 3000, 10, spread=0.7)[:2]).scores])
    hits, blind, differences = [], [], []
    for _ in range(80):
        answers = choices(rng, len(each), each, spread=0.7)
        by_rater = bradley_terry(*answers)
        for kept, found in ((hits, by_rater), (blind, bradley_terry(*answers[:2]))):
            kept += [s.low <= true <= s.high for s, true in zip(found.scores, target, strict=True)]
        difference = score_difference(by_rater, "data", "vae")
        differences.append(difference.low <= target[0] - target[3] <= difference.high)
    assert np.mean(hits) >= least
    assert np.mean(differences) >= least - 0.02
    assert np.mean(blind) < 0.85


def test_two_raters_who_happen_to_agree_are_not_sure():
    """Their spread is 0; what so few answers leave open is not."""
    winners, losers = ["a"] * 7 + ["b"] * 3, ["b"] * 7 + ["a"] * 3
    found = bradley_terry(winners * 2, losers * 2, ["anna"] * 10 + ["ben"] * 10)
    np.testing.assert_allclose(found.between_raters, 0, atol=1e-12)
    assert found.scores == bradley_terry(winners * 2, losers * 2).scores
    assert found.scores[0].low < 0 < found.scores[0].high


def test_the_spread_is_the_jackknife_over_raters():
    """To first order: refitted without each rater in turn, when raters are many."""
    winners, losers, raters = choices(np.random.default_rng(7), 30, 40, spread=1.0)
    found = bradley_terry(winners, losers, raters)
    without = [bradley_terry(winners[raters != i], losers[raters != i]) for i in range(30)]
    scores = np.array([[s.estimate for s in one.scores] for one in without])
    whole = np.array([s.estimate for s in found.scores])
    np.testing.assert_allclose(found.between_raters, 29 / 30 * (scores - whole).T @ (scores - whole), atol=5e-4)
    error = found.scores[1].standard_error
    assert error == pytest.approx(np.sqrt(found.between_raters[1, 1]))
    half = scipy.stats.t.ppf(0.975, 29) * error
    assert found.scores[1].high - found.scores[1].estimate == pytest.approx(half)


def test_one_who_always_wins_has_a_finite_score():
    found = bradley_terry(["data"] * 20 + ["gan", "vae"], ["gan", "vae"] * 10 + ["vae", "gan"])
    best = found.scores[0]
    assert 0 < best.low < best.estimate < 10


def test_difference_knows_that_scores_are_correlated():
    found = bradley_terry(*choices(np.random.default_rng(4), 30, 20)[:2])
    difference = score_difference(found, "data", "vae")
    c = found.covariance
    np.testing.assert_allclose(c.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(difference.standard_error**2, c[0, 0] + c[3, 3] - 2 * c[0, 3])
    np.testing.assert_allclose(difference.estimate, found.scores[0].estimate - found.scores[3].estimate)


def test_refusals():
    with pytest.raises(DataError, match=r"\(a, b\) with any of \(c, d\)"):
        bradley_terry(["a", "c"], ["b", "d"])
    with pytest.raises(DataError, match="itself"):
        bradley_terry(["a"], ["a"])
    with pytest.raises(DataError, match="one length"):
        bradley_terry([], [])
    with pytest.raises(DataError, match="one rater"):
        bradley_terry(["a", "b"], ["b", "a"], ["x", "x"])
    with pytest.raises(DataError, match="only rater ben connects"):
        bradley_terry(list("abbc") * 5, list("bacb") * 5, ["anna", "ben", "ben", "ben"] * 5)
