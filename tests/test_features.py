"""The field `features`, made of images by a frozen encoder, and what is generated from it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_weights import random_weights
from tiny_runs import assert_same_state, main, name_of, steps, train

from genimg_jax import core, data
from genimg_jax.data import Part, transforms
from genimg_jax.data.types import FeatureOptions
from genimg_jax.engine import conditions, config_files, features, images, restore, tasks
from genimg_jax.engine import config as configs
from genimg_jax.errors import CheckpointError, ConfigError
from genimg_jax.evaluation import classifiers
from genimg_jax.families import flow
from genimg_jax.metrics.features import extract

INDEX = np.arange(200)


def told(workdir, encoder, *flags) -> int:
    constant = ["--config.optimizer.schedule=constant", f"--config.data.features.encoder={encoder}"]
    return train(workdir, *constant, *flags, config="features_flow_digits")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tiny encoder, the directory of a tiny flow that is told its features, and that run opened."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(folder / "encoder", config="autoencoder_digits") == 0
    assert told(folder / "flow", folder / "encoder") == 0
    return folder, restore.open_run(folder / "flow", config_files.of_run(folder / "flow"), "last")


def options_of(runs) -> data.Options:
    return runs[1].program.config.data


def test_features_are_the_encoders_latents_standardised_over_the_training_images(runs):
    folder, _ = runs
    source = features.open_source(options_of(runs), Part.TRAIN)
    rows = source.read(np.arange(source.size))
    first = restore.open_run(folder / "encoder", config_files.of_run(folder / "encoder"), "best")
    batch = transforms.prepare({"image": rows["image"], "index": INDEX}, jax.random.key(0), data.Options(), 17, False)
    codes = np.asarray(core.space_with(first.program.family, "encode").encode(first.weights, batch, None))
    codes = codes.reshape(source.size, -1)
    standardised = (codes - codes.mean(0)) / codes.std(0)
    np.testing.assert_allclose(rows["features"], standardised, atol=1e-4)
    assert source.spec.fields == {"features": core.Field((4,))} == runs[1].program.spec.fields
    test = features.open_source(options_of(runs), Part.EVALUATE)
    np.testing.assert_array_equal(test.encoder["mean"], source.encoder["mean"])


def test_streamed_images_have_the_features_of_images_in_memory(runs):
    held, streamed = (
        features.open_source(dataclasses.replace(options_of(runs), memory_mib=m, workers=0), "test") for m in (64, 0)
    )
    assert held.in_memory and not streamed.in_memory
    np.testing.assert_array_equal(held.read(INDEX)["features"], streamed.read(INDEX)["features"])


def test_a_picture_is_told_as_the_image_that_it_shows(runs, tmp_path):
    """Its features, and so what is drawn, are those of `--given`; a folder's are those of each of its pictures."""
    _, opened = runs
    source = features.open_source(options_of(runs), Part.EVALUATE)
    real = np.rint(source.read(INDEX[:3])["image"] * (255 / 16)).astype(np.uint8)
    for i, picture in enumerate(real):
        images.save_png(tmp_path / f"{i}.png", picture)
    given = conditions.parse(opened.program, "features", str(tmp_path))
    np.testing.assert_allclose(given, source.read(INDEX[:3])["features"], atol=1e-6)
    one = conditions.parse(opened.program, "features", str(tmp_path / "1.png"))
    np.testing.assert_array_equal(one, given[1:2])
    drawn = tasks.sample(opened.program, opened.weights, 3, 0, {"features": given})
    np.testing.assert_allclose(drawn, tasks.sample(opened.program, opened.weights, 3, 0, source=source), atol=1e-5)
    for name, value in (("out", "1.png"), ("again", "folder/")):
        (tmp_path / "folder").mkdir(exist_ok=True)
        images.save_png(tmp_path / "folder" / "1.png", real[1])
        flags = ["--workdir", str(runs[0] / "flow"), "--count", "3", "--out", str(tmp_path / name)]
        assert main(["sample", *flags, f"--condition.features={tmp_path / value}"]) == 0
    made = [np.load(tmp_path / name / "images.npz")["image"] for name in ("out", "again")]
    np.testing.assert_array_equal(*made)
    assert made[0].shape == (3, 8, 8, 1)


def test_a_classifiers_file_is_an_encoder(tmp_path, capsys):
    """Features are its penultimate layer's, standardised; a picture has those of the image that it shows."""
    file = classifiers.WEIGHTS / "digits.safetensors"
    assert told(tmp_path / "run", file) == 0
    opened = restore.open_run(tmp_path / "run", config_files.of_run(tmp_path / "run"), "last")
    options = opened.program.config.data
    source = features.open_source(options, Part.TRAIN)
    rows = source.read(np.arange(source.size))
    codes = extract(classifiers.shipped("digits").features, 2 * rows["image"].astype(np.float32) / 16 - 1)
    spread = codes.std(0)
    used = spread > 1e-4
    assert used.sum() > 50
    np.testing.assert_allclose(rows["features"][:, used], ((codes - codes.mean(0)) / spread)[:, used], atol=1e-3)
    images.save_png(tmp_path / "0.png", np.rint(rows["image"][0] * (255 / 16)).astype(np.uint8))
    given = conditions.parse(opened.program, "features", str(tmp_path / "0.png"))
    np.testing.assert_allclose(given, rows["features"][:1], atol=1e-5)
    mnist = classifiers.WEIGHTS / "mnist.safetensors"
    assert told(tmp_path / "other", mnist) == ConfigError.exit_code
    assert "mnist.safetensors, trained on images (28, 28, 1)" in capsys.readouterr().err
    (tmp_path / "no.safetensors").write_bytes(b"no")
    assert told(tmp_path / "other", tmp_path / "no.safetensors") == CheckpointError.exit_code
    assert "no.safetensors cannot be read; name another" in capsys.readouterr().err


