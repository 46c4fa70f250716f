"""Classes and subsets, and what identifies the images of a run."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from genimg_jax import data
from genimg_jax.data import classes, identity
from genimg_jax.data.types import ShapesOptions
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, training
from genimg_jax.errors import DataError
from genimg_jax.evaluation import image_sets

ROOT = pathlib.Path(__file__).parents[1]


def archive(path, label, **more):
    image = np.random.default_rng(0).integers(0, 256, (len(label), 4, 4), np.uint8)
    np.savez(path, image=image, label=label, **more)
    return data.Options(source="npz", path=str(path))


# -------------------------------------------------------------------------------------------------------- classes


def test_classes_of_an_archive_are_those_that_images_have(tmp_path):
    label = np.array([3, 1, 10, 3, 1])
    source = data.open_source(archive(tmp_path / "a.npz", label), "train")
    assert source.classes == ("1", "3", "10") and source.spec.num_classes == 3
    assert source.class_counts == (2, 2, 1)
    np.testing.assert_array_equal(source.read(np.arange(5))["label"], [1, 0, 2, 1, 0])
    named = data.open_source(archive(tmp_path / "b.npz", np.array(["cat", "10", "9", "cat", "ant"])), "train")
    assert named.classes == ("9", "10", "ant", "cat")
    np.testing.assert_array_equal(named.read(np.arange(5))["label"], [3, 1, 0, 3, 2])


def test_splits_of_an_archive_share_one_numbering_whatever_their_types(tmp_path):
    image = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", train_image=image, train_label=np.array([5, 7, 5], np.uint64),
             test_image=image, test_label=np.array([9, 7, 7], np.int64))  # fmt: skip
    options = data.Options(source="npz", path=str(tmp_path / "a.npz"))
    train, test = (data.open_source(options, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("5", "7", "9")
    assert (train.class_counts, test.class_counts) == ((2, 1, 0), (0, 2, 1))


def test_an_archive_says_numbers_where_classes_are_numbers_and_places_beside_names_otherwise():
    place = np.array([0, 2, 1, 2], np.int32)
    stored = classes.as_stored(place, ("1", "3", "10"))
    assert stored.keys() == {"label"}
    assert stored["label"].tolist() == [1, 10, 3, 10]
    again, numbers = classes.numbered(stored["label"])
    assert again == ("1", "3", "10") and numbers.tolist() == place.tolist()
    for names in (("ant", "bee", "cat"), ("01", "1", "2"), ("1", "2", str(2**16)), ("1", "2", "\u00b2")):
        stored = classes.as_stored(place, names)
        assert stored["label"].tolist() == place.tolist() and stored["classes"].tolist() == list(names)


# --------------------------------------------------------------------------------------------------------- subsets


@pytest.mark.parametrize("count", [1, 7, 40, 300, 999, 1000])
def test_a_subset_keeps_the_shares_of_sorted_classes(count):
    sizes = np.array([1, 50, 149, 300, 500])
    labels = np.repeat(np.arange(5), sizes)
    chosen = classes.subset(count, labels)
    assert len(set(chosen)) == count and (np.diff(chosen) > 0).all()
    counts = np.bincount(labels[chosen], minlength=5)
    assert (counts > 0).all() or count < 5
    shares = sizes * count / 1000
    assert (abs(counts - np.maximum(shares, 1)) <= 1).all() or count < 10  # with so few, five are one of each class
    assert set(chosen) <= set(classes.subset(count + 1, labels)) or count == 1000


def test_a_subset_within_a_class_is_drawn_evenly():
    """No prefix: over many sizes, the mean place of what is chosen is that of a uniform draw."""
    labels = np.zeros(10_000, int)
    places = classes.subset(2_000, labels)
    # The mean of 2,000 of 10,000 places drawn without replacement: 4999.5, standard deviation 57.7.
    assert abs(places.mean() - 4999.5) < 4 * 57.7
    half = np.repeat([0, 1], 5_000)
    second = classes.subset(2_000, half)[1_000:] - 5_000
    assert abs(second.mean() - 2499.5) < 4 * 40.8


def test_limit_draws_each_class_of_sorted_data_in_memory_and_streamed(tmp_path):
    options = archive(tmp_path / "sorted.npz", np.repeat(np.arange(4), 25))
    whole = data.open_source(options, "train").read(np.arange(100))["image"]
    for memory in (64, 1):
        limited = data.Options(source="npz", path=options.path, limit=12, memory_mib=memory)
        source = data.open_source(limited, "train")
        assert source.size == 12 and source.class_counts == (3, 3, 3, 3)
        places = classes.subset(12, np.repeat(np.arange(4), 25))
        np.testing.assert_array_equal(source.read(np.arange(12))["image"][..., 0], whole[places, ..., 0])
    assert data.open_source(data.Options(limit=10**6), "test").size == 297
    unlabelled = data.open_source(data.Options(source="shapes", shapes=ShapesOptions(1000), size=8, limit=100), "train")
    numbers = [int(name.split()[1]) for name in unlabelled.names(np.arange(100))]
    assert max(numbers) > 900 and min(numbers) < 100


# -------------------------------------------------------------------------------------------------------- identity


def folder(root, count=40):
    for i in range(count):
        place = root / "train" / ("ant" if i % 2 else "bee")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 5 * i, np.uint8)).save(place / f"{i}.bmp")
    return data.Options(source="folder", path=str(root))


def changed(recorded, **options):
    return identity.change(recorded, data.open_source(data.Options(**options), "train"))


def recorded_of(options):
    return identity.record(data.open_source(options, "train"))


@pytest.mark.parametrize("before", [64, 0])
@pytest.mark.parametrize("after", [64, 0])
def test_the_same_images_are_the_same_however_they_are_read(tmp_path, before, after):
    folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # another place, other times
    recorded = recorded_of(data.Options(source="folder", path=str(tmp_path / "a"), memory_mib=before, workers=1))
    same = {"source": "folder", "path": str(tmp_path / "b"), "memory_mib": after, "workers": 0}
    assert recorded["in_memory"] == (before > 0)
    assert recorded["class_counts"] == (20, 20) and recorded["classes"] == ["ant", "bee"]
    assert not changed(recorded, **same)
    assert not changed(recorded, **same, pixel_limit=1000, bad_images="skip", flip=True)
    for other in ({"size": 3}, {"channels": 3}, {"binarize": "threshold"}, {"limit": 39}):
        assert "fingerprint" in changed(recorded, **same, **other)
    # An older record does not say whether its fingerprint is of the pixels or of the listing.
    older = {key: recorded[key] for key in ("fingerprint", "size", "spec", "stored_levels")}
    assert not changed(older, **same)
    assert "fingerprint" in changed(older, **same, size=3)


@pytest.mark.parametrize("memory", [64, 0])
def test_edited_pixels_of_a_run_in_memory_are_noticed_whatever_the_size_of_the_file(tmp_path, memory):
    options = folder(tmp_path)
    recorded, file = recorded_of(options), tmp_path / "train" / "ant" / "1.bmp"
    size = os.path.getsize(file)
    Image.fromarray(np.full((6, 6), 9, np.uint8)).save(file)
    assert os.path.getsize(file) == size
    options = data.Options(source="folder", path=options.path, memory_mib=memory, workers=0)
    assert "fingerprint" in identity.change(recorded, data.open_source(options, "train"))


def test_other_classes_are_other_data(tmp_path):
    options = folder(tmp_path)
    recorded = recorded_of(options)
    os.rename(tmp_path / "train" / "ant", tmp_path / "train" / "wasp")
    said = identity.change(recorded, data.open_source(options, "train"))
    assert said == "class 0 was 'ant' of 2 when the run began and is 'bee' of 2 now"


def test_archives_of_one_shape_are_told_apart_without_being_read(tmp_path):
    label = np.arange(6)
    first = data.open_source(archive(tmp_path / "a.npz", label), "train")
    same = data.open_source(archive(tmp_path / "b.npz", label), "train")
    with np.load(tmp_path / "a.npz") as arrays:
        np.savez_compressed(tmp_path / "c.npz", label=arrays["label"], image=arrays["image"])
        np.savez(tmp_path / "d.npz", label=arrays["label"], image=arrays["image"] ^ 1)
    others = [data.open_source(data.Options(source="npz", path=str(tmp_path / f"{x}.npz")), "train") for x in "cd"]
    assert first.listing == same.listing == others[0].listing != others[1].listing


@pytest.mark.parametrize("source", [{}, {"source": "shapes", "shapes": ShapesOptions(300), "size": 8}])
def test_content_is_one_figure_in_memory_and_streamed(source):
    held, streamed = (data.open_source(data.Options(**source, memory_mib=m, workers=0), "train") for m in (64, 0))
    assert held.in_memory and not streamed.in_memory
    assert identity.content(streamed) == held.fingerprint == identity.content(held)
    assert streamed.fingerprint == streamed.listing == held.listing != held.fingerprint


def test_a_record_says_how_many_of_the_split_are_trained_on(tmp_path):
    options = folder(tmp_path)
    record = identity.record(data.open_source(options, data.Part.TRAIN))
    assert (record["size"], record["trained_on"]) == (40, 36)  # a tenth is for validation
    limited = data.Options(source="folder", path=options.path, limit=10)
    record = identity.record(data.open_source(limited, data.Part.TRAIN))
    assert (record["size"], record["trained_on"], sum(record["class_counts"])) == (40, 10, 10)


def test_protocols_and_caches_call_data_the_same_in_memory_and_streamed(tmp_path):
    held, streamed = (data.Options(memory_mib=m, workers=0) for m in (64, 0))
    names = [image_sets.dataset(options, data.open_source(options, "test")) for options in (held, streamed)]
    assert names[0] == names[1] == f"digits {data.open_source(held, 'test').fingerprint}"


def test_a_conditional_family_is_not_trained_where_a_class_has_no_image(tmp_path):
    image, label = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", train_image=image, train_label=label, test_image=image, test_label=1 + label)
    values = config_files.load(f"{ROOT / 'configs' / 'made_digits.py'}:tiny")
    values.update({"data": {"source": "npz", "path": str(tmp_path / "a.npz")}, "model": {"conditions": ("label",)}})
    values.train.update({"steps": 1, "batch_size": 4})
    with pytest.raises(DataError, match=r"'train' holds no image of 1 of 3 classes, such as '2'"):
        training.train(configs.resolve(values), values.to_dict(), tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()
