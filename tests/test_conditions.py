"""What images are made from: values that are given, conditions of held-out images, classes in turn."""

import types

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import change, name_of

from genimg_jax import core
from genimg_jax.data import Part, open_source
from genimg_jax.engine import codes, conditions, config_files, loop, program, tasks
from genimg_jax.engine import config as configs
from genimg_jax.errors import ConfigError

FIELDS = ("tokens", "map")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A VAE of scenes that is told captions and maps, and the held-out scenes; its vocabulary is in a file."""
    from genimg_jax.data import text

    values = config_files.load(name_of("vae_digits")).to_dict()
    for key, value in {
        "data.source": "shapes",
        "data.size": 16,
        "data.binarize": "none",
        "data.shapes.count": 200,
        "data.fields": FIELDS,
        "model.conditions": ("label", *FIELDS),
        "model.likelihood": "discretized_logistic",
    }.items():
        values = change(values, key, value)
    folder = tmp_path_factory.mktemp("vocabulary")
    train = open_source(configs.resolve(values).data, Part.TRAIN)
    text.save(train.vocabulary, folder)
    values = change(values, "data.captions.vocabulary", str(folder / text.FILE))
    config = configs.resolve(values)
    source = open_source(config.data, Part.EVALUATE)
    return program.build(config, source.spec, source.stored_levels), source


def test_held_out_conditions_come_in_their_order_and_go_round(told):
    built, source = told
    index = np.array([0, 1, source.size, 3])
    rows, stored = conditions.rows(built, index, source=source), source.read(index % source.size)
    assert rows.keys() == {"label", *FIELDS}
    for name in rows:
        np.testing.assert_array_equal(rows[name], stored[name])
    assert rows["map"].dtype == rows["tokens"].dtype == np.int32


def test_many_conditions_are_read_a_batch_at_a_time(told):
    built, source = told
    size, read = program.batch_size(built), []
    watched = source._replace(read=lambda index: read.append(len(index)) or source.read(index))
    index = np.arange(2 * size + 3) // 2
    found, expected = conditions.all_rows(built, index, source=watched), conditions.rows(built, index, source=source)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert read == [size, size, 3]


def test_what_is_given_replaces_one_field_alone(told):
    built, source = told
    caption = source.captions(np.array([5]))[0]
    tokens = conditions.parse(built, "tokens", caption)
    np.testing.assert_array_equal(tokens, source.read(np.array([5]))["tokens"][0])
    rows = conditions.rows(built, np.arange(3), {"tokens": tokens, "label": [1, 2]}, source)
    np.testing.assert_array_equal(rows["tokens"], np.stack([tokens] * 3))
    np.testing.assert_array_equal(rows["label"], [1, 2, 1])
    np.testing.assert_array_equal(rows["map"], source.read(np.arange(3))["map"])


def test_samples_follow_their_conditions_and_not_the_batch(told):
    built, source = told
    weights = core.weights(built.init(0))
    whole = tasks.sample(built, weights, 6, 0, source=source)
    few = tasks.sample(built, weights, 2, 0, source=source)
    np.testing.assert_allclose(few, whole[:2], atol=1e-5)
    beside = tasks.beside_held_out(built, weights, source, 8, 0)
    assert beside.shape == (1, 2, 8, *source.spec.image_shape)
    np.testing.assert_allclose(beside[0, 1, :6], whole, atol=1e-5)
    real = source.read(np.arange(8))["image"].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(beside[0, 0], real, atol=1e-5)


def test_held_out_images_are_interpolated_from_one_to_the_next(told):
    built, source = told
    weights = core.weights(built.init(0))
    rows = codes.interpolate_held_out(built, weights, source, 2, 5).reshape(2, 5, *source.spec.image_shape)
    decoded = tasks.reconstruct(built, weights, source, 4)[0, 1, :4]
    np.testing.assert_allclose(rows[:, [0, -1]].reshape(decoded.shape), decoded, atol=1e-5)
    assert np.abs(rows[:, 2] - (rows[:, 0] + rows[:, -1]) / 2).max() > 1e-5, "not a cross-fade of pictures"


def test_training_grids_show_captions_below_samples(told):
    built, source = told
    saved = []
    record = types.SimpleNamespace(failure=None, save_grid=lambda *arguments: saved.append(arguments))
    loop._save_grids(built, [record], built.init(0), 5, source, source.classes)
    ((step, pictures, columns, captions),) = saved
    rows = np.array(captions).reshape(-1, columns)
    assert step == 5 and rows.size == len(pictures) == 48  # of 20 images, of which the last fills its row
    shown = np.minimum(np.arange(24), source.size - 1)
    assert (rows[0::2] == "").all() and rows[1::2].ravel().tolist() == source.captions(shown)
    unlike = built._replace(family=built.family._replace(conditions=("label",)))
    names = [source.classes[i] for i in source.read(np.arange(4))["label"]]
    assert conditions.captions(unlike, np.arange(4), source, source.classes) == names


def test_maps_are_read_from_pictures(told, tmp_path):
    built, source = told
    segments = source.read(np.array([2]))["map"][0].astype(np.uint8)
    Image.fromarray(segments).save(tmp_path / "map.png")
    np.testing.assert_array_equal(conditions.parse(built, "map", str(tmp_path / "map.png")), segments)
    np.save(tmp_path / "map.npy", segments)
    np.testing.assert_array_equal(conditions.parse(built, "map", str(tmp_path / "map.npy")), segments)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": np.zeros((1, 3), int)}, r"tokens is of shape \[3\], and the model is told \[32\]"),
        ({"map": np.full((16, 16), 7)}, "a value of map, 7 is not one of 0 to 2"),
        ({"lable": 3}, "not told 'lable'; did you mean 'label'"),
    ],
)
def test_what_a_field_does_not_have_is_refused(told, given, message):
    built, source = told
    with pytest.raises(ConfigError, match=message):
        conditions.rows(built, np.arange(2), given, source)


def test_what_lacks_is_named(told):
    built, _ = told
    with pytest.raises(ConfigError, match=r"need .tokens.: give --condition\.tokens, or --given test"):
        conditions.rows(built, np.arange(2), {"label": 0, "map": np.zeros((16, 16), int)})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokens", "a large red circel", "did you mean 'circle'"),
        ("label", "cirle", "which is no class; did you mean 'circle'"),
        ("map", "nowhere.png", "--condition.map=nowhere.png cannot be read"),
        ("maps", "x.png", "the data has no such field; did you mean 'map'"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(told, name, value, message):
    built, source = told
    with pytest.raises(ConfigError, match=message):
        conditions.parse(built, name, value, source.classes)