def test_a_constant_encoder_tells_nothing(monkeypatch):
    """Its features are exactly 0 for every image, and the model is the unconditional one whose modulation has the
    encoding of 0 as part of its bias: the same denoiser and the same loss."""
    constant = np.array([0.1, -3e5, 0.0], np.float32)
    encoder = features.Encoder(
        lambda image: np.stack([constant] * len(image)), (8, 8, 1), 17, {"workdir": "x", "step": 1, "weights": "y"}
    )
    monkeypatch.setattr(features, "open_encoder", lambda options, levels: encoder)
    options = data.Options(fields=("features",), features=FeatureOptions("x"))
    source = features.open_source(options, Part.TRAIN)
    rows = source.read(np.arange(32))
    np.testing.assert_array_equal(rows["features"], np.zeros((32, 3)))
    assert source.encoder["deviation"] == [1.0, 1.0, 1.0]

    values = config_files.load(name_of("features_flow_digits"))
    values.model.guidance = 1.0
    model = configs.resolve(values).model
    optimizer = {"model": core.Optimizer(optax.sgd(0.1))}
    conditional = flow.make(model, source.spec, optimizer)
    alone = flow.make(dataclasses.replace(model, conditions=()), source.spec, optimizer)
    batch = transforms.prepare({**rows, "index": np.arange(32)}, jax.random.key(0), data.Options(), 17, False)
    params = random_weights(lambda: conditional.init(jax.random.key(0), batch).params)
    folded = jax.tree.map(lambda x: x, params)
    modulator = folded["model"]["condition"]
    modulator["noise_out"]["bias"] += modulator.pop("fields")["features"]["out"]["bias"]
    weights, folded = (core.Weights(p, {}, {}) for p in (params, folded))
    key, sigma = core.stream(0, "evaluate"), jnp.full(32, 0.5)
    for one, two in (
        (conditional.denoise(weights, batch["image"], sigma, batch), alone.denoise(folded, batch["image"], sigma, {})),
        (conditional.evaluate(weights, batch, key)["loss"], alone.evaluate(folded, batch, key)["loss"]),
    ):
        assert np.ptp(one) > 0.01
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)


# ------------------------------------------------------------------------------------------- the encoder stays the same


def test_a_run_resumes_with_its_own_encoder_and_refuses_another(runs, tmp_path, capsys):
    folder, _ = runs
    assert told(tmp_path / "cut", folder / "encoder", "--config.train.steps=4") == 0
    # The mean and deviation are those that the run keeps, not made anew.
    kept = json.loads((tmp_path / "cut" / restore.FEATURES_FILE).read_text())
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    assert kept == json.loads((folder / "flow" / restore.FEATURES_FILE).read_text())
    assert manifest["dataset"]["encoder"] == kept["weights"]
    assert told(tmp_path / "cut", folder / "encoder") == 0
    assert_same_state(folder / "flow", tmp_path / "cut")
    (other,) = {*steps(folder / "encoder")} - {kept["step"]}
    flag = f"--config.data.features.checkpoint={other}"
    said = "at step {}, and {} at step {} has other weights".format(kept["step"], folder / "encoder", other)
    assert told(tmp_path / "cut", folder / "encoder", flag, "--config.train.steps=8") == CheckpointError.exit_code
    assert said in capsys.readouterr().err
    sample = ["sample", "--workdir", str(tmp_path / "cut"), flag, "--given", "test"]
    assert main(sample) == CheckpointError.exit_code and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "named", "message"),
    [
        ({"fields": ()}, {}, "data.fields does not name; add it"),
        ({"channels": 3}, {}, r"trained on images \(8, 8, 1\) of 17 levels, and the data is of \(8, 8, 3\) of 17"),
        ({}, {"encoder": "flow"}, "a run of flow, which is conditioned on features; train an encoder"),
        ({}, {"statistics": "flow/manifest.json"}, r"manifest.json, no features.json of a run"),
    ],
)
def test_what_makes_no_features_is_refused(runs, changes, named, message):
    named = {key: str(runs[0] / place) for key, place in named.items()}
    own = dataclasses.replace(options_of(runs).features, **named)
    options = dataclasses.replace(options_of(runs), features=own, **changes)
    with pytest.raises(ConfigError, match=message):
        features.open_source(options, "test")


def test_an_array_alone_is_told_where_no_encoder_is_named(runs, tmp_path):
    _, opened = runs
    program = opened.program
    bare = dataclasses.replace(program.config.data, features=FeatureOptions())
    bare = program._replace(config=program.config._replace(data=bare))
    with pytest.raises(ConfigError, match=r"is no array: give a file .npy of \[4\] numbers"):
        conditions.parse(bare, "features", str(tmp_path / "a.png"))
    np.save(tmp_path / "a.npy", np.ones((2, 4)))
    np.testing.assert_array_equal(conditions.parse(bare, "features", str(tmp_path / "a.npy")), np.ones((2, 4)))
    with pytest.raises(ConfigError, match="cannot be read: "):
        conditions.parse(program, "features", str(tmp_path / "nowhere.png"))
