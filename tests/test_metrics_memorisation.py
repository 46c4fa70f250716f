"""The audit finds planted copies, and calls an innocent generator innocent as often as it says it does."""

import numpy as np
import pytest
import scipy.stats

from genimg_jax.evaluation.audit import sentence
from genimg_jax.metrics.memorisation import SURE, Audit, Preference, audit, copies, preference

BLOCK = 512


def images(rng, count, width=32):  # -> f32[count, width]
    """Clusters of unequal density, so that distances alone say little."""
    scale = rng.choice([0.3, 1.0, 3.0], size=(count, 1))
    return (scale * rng.normal(size=(count, width)) + 4 * rng.integers(3, size=(count, 1))).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_one_copy_in_a_hundred_is_reported(seed):
    """Training images tell what chance does too: 500 held-out ones could not, with any threshold (p at least 0.017)."""
    rng = np.random.default_rng(seed)
    train, held_out, generated = images(rng, 1500), images(rng, 500), images(rng, 1000)
    planted, source = rng.permutation(1000)[:10], rng.permutation(1500)[:10]
    generated[planted] = train[source] + 0.01 * rng.normal(size=(10, 32)).astype(np.float32)
    found = audit(generated, train, held_out, block=BLOCK)
    assert {(pair.generated, pair.train) for pair in found.closest} == set(zip(planted, source, strict=True))
    assert 0.01 <= found.copies.rate <= 0.014
    assert found.copies.p_value < SURE
    assert 0.005 < found.copies.detectable <= 0.01
    assert sentence(found).startswith("copies of training images")
    assert found.closest == sorted(found.closest, key=lambda pair: pair.ratio)


def test_copies_are_found_though_the_data_hold_a_duplicate():
    """A held-out image that was trained on puts the threshold at 0: at 0 is not below it."""
    rng = np.random.default_rng(6)
    train, held_out = images(rng, 1500), images(rng, 500)
    held_out[3] = train[8]
    found = audit(train[rng.permutation(1500)[:1000]], train, held_out, block=BLOCK).copies
    assert (found.threshold, found.p_value < SURE) == (0, True)
    assert found.rate > 0.99
    innocent = audit(images(rng, 1000), train, held_out, block=BLOCK)
    assert (innocent.copies.rate, innocent.copies.p_value) == (0, 1)


@pytest.mark.parametrize("generated", [50, 2000])
def test_data_of_nothing_but_duplicates_accuse_nobody(generated):
    """Ties are conservative: everything is as near as everything else, whatever the sizes."""
    ratios = [np.zeros(n) for n in (generated, 60, 60)]
    assert copies(*ratios).p_value > 0.5
    rng = np.random.default_rng(7)
    few = [copies(*(rng.integers(3, size=n) / 2 for n in (generated, 60, 60))).p_value for _ in range(100)]
    assert np.mean(np.array(few) < 0.05) <= 0.05


def test_too_few_images_are_said_to_show_nothing():
    found = copies(np.ones(2), np.arange(2.0, 22), np.arange(3.0, 23))
    assert found.p_value == pytest.approx(2 / 31 / 32)  # though both are nearer than all others
    assert found.detectable > 1
    assert "of more images it would be a sign" in sentence(Audit(Preference(0.5, 0.5, 0.0, 0.5), found, 0.0, []))


def test_exact_copies_are_at_ratio_zero_and_images_of_both_sets_at_one():
    rng = np.random.default_rng(1)
    train, held_out = images(rng, 300), images(rng, 300)
    held_out[0] = train[0]
    found = audit(np.stack([train[0], train[5], held_out[7]]), train, held_out, block=BLOCK)
    pairs = {pair.generated: pair for pair in found.closest}
    assert (pairs[1].distance, pairs[1].ratio, pairs[1].train) == (0, 0, 5)
    assert pairs[0].ratio == 1
    assert pairs[2].ratio == np.inf


def null(rng, generated, train, held_out, width):
    return audit(
        *(rng.normal(size=(n, width)) for n in (generated, train, held_out)), seed=int(rng.integers(9)), block=BLOCK
    )


