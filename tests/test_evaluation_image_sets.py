"""Generated and real images are put on one grid, and drawn alike where the data is drawn."""

import dataclasses

import numpy as np
import pytest

from genimg_jax import core, data
from genimg_jax.data import open_source, transforms
from genimg_jax.engine.program import EVALUATION_SEED
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import image_sets
from genimg_jax.evaluation.image_sets import ImageSet, labels_of, named, of_generated, of_source

DIGITS = data.Options()
BINARY = data.Options(binarize="dynamic")


def like(levels, classes=()):
    return ImageSet(np.zeros((2, 4, 4, 1), np.uint8), levels, None, classes, "reference", "test")


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_every_level_survives_and_what_lies_between_is_rounded(levels):
    level = np.arange(levels, dtype=np.uint8)
    made = np.resize(2 * level.astype(np.float32) / (levels - 1) - 1, (20, 4, 4, 1))
    found = of_generated(made + 0.4 / levels, like(levels), DIGITS, "made", 0)
    np.testing.assert_array_equal(found.images, np.resize(level, (20, 4, 4, 1)))
    values = np.concatenate(list(image_sets.batches(found, 7)))
    np.testing.assert_allclose(values, made, atol=1e-6)
    assert np.abs(values).max() <= 1


def test_what_no_file_can_hold_is_clipped_or_counted():
    made = np.zeros((3, 4, 4, 1), np.float32)
    made[0], made[1, 0, 0], made[2, 1, 1] = 3.0, np.nan, -np.inf
    found = of_generated(made, like(256), DIGITS, "made", 0)
    assert found.images[0].min() == 255 and found.images[1, 0, 0, 0] == found.images[2, 1, 1, 0] == 0
    assert found.not_finite == 2


def test_grey_levels_are_drawn_as_probabilities_where_the_data_is():
    grey = np.full((3000, 4, 4, 1), -0.4, np.float32)  # 0.3 of the way from black to white
    for how in ("dynamic", "static"):
        options = dataclasses.replace(BINARY, binarize=how)
        found = of_generated(grey, like(2), options, "made", 0)
        assert set(np.unique(found.images)) == {0, 1}
        assert abs(found.images.mean() - 0.3) < 5 * (0.21 / grey.size) ** 0.5 + 1 / 255
        # Every image is drawn by itself, and image i is the same in every set of one seed but of no other.
        assert len(np.unique(found.images.reshape(3000, -1), axis=0)) > 1500
        np.testing.assert_array_equal(
            of_generated(grey[:1100], like(2), options, "made", 0).images, found.images[:1100]
        )
        assert (of_generated(grey, like(2), options, "made", 1).images != found.images).any()
    binary = np.where(found.images > 0, 1, -1).astype(np.float32)
    np.testing.assert_array_equal(of_generated(binary, like(2), BINARY, "made", 0).images, found.images)
    threshold = dataclasses.replace(BINARY, binarize="threshold")
    assert of_generated(grey, like(2), threshold, "made", 0).images.max() == 0
    assert of_generated(-grey, like(2), threshold, "made", 0).images.min() == 1


def test_held_out_images_are_those_that_a_likelihood_is_measured_on():
    source = open_source(BINARY, "test")
    found = of_source(source, BINARY, "test")
    index = np.arange(40, 50)
    batch = {**source.read(index), "index": index.astype(np.int32)}
    key = core.stream(EVALUATION_SEED, "evaluate-data")
    wanted = transforms.prepare(batch, key, BINARY, source.stored_levels, False)
    np.testing.assert_array_equal(2 * found.images[40:50].astype(np.float32) - 1, wanted["image"])
    np.testing.assert_array_equal(found.labels[40:50], batch["label"])
    train = of_source(source, BINARY, "test", image_sets.TRAIN)
    assert (train.images != found.images).any()
    assert (found.levels, found.name, len(found.images)) == (2, f"digits {source.fingerprint}", 297)


def test_images_of_another_size_are_refused():
    with pytest.raises(ConfigError, match="generated images are 5 x 4 x 1 and the reference's 4 x 4 x 1; set --config"):
        of_generated(np.zeros((2, 5, 4, 1), np.float32), like(256), DIGITS, "made", 0)


def test_labels_are_numbered_as_the_reference_numbers_its_classes():
    images = ImageSet(np.zeros((3, 4, 4, 1), np.uint8), 256, np.array([0, 1, 0]), ("dog", "ant"), "made")
    np.testing.assert_array_equal(labels_of(images, like(256, ("ant", "cat", "dog"))), [2, 0, 2])
    assert labels_of(images, like(256, ("ant", "cat"))) is None
    assert labels_of(images._replace(labels=None), like(256, ("ant", "dog"))) is None


def test_sources_are_named_in_short(tmp_path):
    grey = np.zeros((5, 6, 6), np.uint8)
    np.savez(tmp_path / "a:b.npz", test_image=grey, train_image=grey)
    np.savez(tmp_path / "lone.npz", image=grey)
    np.savez(tmp_path / "others.npz", first_image=grey, second_image=grey)
    (tmp_path / "folder").mkdir()

    def of(text):
        options, split, train = named(text, DIGITS, "--reference")
        return options.source, options.name, options.path, split, train

    assert of("tfds:mnist:test") == of("tfds:mnist") == ("tfds", "mnist", "", "test", None)
    assert of("tfds:mnist:train[:90%]")[3] == "train[:90%]"
    assert of("digits:train[10:20]")[::3] == ("digits", "train[10:20]")
    assert of(str(tmp_path / "a:b.npz")) == ("npz", "", str(tmp_path / "a:b.npz"), "test", None)
    assert of(f"{tmp_path / 'a:b.npz'}:train[:3]")[2:4] == (str(tmp_path / "a:b.npz"), "train[:3]")
    assert of(str(tmp_path / "lone.npz"))[3] == "train"
    with pytest.raises(ConfigError, match=r"others.npz has the splits first, second; name one"):
        of(str(tmp_path / "others.npz"))
    with pytest.raises(ConfigError, match=r"--reference: The folder .* holds no images"):
        of(str(tmp_path / "folder"))
    with pytest.raises(ConfigError, match="--reference nowhere: there is no such folder"):
        of("nowhere")
