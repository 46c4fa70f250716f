"""Classifiers of the data: they read the classes of generated images, and their features compare images.

The classifiers of scikit-learn's digits and of MNIST are part of this package. The classifier of any other labelled
source is trained at its first use and cached.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genimg_jax import files
from genimg_jax.data import Source, identity
from genimg_jax.errors import DataError, ResourceError
from genimg_jax.evaluation import recipe as recipes
from genimg_jax.evaluation.image_sets import chunk
from genimg_jax.evaluation.recipe import STANDARD, Examples, Recipe
from genimg_jax.metrics import classifier_file, features
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.features import FeatureNetwork

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = ("digits", "mnist")
# A shipped classifier is used for a source if it is as accurate there as its record says: the interval from the first
# PROBE images reaches the recorded accuracy, less SLACK for other ways to binarise.
PROBE, SLACK = 1000, 0.01
CHUNK = 1000  # images read at a time


class Classifier(NamedTuple):
    features: FeatureNetwork
    """The penultimate layer's, after its rectifier."""
    logits: FeatureNetwork
    classes: int
    record: Mapping[str, Any]
    """`name`, `weights` (their hash), `origin` ('shipped', 'cached' or 'trained'), the `recipe` and its digest,
    `image_shape`, and of those made for a source: `class_names`, `test_accuracy` and, of grey images,
    `test_accuracy_binarized` (levels drawn as probabilities), the fingerprints `train` and `test`, `test_images`."""


def classifier(train: Source, test: Source, cache: Path, recipe: Recipe = STANDARD) -> Classifier:
    """The classifier of a labelled source: shipped if there is one for such images, otherwise cached or trained.

    Data is identified by its content, not by its name or its splits. One classifier reads grey and binarised images
    alike (half of its training images were binarised), so that models of either are compared in the same features.
    Raises `DataError` for a source without classes.
    """
    if len(train.classes) < 2:
        raise DataError("the data has no classes to train a classifier on; compare by random_conv or pixels.")
    if match := shipped_for(test, recipe):
        return match
    fingerprint = identity.content(train)
    path = Path(cache) / f"classifier-{fingerprint}-{recipe.digest()}.safetensors"
    if not path.exists():
        return train_on_source(path, train, test, fingerprint, recipe)
    cached = opened(path, "cached")
    if cached.record["test"] == identity.content(test):
        return cached
    return cached._replace(record={**cached.record, **_tested(cached, test)})


def shipped_for(test: Source, recipe: Recipe = STANDARD) -> Classifier | None:
    """The shipped classifier of such labelled images, if there is one."""
    for name in SHIPPED:
        candidate = shipped(name)
        if candidate.record["recipe_digest"] == recipe.digest() and _reads(candidate, test):
            return candidate
    return None


def shipped(name: str) -> Classifier:
    """One of `SHIPPED`."""
    return opened(WEIGHTS / f"{name}.safetensors", "shipped")


def predict(classifier: Classifier, images: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """The likeliest class of each image; images whole or in batches of any size, as for `features.extract`."""
    # f32[N, H, W, C] in [-1, 1] -> i32[N]
    return features.extract(classifier.logits, images).argmax(axis=1).astype(np.int32)


def train_on_source(
    path: Path,
    train: Source,
    test: Source,
    name: str,
    recipe: Recipe,
    more: Mapping[str, Any] = {},
) -> Classifier:
    """Train, test, and write to `path`; `more` is added to the record."""
    record = {"name": name, "class_names": list(train.classes), "train": identity.content(train), **more}
    return train_and_keep(path, recipes.of_source(train), recipe, record, lambda trained: _tested(trained, test))


def train_and_keep(
    path: Path,
    examples: Examples,
    recipe: Recipe,
    record: Mapping[str, Any],
    tested: Callable[[Classifier], Mapping[str, Any]] = lambda trained: {},
) -> Classifier:
    """Train on the examples and write to `path`. The result of `tested` is added to the record, which needs a `name`.
    Raises `ResourceError` where it cannot be written, before any training."""
    files.check_writable(path.parent, "set XDG_CACHE_HOME to a place where classifiers can be kept")
    arrays = recipes.fit(examples, recipe, f"classifier {record['name']}")
    record = {
        **record,
        "weights": files.digest_arrays(arrays),
        "image_shape": list(examples.image_shape),
        "classes": examples.classes,
        "recipe": dataclasses.asdict(recipe),
        "recipe_digest": recipe.digest(),
    }
    networks = classifier_file.networks(arrays, record)
    trained = Classifier(*networks, examples.classes, {**record, "origin": "trained"})
    record |= tested(trained)
    try:
        classifier_file.save(path, arrays, record)
    except OSError as error:
        raise ResourceError(f"the classifier {path} cannot be written: {error.strerror or error}.") from error
    return trained._replace(record={**record, "origin": "trained"})


def opened(path: Path, origin: str) -> Classifier:
    """Raises `CheckpointError` where the file is missing or not what was written."""
    cure = "install genimg_jax again" if origin == "shipped" else "delete it, and it will be trained anew"
    networks, record = classifier_file.load(path, cure)
    return Classifier(*networks, record["classes"], {**record, "origin": origin})


def _images(source: Source, count: int, labels: list[np.ndarray], binarized: bool = False) -> Iterator[np.ndarray]:
    """The first images of a source, whose labels are added to `labels` on the way; binarised by the same draws whenever
    they are asked for."""
    # -> f32[n, H, W, C] in [-1, 1] ...
    rng = np.random.default_rng(0)
    size = min(CHUNK, chunk(source.spec.image_shape))
    for start in range(0, count, size):
        rows = source.read(np.arange(start, min(start + size, count)))
        labels.append(rows["label"])
        image = np.minimum(rows["image"].astype(np.float32) / (source.stored_levels - 1), 1)
        yield 2 * (rng.random(image.shape, np.float32) < image).astype(np.float32) - 1 if binarized else 2 * image - 1


def _correct(classifier: Classifier, source: Source, count: int, binarized: bool = False) -> int:
    labels: list[np.ndarray] = []
    return int(np.sum(predict(classifier, _images(source, count, labels, binarized)) == np.concatenate(labels)))


def _tested(classifier: Classifier, test: Source) -> dict[str, Any]:
    record = {"test": identity.content(test), "test_images": test.size}
    record["test_accuracy"] = _correct(classifier, test, test.size) / test.size
    if test.spec.image_shape[-1] == 1:
        record["test_accuracy_binarized"] = _correct(classifier, test, test.size, True) / test.size
    return record


def _reads(classifier: Classifier, test: Source) -> bool:
    record, count = classifier.record, min(test.size, PROBE)
    if (list(test.spec.image_shape), list(test.classes)) != (record["image_shape"], record["class_names"]):
        return False
    expected = record["test_accuracy_binarized" if test.stored_levels == 2 else "test_accuracy"]
    return proportion(_correct(classifier, test, count), count).high >= expected - SLACK
