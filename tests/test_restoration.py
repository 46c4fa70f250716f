"""Restoration by every capability: exact where it can be, one observation for all samples, known pixels kept."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_runs import train

from genimg_jax import core, data, observations
from genimg_jax.__main__ import main
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import named_sources
from genimg_jax.tasks import restoration
from genimg_jax.tasks.restoration import Options, Restoration

NOTHING = core.Weights({}, {}, {})
SPEC = core.Spec((4, 4, 1), 0, 256)
MATRIX = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32) / 8
KEY = jax.random.key(3)


def decode(weights, codes, condition):
    return (codes.reshape(-1, 3) @ MATRIX).reshape(-1, 4, 4, 1)


def decoder() -> core.Family:
    """Images that are linear in three normal codes."""

    def prior(weights, keys, condition):
        return core.normal(keys, (1, 1, 3))

    space = core.Latents(core.Spec((1, 1, 3), 0, 0), decode, prior=prior, interpolate="spherical")
    return core.Family(None, None, None, (), latents=(space,))


def denoiser() -> core.Family:
    """The same images and some white noise, N(0, M'M + 0.01), as a family that denoises them exactly."""
    covariance = MATRIX.T @ MATRIX + 0.01 * np.eye(16)
    values, vectors = np.linalg.eigh(covariance)

    def denoise(weights, noisy, sigma, condition):
        gain = values[None] / (values[None] + sigma[:, None] ** 2)
        return ((noisy.reshape(-1, 16) @ vectors * gain) @ vectors.T).reshape(noisy.shape).astype(jnp.float32)

    def sigmas(weights, steps):
        return jnp.append(jnp.geomspace(20.0, 0.002, steps), 0.0)

    return core.Family(None, None, None, (), denoise=denoise, sigmas=sigmas)


def completer() -> core.Family:
    def inpaint(weights, image, mask, keys, condition):
        random = jax.vmap(lambda key: jax.random.uniform(key, (4, 4, 1)))(keys)
        return jnp.where(mask[..., None], image + 1e-4, random)  # a completion that does not keep what is known

    return core.Family(None, None, None, (), inpaint=inpaint, inpaint_method="by chance")


def regressor() -> core.Family:
    def sample(weights, keys, condition):
        return condition["source"][..., :1] * 0.5

    return core.Family(None, None, None, (), sample=sample, conditions=("source",))


FAMILIES = {"decoder": decoder, "denoiser": denoiser, "completer": completer, "regressor": regressor}
NONE = observations.Options()


def batch(images: int, draws: int = 1) -> core.Batch:
    codes = np.random.default_rng(1).normal(size=(images, 1, 1, 3)).astype(np.float32)
    rows = np.repeat(np.asarray(decode(None, codes, None)), draws, axis=0)
    index, draw = np.divmod(np.arange(images * draws), draws)
    return {"image": rows, "index": index.astype(np.int32), "draw": draw.astype(np.int32)}


def restored(family: core.Family, options: Options, images: int, draws: int = 1, trained_for=NONE):
    task, _ = restoration.plan(options, family, SPEC, trained_for)
    return jax.jit(lambda rows: task(family, NOTHING, rows, KEY))(batch(images, draws))


@pytest.mark.parametrize(
    ("family", "options", "trained_for", "expected"),
    [
        ("completer", Options(kind="inpaint"), NONE, "inpaint"),
        ("denoiser", Options(kind="inpaint"), NONE, "pigdm"),
        ("denoiser", Options(kind="superres", noise=0.1), NONE, "pigdm"),
        ("decoder", Options(kind="deblur"), NONE, "hamiltonian"),
        ("regressor", Options(kind="jpeg"), observations.Options(kind="jpeg"), "conditional"),
        ("completer", Options(kind="inpaint", noise=0.1), NONE, "needs pixels that are known exactly"),
        ("completer", Options(kind="superres"), NONE, "needs pixels that are known exactly"),
        ("denoiser", Options(kind="jpeg"), NONE, "pigdm needs a linear observation"),
        ("decoder", Options(kind="jpeg"), NONE, "hamiltonian needs an observation with a gradient"),
        ("denoiser", Options(kind="deblur", solver="repaint"), NONE, "needs an observation of some pixels"),
        ("regressor", Options(kind="deblur"), NONE, "conditional needs a run that was trained for this observation"),
        ("regressor", Options(kind="jpeg", quality=20), observations.Options(kind="jpeg"), "trained for this"),
        ("denoiser", Options(kind="superres", solver="optimise"), NONE, "needs a family with normal codes"),
        ("denoiser", Options(kind="colourise"), NONE, "colour"),
    ],
)  # fmt: skip
def test_the_solver_is_the_first_that_can(family, options, trained_for, expected):
    try:
        task, about = restoration.plan(options, FAMILIES[family](), SPEC, trained_for)
    except ConfigError as error:
        assert expected in str(error)
    else:
        assert task == Restoration(options, expected) and about


@pytest.mark.parametrize("family", ["decoder", "denoiser", "completer"])
def test_known_pixels_are_those_of_the_image(family):
    options = Options(kind="inpaint", mask="half", noise_levels=10, iterations=4, draws=2)
    result, given = restored(FAMILIES[family](), options, 3), batch(3)["image"]
    known = np.asarray(result.known)
    assert known.mean() == 0.5
    np.testing.assert_array_equal(result.image[known], given[known])
    assert (np.abs(np.asarray(result.image)[~known] - given[~known]) > 1e-6).any()
    np.testing.assert_array_equal(np.asarray(result.shown)[~known], 0)
    np.testing.assert_array_equal(result.residual, 0)


def test_samples_of_an_image_have_one_observation_and_their_own_noise():
    options = Options(kind="inpaint", mask="random", noise=0.3, noise_levels=10)
    few, many = restored(denoiser(), options, 2, 2), restored(denoiser(), options, 2, 3)
    shown = np.asarray(many.shown).reshape(2, 3, 4, 4, 1)
    np.testing.assert_array_equal(shown[:, 0], shown[:, 2])
    assert (shown[0, 0] != shown[1, 0]).any()
    images = np.asarray(many.image).reshape(2, 3, 4, 4, 1)
    assert np.abs(images[:, 0] - images[:, 1]).max() > 0.05
    # Neither the number of samples nor the other rows change a sample.
    np.testing.assert_allclose(np.asarray(few.image).reshape(2, 2, 4, 4, 1), images[:, :2], atol=1e-4)
    assert not many.known.any(), "an observation with noise knows no pixel exactly"


def test_the_residual_is_what_the_result_leaves_of_the_observation():
    options = Options(kind="superres", factor=2, noise=0.1)
    result = restored(regressor(), options, 4, trained_for=observations.Options(kind="superres", factor=2, noise=0.1))
    means = np.asarray(result.image).reshape(4, 2, 2, 2, 2).mean((2, 4))
    error = means - np.asarray(result.shown)[:, ::2, ::2, 0]
    np.testing.assert_allclose(result.residual, np.sqrt(np.square(error).mean((1, 2))), rtol=1e-5)
    # The prediction is half of what is shown, whose block means are what is observed.
    np.testing.assert_allclose(result.image, 0.5 * np.asarray(result.shown), rtol=1e-6)


@pytest.mark.parametrize("family", ["decoder", "denoiser"])
def test_samples_are_those_of_the_exact_posterior(family):
    """Of a Gaussian with a linear observation: mean and variance in closed form, to five standard errors.

    A posterior that ignores the observation's noise, or takes the prior's spread, fails by far.
    """
    covariance = MATRIX.T @ MATRIX + (0.01 * np.eye(16) if family == "denoiser" else 0)
    options = Options(kind="denoise", noise=0.2, noise_levels=80, iterations=200, draws=64, decoder_noise=0.01)
    options = dataclass_with(options, solver="twisted" if family == "denoiser" else "hamiltonian")
    draws = 200
    result = restored(FAMILIES[family](), options, 1, draws)
    gain = covariance @ np.linalg.inv(covariance + 0.04 * np.eye(16))
    mean, left = gain @ np.asarray(result.shown[0]).ravel(), covariance - gain @ covariance
    images = np.asarray(result.image, np.float64).reshape(draws, 16)
    directions = np.linalg.svd(MATRIX)[2][:3]  # along which the images vary most
    variances = np.einsum("ki,ij,kj->k", directions, left, directions)
    error = (images.mean(0) - mean) @ directions.T
    assert (np.abs(error) < 5 * np.sqrt(variances / draws)).all(), error / np.sqrt(variances / draws)
    ratio = (images @ directions.T).var(0) / variances
    assert (np.abs(ratio - 1) < 5 * np.sqrt(2 / draws)).all(), ratio


def dataclass_with(options: Options, **changes) -> Options:
    return type(options)(**{**vars(options), **changes})


# -------------------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Pixels in order, two levels: completions are exact in raster order."""
    workdir = tmp_path_factory.mktemp("runs") / "pixels"
    assert train(workdir, "--config.train.steps=1", config="made_digits") == 0
    return workdir


def edit(run, *flags) -> int:
    return main(["edit", *flags, "--workdir", str(run), "--checkpoint", "last"])


def test_the_command_restores_scores_and_writes(run, tmp_path, capsys):
    flags = ["--given", "test", "--limit", "5", "--count", "3", "--task.mask=half", "--task.half=left"]
    assert edit(run, "inpaint", *flags, "--out", str(tmp_path / "out")) == 0
    output = capsys.readouterr().out
    assert "inpaint: inpaint, ancestral" in output and "credible_coverage/90" in output
    with np.load(tmp_path / "out" / "images.npz") as file:
        archive = dict(file)
    assert archive["image"].shape == (15, 8, 8, 1) and archive["original"].shape == (5, 8, 8, 1)
    each = archive["image"].reshape(5, 3, 8, 8, 1)
    known = archive["known"]
    assert (known[:, :, 4:]).all() and not known[:, :, :4].any()
    np.testing.assert_array_equal(each[:, 1][known], archive["original"][known])
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]
    error = np.square((each[:, 0].astype(float) - archive["original"]) / 127.5).mean((1, 2, 3))
    np.testing.assert_allclose(scores["psnr"]["value"], (10 * np.log10(4 / error)).mean(), rtol=1e-3)
    assert scores["psnr"]["spec"]["protocol.mask"] == "half" and scores["psnr"]["spec"]["reference_samples"] == 5
    assert Image.open(tmp_path / "out" / "grid.png").size[0] > 5 * 8, "observed, three results, and the image"
    # The same archive is an input, too.
    assert edit(run, "inpaint", "--images", str(tmp_path / "out" / "images.npz"), "--out", str(tmp_path / "again")) == 0


