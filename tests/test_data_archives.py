"""Archives of NumPy arrays: their splits and labels, large and damaged ones."""

import numpy as np
import pytest

from genimg_jax import data
from genimg_jax.core import Spec
from genimg_jax.data import loading, npz
from genimg_jax.data.file_rows import FileRows
from genimg_jax.errors import DataError


def open_npz(path, split="train", **options):
    return data.open_source(data.Options(source="npz", path=str(path), **options), split)


def test_archives_hold_one_or_several_splits(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (9, 6, 5), np.uint8), np.arange(9) % 4
    np.savez(tmp_path / "one.npz", image=images, label=labels)
    source = open_npz(tmp_path / "one.npz", "train[2:]")
    np.testing.assert_array_equal(source.read(np.arange(7))["image"], images[2:, ..., None])
    np.testing.assert_array_equal(source.read(np.arange(7))["label"], labels[2:])
    np.savez(tmp_path / "bytes.npz", image=images, label=labels.astype(np.uint8))
    assert open_npz(tmp_path / "bytes.npz").classes == ("0", "1", "2", "3")
    assert source.spec == Spec((6, 5, 1), 4, 256)
    colour = np.random.default_rng(1).integers(0, 256, (4, 6, 5, 3), np.uint8)
    np.savez_compressed(tmp_path / "two.npz", train_image=colour[:3], test_image=colour[3:])
    test = open_npz(tmp_path / "two.npz", "test")
    np.testing.assert_array_equal(test.read(np.array([0]))["image"], colour[3:])
    train = open_npz(tmp_path / "two.npz", "train")
    np.testing.assert_array_equal(train.read(np.arange(3))["image"], colour[:3])
    assert test.spec.num_classes == 0
    assert source.captions is None and test.annotations is None
    caption, mask = np.array([f"picture {i}" for i in range(9)]), np.random.default_rng(2).integers(3, size=(9, 6, 5))
    np.savez(tmp_path / "said.npz", image=images, caption=caption, mask=mask.astype(np.uint8))
    said = open_npz(tmp_path / "said.npz", "train[2:]")
    assert said.spec.num_classes == 0
    assert said.captions(np.array([0, 6])) == ["picture 2", "picture 8"]
    np.testing.assert_array_equal(said.annotations(np.array([1]))["mask"], mask[3:4])


