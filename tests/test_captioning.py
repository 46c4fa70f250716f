"""Captions by Bayes' rule: the posterior is that of an enumeration, and a family that models captions weighs them."""

import json

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_zero_shot import CAPTIONS, IMAGES, TINY, of_arrays, opened
from tiny_runs import train

from genimg_jax import core
from genimg_jax.__main__ import main
from genimg_jax.data import Part, open_source, text
from genimg_jax.engine import config as configs
from genimg_jax.engine import images
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import captioning

WORDS = ("", "a", "b", "a a", "a b", "b a", "b b")


@pytest.fixture(scope="module", params=[False, True], ids=["told captions", "captions modelled"])
def tiny(request):
    return enumeration.build("transformer", TINY, seed=4, conditions=("tokens",), model_condition=request.param)


def test_the_posterior_is_bayes_rule_over_all_captions(tiny, tmp_path):
    family, weights = tiny
    vocabulary = text.train(["a b", "b"], "words", 4)
    text.save(vocabulary, tmp_path)
    tokens = text.rows(vocabulary, WORDS, WORDS, 2)
    examples = {"image": np.uint8(IMAGES > 0), "index": np.arange(16)}
    program = opened(family, of_arrays(TINY, 2, **examples))
    options = program.config.data
    captions = options.captions.__class__(vocabulary=str(tmp_path / text.FILE))
    program = program._replace(config=program.config._replace(data=options.__class__(captions=captions)))
    found = captioning.posterior(program, weights, examples["image"], WORDS * 2)
    joint = np.stack([enumeration.probabilities(family, weights, TINY, {"tokens": caption}) for caption in tokens], 1)
    if family.condition_log_prob:
        joint *= np.exp(jax.jit(family.condition_log_prob)(weights, {"tokens": tokens}, None))
    order = [WORDS.index(caption) for caption in found.captions]
    np.testing.assert_allclose(found.probabilities, (joint / joint.sum(1, keepdims=True))[:, order], atol=1e-4)
    assert np.ptp(found.probabilities, axis=0).max() > 0.1, "nearly the same for every image"


def test_captions_that_are_modelled_are_a_distribution_and_change_no_likelihood():
    family, weights = enumeration.build("transformer", TINY, conditions=("tokens",), model_condition=True)
    ended = CAPTIONS[(CAPTIONS[:, 0] > 0) | (CAPTIONS[:, 1] == 0)]
    masses = np.exp(jax.jit(family.condition_log_prob)(weights, {"tokens": ended}, None))
    assert len(ended) == 13 and masses.max() > 3 * masses.mean()
    np.testing.assert_allclose(masses.sum(), 1, atol=1e-5)
    told, _ = enumeration.build("transformer", TINY, conditions=("tokens",))
    batch = {"image": IMAGES, "tokens": CAPTIONS, "index": np.arange(16)}
    one, two = (jax.jit(f.log_prob)(weights, batch, jax.random.key(0)) for f in (family, told))
    np.testing.assert_array_equal(one, two)


def test_training_maximises_the_probability_of_image_and_caption():
    family, weights = enumeration.build("transformer", TINY, conditions=("tokens",), model_condition=True, depth=1)
    batch = {"image": IMAGES, "tokens": jnp.asarray(CAPTIONS), "index": jnp.arange(16)}

    def losses(state, batch):
        weights = core.weights(state)
        logs = family.log_prob(weights, batch, None) + family.condition_log_prob(weights, batch, None)
        return family.train_step(state, batch, jax.random.key(0))[1]["loss"], -logs.mean()

    state = core.init_state(weights.params, {"model": core.Optimizer(optax.sgd(0.1))})
    np.testing.assert_allclose(*jax.jit(losses)(state, batch), rtol=1e-5)


def test_captions_alone_can_be_modelled():
    with pytest.raises(ConfigError, match="model_condition is for"):
        enumeration.build("transformer", TINY._replace(num_classes=3), conditions=("label",), model_condition=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A VAE of scenes that is told their captions."""
    run = tmp_path_factory.mktemp("runs") / "scenes"
    flags = ["--config.data.source=shapes", "--config.data.size=16", "--config.data.shapes.count=60"]
    flags += ["--config.data.fields=('tokens',)", "--config.data.binarize=none"]
    flags += ["--config.model.conditions=('tokens',)", "--config.model.likelihood=discretized_logistic"]
    flags += ["--config.model.evaluate_samples=2"]
    assert train(run, *flags, config="vae_digits") == 0
    return run


def edit(run, *flags) -> int:
    return main(["edit", "caption", "--workdir", str(run), *map(str, flags)])


def test_images_of_a_split_and_of_a_folder_are_captioned_alike(run, tmp_path, capsys):
    """Among the captions of the training images, and among those that a file repeats."""
    options = configs.resolve(json.loads((run / "config.json").read_text())).data
    known, held_out = open_source(options, Part.TRAIN), open_source(options, Part.EVALUATE)
    for name, image in zip("ab", held_out.read(np.arange(2))["image"], strict=True):
        images.save_png(tmp_path / "images" / f"{name}.png", image)
    captions = known.captions(np.arange(known.size))
    (tmp_path / "captions.txt").write_text("\n\n".join(captions))
    assert edit(run, "--given", "test", "--limit", "2") == 0
    (split,) = (run / "edited").glob("caption-*/captions.jsonl")
    among = f"--task.captions={tmp_path / 'captions.txt'}"
    assert edit(run, "--images", tmp_path / "images", among, "--out", tmp_path) == 0
    assert f"2 images, {len(set(captions))} candidates" in capsys.readouterr().out
    rows, again = ([json.loads(line) for line in path.open()] for path in (split, tmp_path / "captions.jsonl"))
    assert [row.pop("own_caption") for row in rows] == held_out.captions(np.arange(2))
    assert [row.pop("image") for row in again] == [str(tmp_path / "images" / name) for name in ("a.png", "b.png")]
    assert again == [{"caption": row["caption"], "probability": row["probability"]} for row in rows]
    assert all(0 < row["probability"] <= 1 and row["caption"] in captions for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["captoin"], "no task 'captoin'; did you mean 'caption'?"),
        (["caption"], "which run? Give --workdir"),
    ],
)
def test_mistakes_are_answered(arguments, message, capsys):
    assert main(["edit", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_mistakes_about_images_and_candidates_are_answered(run, tmp_path, capsys):
    (tmp_path / "words.txt").write_text("a large red circel")
    for flags, message in (
        ((), "which images?"),
        (("--given", "test", f"--task.captions={tmp_path / 'words.txt'}"), "did you mean 'circle'"),
        (("--images", tmp_path / "none.png"), "cannot be read"),
    ):
        assert edit(run, *flags) in (2, 3)
        assert message in capsys.readouterr().err
