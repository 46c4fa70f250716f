"""GAN-train and GAN-test of generators whose worth is known: real images under right, swapped and shuffled labels."""

import numpy as np
import pytest

from genimg_jax.data import Options, open_source
from genimg_jax.errors import DataError
from genimg_jax.evaluation import classifier_tests as tests
from genimg_jax.evaluation import classifiers, image_sets
from genimg_jax.evaluation import recipe as recipes
from genimg_jax.evaluation.recipe import Recipe

TINY = Recipe(width=8, features=32, steps=200, batch_size=32, learning_rate=1e-2)


@pytest.fixture(scope="module")
def sets():
    """A perfect generator of digits (images of the training writers that the control never sees), and the data."""
    options = Options()
    splits = {"generated": "train[:500]", "train": "train[500:]", "test": "test"}
    return {k: image_sets.of_source(open_source(options, split), options, split) for k, split in splits.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def perfect(sets, cache):
    return tests.gan_train(**sets, cache=cache, recipe=TINY)


def relabelled(images, labels):
    return images._replace(labels=labels.astype(np.int32))


def test_a_perfect_generator_is_as_good_as_its_control(perfect):
    assert perfect.accuracy.estimate > 0.6 and perfect.control.estimate > 0.6
    assert abs(perfect.difference.estimate) < 0.15
    np.testing.assert_allclose(perfect.difference.estimate, perfect.accuracy.estimate - perfect.control.estimate)


def test_a_swapped_or_heedless_generator_falls_to_chance(sets, cache, perfect):
    generated = sets["generated"]
    swapped = tests.gan_train(
        relabelled(generated, (generated.labels + 1) % 10), sets["train"], sets["test"], cache, TINY
    )
    assert swapped.accuracy.estimate < 0.1
    shuffled = np.random.default_rng(0).permutation(generated.labels)
    heedless = tests.gan_train(relabelled(generated, shuffled), sets["train"], sets["test"], cache, TINY)
    assert heedless.accuracy.low < 0.25
    for found in (swapped, heedless):
        assert found.control.low > 0.5
        assert found.difference.high < -0.3


def test_control_and_generated_images_are_as_many_of_each_class(sets, cache, monkeypatch):
    seen = []

    def trained(what, images, classes, recipe, cache):
        seen.append((what, images))
        return classifiers.shipped("digits")

    monkeypatch.setattr(tests, "_trained", trained)
    few = sets["train"]
    few = few._replace(images=few.images[:200], labels=few.labels[:200])
    found = tests.gan_train(sets["generated"], few, sets["test"], cache, TINY)
    assert [what for what, _ in seen] == ["generated", "real"]
    for _, images in seen:
        np.testing.assert_array_equal(np.bincount(images.labels, minlength=10), found.images)
    np.testing.assert_array_equal(
        found.images, np.minimum(np.bincount(few.labels), np.bincount(sets["generated"].labels))
    )
    # Of its own set each, under its own labels.
    for (_, images), whole in zip(seen, (sets["generated"], few), strict=True):
        pairs = {(image.tobytes(), label) for image, label in zip(whole.images, whole.labels, strict=True)}
        assert all(pair in pairs for pair in zip(map(np.ndarray.tobytes, images.images), images.labels, strict=True))
    assert found.protocol["trained on"] == found.images.sum()


def test_nothing_is_trained_twice(sets, cache, perfect, monkeypatch):
    files = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    monkeypatch.setattr(recipes, "fit", None)
    again = tests.gan_train(**sets, cache=cache, recipe=TINY)
    assert again.accuracy == perfect.accuracy and again.control == perfect.control
    assert files == {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_conditional_accuracy_and_gan_test_read_what_was_asked(sets):
    classifier, test = classifiers.shipped("digits"), sets["test"]
    asked = test.labels.copy()
    asked[test.labels == 3] = 5
    found = tests.gan_test(classifier, relabelled(test, asked), test)
    conditional = tests.conditional_accuracy(classifier, relabelled(test, asked))
    assert found.accuracy == conditional
    assert found.control.estimate == classifier.record["test_accuracy"]
    threes = np.mean(test.labels == 3)
    assert (
        found.control.estimate - threes - 0.02 < conditional.overall.estimate < found.control.estimate - threes + 0.02
    )
    assert conditional.classes[3] is None
    assert conditional.classes[5].estimate < 0.6 < 0.85 < conditional.classes[0].estimate
    assert (
        found.difference.high < 0 and found.difference.estimate == conditional.overall.estimate - found.control.estimate
    )
    np.testing.assert_allclose(found.balance.expected[[3, 5]], [0, np.mean(asked == 5)])


def test_class_balance_needs_no_labels(sets):
    generated = sets["generated"]
    ones = generated._replace(images=generated.images[generated.labels == 1], labels=None)
    found = tests.class_balance(classifiers.shipped("digits"), ones, sets["test"])
    assert found.shares[1] > 0.9 and found.total_variation > 0.7


def test_what_is_not_defined_is_said_by_name(sets, cache):
    unconditional = sets["generated"]._replace(labels=None)
    classifier = classifiers.shipped("digits")
    with pytest.raises(DataError, match="GAN-train is not defined for unconditional samples"):
        tests.gan_train(unconditional, sets["train"], sets["test"], cache)
    with pytest.raises(DataError, match="GAN-test is not defined for unconditional samples"):
        tests.gan_test(classifier, unconditional, sets["test"])
    with pytest.raises(DataError, match="conditional accuracy is not defined"):
        tests.conditional_accuracy(classifier, unconditional)
    with pytest.raises(DataError, match="needs the classes of real images"):
        tests.gan_test(classifier, sets["generated"], sets["test"]._replace(labels=None))
    with pytest.raises(DataError, match=r"images of one kind: .*2 levels"):
        tests.gan_test(classifier, sets["generated"], sets["test"]._replace(levels=2))
    with pytest.raises(DataError, match="at least 2 of the data's classes"):
        one = relabelled(sets["generated"], np.zeros(500))
        tests.gan_train(one, sets["train"], sets["test"], cache)
