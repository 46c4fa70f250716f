"""What the files of experiments/ name is there, they open runs of earlier versions as everything else does, and their
measures find planted faults."""

import ast
import re
import types

import jax
import jax.numpy as jnp
import map_fidelity
import numpy as np
import path_length
import pytest
import stacked_mnist
import style_mixing
import translation
from PIL import Image
from tiny_runs import ROOT

from genimg_jax import core
from genimg_jax.data import Options, open_source, shapes
from genimg_jax.engine import config_files
from genimg_jax.errors import DataError
from genimg_jax.evaluation import scene_reader
from genimg_jax.sweeps import experiment

FILES = sorted((ROOT / "experiments").rglob("*.py"))


def strings(code: str) -> set[str]:
    return {node.value for node in ast.walk(ast.parse(code)) if isinstance(getattr(node, "value", None), str)}


def test_configurations_are_there_with_their_variants():
    named = {text for file in FILES for text in strings(file.read_text()) if re.fullmatch(r"configs/\w+\.py\S*", text)}
    assert "configs/vae_digits.py" in named
    for name in named:
        config_files.load(str(ROOT / name))


def test_configurations_of_runs_are_read_by_the_engine():
    """Which knows what their options were called before."""
    assert not [file.name for file in FILES if "config.json" in strings(file.read_text())]


def test_planted_translations_are_told_apart():
    rng = np.random.default_rng(0)
    source, target = rng.uniform(-1, 1, (2, 40, 16, 16, 3)).astype(np.float32)
    target = 0.5 * source[::-1] + 0.5 * target  # each source resembles the partner of another one
    near = target + 0.1 * rng.standard_normal(target.shape).astype(np.float32)
    assert translation.retrieval(near, target).estimate == 1 and translation.retrieval(source, target).estimate == 0
    assert translation.retrieval(np.zeros_like(target), target).estimate == 1 / 40, "a constant has one nearest image"
    found = translation.psnr(near, target)
    assert found.estimate == pytest.approx(10 * np.log10(4 / 0.01), abs=0.1) and found.low < found.estimate < found.high
    assert translation.correlation(source, -source) == pytest.approx(-1)
    assert translation.correlation(source, 0.5 * source + 0.2) == pytest.approx(1)
    cells = translation.row("identity", source, target, (source, source), np.zeros(40, bool)).split("|")
    assert cells[4].startswith(" 126") and cells[5].startswith(" 0.0%") and cells[6].startswith(" 0.0%")


def test_a_regression_translates_as_its_partners_do():
    rng = np.random.default_rng(0)
    source = (rng.choice([-0.9, 0.9], (60, 1, 1, 3)) * np.ones((32, 32, 1))).astype(np.float32)
    np.testing.assert_allclose(translation.regression(source[20:], -source[20:], source[:20]), -source[:20], atol=0.05)