def test_a_run_that_was_trained_to_restore_is_asked_as_it_was_trained(tmp_path, capsys):
    """Its own observation is the default, of a split, of an archive and of no other kind."""
    assert train(tmp_path / "run", "--config.train.steps=1", config="regressor_shapes") == 0
    flags = ["--limit", "3", "--out", str(tmp_path / "out")]
    assert edit(tmp_path / "run", "superres", "--given", "test", *flags) == 0
    output = capsys.readouterr().out
    assert "superres: conditional" in output
    with np.load(tmp_path / "out" / "images.npz") as file:
        archive = dict(file)
    again = ["--images", str(tmp_path / "out" / "images.npz"), "--out", str(tmp_path / "again")]
    assert edit(tmp_path / "run", "superres", *again) == 0
    blocks = archive["original"].reshape(3, 8, 4, 8, 4, 3).mean((2, 4))
    np.testing.assert_allclose(archive["observed"][:, ::4, ::4], blocks, atol=0.6)
    assert edit(tmp_path / "run", "deblur", "--given", "test", *flags) == 2
    assert "was trained for this observation" in capsys.readouterr().err


def test_a_reference_is_read_without_what_a_run_makes_of_its_images():
    options = data.Options(fields=("source",), observation=observations.Options(kind="superres", factor=2))
    assert "source" in data.open_source(options, "test").spec.fields
    opened = named_sources.open_named(named_sources.named("digits", options, "--reference"), "--reference")
    assert opened.spec.fields == {} and opened.size == 297