def test_independent_sets_give_the_null():
    """At once for every statistic; 1,500 generated images to 300 real ones, where coin tosses are far from enough."""
    rng = np.random.default_rng(2)
    found = [null(rng, 1500, 200, 100, 24) for _ in range(80)]
    z = np.array([one.nearer_to_train.z for one in found])
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert 0.8 < z.std() < 1.2
    shares = np.array([one.nearer_to_train.share for one in found])
    tosses = (shares - 2 / 3) / np.sqrt(2 / 9 / 1500)
    assert tosses.std() > 1.7
    rates = np.array([one.copies.rate for one in found])
    expected = np.array([one.copies.null_rate for one in found])
    assert abs((rates - expected).mean()) < 4 * rates.std() / np.sqrt(len(rates))
    assert abs(np.mean([one.data_copying for one in found])) < 4 / np.sqrt(len(found))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generated", "train", "held_out", "width"), [(500, 500, 500, 64), (1000, 400, 100, 8), (300, 800, 200, 4)]
)
def test_rejection_rates_under_the_null(generated, train, held_out, width):
    """At 5 %, of 1,000 innocent generators: between 3 and 7 % are accused by each test of copying."""
    rng = np.random.default_rng(width)
    found = [null(rng, generated, train, held_out, width) for _ in range(1000)]
    assert 0.03 <= np.mean([one.nearer_to_train.p_value < 0.05 for one in found]) <= 0.07
    assert 0.03 <= np.mean([abs(one.data_copying) > 1.96 for one in found]) <= 0.07
    # The p-value takes few values, and pairs are taken for granted, so the rate can only be bounded.
    for level in (0.05, 0.01):
        assert np.mean([one.copies.p_value < level for one in found]) <= 1.4 * level
    assert sum(one.copies.p_value < SURE for one in found) <= 4


def test_a_generator_that_lives_near_its_training_images_is_caught_without_a_single_copy():
    rng = np.random.default_rng(3)
    train, held_out = rng.normal(size=(2, 400, 16)).astype(np.float32)
    generated = train + 0.7 * rng.normal(size=train.shape).astype(np.float32)
    found = audit(generated / np.sqrt(1.49), train, held_out, block=BLOCK)
    assert found.nearer_to_train.p_value < 1e-6
    assert found.data_copying < -3


def test_a_blurry_generator_is_not_accused():
    """Samples drawn towards the mean are near to everything; only what compares both sets can tell."""
    rng = np.random.default_rng(4)
    train, held_out, generated = rng.normal(size=(3, 500, 16)).astype(np.float32)
    found = audit(0.5 * generated, train, held_out, block=BLOCK)
    assert found.nearer_to_train.p_value > 0.01
    assert found.copies.p_value > 0.01


def test_preference_has_the_mean_and_variance_of_random_labels():
    rng = np.random.default_rng(5)
    owners = rng.choice(30, size=200, p=rng.dirichlet(np.full(30, 0.3)))
    found = preference(owners < 20, owners, 20, 10)
    shuffled = [np.isin(owners, rng.permutation(30)[:20]).sum() for _ in range(4000)]
    np.testing.assert_allclose(found.expected, 2 / 3)
    z = ((owners < 20).sum() - np.mean(shuffled)) / np.std(shuffled)
    np.testing.assert_allclose(found.z, z, atol=0.1)
    np.testing.assert_allclose(found.p_value, scipy.stats.norm.sf(found.z))


def test_copies_are_counted_against_ranks_alone():
    """Two of five lie below the least of nine: the chance of at least that, by enumeration of orders."""
    held_out, ratios = np.arange(1.0, 10.0), np.array([0.1, 0.5, 3.0, 4.0, 20.0])
    found = copies(ratios, held_out, np.array([]))
    np.testing.assert_allclose(found[:3], (0.4, 0.1, 1.0))
    # The two least of all fourteen must both be generated: 5/14 x 4/13.
    np.testing.assert_allclose(found.p_value, 5 / 14 * 4 / 13)
    np.testing.assert_allclose(copies(np.exp(ratios), np.exp(held_out), np.array([])).p_value, found.p_value)
    # Two training images are worth a held-out one, of whom there are then ten: 5/15 x 4/14.
    np.testing.assert_allclose(copies(ratios, held_out, np.array([2.0, 2.0])).p_value, 5 / 15 * 4 / 14)
