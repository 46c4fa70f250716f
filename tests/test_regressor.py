"""The regressor: what its two losses learn, its metrics, and runs that are conditioned on an observation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_weights import random_weights
from tiny_runs import main, train

from genimg_jax import core, data, observations
from genimg_jax.core import Field
from genimg_jax.data import Part, loading, transforms
from genimg_jax.engine import conditions, config_files, restore, tasks
from genimg_jax.errors import ConfigError
from genimg_jax.families import regressor
from genimg_jax.observations import observing

SPEC = core.Spec((4, 4, 1), 3, 256, {"source": Field((4, 4, 1)), "tokens": Field((2,), 5)})
OPTIONS = regressor.Options(width=4, multipliers=(1,), blocks=1)


def build(steps: int = 1, **changes) -> core.Family:
    optimizers = {"model": core.Optimizer(optax.adam(optax.linear_schedule(0.01, 0.0, steps)))}
    return regressor.make(dataclasses.replace(OPTIONS, **changes), SPEC, optimizers)


def coins(seed: jax.Array, count: int = 64) -> core.Batch:
    """The source is 1 or -1 everywhere, and each pixel of the image is the same with probability 0.8, else its
    negative: the mean is 0.6 times the source, and the median is the source."""
    first, second = jax.random.split(seed)
    source = jnp.broadcast_to(jax.random.rademacher(first, (count, 1, 1, 1), jnp.float32), (count, 4, 4, 1))
    same = jax.random.bernoulli(second, 0.8, source.shape)
    return {"image": jnp.where(same, source, -source), "source": source, "index": jnp.arange(count)}


MEDIAN = pytest.param("absolute_error", 1.0, marks=pytest.mark.slow)


@pytest.mark.parametrize(("loss", "expected"), [("squared_error", 0.6), MEDIAN])
def test_the_losses_learn_the_mean_and_the_median(loss, expected):
    family = build(400, loss=loss)

    def step(state, key):
        return family.train_step(state, coins(key), key)

    @jax.jit
    def trained():
        state = family.init(jax.random.key(0), coins(jax.random.key(0)))
        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 400))[0]

    state, batch = trained(), coins(jax.random.key(2))
    sample = family.sample(core.weights(state), jax.random.split(jax.random.key(3), 64), batch)
    # The mean of 32 coins has a deviation of 0.8 / sqrt(32) = 0.14, and the last steps average over some 100 batches.
    np.testing.assert_allclose(sample, expected * batch["source"], atol=0.06)


def test_metrics_are_those_of_the_prediction():
    family, batch = build(), coins(jax.random.key(0))
    init = jax.jit(family.init)(jax.random.key(0), batch)
    weights = core.Weights(random_weights(lambda: init.params), {}, {})
    found, draw = jax.jit(family.evaluate)(weights, batch, jax.random.key(0)), jax.jit(family.sample)
    sample, other = (np.asarray(draw(weights, jax.random.split(jax.random.key(i), 64), batch)) for i in (1, 2))
    np.testing.assert_array_equal(sample, other)
    error = sample - np.asarray(batch["image"])
    np.testing.assert_allclose(found["l1"], np.abs(error).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["psnr"], 10 * np.log10(4 / (error**2).mean((1, 2, 3))), rtol=1e-5)
    _, metrics = jax.jit(family.train_step)(init, batch, jax.random.key(0))
    # The output is 0 at initialisation, and the pixels are 1 or -1.
    np.testing.assert_allclose(metrics["loss"], 1, rtol=1e-6)
    assert set(family.objective) <= set(found)


def test_it_needs_pixels_to_start_from():
    with pytest.raises(ConfigError, match=r"model.conditions is \('tokens',\), and the regressor predicts from a map"):
        build(conditions=("tokens",))
    assert build(conditions=("source", "tokens", "label")).conditions == ("source", "tokens", "label")


# --------------------------------------------------------------------------------------- the field of an observation

MASKED = observations.Options(kind="inpaint", noise=0.1)
DIGITS = data.Options(fields=("source",), observation=MASKED)


def test_the_field_is_as_the_spec_says_and_is_made_of_the_image():
    for options, channels in ((MASKED, 2), (observations.Options(kind="superres", factor=2), 1)):
        options = dataclasses.replace(DIGITS, observation=options)
        source = data.open_source(options, Part.EVALUATE)
        assert source.spec.fields == {"source": Field((8, 8, channels))}
        raw = next(loading.evaluation_batches(source, 16))
        assert "source" not in raw
        batch = transforms.prepare(raw, jax.random.key(5), options, source.stored_levels, False)
        keys = core.per_example_keys(core.stream(0, "observe"), raw["index"])
        expected = observing.random_source(options.observation, batch["image"], keys)
        np.testing.assert_array_equal(batch["source"], expected)
        assert batch["source"].shape == (16, 8, 8, channels)
        given = transforms.prepare({**raw, "source": np.zeros((16, 8, 8, 1))}, keys[0], options, 17, False)
        np.testing.assert_array_equal(given["source"], 0)


def test_observations_are_new_in_every_step_and_the_same_in_evaluation():
    options = dataclasses.replace(DIGITS, flip=True)
    source = data.open_source(options, Part.TRAIN)
    raw = next(loading.evaluation_batches(source, 16))

    def prepared(seed: int, training: bool) -> core.Batch:
        return transforms.prepare(raw, jax.random.key(seed), options, source.stored_levels, training)

    np.testing.assert_array_equal(prepared(0, False)["source"], prepared(1, False)["source"])
    one, two = prepared(0, True), prepared(1, True)
    assert (np.asarray(one["source"][..., 1] != two["source"][..., 1]).any((1, 2))).sum() > 8, "masks move"
    known = one["source"][..., 1] > 0
    error = (one["source"][..., 0] - one["image"][..., 0])[known]  # of the flipped image, where it was flipped
    assert abs(error.std() / 0.1 - 1) < 5 / np.sqrt(2 * known.sum())


def test_a_field_that_is_not_asked_for_is_refused():
    with pytest.raises(ConfigError, match=r"makes the field 'source', which data\.fields does not name"):
        data.open_source(dataclasses.replace(DIGITS, fields=()), Part.TRAIN)


@pytest.mark.slow
def test_a_run_samples_from_what_it_is_evaluated_on(tmp_path, capsys):
    """The conditions of samples are the held-out images' observations; mask channels are not drawn."""
    flags = ["--config.data.observation.kind=inpaint", "--config.data.observation.noise=0.1"]
    assert train(tmp_path, *flags, config="regressor_shapes") == 0
    opened = restore.open_run(tmp_path, config_files.of_run(tmp_path), "last")
    program = opened.program
    assert program.spec.fields == {"source": Field((32, 32, 4))}
    source = data.open_source(program.config.data, Part.EVALUATE)
    index = np.arange(4, 8, dtype=np.int32)
    rows = conditions.rows(program, index, source=source)
    raw = {"image": loading.rows(source, index)["image"], "index": index}
    batch = transforms.prepare(raw, jax.random.key(9), program.config.data, 256, False)
    np.testing.assert_allclose(rows["source"], batch["source"], atol=1e-6)
    grid = tasks.beside_held_out(program, opened.weights, source, 8, seed=3)
    assert grid.shape == (1, 3, 8, 32, 32, 3)
    shown = conditions.rows(program, np.arange(8), source=source)["source"]
    np.testing.assert_allclose(grid[0, 0], shown[..., :3], atol=1e-6)
    sampled = tasks.sample(program, opened.weights, 8, 3, source=source)
    np.testing.assert_allclose(grid[0, 1], sampled, atol=1e-5)
    assert main(["evaluate", "--workdir", str(tmp_path)]) == 0
    report = next((tmp_path / "evaluation").glob("*.json")).read_text()
    assert "a box of 25% of the pixels, noise 0.1" in report and "psnr" in report
    assert main(["sample", "--workdir", str(tmp_path), "--count", "2"]) == 0
    wrong = ["--workdir", str(tmp_path), "--count", "2", "--condition.source=x.png"]
    assert main(["sample", *wrong]) == ConfigError.exit_code
    assert "is no array: give a file .npy" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("config", ["diffusion_digits", "flow_digits", "pix2pix_emoji"])
def test_other_families_become_models_of_restoration(tmp_path, config):
    flags = ["--config.data.source=digits", "--config.data.path=", "--config.data.pairs.partner="]
    flags += ["--config.data.fields=('source',)", "--config.model.conditions=('source',)"]
    flags += ["--config.data.observation.kind=several", "--config.data.observation.steps=('deblur','superres')"]
    flags += ["--config.data.observation.factor=2"]
    assert train(tmp_path, *flags, config=config) == 0
    opened = restore.open_run(tmp_path, config_files.of_run(tmp_path), "last")
    assert opened.program.family.conditions == ("source",)
    source = data.open_source(opened.program.config.data, Part.EVALUATE)
    assert tasks.sample(opened.program, opened.weights, 4, 0, source=source).shape == (4, 8, 8, 1)