def test_the_list_says_what_a_run_can(run, capsys):
    assert edit(run, "--list") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:] if " " in line)
    assert lines["inpaint"].startswith("inpaint, ancestral")
    assert lines["superres"].startswith("no: this run cannot be asked for superres: ")
    assert lines["translate"].startswith("no: this made translates no images")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["inpaint", "--given", "test", "--task.mask_file=mask.png", "--task.mask=file"], 2, "--task.mask_file is"),
        (["inpaint", "--given", "test", "--task.mask=bax"], 2, "--task.mask is 'bax'; did you mean 'box'?"),
        (["inpaint", "--given", "test", "--task.maks=box"], 2, "--task.maks is not an option; did you mean 'mask'?"),
        (["superres", "--given", "test"], 2, "this run cannot be asked for superres"),
        (["inpaint", "--images", "nothing"], 2, "holds no images"),
        (["inpaint", "--images", "huge.png"], 3, "pixels"),
        (["inpaint", "--images", "text.npz"], 3, "no archive with an array `image`"),
        (["inpaint", "--given", "test", "--images", "nothing"], 2, "which images?"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(run, flags, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "text.npz").write_text("no archive")
    Image.fromarray(np.zeros((3, 5), np.uint8)).save("mask.png")
    Image.new("1", (10_000, 10_000)).save("huge.png")
    assert edit(run, *flags) == code
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1 and "Traceback" not in error
