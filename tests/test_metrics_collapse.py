"""Planted collapse is flagged with its evidence; a generator as good as the data is healthy."""

import json

import numpy as np
import pytest

from genimg_jax.errors import DataError
from genimg_jax.metrics import collapse


def statuses(findings):
    return {finding.name: finding.status for finding in findings}


def diversity(generated, reference):
    return statuses(collapse.diversity_findings(generated, reference, block=512))


def data(rng, count):  # -> f32[count, 20]: ten clusters
    return (3 * np.eye(10, 20)[rng.integers(10, size=count)] + rng.normal(size=(count, 20))).astype(np.float32)


def test_a_generator_as_good_as_the_data_is_healthy():
    rng = np.random.default_rng(0)
    assert set(diversity(data(rng, 400), data(rng, 600)).values()) == {"healthy"}
    for count in (30, 5000):
        classes = rng.integers(10, size=(2, count))
        assert set(statuses(collapse.class_findings(*classes, 10)).values()) == {"healthy"}


def test_a_slightly_blurry_and_unbalanced_generator_is_still_healthy():
    """As every VAE's samples are; significance alone would condemn them."""
    rng = np.random.default_rng(1)
    assert set(diversity(0.85 * data(rng, 400), data(rng, 400)).values()) == {"healthy"}
    shares = np.full(10, 0.1) + np.array([0.02, -0.02] * 5)
    found = collapse.class_findings(rng.choice(10, 20_000, p=shares), rng.integers(10, size=20_000), 10)
    assert set(statuses(found).values()) == {"healthy"}


def test_one_image_for_all_has_collapsed():
    rng = np.random.default_rng(2)
    reference = data(rng, 400)
    found = diversity(reference[:1] + 1e-3 * rng.normal(size=(400, 20)), reference)
    assert found == {"duplicates": "collapsed", "spread": "collapsed"}


def test_a_few_images_repeated_are_duplicates_though_they_spread():
    rng = np.random.default_rng(3)
    found = diversity(data(rng, 12)[rng.integers(12, size=400)], data(rng, 400))
    assert found == {"duplicates": "collapsed", "spread": "healthy"}


def plane(rng, count):  # -> f32[count, 20]: three dimensions of twenty, which only go together
    directions = np.random.default_rng(0).normal(size=(3, 20))
    return (rng.normal(size=(count, 3)) @ directions + 0.1 * rng.normal(size=(count, 20))).astype(np.float32)


def shuffled(rng, rows):  # -> f32[N, D]: each feature from another row
    return rng.permuted(rows, axis=0)


def quality(generated, reference, rng):
    found = collapse.quality_findings(generated, reference, shuffled(rng, reference), block=512)
    return {finding.name: finding for finding in found}


def test_quality_of_a_generator_as_good_as_the_data_is_as_expected():
    """What real images are expected to score is what fresh ones score on average."""
    rng = np.random.default_rng(8)
    found = [quality(plane(rng, 150), plane(rng, 150), rng) for _ in range(20)]
    assert {finding.status for one in found for finding in one.values()} == {"healthy"}
    for name in ("precision", "coverage", "distance"):
        value, expected = (np.mean([getattr(one[name], field) for one in found]) for field in ("value", "expected"))
        assert value == pytest.approx(expected, abs=0.02 if name != "distance" else 0.002), name
    assert found[0]["coverage"].expected == pytest.approx(1 - 0.5**5, abs=0.01)


def test_quality_does_not_depend_on_the_number_of_images():
    """The table's precision and coverage do; a bound on those would call a large evaluation of a fair model poor."""
    rng = np.random.default_rng(9)
    few, many = (quality(0.8 * plane(rng, count), plane(rng, count), rng) for count in (300, 3000))
    assert few["coverage"].expected == many["coverage"].expected
    for name in few:
        assert few[name].value == pytest.approx(many[name].value, abs=0.08)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda rng, rows: shuffled(rng, rows), "precision"),
        (lambda rng, rows: rows + 3, "distance"),
        (lambda rng, rows: rows[rng.integers(5, size=len(rows))] + 0.3 * rng.normal(size=rows.shape), "coverage"),
        (lambda rng, rows: rng.uniform(-3, 3, rows.shape), "precision"),
    ],
)
def test_what_is_unlike_the_data_is_poor(damage, finding):
    rng = np.random.default_rng(10)
    found = quality(damage(rng, plane(rng, 300)), plane(rng, 300), rng)
    assert found[finding].status == "untrained or poor"
    assert f"{finding} {found[finding].value:.2f}" in found[finding].sentence or finding == "distance"


def test_one_real_image_repeated_is_at_the_unit_of_distance():
    """Averaged over the real images; that each is one of those it is compared with takes 2/N off."""
    rng = np.random.default_rng(11)
    rows = plane(rng, 40)
    found = [quality(row[None].repeat(40, 0), rows, rng)["distance"].value for row in rows]
    assert np.mean(found) == pytest.approx(1 - 2 / 40, rel=1e-4)


