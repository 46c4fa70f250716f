"""Splits, the training order and batches."""

import dataclasses
import itertools
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from genimg_jax import data, options
from genimg_jax.data import loading, order
from genimg_jax.data.splits import select
from genimg_jax.data.types import ShapesOptions
from genimg_jax.errors import ConfigError, DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"
AVAILABLE = {"train": range(0, 1500), "test": range(1500, 1797)}


def take(batches, count):
    return list(itertools.islice(batches, count))


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    ("split", "first", "last", "count"),
    [
        ("train", 0, 1499, 1500),
        ("test", 1500, 1796, 297),
        ("train[100:200]", 100, 199, 100),
        ("train[-100:]", 1400, 1499, 100),
        ("train[:90%]", 0, 1349, 1350),
        ("train[90%:]", 1350, 1499, 150),
        ("test[:1_0]", 1500, 1509, 10),
        ("train[:10]+test[-5:]", 0, 1796, 15),
    ],
)
def test_a_slice_names_its_positions(split, first, last, count):
    positions = select(split, AVAILABLE)
    assert (positions[0], positions[-1], len(positions)) == (first, last, count)


@pytest.mark.parametrize("split", ["trin", "train[:200%]", "train[5:5]", "train[1600:]", "train[", "train[::2]", ""])
def test_a_split_that_means_nothing_is_an_error(split):
    with pytest.raises(DataError, match=r"split|Split"):
        select(split, AVAILABLE)


@pytest.mark.parametrize("boundary", ["33%", "-33%", "1%", "-1%", "67%", "17", "-17"])
def test_slices_are_those_of_tensorflow_datasets(boundary):
    tfds = pytest.importorskip("tensorflow_datasets")
    # 297 and 1499 leave remainders for every percentage here, so that a different rounding shows.
    for count in (297, 1499, 250):
        info = tfds.core.SplitInfo(name="train", shard_lengths=[count], num_bytes=0, filename_template=None)
        for split in (f"train[{boundary}:]", f"train[:{boundary}]"):
            (theirs,) = tfds.core.ReadInstruction.from_spec(split).to_absolute({"train": info})
            ours = select(split, {"train": range(count)})
            assert (ours[0], ours[-1] + 1) == (theirs.from_ or 0, theirs.to or count)


def test_every_epoch_is_another_permutation():
    epochs = order.examples(3, np.arange(50), 10).reshape(5, 10)
    np.testing.assert_array_equal(np.sort(epochs, 1), np.tile(np.arange(10), (5, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert (order.examples(4, np.arange(50), 10) != epochs.ravel()).any()


def test_the_order_is_a_function_of_position_alone():
    whole = order.examples(0, np.arange(100), 7)
    some = np.array([99, 0, 13, 14, 50])
    np.testing.assert_array_equal(order.examples(0, some, 7), whole[some])


def test_training_restarts_at_any_step_and_splits_over_processes():
    source = data.open_source(data.Options(), "train[:50]")
    whole = take(loading.train_batches(source, 5, 0, 16), 8)
    resumed = take(loading.train_batches(source, 5, 6, 16), 2)
    same(whole[6], resumed[0])
    same(whole[7], resumed[1])
    halves = [loading.train_batches(source, 5, 0, 16, rows) for rows in (slice(0, 8), slice(8, 16))]
    for batch, *parts in zip(whole, *halves, strict=False):
        same(batch, {name: np.concatenate([part[name] for part in parts]) for name in batch})
    np.testing.assert_array_equal(whole[0]["index"], np.arange(16, dtype=np.int32))


def test_no_example_comes_twice_in_an_epoch():
    source = data.open_source(data.Options(), "train[:60]")
    for epoch in range(3):
        batches = take(loading.train_batches(source, 0, 4 * epoch, 15), 4)
        drawn = np.concatenate([batch["image"] for batch in batches])
        assert len({image.tobytes() for image in drawn}) == 60


def test_evaluation_is_one_exact_pass():
    source = data.open_source(data.Options(), "test[:10]")
    batches = list(loading.evaluation_batches(source, 4))
    assert [batch["valid"].sum() for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in batches]), [*range(10), 9, 9])
    everything = source.read(np.arange(10))
    for name in ("image", "label"):
        joined = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(joined[:10], everything[name])
        np.testing.assert_array_equal(joined[10:], everything[name][[9, 9]])
    assert batches[0]["index"].dtype == np.int32
    assert batches[0]["valid"].dtype == bool


def test_a_batch_larger_than_the_source_is_an_error_before_the_first_batch():
    source = data.open_source(data.Options(), "train[:15]")
    with pytest.raises(DataError, match=r"16 .* 15"):
        loading.train_batches(source, 0, 0, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_gives_what_memory_gives(workers):
    options = {"source": "shapes", "shapes": ShapesOptions(40), "size": 8}
    memory = data.open_source(data.Options(**options), "train")
    streamed = data.open_source(data.Options(**options, memory_mib=0, workers=workers), "train")
    assert memory.in_memory
    assert not streamed.in_memory
    batches = loading.train_batches(streamed, 2, 3, 16, slice(4, 12))
    for ours, theirs in zip(take(batches, 5), loading.train_batches(memory, 2, 3, 16, slice(4, 12)), strict=False):
        same(ours, theirs)
    batches.close()
    if not workers:
        pairs = zip(loading.evaluation_batches(streamed, 16), loading.evaluation_batches(memory, 16), strict=True)
        for ours, theirs in pairs:
            same(ours, theirs)


def test_a_killed_worker_is_an_error_not_a_wait():
    source = data.open_source(data.Options(source="shapes", size=8, memory_mib=0, workers=1), "train")
    batches = loading.train_batches(source, 0, 0, 16)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, 9)
    with pytest.raises(DataError, match=r"worker died .* step"):
        take(batches, 100)


@pytest.mark.parametrize("field", [{"source": "digit"}, {"channels": 2}, {"binarize": "yes"}, {"workers": -1}])
def test_an_option_that_means_nothing_is_a_config_error(field):
    with pytest.raises(ConfigError, match=f"data.{next(iter(field))}"):
        options.parse(data.Options, {**dataclasses.asdict(data.Options()), **field}, "data")
