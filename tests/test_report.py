"""Pictures keep their pixels; the report of a run says what is there, what is missing, and fetches nothing."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from genimg_jax.commands import report
from genimg_jax.engine import config, images
from genimg_jax.errors import ConfigError, ResourceError
from genimg_jax.reports import curves, run_page

ATTACK = "<script>alert('x')</script>\" onload=\""


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def sources(self):
        return [attributes["src"] for _, attributes in self.elements if "src" in attributes]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def line(step, split="train", **values):
    return json.dumps({"step": step, "images": 64 * step, "split": split, **values}) + "\n"


@pytest.fixture
def workdir(tmp_path):
    """A run as training, sampling and evaluation leave it, its last line cut short."""
    workdir = tmp_path / "first run"
    settings = config.experiment("vae", train={"batch_size": 32}).to_dict()
    write(workdir / "config.json", settings)
    write(
        workdir / "manifest.json",
        {
            "command": f"genimg train --note {ATTACK}",
            "git": {"commit": "0a1b2c", "dirty": True},
            "devices": ["cpu", "cpu"],
            "parameters": {"encoder": 1200, "decoder": 1300},
            "resumed": [{"step": 20, "versions": {"jax": "1.2.3"}}],
        },
    )
    lines = [
        line(s, loss=5.0 / s, kl=float(s), **{"skipped/model": 0.0, "images_per_second": 900.0 + s})
        for s in range(1, 41)
    ]
    lines += [line(40, "evaluation", loss=0.25), line(41, loss="nan"), '{"step": 42, "imag']
    write(workdir / "metrics.jsonl", "".join(lines))
    for step in range(0, 2000, 100):
        images.save_png(workdir / "samples" / f"{step}.png", np.full((4, 4, 3), step // 10, np.uint8))
    write(
        workdir / "evaluation" / "test.json",
        {
            "checkpoint": "best",
            "step": 40,
            "split": "test",
            "metrics": {"loss": 0.5, "nll": {"value": 88.125, "interval": [87.5, 88.75], "unit": "nats"}, ATTACK: 1},
            "protocol": {"bound": "lower", "data": {"levels": 17}},
        },
    )
    (workdir / "checkpoints" / "40").mkdir(parents=True)
    return workdir


def test_what_was_edited_is_on_the_page(workdir):
    """Each grid, how it was asked for and its scores; a score without an interval, and a grid without a record, too."""
    plain = Page(report.run(workdir).read_text())
    assert "genimg edit" not in plain.text
    place = workdir / "edited" / "inpaint-40"
    for name in (place, workdir / "edited" / "kept"):
        images.save_png(name / "grid.png", np.full((8, 8, 3), len(name.name), np.uint8))
    write(place / "edit.json", {"task": "inpaint", "method": ATTACK, "step": 40, "options": {"mask": "half"}})
    scores = {"psnr": {"value": 21.5, "low": 20.25, "high": 22.75}, "residual": {"value": 0.125, "low": None}}
    write(place / "scores.json", {"scores": scores})
    page = Page(report.run(workdir).read_text())
    assert len(page.sources()) == len(plain.sources()) + 2
    for expected in ("genimg edit inpaint --task.mask=half", ATTACK, "21.5", "20.25 to 22.75", "0.125", "kept"):
        assert expected in page.text, expected


def test_everything_of_a_run_is_on_the_page(workdir):
    path = report.run(workdir)
    assert path == workdir / "report.html"
    page = Page(path.read_text())
    assert not page.open
    for expected in (
        "first run",  # the title
        "0a1b2c",  # the manifest
        "cpu, cpu",
        "resumed 1 of 1",
        "versions.jax",
        "2,500",  # parameters in all
        "2,624",  # images seen by the last whole line, 41 x 64
        "88.125",  # the evaluation
        "[87.5, 88.75]",
        "nll (test)88.125 nats",  # a headline: before the loss, which has its curve
        "data.levels",
        "optimizer.learning_rate",  # the configuration
        "train 40",  # the last of each curve
        "train nan",
        "evaluation 0.25",
        "1 not finite",
        "Constant throughout: skipped/model 0",
        "Checkpoints at steps 40",
    ):
        assert expected in page.text, expected
    assert "yet" not in page.text
    assert sum(tag == "svg" for tag, _ in page.elements) == 3  # loss, kl, images_per_second


def test_page_fetches_nothing(workdir):
    text = report.run(workdir).read_text()
    page = Page(text)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources())
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"}
    references = [a[name] for _, a in page.elements for name in ("href", "xlink:href", "action") if name in a]
    assert references and not [r for r in references if ":" in r or r.startswith("/")]
    assert not re.search(r"@import|url\((?!#)", text)


def test_what_is_read_is_escaped(workdir):
    page = Page(report.run(workdir).read_text())
    assert page.text.count("<script>") >= 3  # the command, twice, and the metric's name
    assert not any("onload" in attributes for _, attributes in page.elements)


def test_sample_grids_are_thinned_evenly(workdir):
    page = Page(report.run(workdir).read_text())
    levels = [
        int(np.asarray(Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2])))).max()) for s in page.sources()
    ]
    assert len(levels) == run_page.SAMPLE_GRIDS
    assert levels[0] == 190 and levels[-1] == 0  # the latest first, and the very first
    assert set(np.diff(levels)) <= {-20, -30}
    assert "step 1,900" in page.text and "12 more" in page.text


def test_changed_options_are_shown_beside_their_defaults(workdir):
    text = report.run(workdir).read_text()
    defaults = config.flatten(config.experiment("vae").to_dict())
    marked = re.findall(r'<tr class="marked" title="default: (.*?)"><td>(.*?)</td><td>(.*?)</td>', text)
    assert marked == [(str(defaults["train.batch_size"]), "train.batch_size", "32")]


def test_repeated_steps_count_once(workdir):
    """A run that was interrupted and resumed logs the steps since its checkpoint twice."""
    write(workdir / "metrics.jsonl", line(1, loss=9.0) + line(2, loss=8.0) + line(2, loss=7.0) + line(3, loss=6.0))
    series = curves.series([json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()])
    assert series == {"train": {"loss": [(1, 9.0), (2, 7.0), (3, 6.0)]}}


@pytest.mark.parametrize("part", report.PARTS)
def test_any_one_part_is_enough_and_the_rest_is_said_to_be_missing(tmp_path, part):
    path = tmp_path / part
    if "." in part:
        write(path, line(1, loss=1.0) if part == "metrics.jsonl" else {})
    else:
        path.mkdir()
    text = Page(report.run(tmp_path).read_text()).text
    missing = {
        "config.json": "There is no config.json yet",
        "manifest.json": "There is no manifest.json yet",
        "metrics.jsonl": "No metrics have been logged yet",
        "samples": "No sample grids",
        "evaluation": "No evaluation",
    }
    for other, sentence in missing.items():
        assert (sentence in text) == (other != part or path.is_dir()), other


@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
@pytest.mark.parametrize("name", ["config.json", "manifest.json", "evaluation/test.json", "samples/0.png"])
def test_damaged_files_are_named(workdir, name, content):
    write(workdir / name, content)
    text = Page(report.run(workdir).read_text()).text
    if name == "samples/0.png":
        assert "0.png is not a PNG file" in text
    else:
        assert re.search(rf"{name.rpartition('/')[2]} (cannot be read|does not hold)", text)


def test_lines_that_are_no_records_are_passed_over(workdir):
    write(workdir / "metrics.jsonl", 'null\n7\n{"loss": 1}\n{"step": 3, "note": "hello", "loss": "inf"}\n{"st')
    assert "1 not finite" in Page(report.run(workdir).read_text()).text


def test_another_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run directory"):
        report.run(tmp_path)
    with pytest.raises(ConfigError, match="no run directory"):
        report.run(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_the_command_needs_and_finds_its_run(workdir, capsys):
    report.main(["--workdir", str(workdir)])
    assert str(workdir / "report.html") in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--workdir"):
        report.main([])


def test_an_unwritable_place_is_a_resource_failure(workdir):
    (workdir / "report.html").mkdir()
    with pytest.raises(ResourceError, match=r"report\.html"):
        report.run(workdir)
    assert not list(workdir.glob(".*.tmp"))


# ----------------------------------------------------------------------------------------------------- pictures


def test_to_uint8_rounds_to_the_nearest_level():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(levels / np.float32(127.5) - 1), levels)
    between = np.array([-2, -1 + 0.9 / 127.5, 1 - 0.4 / 127.5, 3, np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(images.to_uint8(between), [0, 1, 255, 255, 0, 255])
    np.testing.assert_array_equal(images.to_uint8(levels), levels)


@pytest.mark.parametrize(("count", "columns", "channels"), [(1, None, 1), (5, None, 3), (7, 3, 1), (4, 4, 3)])
def test_grid_holds_every_image_row_by_row(count, columns, channels):
    height, width, scale, padding = 3, 5, 4, images.PADDING
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 255, (count, height, width, channels), dtype=np.uint8)
    picture = images.grid(batch, columns=columns, scale=scale)
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    seen = np.zeros(picture.shape, bool)
    for i, image in enumerate(batch):
        top = padding + i // columns * (height * scale + padding)
        left = padding + i % columns * (width * scale + padding)
        window = np.s_[top : top + height * scale, left : left + width * scale]
        for offset in (0, scale - 1):
            np.testing.assert_array_equal(picture[window][offset::scale, offset::scale], image)
        seen[window] = True
    assert (picture[~seen] == images.BACKGROUND).all()
    assert picture.shape == (
        rows * (height * scale + padding) + padding,
        columns * (width * scale + padding) + padding,
        channels,
    )


@pytest.mark.parametrize(("size", "enlarged"), [(8, 64), (28, 56), (64, 64), (100, 100)])
def test_small_images_are_enlarged(size, enlarged):
    picture = images.grid(np.zeros((1, size, size, 1), np.float32))
    assert picture.shape == (enlarged + 2 * images.PADDING,) * 2 + (1,)


def test_captions_are_written_below_their_images():
    """Every row is as high as its own captions; each word is written in the column of its image, and none is cut."""
    captions = ["", "", "", "word", "", "eight long words that do not fit here"]
    picture = images.grid(np.zeros((6, 32, 32, 3), np.uint8), 3, captions=captions)
    row = images.CAPTIONED_SIZE + images.PADDING
    assert (picture[:row] == images.grid(np.zeros((3, 32, 32, 3), np.uint8), 3, scale=4)[:row]).all()
    below = picture[2 * row :]
    ink = [(below[:, images.PADDING + i * row :][:, : row - images.PADDING] < 128).any(-1) for i in range(3)]
    assert ink[0].any() and not ink[1].any() and not ink[2][:, -1].any()
    last = [np.flatnonzero(dark.any(axis=1))[-1] for dark in (ink[0], ink[2])]
    assert last[1] >= last[0] + images.FONT_SIZE, "not wrapped"
    assert images.grid(np.zeros((2, 28, 28, 1), np.uint8), captions=["3", "7"]).shape[1] == 2 * 58 + 2


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_keep_every_pixel(tmp_path, channels):
    array = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint8)
    images.save_png(tmp_path / "new" / "picture.png", array)
    read = np.asarray(Image.open(tmp_path / "new" / "picture.png")).reshape(array.shape)
    np.testing.assert_array_equal(read, array)
