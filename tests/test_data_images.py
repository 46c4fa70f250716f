"""Image files of every kind: golden pixels, damage, size limits and folders."""

import io
import itertools
import json
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from genimg_jax import data
from genimg_jax.data import decode, identity, loading
from genimg_jax.errors import DataError

LIMIT = data.Options().pixel_limit


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(image, kind="PNG", **options):
    return decode.decode(encoded(image, kind, **options), "test", LIMIT)


def plain(mode, colour, size=(2, 3)):
    return Image.new(mode, size, colour)


def palette_image(transparency=None):
    image = Image.new("P", (2, 3), 1)
    image.putpalette([9, 9, 9, 1, 2, 3])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("content", "pixel"),
    [
        (encoded(plain("L", 77)), [77]),
        (encoded(plain("1", 1)), [255]),
        (encoded(plain("I;16", 128)), [0]),
        (encoded(plain("I;16", 32768)), [128]),
        (encoded(plain("I;16", 65535)), [255]),
        (encoded(plain("I;16", 32768), "TIFF"), [128]),
        (encoded(plain("I;16", 5000), transparency=5000), [255]),
        (encoded(plain("LA", (0, 0))), [255]),
        (encoded(plain("LA", (100, 255))), [100]),
        (encoded(plain("L", 50), transparency=50), [255]),
        (encoded(plain("RGB", (10, 20, 30))), [10, 20, 30]),
        (encoded(plain("RGB", (10, 20, 30)), transparency=(10, 20, 30)), [255, 255, 255]),
        (encoded(plain("RGBA", (255, 0, 0, 128))), [255, 127, 127]),
        (encoded(plain("RGBA", (1, 2, 3, 0)), "WEBP", lossless=True), [255, 255, 255]),
        (encoded(palette_image()), [1, 2, 3]),
        (encoded(palette_image(transparency=1)), [255, 255, 255]),
        (encoded(plain("CMYK", (255, 0, 0, 0)), "TIFF"), [0, 255, 255]),
        (encoded(plain("CMYK", (0, 0, 0, 255)), "JPEG"), [0, 0, 0]),
        (encoded(plain("YCbCr", (128, 128, 128)), "TIFF"), [128, 128, 128]),
    ],
)
def test_every_mode_becomes_its_golden_pixel(content, pixel):
    image = decode.decode(content, "test", LIMIT)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.broadcast_to(np.array(pixel, np.uint8), (3, 2, len(pixel))))


