"""Commands that work on codes and on given images: mixing, truncation, projection and translation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import train

from genimg_jax import core
from genimg_jax.__main__ import main
from genimg_jax.engine import images
from genimg_jax.engine.projection import Projection

NOTHING = core.Weights({}, {}, {})
SPEC = core.Spec((4, 4, 1), 0, 256)


def archive(path) -> dict[str, np.ndarray]:
    with np.load(path / "images.npz") as file:
        return dict(file)


# ------------------------------------------------------------------------------------------------------ projection


def linear_family() -> tuple[core.Family, np.ndarray]:
    """Images that are linear in codes of 2 layers with 3 values each."""
    matrix = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32) / 10

    def decode(weights, codes, condition):
        return (codes.reshape(-1, 6) @ matrix).reshape(-1, 4, 4, 1)

    def prior(weights, keys, condition):
        return core.normal(keys, (2, 1, 3)) * jnp.array([0.1, 1.0]).reshape(1, 2, 1, 1)

    space = core.Latents(core.Spec((2, 1, 3), 0, 0), decode, prior=prior, interpolate="linear", layered=True)
    return core.Family(None, None, None, (), latents=(space,)), matrix


def test_projection_into_a_linear_generator_is_least_squares():
    family, matrix = linear_family()
    image = np.random.default_rng(1).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    batch = {"image": image, "index": np.arange(3)}
    found = jax.jit(lambda batch: Projection(8, 800)(family, NOTHING, batch, jax.random.key(0)))(batch)
    best = np.linalg.lstsq(matrix.T, image.reshape(3, 16).T, rcond=None)[0].T
    np.testing.assert_allclose(found.image.reshape(3, 16), best @ matrix, atol=2e-3)
    error = np.square(np.asarray(found.image) - image).mean((1, 2, 3))
    np.testing.assert_allclose(found.psnr, 10 * np.log10(4 / error), rtol=1e-5)


def test_projection_begins_at_the_nearest_sample_of_each_image():
    """Without steps that is the result. Each image has draws of its own, whatever it stands beside."""
    family, matrix = linear_family()
    image = np.random.default_rng(2).uniform(-1, 1, (4, 4, 4, 1)).astype(np.float32)

    def project(rows: list[int]) -> np.ndarray:
        return Projection(16, 0)(family, NOTHING, {"image": image[rows], "index": jnp.array(rows)}, jax.random.key(0))

    keys = core.per_example_keys(jax.random.key(0), jnp.arange(4))
    draws = np.stack([family.latents[0].prior(NOTHING, core.fold_in(keys, i), None) for i in range(16)])
    distances = np.square((draws.reshape(16, 4, 6) @ matrix).reshape(16, 4, 4, 4, 1) - image).mean((2, 3, 4))
    together = project([0, 1, 2, 3])
    np.testing.assert_allclose(together.codes, draws[distances.argmin(0), np.arange(4)], rtol=1e-6)
    np.testing.assert_array_equal(project([2]).codes, together.codes[2:3])


# ---------------------------------------------------------------------------------------------------------- styles


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "styled"
    assert train(workdir, "--config.train.steps=1", config="stylegan2_digits") == 0
    return workdir


def sample(workdir, out, *flags) -> dict[str, np.ndarray]:
    assert main(["sample", "--workdir", str(workdir), "--out", str(out), "--checkpoint", "last", *flags]) == 0
    return archive(out)


def test_mixtures_lie_between_the_samples_of_their_row_and_column(styled, tmp_path):
    mixed = sample(styled, tmp_path / "mixed", "--mix", "2", "--crossover", "1")
    plain = sample(styled, tmp_path / "plain", "--count", "4")
    np.testing.assert_array_equal(mixed["original"], plain["image"])
    assert mixed["image"].shape == (4, *plain["image"].shape[1:])
    assert len(np.unique(mixed["image"], axis=0)) == 4
    # Layer 0 alone is the row's: the finer ones make these images, and the column's sample is the nearer one.
    columns = plain["image"][2:][[0, 1, 0, 1]].astype(float)
    rows = plain["image"][:2][[0, 0, 1, 1]].astype(float)
    distance = [np.square(mixed["image"] - each).mean() for each in (rows, columns)]
    assert distance[1] < distance[0]


def test_without_styles_all_images_are_the_mean_image(styled, tmp_path):
    plain = sample(styled, tmp_path / "one", "--count", "3", "--truncation", "1")["image"]
    mean = sample(styled, tmp_path / "zero", "--count", "3", "--truncation", "0")["image"]
    assert len(np.unique(plain, axis=0)) == 3 and len(np.unique(mean, axis=0)) == 1


def test_its_own_samples_are_found(styled, tmp_path):
    sample(styled, tmp_path / "own", "--count", "2")
    for name in ("grid.png", "images.npz"):
        (tmp_path / "own" / name).rename(tmp_path / name)
    flags = ["--checkpoint", "last", "--images", str(tmp_path / "own"), "--out", str(tmp_path / "found")]
    assert main(["edit", "project", "--workdir", str(styled), *flags, "--task.steps=200", "--task.starts=16"]) == 0
    found = archive(tmp_path / "found")
    error = np.square(found["image"].astype(float) - found["original"]).mean()
    assert 10 * np.log10(255**2 / error) > 30
    assert len(found["codes"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["sample", "--mix", "2", "--crossover", "9"], "layers"),
        (["sample", "--crossover", "2"], "give --mix"),
        (["sample", "--mix", "2", "--best_of", "4"], "leave one of them out"),
        (["sample", "--reconstruct", "2", "--best_of", "4"], "leave one of them out"),
        (["sample", "--reconstruct", "2", "--seed", "4"], "draws nothing"),
        (["edit", "translate", "--given", "test"], "not told 'source'"),
    ],
)
def test_what_cannot_be_done_is_said(styled, flags, message, capsys):
    assert main([*flags, "--workdir", str(styled), "--checkpoint", "last"]) == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ translation


@pytest.fixture(scope="module")
def cycles(tmp_path_factory):
    """A CycleGAN between folders of grey and of coloured images."""
    root = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    for domain, channels in (("grey", 1), ("colour", 3)):
        for split, count in (("train", 8), ("test", 3)):
            for i in range(count):
                picture = random.integers(256, size=(8, 8, channels)).astype(np.uint8)
                images.save_png(root / domain / split / f"{i}.png", picture)
    flags = [f"--config.data.path={root / 'colour'}", f"--config.data.domains.partner={root / 'grey'}"]
    flags += ["--config.model.identity_weight=0", "--config.train.batch_size=4", "--config.train.steps=1"]
    assert train(root / "run", *flags, config="cyclegan_emoji") == 0
    return root


def edit(root, out, *flags) -> dict[str, np.ndarray]:
    arguments = ["--workdir", str(root / "run"), "--checkpoint", "last", "--out", str(out), *flags]
    assert main(["edit", "translate", *arguments]) == 0
    return archive(out)


def test_given_images_are_translated_as_samples_are(cycles, tmp_path):
    """From a split and from a folder; the grid of samples has the sources, and what they are translated back to."""
    split = edit(cycles, tmp_path / "split", "--given", "test")
    folder = edit(cycles, tmp_path / "folder", "--images", str(cycles / "grey" / "test"))
    samples = sample(cycles / "run", tmp_path / "samples", "--given", "test", "--count", "3")
    for name in ("image", "original"):
        order = [np.argmax((folder[name] == each).all((1, 2, 3))) for each in split[name]]
        assert sorted(order) == [0, 1, 2]
        np.testing.assert_array_equal(split[name], folder[name][order])
    assert split["original"].shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(split["image"], samples["image"])
    grids = [(tmp_path / name / "grid.png").read_bytes() for name in ("split", "folder")]
    assert grids[0] != grids[1]


def test_backwards_the_images_become_sources(cycles, tmp_path):
    back = edit(cycles, tmp_path / "back", "--images", str(cycles / "colour" / "test"), "--task.backward=True")
    assert back["original"].shape == (3, 8, 8, 3) and back["image"].shape == (3, 8, 8, 1)
    forward = edit(cycles, tmp_path / "there", "--images", str(tmp_path / "back" / "000000.png"))
    assert forward["image"].shape == (1, 8, 8, 3)
