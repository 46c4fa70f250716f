"""Generated and real images are put on one grid, and drawn alike where the data is drawn."""

import dataclasses
import pathlib

import numpy as np
import pytest

from genimg_jax import core, data
from genimg_jax.data import open_source, transforms
from genimg_jax.data.file_rows import FileRows
from genimg_jax.engine import images
from genimg_jax.engine.tasks import EVALUATION_SEED
from genimg_jax.errors import ConfigError, ResourceError
from genimg_jax.evaluation import audit, distances, image_sets
from genimg_jax.evaluation.image_sets import ImageSet, of_generated, of_source
from genimg_jax.evaluation.labels import check_alike, labelled, renumbered, shares_of, to_ask
from genimg_jax.evaluation.named_sources import named

DIGITS = data.Options()
BINARY = data.Options(binarize="dynamic")
PREPARED = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tfds" / "mnist" / "3.0.1"


def like(levels, classes=()):
    return ImageSet(np.zeros((2, 4, 4, 1), np.uint8), levels, None, classes, "reference", "test")


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_every_level_survives_and_what_lies_between_is_rounded(monkeypatch, levels):
    monkeypatch.setattr(image_sets, "MOST_IMAGES", 7)
    level = np.arange(levels, dtype=np.uint8)
    made = np.resize(2 * level.astype(np.float32) / (levels - 1) - 1, (20, 4, 4, 1))
    found = of_generated(made + 0.4 / levels, like(levels), DIGITS, "made", 0)
    np.testing.assert_array_equal(found.images, np.resize(level, (20, 4, 4, 1)))
    values = np.concatenate(list(image_sets.batches(found)))
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
    labelled = ImageSet(np.zeros((3, 4, 4, 1), np.uint8), 256, np.array([0, 1, 0]), ("dog", "ant"), "made")
    np.testing.assert_array_equal(renumbered(labelled, like(256, ("ant", "cat", "dog"))).labels, [2, 0, 2])
    found = renumbered(labelled, like(256, ("ant", "cat")))
    assert found.labels is None and found.unlabelled == "the images are of the classes 'dog', which the reference lacks"
    found = renumbered(labelled._replace(labels=None), like(256, ("ant", "dog")))
    assert found.labels is None and found.unlabelled == "the images were not asked to be of any class"


def test_numbers_are_places_among_classes_that_have_names():
    labelled = ImageSet(np.zeros((3, 4, 4, 1), np.uint8), 256, np.array([0, 3, 2]), tuple("0123"), "made")
    np.testing.assert_array_equal(
        renumbered(labelled, like(256, ("ant", "bee", "cat", "dog", "eel"))).labels, [0, 3, 2]
    )
    # A folder of folders 0 to 10 is in the order of their names.
    folders = labelled._replace(classes=("0", "1", "10", "2"))
    names = tuple("abcdefghijkl")
    np.testing.assert_array_equal(renumbered(folders, like(256, names)).labels, [0, 2, 10])
    # Too few of them, or numbers of other classes.
    for classes in (("ant", "bee", "cat"), ("0", "2", "3", "4")):
        found = renumbered(labelled, like(256, classes))
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
    for name in ("mnist:3.0.1", "mnist/3.0.1", "wmt:3.*.*", "cats/small-1.5:1.0.0"):
        assert of(f"tfds:{name}")[1::2] == (name, "test")
        assert of(f"tfds:{name}:train[:90%]+test")[1::2] == (name, "train[:90%]+test")
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


def test_a_folder_of_samples_is_named_as_its_archive(tmp_path):
    (tmp_path / "made").mkdir()
    images.save_npz(tmp_path / "made" / "images.npz", 5, [np.zeros((5, 6, 6, 1), np.uint8)])
    found = named(str(tmp_path / "made"), DIGITS, "--generated")
    assert (found.options.source, found.options.path) == ("npz", str(tmp_path / "made" / "images.npz"))
    assert found.split == "train"
    # So is it where it is trained on.
    folder = data.Options(source="folder", path=str(tmp_path / "made"))
    assert open_source(folder, "train").size == 5


@pytest.mark.skipif(not PREPARED.is_dir(), reason="MNIST is not prepared here")
def test_a_prepared_folder_is_a_source(tmp_path):
    by_folder, by_name = (
        open_source(options, split)
        for options, split, _ in (
            named(f"{PREPARED}:test[:9]", DIGITS, "--reference"),
            named("tfds:mnist/3.0.1:test[:9]", data.Options(path=str(PREPARED.parents[1])), "--reference"),
        )
    )
    assert by_folder.fingerprint == by_name.fingerprint
    assert named(str(PREPARED), DIGITS, "--train", "train").split == "train"
    # The folder above it, as long as it holds one version.
    assert named(f"{PREPARED.parent}:train", DIGITS, "--reference").options.path == str(PREPARED)


