"""The three parts of a run: trained on, chosen on, reported on."""

import dataclasses

import numpy as np
import pytest

from genimg_jax import data
from genimg_jax.data.splits import LARGEST, Part, part
from genimg_jax.errors import DataError

SPLITS = {"train": range(1000), "test": range(1000, 1300)}


def options(**given):
    return data.Options(**given)


def positions(chosen, **given):
    return part(options(**given), chosen, SPLITS)[0]


def test_the_default_validation_split_is_a_tenth_of_train_that_training_leaves_out():
    train, validation, test = (positions(p) for p in (Part.TRAIN, Part.VALIDATION, Part.EVALUATE))
    assert len(validation) == 100
    assert sorted([*train, *validation]) == list(range(1000))
    np.testing.assert_array_equal(test, np.arange(1000, 1300))
    # Spread over the split: a source sorted by class has every class in it.
    assert max(np.diff(np.sort(validation))) < 100
    np.testing.assert_array_equal(validation, positions(Part.VALIDATION))


def test_a_large_validation_split_is_capped_and_a_tiny_one_leaves_training_something():
    large, tiny = {"train": range(100_000), "test": range(100_000, 100_001)}, {"train": range(2), "test": range(2, 3)}
    assert len(part(options(), Part.VALIDATION, large)[0]) == LARGEST
    assert [len(part(options(), p, tiny)[0]) for p in (Part.TRAIN, Part.VALIDATION)] == [1, 1]


def test_the_drawn_validation_split_leaves_training_every_class():
    labels = np.zeros(1300, np.int32)
    alone = positions(Part.VALIDATION)[0]  # drawn, were it not the only image of its class
    labels[alone] = 1
    parts = [part(options(), p, SPLITS, labels)[0] for p in (Part.TRAIN, Part.VALIDATION)]
    assert alone in parts[0] and alone not in parts[1]
    assert [len(p) for p in parts] == [901, 99]


def test_without_validation_everything_is_trained_on():
    assert len(positions(Part.TRAIN, validation_split="none")) == 1000
    with pytest.raises(DataError, match=r"data\.validation_split is 'none', which leaves no images"):
        positions(Part.VALIDATION, validation_split="none")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"evaluate_split": "train[80%:]"}, "train_split 'train' and data.evaluate_split 'train[80%:]' share"),
        ({"validation_split": "train[90%:]"}, "validation_split 'train[90%:]' share 100 images"),
        ({"validation_split": "test[:10%]"}, "evaluate_split 'test' share 30 images"),
    ],
)
def test_parts_that_share_images_are_refused_unless_asked_for_and_then_named(given, found):
    for chosen in Part:
        with pytest.raises(DataError, match="allow_overlap") as error:
            positions(chosen, **given)
        assert found in str(error.value)
    names = [part(options(**given, allow_overlap=True), chosen, SPLITS)[1] for chosen in Part]
    assert sum("share" in name for name in names) >= 2


def test_what_training_does_not_read_need_not_be_there():
    del (only := dict(SPLITS))["test"]
    assert len(part(options(), Part.TRAIN, only)[0]) == 900
    with pytest.raises(DataError, match="no split 'test'"):
        part(options(), Part.EVALUATE, only)


def test_a_source_is_opened_by_its_part():
    digits = data.Options()
    train, validation, test = (data.open_source(digits, p) for p in Part)
    assert [s.size for s in (train, validation, test)] == [1350, 150, 297]
    assert [s.split for s in (train, validation, test)] == ["train", "a slice of train", "test"]
    whole = data.open_source(digits, "train").read(np.arange(1500))["image"].reshape(1500, -1)
    parts = [s.read(np.arange(s.size))["image"].reshape(s.size, -1) for s in (train, validation)]
    assert sorted(map(bytes, np.concatenate(parts))) == sorted(map(bytes, whole))
    shared = dataclasses.replace(digits, evaluate_split="train[:10]", allow_overlap=True)
    assert "share" in data.open_source(shared, Part.EVALUATE).split