def test_archives_that_grow_too_large_for_memory_are_streamed(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)
    np.savez(tmp_path / "small.npz", image=images, label=np.arange(20) % 3)
    held, streamed = (open_npz(tmp_path / "small.npz", size=240, memory_mib=m, workers=1) for m in (2048, 1))
    assert held.in_memory and not streamed.in_memory
    for one, other in zip(*(loading.evaluation_batches(s, 10) for s in (held, streamed)), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_labels_of_archives_are_numbers_or_names(tmp_path):
    image = np.zeros((3, 6, 5), np.uint8)
    for label, classes, expected, names in (
        (["dog", "ant", "dog"], None, [1, 0, 1], ("ant", "dog")),
        (["10", "9", "x"], None, [1, 0, 2], ("9", "10", "x")),
        (["dog", "ant", "dog"], ["dog", "cat", "ant"], [0, 2, 0], ("dog", "cat", "ant")),
        ([2, 0, 2], ["dog", "cat", "ant"], [2, 0, 2], ("dog", "cat", "ant")),
    ):
        arrays = {"label": np.array(label)} | ({} if classes is None else {"classes": np.array(classes)})
        np.savez(tmp_path / "named.npz", image=image, **arrays)
        source = open_npz(tmp_path / "named.npz")
        np.testing.assert_array_equal(source.read(np.arange(3))["label"], expected)
        assert source.classes == names


def test_large_archives_are_read_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "HARMLESS_BYTES", 100)
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 120, 119, 3), np.uint8), np.arange(40) % 3
    arrays = {
        "first_image": images[:30],
        "first_label": labels[:30],
        "test_image": images[30:],
        "test_label": labels[30:],
    }
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    np.savez(tmp_path / "fortran.npz", **{k: np.asfortranarray(x) for k, x in arrays.items()})
    some = np.array([39, 0, 30, 30])
    for name in ("plain", "packed", "fortran"):
        path = str(tmp_path / f"{name}.npz")
        stored = npz.open_npz(data.Options(source="npz", path=path))
        read, label = (stored.read(some)[name] for name in ("image", "label"))
        np.testing.assert_array_equal(np.stack(read), images[some])
        np.testing.assert_array_equal(label, labels[some])
        assert all(isinstance(held, FileRows) for held in stored.read.args[1].values()) == (name != "fortran")
    # Larger than memory, and read by other processes.
    for name in ("plain", "packed"):
        source = open_npz(tmp_path / f"{name}.npz", "first", memory_mib=1, workers=1)
        (batch,) = loading.evaluation_batches(source, 30)
        np.testing.assert_array_equal(batch["image"], images[:30])
    content = bytearray((tmp_path / "plain.npz").read_bytes())
    content[1000] ^= 1
    (tmp_path / "plain.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"plain\.npz' cannot be read as an npz archive: Bad CRC"):
        open_npz(tmp_path / "plain.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((2, 3, 3))}, "float64"),
        ({"image": np.zeros((2, 3), np.uint8)}, "uint8"),
        ({"image": np.zeros((2, 3, 3, 2), np.uint8)}, "uint8"),
        ({"image": np.array([{}, {}])}, "objects"),
        ({"image": np.zeros((2, 3, 3), np.uint8), "label": np.zeros(3, int)}, "label"),
        ({"image": np.zeros((2, 3, 3), np.uint8), "label": np.array([-1, 0])}, "label"),
        ({"image": np.zeros((2, 3, 3), np.uint8), "label": np.array([0.0, 1.0])}, "integers"),
        (
            {"image": np.zeros((2, 3, 3), np.uint8), "label": np.array([0, 2]), "classes": np.array(["a", "b"])},
            "is 2, ",
        ),
        (
            {"image": np.zeros((2, 3, 3), np.uint8), "label": np.array(["a", "c"]), "classes": np.array(["a"])},
            "is 'c',",
        ),
        ({"image": np.zeros((2, 3, 3), np.uint8), "label": np.array([0, 1]), "classes": np.array(["a", "a"])}, "once"),
        ({"image": np.zeros((2, 3, 3), np.uint8), "label": np.array([0, 1]), "classes": np.arange(2)}, "the name of"),
        ({"image": np.zeros((2, 3, 3), np.uint8), "label": np.array([0, 2**40])}, "65,535"),
        ({"image": np.zeros((2, 3, 3), np.uint8), "caption": np.arange(2)}, "strings"),
        ({"image": np.zeros((2, 3, 3), np.uint8), "mask": np.zeros((2, 4, 3), np.uint8)}, "mask"),
        ({"picture": np.zeros((2, 3, 3), np.uint8)}, "picture"),
        (
            {f"{name}_image": np.zeros((2, 3, 3), np.uint8) for name in ("train", "test")}
            | {"train_label": np.zeros(2, int)},
            "holds a label, but none of test_image",
        ),
        ({"image": np.zeros((0, 3, 3), np.uint8)}, "no examples"),
    ],
)
def test_archives_of_anything_else_are_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_npz(tmp_path / "bad.npz")


def test_archives_made_to_exhaust_memory_are_refused_unread(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", image=np.zeros((80, 1024, 1024), np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (2, 1024, 1024), np.uint8)
    np.savez(tmp_path / "large.npz", image=np.asfortranarray(noise))
    monkeypatch.setattr(np, "load", None)  # nothing may get as far as that
    with pytest.raises(DataError, match="inflates"):
        open_npz(tmp_path / "bomb.npz")
    with pytest.raises(DataError, match="memory_mib"):
        open_npz(tmp_path / "large.npz", memory_mib=1)
    with pytest.raises(DataError, match="pixel_limit"):
        open_npz(tmp_path / "large.npz", pixel_limit=1000)


def test_archives_that_are_missing_damaged_or_no_archives_are_errors(tmp_path):
    np.savez(tmp_path / "cut.npz", image=np.zeros((9, 64, 64), np.uint8))
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "flipped.npz").write_bytes(content[:5000] + b"\x01" + content[5001:])
    locked = bytearray(content)
    locked[content.index(b"PK\x01\x02") + 8] |= 1  # what says that an entry is encrypted
    (tmp_path / "locked.npz").write_bytes(locked)
    for name in ("cut", "text", "flipped", "locked", "missing"):
        with pytest.raises(DataError, match=name):
            open_npz(tmp_path / f"{name}.npz")
