"""Measures by a classifier of generated images: histogram of classes, GAN-train, GAN-test, conditional accuracy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genimg_jax.data import Source
from genimg_jax.engine.config import EvaluateOptions
from genimg_jax.errors import DataError
from genimg_jax.evaluation import classifiers, distances
from genimg_jax.evaluation.classifier_tests import gan_test, gan_train
from genimg_jax.evaluation.classifiers import Classifier
from genimg_jax.evaluation.distances import Metrics
from genimg_jax.evaluation.image_sets import ImageSet
from genimg_jax.metrics.classifier_tests import class_balance
from genimg_jax.metrics.intervals import Interval
from genimg_jax.metrics.specs import Measurement, Scalar

Read = tuple[np.ndarray, np.ndarray, int]  # classes read in generated and in reference images, and how many there are


def classifier_of(train: Source | None, test: Source, options: EvaluateOptions, cache: Path) -> Classifier | None:
    """The classifier of the data: a shipped one, or one of labelled training images, which is trained on the fly unless
    it is cached. None where `why_none` gives a reason."""
    if "classifier" not in options.features or len(test.classes) < 2:
        return None
    if train is None or len(train.classes) < 2:
        return classifiers.shipped_for(test)
    return classifiers.classifier(train, test, cache)


def why_none(train: ImageSet | None, test: ImageSet, options: EvaluateOptions) -> str:
    """Why there is no classifier of the data."""
    if "classifier" not in options.features:
        return "config.evaluate.features leaves the classifier out"
    if len(test.classes) < 2:
        return "it is tested on images labelled with classes, and the reference's are not"
    reason = "the training set is not known" if train is None else "the training images are not labelled with classes"
    return f"{reason}, and no classifier of such images is shipped"


def measure(
    classifier: Classifier,
    predicted: Read,
    generated: ImageSet,
    reference: ImageSet,
    train: ImageSet | None,
    options: EvaluateOptions,
    cache: Path,
) -> tuple[Metrics, dict[str, Any]]:
    """The measurements, and their parts by class. Those that need labels of the generated images are skipped if there
    are none, for the reason in `generated.unlabelled`."""
    measured, skipped = {}, {}

    def add(name: str, interval: Interval, protocol: Mapping[str, Scalar]) -> None:
        spec = distances.spec(name, classifier.logits, generated, reference, options.seed, {**protocol, "level": 0.95})
        measured[name] = Measurement(interval.estimate, spec, interval.low, interval.high)

    def shares(intervals: list[Interval | None]) -> list[float | None]:
        return [interval and interval.estimate for interval in intervals]

    balance = class_balance(*predicted)
    spec = distances.spec("class_histogram", classifier.logits, generated, reference, options.seed, {})
    measured["class_histogram"] = Measurement(balance.total_variation, spec)
    record = {
        "classifier": {k: classifier.record[k] for k in ("name", "weights", "origin", "test_accuracy")},
        "names": reference.classes,
        "shares": balance.shares,
        "of the data": balance.expected,
        "p_value": balance.p_value,
    }
    no_training_set = "the training images are not known" if train is None else ""
    if not options.classifier_tests:
        no_training_set = "config.evaluate.classifier_tests is False"
    if generated.labels is None:
        skipped["GAN-train, GAN-test, conditional accuracy"] = generated.unlabelled
        return Metrics(measured, {}, skipped), record
    test = gan_test(classifier, predicted[:2], generated, reference)
    add("gan_test", test.accuracy.overall, test.protocol)
    add("gan_test_control", test.control, test.protocol)
    add("gan_test_difference", test.difference, test.protocol)
    record["conditional accuracy"] = shares(test.accuracy.classes)
    if no_training_set:
        skipped["GAN-train"] = no_training_set
    else:
        try:
            trained = gan_train(generated, train, reference, cache)
        except DataError as error:  # such as images of a single class: the other measurements stand
            return Metrics(measured, {}, {"GAN-train": str(error)}), record
        for name, interval in (
            ("", trained.accuracy),
            ("_control", trained.control),
            ("_difference", trained.difference),
        ):
            add(f"gan_train{name}", interval, trained.protocol)
        record["GAN-train"] = shares(trained.class_accuracies)
    return Metrics(measured, {}, skipped), record
