"""Two stages as one family: what the composition computes, the contract, and whole runs over a tokenizer's codes."""

import functools
import json
import types

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from genimg_jax import core
from genimg_jax.data import Options, open_source
from genimg_jax.engine import images, restore
from genimg_jax.families import transformer
from genimg_jax.families.latent import latent
from genimg_jax.families.standardized import DEVIATION
from genimg_jax.objectives.likelihoods import to_values

WEIGHTS = core.Weights({"model": {"sign": jnp.float32(-1.0)}}, {}, {})
OPTIONS = transformer.Options(width=8, depth=1, heads=2)


def tokenizer(spec: core.Spec) -> core.Family:
    """The top left pixel of each 2x2 cell of a binary image, inverted by its only weight, and back."""

    def encode(weights, batch, key):
        corner = batch["image"][:, ::2, ::2] * weights.params["model"]["sign"]
        return (corner > 0).astype(jnp.int32)

    def decode(weights, codes, condition):
        return to_values(codes, 2).repeat(2, axis=1).repeat(2, axis=2) * weights.params["model"]["sign"]

    height, width, channels = spec.image_shape
    codes = core.Spec((height // 2, width // 2, channels), 0, 2)  # it was trained without classes
    return core.Family(None, None, None, (), latents=(core.Latents(codes, decode, encode),))


def make(options, spec, optimizers, prior=transformer) -> core.Family:
    family = latent(lambda codes: prior.make(options, codes, optimizers), spec, tokenizer(spec), False)
    return family._replace(init=lambda key, batch: core.attach(family.init(key, batch), WEIGHTS))


CASE = contract.Case(make, OPTIONS, ("model",))


@pytest.mark.parametrize(
    "check",
    [
        contract.loss_falls,
        contract.groups_cover_parameters,
        contract.same_seed_same_bits,
        functools.partial(contract.devices_agree, devices=4, fsdp=2),
        contract.microbatches_agree,
        contract.samples_are_their_own,
        contract.conditions_are_told,
        contract.latents_agree,
        contract.evaluation_ignores_padding,
        contract.float_options_vectorise,
    ],
    ids=lambda check: getattr(check, "__name__", "devices_agree"),
)
def test_contract(check):
    check(CASE)


def test_resumes(tmp_path):
    contract.resumes(CASE, tmp_path)


@pytest.fixture(scope="module")
def trained():
    return contract.family(CASE), contract.weights(CASE), contract.batch()


def test_its_likelihood_and_samples_are_the_priors_over_the_codes(trained):
    family, weights, batch = trained
    codes_spec = family.latents[0].spec
    prior = transformer.make(OPTIONS, codes_spec, {"model": None})
    own = core.Weights(weights.params, {}, {})
    key, keys = core.stream(0, "x"), core.per_example_keys(core.stream(0, "sample"), jnp.arange(4))
    codes = {**batch, "image": -batch["image"][:, ::2, ::2]}
    np.testing.assert_allclose(family.log_prob(weights, batch, key), prior.log_prob(own, codes, key), rtol=1e-6)
    drawn = -prior.sample(own, keys, {}).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(family.sample(weights, keys, {}), drawn)
    assert family.likelihood_spec == codes_spec == core.Spec((4, 4, 1), 10, 2) and family.likelihood_kind == "exact"


def test_the_first_stage_is_used_and_neither_trained_nor_saved(trained, tmp_path):
    family, weights, batch = trained
    np.testing.assert_array_equal(weights.frozen_params.params["model"]["sign"], -1.0)
    other = weights._replace(frozen_params=WEIGHTS._replace(params={"model": {"sign": jnp.float32(1.0)}}))
    key = core.stream(0, "x")
    assert not np.allclose(family.log_prob(weights, batch, key), family.log_prob(other, batch, key))


def test_completion_keeps_whole_cells_and_known_pixels(trained):
    family, weights, batch = trained
    image = jnp.asarray(batch["image"])
    mask = jnp.zeros(image.shape[:3], bool).at[:, :3].set(True)  # one row of cells, and half of the next
    keys = core.per_example_keys(core.stream(0, "complete"), batch["index"])
    found = family.inpaint(weights, image, mask, keys, {})
    np.testing.assert_array_equal(found[:, :3], image[:, :3])
    cells = found[:, 4:].reshape(len(image), 2, 2, 4, 2)
    assert (cells == cells[:, :, :1, :, :1]).all(), "what is drawn comes from codes"
    assert not np.array_equal(found[0, 4:], found[1, 4:])


# ------------------------------------------------------------------------------------------------------ conditions

FIELDS = {"tokens": core.Field((5,), 7), "source": core.Field((8, 8, 1)), "map": core.Field((8, 8), 3)}


def told(continuous_valued: bool):
    """What a prior over the codes of images with fields is made of, trained on and sampled with."""
    spec = contract.SPEC._replace(fields=FIELDS)
    found = {}

    def record(name, batch, result):
        found[name] = batch
        return result

    def make_prior(codes_spec):
        found["spec"] = codes_spec
        return core.Family(
            init=lambda key, batch: record("init", batch, core.init_state({}, {}, {})),
            train_step=lambda state, batch, key: record("train", batch, (state, {})),
            evaluate=lambda weights, batch, key: {},
            objective=(),
            sample=lambda weights, keys, batch: record("sample", batch, jnp.zeros((4, *codes_spec.image_shape))),
            conditions=("source",),
        )

    first = tokenizer(spec)
    space = first.latents[0]
    if continuous_valued:
        vectors = space.spec._replace(levels=0)
        space = core.Latents(vectors, space.decode, lambda *arguments: 2.0 * first.latents[0].encode(*arguments) + 5)
    family = latent(make_prior, spec, first._replace(latents=(space,)), continuous_valued)
    noise = jax.random.normal(KEY, (4, 8, 8, 1))
    batch = {**contract.batch(4), "source": noise, "tokens": jnp.ones((4, 5), jnp.int32)}
    state = core.attach(family.init(KEY, batch), WEIGHTS)
    state, _ = family.train_step(state, batch, KEY)
    conditions = {name: batch[name] for name in ("source", "tokens")}
    family.sample(core.weights(state), jax.random.split(KEY, 4), conditions)
    bits = (noise[:, ::2, ::2] < 0).astype(np.int32)  # what the tokenizer encodes
    return found, batch, bits, family


KEY = jax.random.key(0)


def test_a_source_image_is_encoded_for_a_prior_over_tokens():
    found, batch, bits, family = told(continuous_valued=False)
    spec = contract.SPEC._replace(image_shape=(4, 4, 1), fields={**FIELDS, "source": core.Field((16,), 3)})
    assert found["spec"] == spec and family.conditions == ("source",)
    assert found["init"]["source"].shape == (4, 16) and found["init"]["source"].dtype == jnp.int32
    for name in ("train", "sample"):
        np.testing.assert_array_equal(found[name]["source"], bits.reshape(4, 16) + 1)  # 0 would be none
        np.testing.assert_array_equal(found[name]["tokens"], batch["tokens"])
    np.testing.assert_array_equal(found["train"]["image"], -batch["image"][:, ::2, ::2])


def test_a_source_image_is_encoded_and_scaled_for_a_prior_over_vectors():
    found, batch, bits, _ = told(continuous_valued=True)
    assert found["spec"].fields == {**FIELDS, "source": core.Field((4, 4, 1))} and found["spec"].levels == 0
    assert found["init"]["source"].shape == (4, 4, 4, 1) and found["init"]["source"].dtype == jnp.float32
    codes = 7.0 - 2 * (batch["image"][:, ::2, ::2] > 0)
    scaled = (2.0 * bits + 5 - codes.mean()) / codes.std() * DEVIATION
    for name in ("train", "sample"):
        np.testing.assert_allclose(found[name]["source"], scaled, atol=1e-5)
    np.testing.assert_allclose(found["train"]["image"], (codes - codes.mean()) / codes.std() * DEVIATION, atol=1e-5)


def test_a_tokenizer_may_have_been_trained_without_the_conditions():
    plain = contract.SPEC._replace(num_classes=0)
    spec = contract.SPEC._replace(fields=FIELDS)

    def problem(trained, conditions, spec=spec):
        family = core.Family(None, None, None, (), conditions=conditions)
        return restore.other_data(types.SimpleNamespace(spec=trained, family=family), spec)

    assert problem(plain, ()) == problem(contract.SPEC, ("label",)) == problem(spec, ("tokens",)) == ""
    assert "label" in problem(contract.SPEC, ("label",), plain)
    assert "label" in problem(contract.SPEC, ("label",), spec._replace(num_classes=3))
    assert "(8, 8, 1) of 256 levels" in problem(plain._replace(levels=256), ())


# ---------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A trained tokenizer's run directory."""
    workdir = tmp_path_factory.mktemp("first") / "vq"
    assert tiny_runs.train(workdir, config="vq_digits") == 0
    return workdir


def train(workdir, first, *flags):
    return tiny_runs.train(workdir, f"--config.tokenizer.workdir={first}", *flags, config="latent_digits")


@pytest.mark.slow
def test_a_run_over_codes_resumes_bit_for_bit(first, tmp_path, capsys):
    assert train(tmp_path / "whole", first) == 0
    assert train(tmp_path / "cut", first, "--config.train.checkpoint_every=1", "--config.train.keep=9") == 0
    for name in ("4", "5", "6"):
        (tmp_path / "cut" / "checkpoints" / name).rename(tmp_path / name)
    assert train(tmp_path / "cut", first) == 0
    assert "from step 3" in capsys.readouterr().out
    tiny_runs.assert_same_state(tmp_path / "whole", tmp_path / "cut")
    assert not [name for name in tiny_runs.state(tmp_path / "whole") if name.startswith("frozen")]
    assert json.loads((tmp_path / "whole" / "manifest.json").read_text())["tokenizer"]["workdir"] == str(first)


def test_its_likelihood_says_that_it_is_of_codes(first, tmp_path, capsys):
    assert train(tmp_path / "run", first) == 0
    assert tiny_runs.main(["evaluate", "--workdir", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "bits_per_code" in shown and "not of pixels" in shown and "bits_per_dimension" not in shown
    assert tiny_runs.main(["sample", "--workdir", str(tmp_path / "run"), "--count", "4"]) == 0


def test_reconstructions_stand_below_their_images(first, tmp_path, capsys):
    assert tiny_runs.main(["sample", "--workdir", str(first), "--reconstruct", "9", "--out", str(tmp_path)]) == 0
    with np.load(tmp_path / "images.npz") as archive:
        original, made = archive["original"], archive["image"]
    real = open_source(Options(source="digits"), "test").read(np.arange(9))["image"]
    np.testing.assert_array_equal(original, np.rint(real * (255 / 16)))
    assert made.shape == original.shape
    single = np.asarray(Image.open(tmp_path / "000008.png"))
    np.testing.assert_array_equal(single, made[8, :, :, 0])
    # Two rows of eight, each with its reconstructions: those of the ninth image are in the last two.
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    pad, scale = images.PADDING, images.VISIBLE_SIZE // 8
    cell = 8 * scale + pad
    for row, expected in ((2, original[8]), (3, made[8])):
        shown = grid[row * cell + pad : (row + 1) * cell : scale, pad:cell:scale]
        np.testing.assert_array_equal(shown, expected[:, :, 0])
    assert (first / "samples" / "4.png").is_file()
    code = tiny_runs.main(["sample", "--workdir", str(first)])
    assert refused(capsys, code, "vq cannot sample; train a family over its codes") == 2


def refused(capsys, code, *wanted):
    shown = capsys.readouterr().err
    assert all(text in shown for text in wanted) and "Traceback" not in shown, (code, shown)
    return code


def test_another_first_stage_is_refused(first, tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    assert train(run, first, "--config.train.steps=2") == 0
    assert tiny_runs.train(other, "--config.seed=1", config="vq_digits") == 0
    code = tiny_runs.main(["evaluate", "--workdir", str(run), f"--config.tokenizer.workdir={other}"])
    assert refused(capsys, code, "other weights", str(first), str(other)) == 4


def test_a_run_that_is_no_tokenizer_is_refused(first, tmp_path, capsys):
    assert tiny_runs.train(tmp_path / "made", config="made_digits") == 0
    assert refused(capsys, train(tmp_path / "run", tmp_path / "made"), "has no codes") == 2
    assert refused(capsys, train(tmp_path / "run", tmp_path / "nothing"), "is no run directory") == 2


def test_a_tokenizer_of_other_images_is_refused(first, tmp_path, capsys):
    code = train(tmp_path / "run", first, "--config.data.binarize=threshold")
    assert refused(capsys, code, "was trained on", "and the data is") == 2
