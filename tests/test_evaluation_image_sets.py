"""Generated and real images are put on one grid, and drawn alike where the data is drawn."""

import dataclasses

import numpy as np
import pytest

from genimg_jax import core, data
from genimg_jax.data import open_source, transforms
from genimg_jax.engine.program import EVALUATION_SEED
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import image_sets
from genimg_jax.evaluation.image_sets import ImageSet, check_alike, named, of_generated, of_source, renumbered

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
    np.testing.assert_array_equal(renumbered(images, like(256, ("ant", "cat", "dog"))).labels, [2, 0, 2])
    found = renumbered(images, like(256, ("ant", "cat")))
    assert found.labels is None and found.unlabelled == "the images are of the classes 'dog', which the reference lacks"
    found = renumbered(images._replace(labels=None), like(256, ("ant", "dog")))
    assert found.labels is None and found.unlabelled == "the images were not asked to be of any class"


def test_numbers_are_places_among_classes_that_have_names():
    images = ImageSet(np.zeros((3, 4, 4, 1), np.uint8), 256, np.array([0, 3, 2]), tuple("0123"), "made")
    np.testing.assert_array_equal(renumbered(images, like(256, ("ant", "bee", "cat", "dog", "eel"))).labels, [0, 3, 2])
    # A folder of folders 0 to 10 is in the order of their names.
    folders = images._replace(classes=("0", "1", "10", "2"))
    names = tuple("abcdefghijkl")
    np.testing.assert_array_equal(renumbered(folders, like(256, names)).labels, [0, 2, 10])
    # Too few of them, or numbers of other classes.
    for classes in (("ant", "bee", "cat"), ("0", "2", "3", "4")):
        found = renumbered(images, like(256, classes))
        assert found.labels is None and "which the reference lacks" in found.unlabelled


@pytest.mark.parametrize(
    ("train", "reference", "message"),
    [
        ("abc", "ab", "have other classes: the training images alone have 'c'; give"),
        ("ab", "abc", "the reference alone has 'c';"),
        ("ax", "ab", "alone have 'x' and the reference alone has 'b';"),
        ("ba", "ab", "their order differs"),
        ("01", "abc", "alone have '0', '1' and the reference alone has 'a', 'b', 'c'"),
        (tuple("0123456789"), ("0", "1"), "'2', '3', '4', '5', '6' and 3 more;"),
    ],
)
def test_training_images_of_other_classes_are_refused(train, reference, message):
    source = open_source(DIGITS, "test[:2]")
    with pytest.raises(ConfigError, match=message):
        check_alike(source._replace(classes=tuple(train)), source._replace(classes=tuple(reference)))


def test_training_images_of_the_same_classes_are_not():
    source = open_source(DIGITS, "test[:2]")
    for train, reference in (("ab", "ab"), ("01", "ab"), ("", "ab"), ("ab", "")):
        check_alike(source._replace(classes=tuple(train)), source._replace(classes=tuple(reference)))
    larger = open_source(data.Options(size=9), "test[:2]")
    with pytest.raises(ConfigError, match="training images are 9 x 9 x 1 and the reference's 8 x 8 x 1; set --config"):
        check_alike(larger, source)


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
    with pytest.raises(ConfigError, match=r"others.npz has no split test; name one as .*:SPLIT, of first, second\."):
        of(str(tmp_path / "others.npz"))
    with pytest.raises(ConfigError, match=r"--reference: The folder .* holds no images"):
        of(str(tmp_path / "folder"))
    with pytest.raises(ConfigError, match="--reference nowhere: there is no such folder"):
        of("nowhere")


def test_training_images_are_never_held_out_ones_unless_said(tmp_path):
    grey = np.zeros((5, 6, 6), np.uint8)
    np.savez(tmp_path / "both.npz", test_image=grey, train_image=grey)
    np.savez(tmp_path / "lone.npz", image=grey)
    np.savez(tmp_path / "held_out.npz", test_image=grey)

    def split(text):
        return named(text, DIGITS, "--train", "train").split

    places = [str(tmp_path / name) for name in ("both.npz", "lone.npz")]
    assert [split(text) for text in ("digits", "shapes", "tfds:mnist", *places)] == ["train"] * 5
    assert split("digits:test[:9]") == "test[:9]" and split("tfds:mnist:test") == "test"
    held_out = str(tmp_path / "held_out.npz")
    assert split(f"{held_out}:test") == "test"
    with pytest.raises(ConfigError, match=r"--train .*held_out.npz has no split train; name one as .*:SPLIT, of test"):
        split(held_out)


def test_what_one_source_is_called_is_not_what_the_next_is():
    """Options that a run was read by, of which another source keeps only how images are made alike."""
    folder = data.Options(source="folder", path="images", size=16)
    mnist = named("tfds:mnist", folder, "--train").options
    assert (mnist.path, mnist.size) == ("", 16)
    assert named("tfds:mnist", dataclasses.replace(DIGITS, path="prepared"), "--train").options.path == "prepared"
    assert named("digits", mnist, "--train").options.name == ""
