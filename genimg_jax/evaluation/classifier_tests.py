"""GAN-train, GAN-test and conditional accuracy of generated images: classifiers trained, run, and put side by side.

Everything is measured beside real images by the same recipe. See `metrics.classifier_tests` for the mathematics.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genimg_jax import files
from genimg_jax.errors import DataError
from genimg_jax.evaluation import classifiers, image_sets
from genimg_jax.evaluation import recipe as recipes
from genimg_jax.evaluation.classifiers import Classifier
from genimg_jax.evaluation.image_sets import ImageSet, batches
from genimg_jax.evaluation.recipe import STANDARD, Recipe
from genimg_jax.metrics import classifier_tests as mathematics
from genimg_jax.metrics.intervals import Interval
from genimg_jax.metrics.specs import Scalar

STREAM = 0xC1A55  # separates the choice of the control's images from other draws


class GanTrain(NamedTuple):
    accuracy: Interval
    """On the real test images, of a classifier trained on generated ones."""
    control: Interval
    """The same, trained on as many real images of each class."""
    difference: Interval
    """The first less the second, on the same test images: 0 for a generator as good as the data."""
    class_accuracies: list[Interval | None]
    images: np.ndarray
    """i64[K], of each class that both were trained on."""
    protocol: Mapping[str, Scalar]


class ConditionalAccuracy(NamedTuple):
    overall: Interval
    """The probability that an image asked to be of a class is read as of it."""
    classes: list[Interval | None]
    """Of each class that was asked for."""


class GanTest(NamedTuple):
    accuracy: ConditionalAccuracy
    """On generated images, of a classifier trained on real ones. It is above the control if generated images are easier
    than real ones, as those of a generator of few, typical images are. GAN-train is then low."""
    control: Interval
    """The same classifier on real test images."""
    difference: Interval
    protocol: Mapping[str, Scalar]


def gan_train(
    generated: ImageSet,
    train: ImageSet,
    test: ImageSet,
    cache: Path,
    recipe: Recipe = STANDARD,
) -> GanTrain:
    """Train the recipe on generated images under the labels they were asked to have, and on real ones; test both.

    Both get equally many images of each class: the smaller of its counts in the two sets. Both classifiers are cached
    by the content of their training images, so runs of one class balance share their control. Raises `DataError` where
    images have no labels, no class is in both sets, or the sets are not of one kind.
    """
    _check("GAN-train", generated, train, test)
    classes = len(train.classes)
    counts = np.minimum(*(np.bincount(images.labels, minlength=classes) for images in (generated, train)))
    if np.count_nonzero(counts) < 2:
        raise DataError("GAN-train needs generated images of at least 2 of the data's classes; generate more of them.")
    predictions = []
    for what, images in (("generated", generated), ("real", train)):
        chosen = _balanced(images, counts, recipe.seed)
        trained = _trained(what, chosen, classes, recipe, cache)
        predictions.append(classifiers.predict(trained, batches(test)))
    return GanTrain(
        accuracy=mathematics.accuracy(predictions[0], test.labels),
        control=mathematics.accuracy(predictions[1], test.labels),
        difference=mathematics.accuracy_difference(*predictions, test.labels),
        class_accuracies=mathematics.class_accuracies(predictions[0], test.labels, classes),
        images=counts,
        protocol={"recipe": recipe.digest(), "trained on": int(counts.sum()), "control": train.name},
    )


def gan_test(
    classifier: Classifier, read: tuple[np.ndarray, np.ndarray], generated: ImageSet, test: ImageSet
) -> GanTest:  # i32[N], i32[M]
    """Score the classes that a classifier trained on real images `read` in generated and in real test images. Raises
    `DataError` as `gan_train` does."""
    _check("GAN-test", generated, test)
    accuracy = ConditionalAccuracy(
        mathematics.accuracy(read[0], generated.labels),
        mathematics.class_accuracies(read[0], generated.labels, classifier.classes),
    )
    control = mathematics.accuracy(read[1], test.labels)
    return GanTest(
        accuracy=accuracy,
        control=control,
        difference=mathematics.independent_difference(accuracy.overall, control),
        protocol={"recipe": classifier.record["recipe_digest"], "classifier": classifier.record["name"]},
    )


def _check(metric: str, generated: ImageSet, *real_sets: ImageSet) -> None:
    if generated.labels is None:
        raise DataError(
            f"{metric} is not defined for unconditional samples: they were asked to be of no class. Evaluate a "
            "class-conditional model, or give labels with the images."
        )
    for real in real_sets:
        if real.labels is None:
            raise DataError(f"{metric} needs the classes of real images, and {real.name} has none.")
        if (real.images.shape[1:], real.levels) != (generated.images.shape[1:], generated.levels):
            raise DataError(
                f"{metric} compares images of one kind: {real.name} has {real.images.shape[1:]} in {real.levels} "
                f"levels, {generated.name} {generated.images.shape[1:]} in {generated.levels}."
            )


def _balanced(images: ImageSet, counts: np.ndarray, seed: int) -> ImageSet:
    """`counts` images of each class, drawn by the seed, in the order they came."""
    order = np.random.default_rng([STREAM, seed]).permutation(len(images.images))
    of_class = [order[images.labels[order] == k][:count] for k, count in enumerate(counts)]
    chosen = np.sort(np.concatenate(of_class))
    size = image_sets.chunk(images.images.shape[1:])
    parts = (images.images[part] for part in np.split(chosen, range(size, len(chosen), size)))
    return images._replace(images=image_sets.collect(parts), labels=images.labels[chosen])


def _trained(what: str, images: ImageSet, classes: int, recipe: Recipe, cache: Path) -> Classifier:
    def parts():
        yield f"{images.images.shape} {images.levels} {classes}"
        yield from map(np.ascontiguousarray, image_sets.pieces(images))
        yield np.ascontiguousarray(images.labels, np.int32)

    fingerprint = files.digest(parts())
    path = Path(cache) / f"trained-{fingerprint}-{recipe.digest()}.safetensors"
    if path.exists():
        return classifiers.opened(path, "cached")
    record = {"name": f"of {what} images", "train": fingerprint}
    return classifiers.train_and_keep(path, recipes.of_set(images, classes), recipe, record)