def test_sixteen_bits_are_rescaled_to_the_nearest_of_eight():
    values = np.arange(0, 65536, 7, np.uint16).reshape(1, -1)
    image = decoded(Image.fromarray(values))
    np.testing.assert_array_equal(image[..., 0], np.rint(values / 65535 * 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_turned_upright(orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # What a camera held that way stores: the inverse of what the EXIF standard says a viewer does.
    stored = [
        upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1],
        upright.T, np.rot90(upright), np.rot90(upright, 2).T, np.rot90(upright, -1),
    ][orientation - 1]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(Image.fromarray(stored.copy()), exif=exif)[..., 0], upright)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    frames = [plain("RGB", colour, (8, 8)) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    image = decoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    np.testing.assert_array_equal(image, np.broadcast_to(np.array([255, 0, 0], np.uint8), (8, 8, 3)))


def huge_png(width, height):
    """A PNG of 100 bytes that declares any size."""

    def chunk(kind, content):
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"a line of text\n", "not an image"),
        (encoded(NOISE)[:1000], "damaged or cut short"),
        (encoded(NOISE, "JPEG")[:400], "damaged or cut short"),
        (encoded(NOISE)[:200] + b"!" + encoded(NOISE)[201:], "damaged or cut short"),
        (encoded(plain("F", 0.5), "TIFF"), "mode F"),
        (encoded(plain("I", 70000), "TIFF"), "mode I"),
        (huge_png(10_000, 10_000), "pixel_limit"),
        (huge_png(20_000, 20_000), "pixel_limit"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes the filter of `pixels`
def test_what_cannot_be_read_is_an_error_that_names_the_file(tmp_path, content, message):
    (tmp_path / "good.png").write_bytes(encoded(NOISE))
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=f"bad.png.*{message}"):
        data.open_source(data.Options(source="folder", path=str(tmp_path)), "train")


def test_the_pixel_limit_is_inclusive_and_bounds_bytes_too(tmp_path):
    assert decode.decode(encoded(plain("L", 0, (20, 5))), "test", 100).shape == (5, 20, 1)
    with pytest.raises(DataError, match="pixel_limit"):
        decode.decode(encoded(plain("L", 0, (21, 5))), "test", 100)
    (tmp_path / "long.png").write_bytes(encoded(plain("L", 0)) + bytes(800))
    with pytest.raises(DataError, match=r"long.png.*bytes"):
        decode.read_file(str(tmp_path / "long.png"), 100)


def test_resizing_keeps_the_middle_and_does_not_alias():
    bands = np.zeros((30, 90, 3), np.uint8)
    bands[:, :30, 0], bands[:, 30:60, 1], bands[:, 60:, 2] = 255, 255, 255
    middle = decode.conform(bands, 10, 3)
    green = np.broadcast_to(np.array([0, 255, 0], np.uint8), (10, 8, 3))
    np.testing.assert_array_equal(middle[:, 1:-1], green)  # the filter reaches one pixel over the cut
    resized = Image.fromarray(bands).resize((30, 10), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(middle, resized.crop((10, 0, 20, 10)))
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    small = decode.conform(checkers, 8, 1).astype(int)
    assert (abs(small[1:-1, 1:-1] - 127.5) < 3).all()  # sampling without a filter leaves 0 or 255


def test_grey_and_colour_convert_by_luma_and_repetition():
    colour = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    grey = decode.conform(colour, 0, 1)[..., 0]
    np.testing.assert_allclose(grey, colour @ np.array([0.299, 0.587, 0.114]), atol=0.51)
    np.testing.assert_array_equal(decode.conform(grey[..., None], 0, 3), np.repeat(grey[..., None], 3, 2))
    assert decode.conform(colour, 0, 0) is colour


# ------------------------------------------------------------------------------------------------------- folders


def write_images(folder, count, size=(4, 4)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        plain("RGB", (i % 256, i // 256, 7), size).save(folder / f"{i:03}.png")


def test_subfolders_are_classes_numbered_alike_in_every_split(tmp_path):
    write_images(tmp_path / "train" / "ant", 3)
    write_images(tmp_path / "train" / "bee", 2)
    write_images(tmp_path / "test" / "bee", 2)
    options = data.Options(source="folder", path=str(tmp_path))
    train, test = data.open_source(options, "train"), data.open_source(options, "test")
    assert train.classes == test.classes == ("ant", "bee")
    assert train.spec.num_classes == 2
    labels = train.read(np.arange(5))["label"]
    for name, label in zip(train.names(np.arange(5)), labels, strict=True):
        assert f"{os.sep}{train.classes[label]}{os.sep}" in name
    assert (test.read(np.arange(2))["label"] == 1).all()


def test_slices_of_a_folder_without_splits_share_it_out_and_mix_classes(tmp_path):
    for name in ("ant", "bee"):
        write_images(tmp_path / name, 40)
    options = data.Options(source="folder", path=str(tmp_path))
    train, rest = (data.open_source(options, split) for split in ("train[:75%]", "train[75%:]"))
    names = train.names(np.arange(60)) + rest.names(np.arange(20))
    assert len(set(names)) == 80
    assert set(rest.read(np.arange(20))["label"]) == {0, 1}
    with pytest.raises(DataError, match="no split 'test'"):
        data.open_source(options, "test")


def test_captions_follow_their_files(tmp_path):
    write_images(tmp_path / "train", 5)
    rows = [{"file_name": f"{i:03}.png", "text": f"number {i}"} for i in (0, 1, 2, 4)]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = data.open_source(data.Options(source="folder", path=str(tmp_path)), "train")
    images = source.read(np.arange(5))["image"]
    expected = [f"number {image[0, 0, 0]}" if image[0, 0, 0] != 3 else "" for image in images]
    assert source.captions(np.arange(5)) == expected
    assert source.spec.num_classes == 0
    assert "label" not in source.read(np.arange(5))


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"text": "no name"}', b'{"file_name": "../train/else.png"}', b"\xff"])
def test_metadata_that_means_nothing_is_an_error(tmp_path, line):
    write_images(tmp_path, 2)
    (tmp_path / "metadata.jsonl").write_bytes(line + b"\n")
    with pytest.raises(DataError, match=r"metadata.jsonl"):
        data.open_source(data.Options(source="folder", path=str(tmp_path)), "train")


def test_folders_without_a_meaning_are_errors(tmp_path):
    def fails(message):
        with pytest.raises(DataError, match=message):
            data.open_source(data.Options(source="folder", path=str(tmp_path / "images")), "train")

    fails("no folder")
    (tmp_path / "images").mkdir()
    fails("holds no images")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    fails("holds no images")
    write_images(tmp_path / "images", 1)
    write_images(tmp_path / "images" / "ant", 1)
    fails(r"000.png.* beside class subfolders")
    (tmp_path / "images" / "000.png").unlink()
    write_images(tmp_path / "images" / "ant", 4)
    plain("RGB", 0, (5, 4)).save(tmp_path / "images" / "ant" / "odd.png")
    fails(r"data.size")


def test_a_folder_linked_into_itself_is_read_once(tmp_path):
    write_images(tmp_path, 3)
    (tmp_path / "again").symlink_to(tmp_path)
    assert data.open_source(data.Options(source="folder", path=str(tmp_path)), "train").size == 3


@pytest.mark.parametrize("memory", [64, 0])
def test_skipping_replaces_bad_images_by_their_successors_and_reports_them(tmp_path, memory, capsys):
    write_images(tmp_path, 200)
    options = data.Options(source="folder", path=str(tmp_path), bad_images="skip", memory_mib=memory, workers=0)
    clean = data.open_source(options, "train")
    names = clean.names(np.arange(200))
    before = clean.read(np.arange(200))["image"]
    for name in (names[0], names[199]):  # the successor of the last is the first, and of that the second
        with open(name, "wb"):
            pass
    assert not capsys.readouterr().err
    source = data.open_source(options, "train")
    after = source.read(np.arange(200))["image"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (1 if memory else 2)  # a stream says what it meets when it meets it: first, and on the way
    assert "of 200 images cannot be used" in said[0] and names[0] in said[0] and names[199] in said[-1]
    source.read(np.arange(200))
    assert not capsys.readouterr().err  # once
    np.testing.assert_array_equal(after[1:199], before[1:199])
    np.testing.assert_array_equal(after[[0, 199]], before[[1, 1]])
    assert source.names(np.array([0, 199])) == [names[1], names[1]]
    assert source.skipped == ((names[0], names[199]) if memory else (names[0],))
    assert identity.record(source)["skipped"] == list(source.skipped)
    with open(names[7], "wb"):
        pass
    with pytest.raises(DataError, match=r"3 of 200 .*1 %"):
        data.open_source(options, "train").read(np.arange(200))


def test_a_folder_with_nothing_but_bad_images_ends(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"bad.png"):
        data.open_source(data.Options(source="folder", path=str(tmp_path), bad_images="skip"), "train")


def test_a_worker_that_meets_a_bad_image_names_it(tmp_path):
    write_images(tmp_path, 40)
    options = data.Options(source="folder", path=str(tmp_path), memory_mib=0, workers=1)
    source = data.open_source(options, "train")
    bad = source.names(np.array([30]))[0]
    with open(bad, "wb") as file:
        file.write(b"broken")
    with pytest.raises(DataError, match=os.path.basename(bad)):
        list(itertools.islice(loading.train_batches(source, 0, 0, 8), 5))


@pytest.mark.parametrize("memory", [64, 0])
def test_the_fingerprint_tells_contents_apart(tmp_path, memory):
    write_images(tmp_path, 6)
    options = data.Options(source="folder", path=str(tmp_path), memory_mib=memory)
    first = data.open_source(options, "train").fingerprint
    assert data.open_source(options, "train").fingerprint == first
    assert data.open_source(options, "train[:5]").fingerprint != first
    NOISE.resize((4, 4)).save(tmp_path / "003.png")
    assert data.open_source(options, "train").fingerprint != first


@pytest.mark.parametrize("memory", [64, 0])
def test_the_fingerprint_tells_what_images_become_apart(tmp_path, memory):
    """Streamed images are not read, but 32 and 64 pixels a side are two data sets all the same."""
    write_images(tmp_path, 6)
    changes = [{}, {"size": 8}, {"size": 16}, {"channels": 1}, {"binarize": "threshold"}, {"binarize": "static"}]
    found = []
    for change in changes:
        options = data.Options(source="folder", path=str(tmp_path), memory_mib=memory, **change)
        found.append(data.open_source(options, "train").fingerprint)
    assert len(set(found)) == len(changes)


def test_the_fingerprint_of_images_in_memory_is_what_recorded_runs_have():
    assert data.open_source(data.Options(), "train").fingerprint == "d4d30c86ade34bfa"