def test_partners_are_found_by_name(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    for domain, names in {"one": "abcd", "two": "bcd"}.items():
        for split in ("train", "test"):
            (tmp_path / domain / split).mkdir(parents=True)
            for name in names:
                Image.fromarray(pixels["abcd".index(name)]).save(tmp_path / domain / split / f"{name}.png")
    options = Options(source="domains", path=str(tmp_path / "one"), fields=("source",))
    object.__setattr__(options.domains, "partner", str(tmp_path / "two"))
    found, index = translation.partners(open_source(options, "test"))
    assert len(found["image"]) == 3
    np.testing.assert_array_equal(found["image"], found["source"])
    assert sorted(index["source"]) == [0, 1, 2]
    for file in (tmp_path / "two" / "test").iterdir():
        file.rename(file.with_name(f"other_{file.name}"))
    with pytest.raises(DataError, match="partners of the same file names"):
        translation.partners(open_source(options, "test"))


def pairs_of_scenes() -> tuple[dict, dict]:
    """Two sets of scenes, with as many objects each."""
    scenes = shapes.scenes(0, np.arange(60))
    (rows,) = np.nonzero(scenes["kind"][:, 1] >= 0)
    first, second = np.split(rows[: len(rows) // 2 * 2], 2)
    return tuple({name: x[index] for name, x in scenes.items()} for index in (first, second))


def test_mixed_layouts_and_colours_are_read():
    first, second = pairs_of_scenes()
    mixed = {**first, "colour": second["colour"], "background": second["background"]}
    first, second, mixed = (scene_reader.read(shapes.draw(scene, 32)) for scene in (first, second, mixed))
    assert style_mixing.readable(mixed, 8.0).all()
    assert not style_mixing.readable({**mixed, "residual": mixed["residual"] + 99}, 8.0).any()
    shares = {
        name: {what: x.mean() for what, x in style_mixing.kept(scene, first, second).items()}
        for name, scene in {"A": first, "B": second, "mixed": mixed}.items()
    }
    assert set(shares["mixed"].values()) == {1.0}
    assert shares["A"]["**layout of A**"] == 1 and shares["A"]["**colours of B**"] < 0.2
    assert shares["B"]["**colours of B**"] == 1 and shares["B"]["**layout of A**"] < 0.2


LAYERS, Z = 3, 4
MATRIX = np.random.default_rng(0).standard_normal((Z, 12)).astype(np.float32)


def linear_family() -> types.SimpleNamespace:
    """Images are the sum over layers of a linear map of their codes."""

    def decode(weights, codes, batch):
        return (codes.sum(axis=(1, 2)) @ MATRIX).reshape(-1, 2, 2, 3)

    def prior(weights, keys, batch):
        return jnp.broadcast_to(core.normal(keys, (1, 1, Z)), (len(keys), LAYERS, 1, Z))

    spec = core.Spec((LAYERS, 1, Z), 0, 0)
    return types.SimpleNamespace(latents=(core.Latents(spec, decode, prior=prior, layered=True),))


def test_mixtures_have_the_first_layers_of_one_code():
    family, key = linear_family(), jax.random.key(0)
    batch = {"index": jnp.arange(2 * (LAYERS + 1))}
    drawn = style_mixing.mix(family, None, batch, key).reshape(2, LAYERS + 1, -1)
    shares = np.arange(LAYERS + 1)[None, :, None] / LAYERS
    np.testing.assert_allclose(drawn, shares * drawn[:, -1:] + (1 - shares) * drawn[:, :1], atol=1e-4)
    assert np.abs(drawn[:, -1] - drawn[:, 0]).min(axis=1).max() > 0


def test_path_lengths_of_a_linear_generator():
    lengths, changes = path_length.paths(linear_family(), None, {"index": jnp.arange(4000)}, jax.random.key(0))
    wanted = LAYERS**2 * np.square(MATRIX).sum()
    assert np.square(lengths).mean() == pytest.approx(wanted, rel=0.05)
    assert changes.mean() == pytest.approx(2 * wanted / MATRIX.shape[1], rel=0.05), (
        "two codes differ by a variance of 2"
    )
    assert path_length.variation(np.full(100, 2.0)).estimate == 0
    even = path_length.variation(np.random.default_rng(0).normal(10, 1, 4000))
    assert even.low < 0.1 < even.high
    half = path_length.ratio(even, even._replace(estimate=2 * even.estimate, standard_error=2 * even.standard_error))
    assert half.estimate == pytest.approx(0.5) and half.low < 0.5 < half.high


def test_modes_of_stacked_digits(monkeypatch):
    digits = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2)
    pixels = stacked_mnist.stacked(digits, 26_000, 0)
    monkeypatch.setattr(stacked_mnist.classifiers, "predict", lambda classifier, x: x[:, 0, 0, 0].astype(int))
    found = stacked_mnist.modes(None, pixels)
    assert len(np.unique(found)) == 1000 and (found == np.dot(pixels[:, 0, 0], [100, 10, 1])).all()
    fair = stacked_mnist.corrected(found)
    assert stacked_mnist.divergence(found) == pytest.approx(999 / 52_000, rel=0.15) and fair.low < 0 < fair.high
    assert stacked_mnist.divergence(found // 10 * 10) == pytest.approx(np.log(10), abs=0.01)
    assert stacked_mnist.divergence(np.zeros(100, int)) == pytest.approx(np.log(1000))


def test_styles_in_the_maps_of_other_scenes():
    layout, style = pairs_of_scenes()
    layout["mask"] = shapes.segmentation(layout, 32)
    drawn = shapes.draw({**layout, "colour": style["colour"], "background": style["background"]}, 32)
    kept = map_fidelity.shares(drawn, layout, style)
    assert kept.pop("mask_overlap").estimate > 0.99 and {x.estimate for x in kept.values()} == {1.0}
    lost = map_fidelity.shares(shapes.draw(layout, 32), layout, style)
    assert lost["large_colour"].high < 0.8 and lost["large_kind"].estimate == 1
    moved = map_fidelity.shares(np.roll(drawn, 4, axis=2), layout, style)
    assert moved["mask_overlap"].high < 0.8 and moved["large_colour"].estimate == 1


def test_scenes_with_the_same_segments_take_turns():
    maps = np.zeros((6, 2, 2), np.uint8)
    maps[[1, 3, 5], 0, 0], maps[4, 1, 1] = 1, 2
    assert map_fidelity.next_alike(maps).tolist() == [2, 3, 0, 5, 4, 1]


def test_the_recipe_is_not_chosen_on_test_images():
    trials = experiment.load(f"{ROOT}/experiments/gan_recipe.py:tiny").trials
    splits = {(t.values["data"]["train_split"], t.values["data"]["evaluate_split"]) for t in trials}
    assert splits == {("train[:55000]", "train[55000:]")}
    assert {tuple(t.values["model"]["conditions"]) for t in trials} == {("label",), ()}


def test_few_images_are_augmented_in_every_way():
    trials = experiment.load(f"{ROOT}/experiments/few_images.py").trials
    found = {(t.values["model"]["augmentation"], t.values["seed"]) for t in trials}
    assert found == {(name, seed) for name in ("none", "diffaugment", "ada") for seed in range(5)}
    assert {t.values["data"]["train_split"] for t in trials} == {"train[:500]"}
    experiment.load(f"{ROOT}/experiments/few_images.py:tiny")
