"""Classifiers that are shipped, trained, kept and read back."""

import dataclasses
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from genimg_jax import data, files
from genimg_jax.errors import CheckpointError, DataError, ResourceError
from genimg_jax.evaluation import classifiers
from genimg_jax.evaluation import recipe as recipes
from genimg_jax.evaluation.recipe import Recipe
from genimg_jax.metrics import features, weight_files

ROOT = pathlib.Path(__file__).parents[1]
TFDS = ROOT.parent / "shared" / "data" / "tfds"
TINY = Recipe(width=8, features=32, steps=150, batch_size=32, learning_rate=1e-2)
needs_mnist = pytest.mark.skipif(not (TFDS / "mnist").exists(), reason="prepared MNIST is not at ../shared/data/tfds")


def opened(split, **options):
    return data.open_source(data.Options(**options), split)


@pytest.fixture(scope="module")
def digits():
    return opened("train"), opened("test")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The digits, named otherwise: what a classifier of digits reads in them is never right."""
    path = tmp_path_factory.mktemp("other") / "other.npz"
    arrays = {}
    for split in ("train", "test"):
        rows = opened(split).read(np.arange(200))
        arrays |= {f"{split}_image": rows["image"] * 15, f"{split}_label": (rows["label"] + 1) % 10}
    np.savez(path, **arrays)
    return tuple(opened(split, source="npz", path=str(path)) for split in ("train", "test"))


@pytest.fixture(scope="module")
def trained(other, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return cache, classifiers.classifier(*other, cache, TINY)


def never(*arguments, **more):
    raise AssertionError("a classifier was trained")


# ------------------------------------------------------------------------------------------------------- shipped


@pytest.mark.parametrize("name", classifiers.SHIPPED)
def test_shipped_weights_are_those_of_the_record_and_of_todays_recipe(name):
    arrays = weight_files.load(classifiers.WEIGHTS / f"{name}.safetensors")
    record = classifiers.shipped(name).record
    assert files.digest_arrays(arrays) == record["weights"] == classifiers.shipped(name).features.weights
    assert record["recipe"] == dataclasses.asdict(Recipe())
    assert record["recipe_digest"] == Recipe().digest()
    assert record["command"] == f"python experiments/classifiers.py {name}"
    assert (record["origin"], record["name"]) == ("shipped", name)


def test_shipped_weights_are_small():
    assert sum(path.stat().st_size for path in classifiers.WEIGHTS.iterdir()) < 2e6


def test_recorded_accuracy_of_digits_is_reproduced(digits):
    found = classifiers.shipped("digits")
    rows = digits[1].read(np.arange(digits[1].size))
    read = classifiers.predict(found, (rows["image"] / 8 - 1).astype(np.float32))
    assert np.mean(read == rows["label"]) == found.record["test_accuracy"] > 0.9
    assert read.dtype == np.int32
    assert (found.record["test"], found.record["test_images"]) == (digits[1].fingerprint, len(read))
    assert found.record["train"] == digits[0].fingerprint


@needs_mnist
def test_recorded_accuracy_of_mnist_is_reproduced():
    found, test = classifiers.shipped("mnist"), opened("test", source="tfds", name="mnist", path=str(TFDS))
    rows = test.read(np.arange(test.size))
    read = classifiers.predict(found, (rows["image"] / 127.5 - 1).astype(np.float32))
    # Rounding differs between machines, and may turn an image or two that lie between two classes.
    assert abs(np.sum(read == rows["label"]) - found.record["test_accuracy"] * test.size) <= 2
    assert found.record["test"] == test.fingerprint


@pytest.mark.parametrize("how", [{}, {"binarize": "threshold"}, {"binarize": "static"}, {"limit": 64}])
def test_digits_are_known_by_what_they_are(how, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "fit", never)
    found = classifiers.classifier(opened("train[:90%]", **how), opened("test", **how), tmp_path)
    assert (found.record["origin"], found.record["name"]) == ("shipped", "digits")
    assert found.classes == 10 and not any(tmp_path.iterdir())


@needs_mnist
@pytest.mark.parametrize("binarize", ["none", "static", "dynamic", "threshold"])
def test_mnist_is_known_by_what_it_is(binarize, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "fit", never)
    options = {"source": "tfds", "name": "mnist", "path": str(TFDS), "binarize": binarize}
    found = classifiers.classifier(opened("train[:10]", **options), opened("test[:500]", **options), tmp_path)
    assert (found.record["origin"], found.record["name"]) == ("shipped", "mnist")


def test_other_images_of_the_same_shape_get_their_own(other, tmp_path, monkeypatch):
    """Same shape, same class names, another meaning of them."""
    assert other[1].spec.image_shape == (8, 8, 1) and list(other[1].classes) == list("0123456789")
    monkeypatch.setattr(recipes, "fit", never)
    with pytest.raises(AssertionError, match="was trained"):
        classifiers.classifier(*other, tmp_path)


def test_other_recipes_are_not_shipped(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "fit", never)
    with pytest.raises(AssertionError, match="was trained"):
        classifiers.classifier(*digits, tmp_path, dataclasses.replace(Recipe(), seed=1))


def test_a_wheel_holds_the_weights(tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("building a wheel without the network needs setuptools in this environment")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "genimg_jax", source / "genimg_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in classifiers.SHIPPED:
        assert f"genimg_jax/evaluation/weights/{name}.safetensors" in names


# ------------------------------------------------------------------------------------------- trained and kept


def test_a_source_is_trained_once_and_read_back_the_same(other, trained, monkeypatch):
    cache, first = trained
    monkeypatch.setattr(recipes, "fit", never)
    again = classifiers.classifier(*other, cache, TINY)
    assert (first.record["origin"], again.record["origin"]) == ("trained", "cached")
    assert {**first.record, "origin": ""} == {**again.record, "origin": ""}
    images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 1)).astype(np.float32)
    for one, two in zip(first[:2], again[:2], strict=True):
        np.testing.assert_array_equal(features.extract(one, images), features.extract(two, images))


def test_a_cached_classifier_is_tested_on_the_test_set_at_hand(other, trained):
    cache, first = trained
    again = classifiers.classifier(other[0], other[0], cache, TINY)
    assert again.record["test"] == other[0].fingerprint != first.record["test"]
    rows = other[0].read(np.arange(other[0].size))
    read = classifiers.predict(again, (rows["image"] / 127.5 - 1).astype(np.float32))
    assert again.record["test_accuracy"] == np.mean(read == rows["label"])


def test_features_are_rectified_and_the_logits_are_linear_in_them(trained):
    _, found = trained
    images = np.random.default_rng(1).uniform(-1, 1, (7, 8, 8, 1)).astype(np.float32)
    hidden, logits = (features.extract(network, images) for network in found[:2])
    assert hidden.shape == (7, TINY.features) and logits.shape == (7, found.classes)
    assert hidden.min() == 0 and 0.2 < (hidden > 0).mean() < 0.8
    np.testing.assert_allclose(features.extract(found.features, images[:2]), hidden[:2], rtol=1e-4, atol=1e-5)
    last = found.logits.parameters["params"]["Dense_1"]
    expected = hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert found.features.name != found.logits.name and found.features.weights == found.record["weights"]


def test_training_learns_and_repeats_to_the_last_bit(other, trained):
    again = recipes.fit(recipes.of_source(other[0]), TINY, "again")
    assert files.digest_arrays(again) == trained[1].record["weights"]
    assert trained[1].record["test_accuracy"] > 0.5


@pytest.mark.parametrize("damage", ["flipped", "cut", "foreign", "record"])
def test_damaged_files_are_refused_in_one_sentence(trained, tmp_path, damage):
    (path,) = trained[0].iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-100] ^= 1
    elif damage == "cut":
        del content[-100:]
    elif damage == "record":
        content = content.replace(b"recipe", b"rocipe")
    else:
        content = b"not safetensors at all"
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors .*delete it, and it will be trained") as caught:
        classifiers.opened(broken, "cached")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="install genimg_jax again"):
        classifiers.opened(broken, "shipped")


def test_what_cannot_be_trained_or_written_is_said(other, tmp_path, monkeypatch):
    train, test = other
    with pytest.raises(DataError, match="no classes to train a classifier on"):
        classifiers.classifier(train._replace(classes=()), test, tmp_path)
    with pytest.raises(DataError, match="0 images of 10 classes"):
        recipes.fit(recipes.of_source(train._replace(size=0)), TINY, "nothing")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(recipes, "fit", None)  # known before
    with pytest.raises(ResourceError, match="Not a directory; set XDG_CACHE_HOME"):
        classifiers.train_on_source(tmp_path / "file" / "x", train, test, "x", TINY)
    assert os.listdir(tmp_path) == ["file"]