def test_a_large_set_stays_in_a_file_and_is_the_same(tmp_path, monkeypatch):
    source = open_source(BINARY, "test")
    whole = of_source(source, BINARY, "test")
    made = np.random.default_rng(0).uniform(-1, 1, (300, 8, 8, 1)).astype(np.float32)
    generated = of_generated(made, whole, BINARY, "made", 3)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(image_sets, "IN_MEMORY", 5000)
    monkeypatch.setattr(image_sets, "MOST_VALUES", 64 * 70)
    filed = of_source(source, BINARY, "test"), of_generated(iter(np.split(made, [7, 200])), whole, BINARY, "made", 3)
    for one, other in zip(filed, (whole, generated), strict=True):
        assert isinstance(one.images, FileRows) and isinstance(other.images, np.ndarray)
        assert one.images.shape == other.images.shape
        np.testing.assert_array_equal(one.images[:], other.images)
        some = np.array([200, 3, 3])
        np.testing.assert_array_equal(one.images[some], other.images[some])
        np.testing.assert_array_equal(one.images[7], other.images[7])
        np.testing.assert_array_equal(
            np.concatenate(list(image_sets.batches(one))), np.concatenate(list(image_sets.batches(other)))
        )
        assert one.images[np.array([], int)].shape == (0, 8, 8, 1)
        pool = image_sets.fitting(one, 0)
        assert len(pool) == 5000 // 64 < len(image_sets.fitting(other, 0)) == len(other.images)
        assert {image.tobytes() for image in pool} <= {image.tobytes() for image in other.images}
        independent = audit.independent_pixels(one, 40, 0)
        assert independent.images.shape == (40, 8, 8, 1) and independent.levels == one.levels
    np.testing.assert_array_equal(filed[0].labels, whole.labels)
    assert len(list(tmp_path.iterdir())) == 2
    del filed, one
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(
        ResourceError, match=r"cannot be kept in .*nowhere \(No such file or directory, after 0 MiB\); set TMPDIR"
    ):
        of_source(source, BINARY, "test")


@pytest.mark.parametrize("count", [3, 100, 1000, 2001])
def test_classes_are_asked_for_in_the_shares_of_the_held_out_ones(count):
    held_out = np.repeat([0, 2, 3], [500, 480, 20]).astype(np.int32)
    labels = shares_of(held_out, count, 0)
    wanted = np.bincount(held_out, minlength=5) * count / 1000
    assert labels.dtype == np.int32 and np.abs(np.bincount(labels, minlength=5) - wanted).max() < 1
    np.testing.assert_array_equal(shares_of(held_out[::-1], count, 0), labels)
    if count >= 100:
        assert (shares_of(held_out, count, 1) != labels).any()
        # In no order: any part of them has about the same shares.
        assert abs(np.mean(labels[: count // 2] == 0) - 0.5) < 5 * 0.5 / (count // 2) ** 0.5


def test_the_shares_that_classes_were_asked_for_in_are_stated():
    reference = ImageSet(np.zeros((10, 4, 4, 1), np.uint8), 256, np.repeat([0, 1], [9, 1]), ("a", "b"), "reference")
    made = np.zeros((20, 4, 4, 1), np.float32)
    for labels, said in (
        (np.repeat([0, 1], [18, 2]), "as held out"),
        (np.arange(20) % 2, "equally often"),
        (np.zeros(20, int), "in other shares"),
        (None, ""),
    ):
        found = of_generated(made, reference, DIGITS, "made", 0)
        found = found if labels is None else labelled(found, labels, ("a", "b"), reference)
        assert found.asked.get("classes asked for", "") == said
        stated = distances.spec("any", None, found, reference, 0, {}).protocol
        assert stated.get("classes asked for", "") == said
    assert labelled(found, np.zeros(20, int), ("a", "b"), reference._replace(labels=None)).asked == {}
    assert labelled(found, np.zeros(20, int), ("c", "b"), reference).asked == {}


def test_classes_that_a_reference_calls_otherwise_are_asked_for_in_turn():
    reference = ImageSet(np.zeros((10, 4, 4, 1), np.uint8), 256, np.repeat([0, 1], [9, 1]), ("b", "c"), "reference")
    asked = to_ask(("a", "c", "b"), reference, 20, 0)
    np.testing.assert_array_equal(np.bincount(asked, minlength=3), [0, 2, 18])
    for other in (reference._replace(labels=None), reference._replace(classes=("b", "d"))):
        np.testing.assert_array_equal(to_ask(("a", "c", "b"), other, 5, 0), [0, 1, 2, 0, 1])


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
