"""GAN-train and GAN-test of generators whose worth is known: real images under right, swapped and shuffled labels."""

import numpy as np
import pytest

from genimg_jax.data import Options, open_source
from genimg_jax.engine.config import EvaluateOptions
from genimg_jax.errors import DataError
from genimg_jax.evaluation import classes, classifiers, image_sets
from genimg_jax.evaluation import classifier_tests as tests
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


def read(*sets):
    """The classes that the shipped classifier of digits reads in sets of images."""
    return tuple(classifiers.predict(classifiers.shipped("digits"), image_sets.batches(one)) for one in sets)


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


def test_gan_test_reads_what_was_asked(sets):
    classifier, test = classifiers.shipped("digits"), sets["test"]
    asked = test.labels.copy()
    asked[test.labels == 3] = 5
    found = tests.gan_test(classifier, read(test, test), relabelled(test, asked), test)
    conditional = found.accuracy
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


def test_the_histogram_of_classes_needs_no_labels_and_what_does_is_left_out_for_the_reason_given(sets, cache):
    generated, test = sets["generated"], sets["test"]
    ones = generated._replace(images=generated.images[generated.labels == 1], labels=None, unlabelled="they are ones")
    classifier, seen = classifiers.shipped("digits"), (*read(ones, test), 10)
    found, record = classes.measure(classifier, seen, ones, test, None, EvaluateOptions(), cache)
    assert record["shares"][1] > 0.9 and found.metrics["class_histogram"].value > 0.7
    assert found.skipped == {"GAN-train, GAN-test, conditional accuracy": "they are ones"}


def test_without_training_images_a_shipped_classifier_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "fit", None)
    digits, options = open_source(Options(), "test"), EvaluateOptions()
    unlabelled = digits._replace(classes=(), read=lambda index: {"image": digits.read(index)["image"]})
    for train in (None, unlabelled):
        assert classes.classifier_of(train, digits, options, tmp_path).record["name"] == "digits"
        assert classes.classifier_of(train, digits, EvaluateOptions(features="pixels"), tmp_path) is None
        assert classes.classifier_of(train, digits._replace(classes=tuple("abcdefghij")), options, tmp_path) is None
    # Nothing is trained that could not be tested.
    assert classes.classifier_of(digits, unlabelled, options, tmp_path) is None


def test_why_there_is_no_classifier(sets):
    bare = sets["test"]._replace(labels=None, classes=())
    for train, test, options, reason in (
        (None, sets["test"], EvaluateOptions(features="pixels"), "leaves the classifier out"),
        (sets["train"], bare, EvaluateOptions(), "labelled with classes, and the reference's are not"),
        (None, sets["test"], EvaluateOptions(), "the training set is not known, and no classifier of such"),
        (bare, sets["test"], EvaluateOptions(), "the training images are not labelled with classes, and no"),
    ):
        assert reason in classes.why_none(train, test, options)


def test_what_is_not_defined_is_said_by_name(sets, cache):
    unconditional = sets["generated"]._replace(labels=None)
    classifier = classifiers.shipped("digits")
    with pytest.raises(DataError, match="GAN-train is not defined for unconditional samples"):
        tests.gan_train(unconditional, sets["train"], sets["test"], cache)
    with pytest.raises(DataError, match="GAN-test is not defined for unconditional samples"):
        tests.gan_test(classifier, (), unconditional, sets["test"])
    with pytest.raises(DataError, match="needs the classes of real images"):
        tests.gan_test(classifier, (), sets["generated"], sets["test"]._replace(labels=None))
    with pytest.raises(DataError, match=r"images of one kind: .*2 levels"):
        tests.gan_test(classifier, (), sets["generated"], sets["test"]._replace(levels=2))
    with pytest.raises(DataError, match="at least 2 of the data's classes"):
        one = relabelled(sets["generated"], np.zeros(500))
        tests.gan_train(one, sets["train"], sets["test"], cache)