def test_features_that_independent_pixels_share_with_real_images_tell_nothing():
    rng = np.random.default_rng(12)
    noise = rng.normal(size=(2, 300, 20))
    assert set(quality(noise[0], noise[1], rng)) == {"distance"}


def test_duplicates_of_the_data_are_no_fault_of_the_generator():
    rng = np.random.default_rng(4)
    twice = np.repeat(data(rng, 200), 2, axis=0)
    assert diversity(np.repeat(data(rng, 200), 2, axis=0), twice)["duplicates"] == "healthy"


def test_missing_classes_are_counted_and_named():
    rng = np.random.default_rng(5)
    reference = rng.integers(10, size=5000)
    modes, histogram = collapse.class_findings(rng.integers(8, size=1000), reference, 10)
    assert (modes.status, modes.value, modes.expected) == ("suspicious", 8, 10)
    assert modes.sentence.endswith("missing: 8, 9.")
    names = [f"class {'abcdefghij'[i]}" for i in range(10)]
    named, _ = collapse.class_findings(rng.integers(8, size=1000), reference, 10, names)
    assert named.sentence.endswith("missing: class i, class j.")
    assert histogram.status == "suspicious"
    modes, histogram = collapse.class_findings(np.zeros(1000, int), reference, 10)
    assert (modes.status, modes.value, histogram.status) == ("collapsed", 1, "collapsed")


def test_a_class_that_few_samples_happen_to_miss_is_not_missing():
    found = collapse.class_findings(np.arange(9), np.random.default_rng(6).integers(10, size=5000), 10)
    assert set(statuses(found).values()) == {"healthy"}


def records(**series):
    length = max(map(len, series.values()))
    return [
        {"step": i, "split": "train", **{name: values[i] for name, values in series.items() if i < len(values)}}
        for i in range(length)
    ]


LOG_ODDS = (("logit_real", "logit_fake"),)
HEALTHY_RUN = {"loss": [9.0, 5, 4, 3], "skipped/model": [0.0] * 4}


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({}, None, "healthy"),
        ({"loss": [9.0, 5, float("nan"), 3]}, "finite", "suspicious"),
        ({"loss": [9.0, 5, 4, None]}, "finite", "collapsed"),
        ({"skipped/model": [0.0, 0.01, 0, 0]}, "skipped steps", "suspicious"),
        ({"skipped/model": [0.0, 1, 1, 1]}, "skipped steps", "collapsed"),
        ({"loss": [9.0, 5, 4, 11]}, "loss", "suspicious"),
        ({"logit_real": [1.0, 2, 8, 8], "logit_fake": [-1.0, -2, -8, -8]}, "discriminator", "suspicious"),
        ({"logit_real": [8.0, 8, 8, 1], "logit_fake": [-8.0, -8, -8, -1]}, None, "healthy"),
    ],
)
def test_histories(changes, name, status):
    found = collapse.verdict(collapse.history_findings(records(**{**HEALTHY_RUN, **changes}), LOG_ODDS))
    assert found.status == status
    if name:
        assert (found.findings[0].name, found.findings[0].status) == (name, status)


def test_a_critic_has_no_log_odds():
    won = records(logit_real=[50.0] * 4, logit_fake=[-50.0] * 4)
    assert collapse.verdict(collapse.history_findings(won, LOG_ODDS)).status == "suspicious"
    assert collapse.verdict(collapse.history_findings(won)).status == "healthy"


def test_one_of_two_discriminators_that_wins_is_enough():
    both = {f"logit_{part}/{name}": [0.0] * 4 for part in ("real", "fake") for name in ("photo", "map")}
    pairs = tuple((f"logit_real/{name}", f"logit_fake/{name}") for name in ("photo", "map"))
    assert collapse.verdict(collapse.history_findings(records(**both), pairs)).status == "healthy"
    won = records(**{**both, "logit_real/map": [50.0] * 4})
    assert collapse.verdict(collapse.history_findings(won, pairs)).status == "suspicious"


def test_the_verdict_is_the_worst_and_can_be_written_down():
    rng = np.random.default_rng(7)
    found = collapse.verdict(
        collapse.class_findings(np.zeros(1000, int), rng.integers(10, size=1000), 10)
        + collapse.history_findings(records(**HEALTHY_RUN))
        + collapse.diversity_findings(data(rng, 100), data(rng, 100), block=128)
    )
    assert found.status == "collapsed"
    order = [collapse.STATUSES.index(finding.status) for finding in found.findings]
    assert order == sorted(order, reverse=True)
    assert json.loads(json.dumps(found))[0] == "collapsed"
    with pytest.raises(DataError, match="vary"):
        collapse.diversity_findings(data(rng, 10), np.ones((10, 20)))
