"""scikit-learn's digits, prepared TensorFlow Datasets, the emoji folder, and drawn shapes with their ground truth."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genimg_jax import data
from genimg_jax.core import Spec
from genimg_jax.data import decode, identity, shapes
from genimg_jax.data.types import ShapesOptions
from genimg_jax.errors import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared data are not at {SHARED}")
MNIST = {"source": "tfds", "name": "mnist", "path": str(SHARED / "tfds")}
CIFAR = {"source": "tfds", "path": str(SHARED / "tfds" / "cifar10_jpeg" / "1.0.0")}


def test_digits_are_those_of_scikit_learn_in_seventeen_levels():
    from sklearn.datasets import load_digits

    digits = load_digits()
    train, test = (data.open_source(data.Options(), split) for split in ("train", "test"))
    assert train.spec == test.spec == Spec((8, 8, 1), 10, 17)
    assert (train.size, test.size) == (1500, 297)
    rows = [source.read(np.arange(source.size)) for source in (train, test)]
    np.testing.assert_array_equal(np.concatenate([row["image"] for row in rows])[..., 0], digits.images)
    np.testing.assert_array_equal(np.concatenate([row["label"] for row in rows]), digits.target)
    assert train.fingerprint != test.fingerprint


def test_resized_digits_have_all_levels_and_the_same_brightness():
    small, large = (data.open_source(data.Options(size=size), "test") for size in (8, 32))
    assert small.spec.levels == 17
    assert large.spec == Spec((32, 32, 1), 10, 256)
    means = [source.read(np.arange(297))["image"].mean() / (source.stored_levels - 1) for source in (small, large)]
    assert abs(means[0] - means[1]) < 0.01


def test_limit_and_channels():
    source = data.open_source(data.Options(limit=7, channels=3), "test")
    assert (source.size, source.spec) == (7, Spec((8, 8, 3), 10, 17))


@shared
def test_mnist_is_as_tensorflow_datasets_itself_decodes_it():
    source = data.open_source(data.Options(**MNIST), "test[:1000]")
    assert source.spec == Spec((28, 28, 1), 10, 256)
    tfds = pytest.importorskip("tensorflow_datasets")
    theirs = tfds.data_source("mnist", data_dir=MNIST["path"], split="test[500:600]", download=False)
    rows = source.read(np.arange(500, 600))
    np.testing.assert_array_equal(rows["image"], [record["image"] for record in theirs])
    np.testing.assert_array_equal(rows["label"], [record["label"] for record in theirs])


@shared
def test_a_slice_of_a_prepared_folder_streams_as_it_loads():
    memory, streamed = (data.open_source(data.Options(**CIFAR, memory_mib=m), "test[9950:]") for m in (64, 0))
    assert (memory.in_memory, streamed.in_memory) == (True, False)
    assert memory.spec == streamed.spec == Spec((32, 32, 3), 10, 256)
    some = np.array([49, 0, 17, 17])
    for name in ("image", "label"):
        np.testing.assert_array_equal(memory.read(some)[name], streamed.read(some)[name])


@shared
def test_a_version_may_follow_the_name_of_a_prepared_dataset():
    plain = data.open_source(data.Options(**MNIST), "test[:3]")
    for name in ("mnist:3.0.1", "mnist/3.0.1", "mnist:3.*.*"):
        assert data.open_source(data.Options(**{**MNIST, "name": name}), "test[:3]").fingerprint == plain.fingerprint


@shared
@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        (MNIST, "validation", "no split 'validation'.*test, train"),
        ({**MNIST, "name": "mnits"}, "train", "no dataset 'mnits'"),
        ({**MNIST, "path": "/nowhere"}, "train", "tfds build mnist --file_format=array_record --data_dir=/nowhere"),
        ({**MNIST, "name": "mnist:3.0.2"}, "train", "'mnist:3.0.2' in .* is no prepared dataset .*only: 3.0.1"),
        ({**MNIST, "name": ""}, "train", "no prepared dataset"),
    ],
)
def test_what_is_not_prepared_is_one_sentence(options, split, message):
    with pytest.raises(DataError, match=message):
        data.open_source(data.Options(**options), split)


@shared
def test_the_emoji_have_captions_and_styles():
    source = data.open_source(data.Options(source="folder", path=str(SHARED / "emoji64"), limit=30), "test")
    assert source.classes == ("blob", "noto")
    assert source.spec == Spec((64, 64, 3), 2, 256)
    assert all(source.captions(np.arange(30)))


@shared
def test_tensorflow_and_jax_stay_out():
    """Options are checked without JAX, and prepared datasets are read without TensorFlow."""
    code = (
        "import sys; from genimg_jax import data; assert 'jax' not in sys.modules;"
        f"data.open_source(data.Options(**{ {**MNIST, 'limit': 4}!r}), 'test');"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# -------------------------------------------------------------------------------------------------------- shapes


def test_a_scene_is_a_function_of_seed_and_position():
    source = data.open_source(data.Options(source="shapes", shapes=ShapesOptions(300)), "train")
    test = data.open_source(data.Options(source="shapes", shapes=ShapesOptions(300)), "test")
    other = data.open_source(data.Options(source="shapes", shapes=ShapesOptions(300, 1)), "train")
    larger = data.open_source(data.Options(source="shapes", shapes=ShapesOptions(330)), "train")
    images = source.read(np.arange(300))["image"]
    assert (source.size, test.size) == (300, 30)
    np.testing.assert_array_equal(larger.read(np.array([7, 299, 3]))["image"], images[[7, 299, 3]])
    np.testing.assert_array_equal(larger.read(np.arange(300, 330))["image"], test.read(np.arange(30))["image"])
    assert (other.read(np.arange(300))["image"] != images).any((1, 2, 3)).all()
    assert len({image.tobytes() for image in images}) == 300


def test_objects_cover_the_area_that_geometry_gives_them():
    scene = shapes.scenes(0, np.arange(200))
    areas = np.array([np.pi, 2, 3 * 3**0.5 / 4, 4 * 2 * 0.95 * 0.3 - 4 * 0.3**2, np.pi * (1 - 0.5**2)])
    for which in (0, 1):
        covered = shapes.coverage(scene, which, 96).mean((1, 2))
        kind = scene["kind"][:, which]
        exact = np.where(kind < 0, 0, areas[kind] * scene["radius"][:, which] ** 2)
        np.testing.assert_allclose(covered, exact, rtol=0.01)


def test_edges_are_antialiased_so_that_small_drawings_are_averages_of_large_ones():
    scene = shapes.scenes(0, np.arange(100))
    small, large = shapes.draw(scene, 32).astype(float), shapes.draw(scene, 256).astype(float)
    averaged = large.reshape(100, 32, 8, 32, 8, 3).mean((2, 4))
    # Hard edges give 1.5 and 150; sharp corners, where a distance is not quite an area, keep this from nothing.
    assert abs(small - averaged).mean() < 0.3
    assert abs(small - averaged).max() < 80


def test_the_annotations_are_true_of_the_image():
    source = data.open_source(data.Options(source="shapes", shapes=ShapesOptions(400), size=64), "train")
    everything = np.arange(400)
    rows, truth = source.read(everything), source.annotations(everything)
    image, mask = rows["image"], truth["mask"]
    np.testing.assert_array_equal(rows["label"], truth["kind"][:, 0])
    assert set(rows["label"]) == set(range(len(source.classes)))
    assert (truth["colour"][:, 0] != truth["colour"][:, 1]).all()
    palette = np.array(list(shapes.COLOURS.values()))
    # What the mask gives to an object is nearer to that object's colour than to the background; and, where there is one
    # object alone, conversely.
    names = np.stack([truth["background"], *truth["colour"].T], 1)
    distance = np.linalg.norm(image[:, None].astype(float) - palette[names][:, :, None, None], axis=-1)
    object_ = np.maximum(mask, 1)[:, None]
    nearer = distance[:, 0] - np.take_along_axis(distance, object_.astype(int), 1)[:, 0]
    wrong = ((nearer > 0) != (mask > 0)) & ((mask > 0) | (truth["relation"] < 0)[:, None, None])
    assert abs(nearer[wrong]).max(initial=0) < 4  # pixels half covered, rounded to 8 bits
    assert ((mask == 2).any((1, 2)) == (truth["relation"] >= 0)).all()
    assert not np.concatenate([mask[:, [0, -1]].ravel(), mask[:, :, [0, -1]].ravel()]).any()


def test_captions_say_what_is_drawn():
    source = data.open_source(data.Options(source="shapes", shapes=ShapesOptions(200), size=32), "train")
    indices = np.arange(200)
    truth, colours = source.annotations(indices), list(shapes.COLOURS)
    for i, caption in enumerate(source.captions(indices)):
        kinds, paints = truth["kind"][i], truth["colour"][i]
        assert caption.startswith(f"a large {colours[paints[0]]} {source.classes[kinds[0]]} ")
        assert caption.endswith(f" on a {colours[truth['background'][i]]} background")
        if kinds[1] < 0:
            assert "small" not in caption
            continue
        large, small = (np.argwhere(truth["mask"][i] == which).mean(0) for which in (1, 2))
        down, across = small - large
        sideways = abs(across) > abs(down)
        expected = (("right of", "left of") if sideways else ("below", "above"))[
            int((across if sideways else down) > 0)
        ]
        assert f" {expected} a small {colours[paints[1]]} {source.classes[kinds[1]]} on" in caption


def test_combinations_of_the_holdout_are_never_trained_on():
    pairs, triples, numbers = shapes.combinations(0)
    assert not numbers.any()  # without counts
    assert (pairs.sum(), pairs.size) == (3, 30)
    assert (triples.sum(), triples.size) == (20, 100)
    assert pairs.sum(0).max() == pairs.sum(1).max() == 1
    assert (triples.sum(0) == 1).all()
    assert (triples.sum(2) == 1).all()

    options = data.Options(source="shapes", shapes=ShapesOptions(2000, holdout=True))
    train, test, holdout = (data.open_source(options, split) for split in ("train", "test", "holdout"))
    words = [tuple(combination.split(" ")) for combination in holdout.held_out]
    assert len(words) == 23

    def shows_one(caption):
        """Whether it names a combination: "red circle" beside each other, or "circle above" and then "cross"."""
        named = [f" {' '.join(c)} " in f"{caption} " for c in words if len(c) == 2]
        return any(named) or any(
            f" {c[0]} {' '.join(c[1:-1])} a small " in caption and f" {c[-1]} on a " in caption
            for c in words
            if len(c) > 2
        )

    for source, size, expected in ((train, 2000, False), (test, 200, False), (holdout, 200, True)):
        captions = source.captions(np.arange(source.size))
        assert source.size == size
        assert {shows_one(caption) for caption in captions} == {expected}
    seen = " ".join(train.captions(np.arange(2000)))
    assert all(word in seen for word in (*shapes.KINDS, *list(shapes.COLOURS)[:6], *shapes.RELATIONS))
    assert identity.record(train)["held_out"] == list(holdout.held_out)
    with pytest.raises(DataError, match="no split 'holdout'"):
        data.open_source(data.Options(source="shapes", shapes=ShapesOptions(20)), "holdout")


def test_grey_shapes_are_the_luma_of_colour_ones():
    colour, grey = (
        data.open_source(data.Options(source="shapes", shapes=ShapesOptions(5), channels=c), "train") for c in (3, 1)
    )
    images = colour.read(np.arange(5))["image"]
    np.testing.assert_array_equal(grey.read(np.arange(5))["image"], [decode.conform(i, 0, 1) for i in images])
