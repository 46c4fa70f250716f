"""Atomic files, and digests."""

import hashlib
import json
import pathlib
import threading

import numpy as np
import pytest

from genimg_jax import files
from genimg_jax.options import nearest


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    files.write_atomic(path, b"old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        files.write_atomic(path, "new")
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Each is in the middle of its write while the other is: with one temporary name, one would fail or mix both."""
    path, both_open = tmp_path / "file.json", threading.Barrier(2, timeout=10)
    failures = []

    def write(text: str) -> None:
        try:
            with files.atomic_path(path) as temporary:
                temporary.write_text(text)
                both_open.wait()
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_changed_by_two_keeps_both_changes(tmp_path):
    path, second_read = tmp_path / "list.json", threading.Event()
    files.write_json(path, [])

    def add(value: str) -> None:
        with files.exclusive(tmp_path):
            values = json.loads(path.read_text())
            if value == "a":
                second.start()
                assert not second_read.wait(0.2), "the second reads before the first has written"
            second_read.set()
            files.write_json(path, [*values, value])

    second = threading.Thread(target=add, args=("b",))
    add("a")
    second.join()
    assert json.loads(path.read_text()) == ["a", "b"]


def test_lines_cut_short_are_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert files.read_json_lines(path) == []
    path.write_text('{"a": 1}\n{"a": 2\n{"a": 3}\n{"a')
    assert files.read_json_lines(path) == [{"a": 1}, {"a": 3}]


def test_a_digest_is_that_of_the_whole_content_however_it_is_cut():
    array = np.arange(6, dtype=np.int32)
    whole = hashlib.sha256(b"text" + array.tobytes()).hexdigest()
    assert files.digest(["te", b"xt", array[:2], array[2:]]) == whole[:16]
    assert files.digest("text", 12) == hashlib.sha256(b"text").hexdigest()[:12]


@pytest.mark.parametrize(
    ("name", "known", "ending"),
    [
        ("vea", ["gan", "vae"], "; did you mean 'vae'?"),
        ("train.learning_rate", ["train.learning_rates", "optimizer.learning_rate"], "'optimizer.learning_rate'?"),
        ("beta=0.5", ["gamma=1.5", "beta=0.1"], "'beta=0.1'?"),
        ("zzz", ["gan", "vae"], "."),
    ],
)
def test_the_nearest_name_is_offered(name, known, ending):
    assert nearest(name, known).endswith(ending)
    assert ("did you mean" in nearest(name, known)) == (ending != ".")
