"""Folders as storage, tools and people leave them: structure, classes, leftovers, captions."""

import json

import numpy as np
import pytest
from PIL import Image

from genimg_jax import data
from genimg_jax.data.types import CaptionOptions
from genimg_jax.errors import DataError


def write(root, *files):
    """Small images, each of a colour of its own."""
    for i, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 7)).save(root / file, "PNG")


def opened(root, split="train", **options):
    return data.open_source(data.Options(source="folder", path=str(root), **options), split)


def test_class_number_k_is_the_class_called_k(tmp_path):
    write(tmp_path, *(f"{split}/{c}/{i}.png" for split in ("train", "test") for c in range(12) for i in range(2)))
    for split in ("train", "test"):
        source = opened(tmp_path, split)
        assert source.classes == tuple(map(str, range(12)))
        everything = np.arange(source.size)
        folders = [int(name.split("/")[-2]) for name in source.names(everything)]
        np.testing.assert_array_equal(source.read(everything)["label"], folders)
        assert source.class_counts == (2,) * 12


def test_numbers_in_names_sort_by_value(tmp_path):
    names = ["run2", "run10", "run1", "b", "07", "7", "1a2", "1a10"]
    write(tmp_path, *(f"{name}/0.png" for name in names))
    assert opened(tmp_path).classes == ("1a2", "1a10", "07", "7", "b", "run1", "run2", "run10")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["bus/0.png", "car/0.png", "train/0.png"], r"split 'train' .*'bus', 'car'.*where 'train' is a class"),
        (["bus/0.png", "test/0.png", "val/0.png"], r"split 'test' .*'bus'"),
        (["train/0.png", "test/0.png", "more/deep/0.png"], r"'more'"),
        (["train/a/0.png", "train/b/0.png", "0.png"], r"'0.png'"),
        (["Train/0.png", "bus/0.png"], r"split 'Train' .*'bus'"),
    ],
)
def test_images_beside_splits_are_refused_not_dropped(tmp_path, files, said):
    write(tmp_path, *files)
    with pytest.raises(DataError, match=said):
        opened(tmp_path)


def test_nothing_is_dropped_where_there_is_a_reading(tmp_path):
    """Every image is in exactly one split; folders without images mean nothing; a class may be called like a split."""
    write(tmp_path / "split", "Train/train/0.png", "Train/bus/1.png", "TEST/bus/0.png", "val/train/0.png")
    (tmp_path / "split" / "notes").mkdir()
    (tmp_path / "split" / "notes" / "read.txt").write_text("text")
    sources = [opened(tmp_path / "split", split) for split in ("train", "test", "val")]
    assert [source.size for source in sources] == [2, 1, 1]
    assert sources[0].classes == ("bus", "train")
    assert [source.class_counts for source in sources] == [(1, 1), (1, 0), (0, 1)]
    write(tmp_path / "flat", "bus/0.png", "car/0.png")
    (tmp_path / "flat" / "train").mkdir()  # empty
    assert opened(tmp_path / "flat").classes == ("bus", "car")


def test_two_links_to_one_folder_are_two_classes(tmp_path):
    write(tmp_path / "elsewhere", "0.png", "1.png")
    (tmp_path / "all").mkdir()
    for name in ("a", "b"):
        (tmp_path / "all" / name).symlink_to(tmp_path / "elsewhere")
    assert opened(tmp_path / "all").class_counts == (2, 2)


def test_leftovers_of_storage_and_tools_are_no_classes_and_no_images(tmp_path):
    write(tmp_path, *(f"{split}/{c}/{i}.png" for split in ("train", "test") for c in "ab" for i in range(3)))
    clean = opened(tmp_path)
    folders = ["@eaDir/a@SynoEAStream", "__MACOSX/a", "#recycle", "lost+found", "$RECYCLE.BIN/S-1", ".Trash-1000",
               ".ipynb_checkpoints", "System Volume Information", "#snapshot/daily", "@Recycle"]  # fmt: skip
    files = ["Thumbs.db", "desktop.ini", "._0.png", ".DS_Store", ".directory", "Icon\r"]
    for place in (".", "train", "train/a"):
        write(tmp_path / place, *(f"{folder}/0.png" for folder in folders))
        for file in files:
            (tmp_path / place / file).write_bytes(b"x")
    source = opened(tmp_path)
    assert (source.size, source.classes, source.fingerprint) == (6, ("a", "b"), clean.fingerprint)
    assert source.listing == clean.listing


TEXTS = ["first\u2028second", "a\u2029b", "x\u0085y", "form\x0cfeed", ""]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_captions_hold_any_text(tmp_path, end, mark):
    write(tmp_path, *(f"{i}.png" for i in range(len(TEXTS))))
    rows = [json.dumps({"file_name": f"{i}.png", "text": text}, ensure_ascii=False) for i, text in enumerate(TEXTS)]
    (tmp_path / "metadata.jsonl").write_bytes((mark + end.join([*rows, "", "  ", ""])).encode())
    source = opened(tmp_path)
    chosen = source.read(np.arange(source.size))["image"][:, 0, 0, 0]
    assert source.captions(np.arange(source.size)) == [TEXTS[i] for i in chosen]


def test_captions_beside_the_splits_name_files_in_them(tmp_path):
    write(tmp_path, "train/0.png", "test/0.png")
    rows = [{"file_name": f"{split}/0.png", "text": split} for split in ("train", "test")] + []
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert opened(tmp_path, "test").captions(np.arange(1)) == ["test"]


def test_captions_are_joined_from_the_columns_that_are_named(tmp_path):
    write(tmp_path, "0.png", "1.png")
    rows = [
        {"file_name": "0.png", "text": "grinning face", "keywords": ["smile", "happy"], "style": "noto"},
        {"file_name": "1.png", "text": "number sign", "keywords": []},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def captions(*columns):
        options = data.Options(source="folder", path=str(tmp_path), captions=CaptionOptions(columns=columns))
        return sorted(data.open_source(options, "train").captions(np.arange(2)))

    assert captions("text") == ["grinning face", "number sign"]
    assert captions("text", "keywords") == ["grinning face, smile happy", "number sign"]
    assert captions("style", "text") == ["noto, grinning face", "number sign"]
    with pytest.raises(DataError, match=r"columns names 'keyword'; did you mean 'keywords'\?"):
        captions("text", "keyword")


def test_an_absent_text_is_no_text_and_two_are_refused(tmp_path):
    write(tmp_path, "0.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": null}\n')
    assert opened(tmp_path).captions(np.arange(1)) == [""]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": 0}\n')
    assert opened(tmp_path).captions(np.arange(1)) == ["0"]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n' * 2)
    with pytest.raises(DataError, match=r"line 2 names '0.png' again"):
        opened(tmp_path)
