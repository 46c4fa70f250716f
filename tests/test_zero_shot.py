"""Bayes' rule over candidate conditions: it equals enumeration, and a model that knows nothing is right by chance."""

import dataclasses
import itertools

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.naive_bayes import BernoulliNB
from tiny_runs import name_of, train

from genimg_jax import core
from genimg_jax.__main__ import main
from genimg_jax.data import Options, open_source, transforms
from genimg_jax.data.types import ShapesOptions
from genimg_jax.engine import candidates, config_files, parallel
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.evaluation import results, zero_shot

TINY = core.Spec((2, 2, 1), 0, 2, {"tokens": core.Field((2,), 4)})
CAPTIONS = np.array(list(itertools.product(range(4), repeat=2)), np.int32)
IMAGES = enumeration.all_images(2, 2, 2)


def knowing(log_prob, conditions) -> core.Family:
    return core.Family(None, None, None, (), conditions=conditions, log_prob=log_prob, likelihood_kind="exact")


def opened(family, source, read=None, **evaluate):
    """A program of this family over the images of a source."""
    config = configs.resolve(config_files.load(name_of("vae_digits")).to_dict())
    evaluate = dataclasses.replace(config.evaluate, **{"retrieval_images": 10**6, **evaluate})
    config = config._replace(data=read or config.data, evaluate=evaluate)

    def apply(task, weights, raw, seed):
        key = core.stream(seed, "evaluate-data", 0)
        images = "image" in raw
        batch = transforms.prepare(raw, key, config.data, source.stored_levels, False) if images else raw
        return task(family, weights, batch, core.stream(seed, programs.stream_name(task)))

    return programs.Program(
        **dict.fromkeys(programs.Program._fields)
        | {"config": config, "spec": source.spec, "family": family, "seed": np.int32(0)}
        | {"mesh": parallel.make_mesh(config.parallel), "apply": jax.jit(apply, static_argnums=0)}
    )


DIGITS = Options()


def measured(family, source, read=DIGITS, weights=None, **evaluate) -> dict[str, float]:
    program = opened(family, source, read, **evaluate)
    weights = core.Weights({}, {}, {}) if weights is None else weights
    return {name: one.value for name, one in zero_shot.measure(program, weights, source, read).metrics.items()}


def of_arrays(spec, levels, **arrays):
    """A source of these examples."""
    size = len(arrays["image"])
    read = lambda index: {name: array[index] for name, array in arrays.items()}  # noqa: E731
    digits = open_source(DIGITS, "test")
    return digits._replace(spec=spec, size=size, read=read, stored_levels=levels, classes=())


# ------------------------------------------------------------------------------------- a tiny vocabulary, enumerated


@pytest.fixture(scope="module")
def tiny():
    """A Transformer that is told captions, and log p(image | caption) of every image [16] and caption [16]."""
    family, weights = enumeration.build("transformer", TINY, seed=4, conditions=("tokens",))
    masses = [enumeration.probabilities(family, weights, TINY, {"tokens": caption}) for caption in CAPTIONS]
    np.testing.assert_allclose(np.sum(masses, axis=1), 1, atol=1e-5)
    return family, weights, np.log(masses).T


@pytest.mark.parametrize("batch_size", [500, 7])
def test_candidates_have_the_likelihoods_of_an_enumeration(tiny, batch_size):
    family, weights, logs = tiny
    examples = {"image": np.uint8(IMAGES > 0), "index": np.arange(16, dtype=np.int32)}
    source = of_arrays(TINY, 2, **examples)
    program = opened(family, source, batch_size=batch_size)
    among = np.broadcast_to(CAPTIONS, (16, *CAPTIONS.shape))
    found = candidates.scores(program, weights, examples, "tokens", among)
    np.testing.assert_allclose(found, logs, rtol=1e-4, atol=1e-4)


def drawn(tiny, count=3200):
    """Every caption equally often, with an image that the model draws for it."""
    family, weights, _ = tiny
    tokens = CAPTIONS[np.arange(count) % 16]
    keys = core.per_example_keys(jax.random.key(3), jnp.arange(count))
    images = jax.jit(family.sample)(weights, keys, {"tokens": jnp.asarray(tokens)})
    return np.uint8(np.asarray(images) > 0), tokens


def retrieval(tiny, images, tokens) -> float:
    family, weights, _ = tiny
    source = of_arrays(TINY, 2, image=images, tokens=tokens)
    return measured(family, source, weights=weights, retrieval_candidates=16)["retrieval@1/tokens"]


def test_captions_are_found_as_often_as_bayes_rule_can_and_shuffled_ones_by_chance(tiny):
    images, tokens = drawn(tiny)
    best = np.exp(tiny[2]).max(axis=1).sum() / 16  # of the joint distribution, the captions equally likely
    assert best > 1.5 / 16
    error = np.sqrt(best * (1 - best) / len(images))
    assert abs(retrieval(tiny, images, tokens) - best) < 4 * error
    shuffled = np.random.default_rng(0).permutation(tokens)
    assert abs(retrieval(tiny, images, shuffled) - 1 / 16) < 4 * np.sqrt(15 / 256 / len(images))


def likelihoods(family, weights, tokens) -> np.ndarray:  # i32[N, T] -> f32[16, N]
    """Of every image under every caption."""
    told = {"image": IMAGES, "index": jnp.arange(16), "tokens": jnp.broadcast_to(tokens, (16, *tokens.shape))}
    return jax.jit(lambda weights: candidates.Scores("tokens")(family, weights, told, jax.random.key(0)))(weights)


def with_leaves(weights, name, change) -> core.Weights:
    """The weights with the change in every parameter of this name."""

    def at(path, value):
        return change(value) if name in {str(getattr(key, "key", "")) for key in path} else value

    return weights._replace(params=jax.tree_util.tree_map_with_path(at, weights.params))


@pytest.mark.parametrize("name", ["transformer", "made"])
def test_the_numbering_of_the_vocabulary_changes_nothing(name):
    family, weights = enumeration.build(name, TINY, conditions=("tokens",))
    order = np.array([0, 2, 3, 1])  # the word that was i is order[i]; 0 is none
    again = with_leaves(weights, "word", lambda value: value[np.argsort(order)])
    one, two = likelihoods(family, weights, CAPTIONS), likelihoods(family, again, order[CAPTIONS])
    np.testing.assert_array_equal(one, two)
    assert (likelihoods(family, weights, order[CAPTIONS]) != one).any()


def test_what_is_of_the_image_alone_is_computed_once():
    def log_prob(weights, batch, key):
        codes = jax.lax.sort(batch["image"].reshape(len(batch["image"]), -1), dimension=1)
        return codes.sum(axis=1) + batch["tokens"].sum(axis=1)

    told = {"image": IMAGES, "tokens": jnp.zeros((16, 5, 2), jnp.int32)}
    task = candidates.Scores("tokens")
    traced = jax.make_jaxpr(lambda batch: task(knowing(log_prob, ("tokens",)), None, batch, None))(told)
    sorts = [equation.outvars[0].aval.shape for equation in traced.eqns if equation.primitive.name == "sort"]
    assert sorts == [(16, 4)] and traced.out_avals[0].shape == (16, 5)


# --------------------------------------------------------------------------------------------- classes and scenes


def test_the_classes_of_digits_are_those_of_naive_bayes():
    """A class's independent pixels, with scikit-learn's smoothing, are the classifier of another library."""
    read = Options(binarize="threshold")
    train, test = (open_source(read, split) for split in ("train", "test"))
    (images, labels), (held_out, classes) = (
        (rows["image"].reshape(len(rows["image"]), -1), rows["label"])
        for rows in (source.read(np.arange(source.size)) for source in (train, test))
    )
    ink = np.stack([(images[labels == i].sum(0) + 1) / ((labels == i).sum() + 2) for i in range(10)])

    def log_prob(weights, batch, key):
        share, ink_here = jnp.asarray(ink)[batch["label"]], batch["image"].reshape(len(batch["image"]), -1) > 0
        return jnp.where(ink_here, jnp.log(share), jnp.log1p(-share)).sum(axis=1)

    expected = BernoulliNB(fit_prior=False).fit(images, labels).score(held_out, classes)
    assert expected > 0.8
    found = measured(knowing(log_prob, ("label",)), test, read)
    assert found == {"zero_shot_accuracy": pytest.approx(expected, abs=1e-9)}
    ignorant = measured(knowing(lambda weights, batch, key: batch["image"].sum((1, 2, 3)), ("label",)), test, read)
    assert ignorant == {"zero_shot_accuracy": pytest.approx((classes == 0).mean())}


SCENES = Options(source="shapes", size=16, fields=("tokens",), shapes=ShapesOptions(count=400))


@pytest.fixture(scope="module")
def scenes():
    return open_source(SCENES, "test")


def of_truth(tokens) -> core.Family:
    """It knows the captions of the images, as far as `tokens` i32[N, T] are theirs."""

    def log_prob(weights, batch, key):
        return -(jnp.asarray(tokens)[batch["index"]] != batch["tokens"]).sum(axis=1).astype(jnp.float32)

    return knowing(log_prob, ("tokens",))


def test_captions_of_scenes_are_found_and_their_attributes_read(scenes):
    tokens = scenes.read(np.arange(scenes.size))["tokens"]
    settings = {"retrieval_candidates": 20, "batch_size": 64}
    found = measured(of_truth(tokens), scenes, SCENES, **settings)
    names = ("background", "objects", "large_kind", "large_colour", "small_kind", "small_colour", "relation")
    assert found == {"retrieval@1/tokens": 1, **{f"attribute_accuracy/{name}": 1 for name in names}}
    # Another's caption: of its attributes some are right by chance.
    other = measured(of_truth(np.roll(tokens, 1, axis=0)), scenes, SCENES, **settings)
    assert other["retrieval@1/tokens"] < 0.2 and 0.1 < other["attribute_accuracy/background"] < 0.6


def test_a_model_that_ignores_its_condition_is_right_exactly_by_chance(scenes):
    ignorant = knowing(lambda weights, batch, key: batch["image"].sum((1, 2, 3)), ("tokens",))
    assert scenes.size == 40
    assert measured(ignorant, scenes, SCENES, retrieval_candidates=20)["retrieval@1/tokens"] == 1 / 20


def test_candidates_are_an_images_own_caption_and_distinct_others():
    values = np.random.default_rng(0).integers(5, size=(60, 2))
    distinct, own, among = zero_shot.candidates_of(TINY.fields["tokens"], values, 12)
    np.testing.assert_array_equal(distinct[own], values)
    assert among.shape == (60, 12)
    np.testing.assert_array_equal(among[np.arange(60), np.arange(60) % 12], own)
    assert all(len(set(row)) == 12 for row in among.tolist())
    assert set(among.ravel().tolist()) == set(range(len(distinct)))


def test_what_cannot_be_scored_is_left_out(scenes):
    family = knowing(lambda weights, batch, key: jnp.zeros(len(batch["image"])), ("tokens",))
    assert measured(family, scenes, SCENES, retrieval_images=0) == {}
    assert measured(family, scenes, SCENES, likelihood=False) == {}
    assert measured(family._replace(log_prob=None), scenes, SCENES) == {}
    same = of_arrays(TINY, 2, image=np.zeros((4, 2, 2, 1), np.uint8), tokens=np.zeros((4, 2), np.int32))
    program = opened(family, same)
    assert zero_shot.measure(program, core.Weights({}, {}, {}), same, DIGITS).skipped == {
        "retrieval@1/tokens": "all images have the same"
    }


def test_an_estimate_takes_no_more_likelihoods_than_the_source_has_images(scenes):
    family = knowing(lambda weights, batch, key: jnp.zeros(len(batch["image"])), ("tokens",))
    weights = core.Weights({}, {}, {})
    for kind, images in (("exact", 40), ("lower bound", 40), ("estimate", 40 // 8)):
        program = opened(family._replace(likelihood_kind=kind), scenes, SCENES, retrieval_candidates=8)
        (entry,) = (
            one for name, one in zero_shot.measure(program, weights, scenes, SCENES).metrics.items() if "@1" in name
        )
        assert entry.spec.reference_samples == images
    program = opened(family._replace(likelihood_kind="estimate"), scenes, SCENES, retrieval_candidates=100)
    assert zero_shot.measure(program, weights, scenes, SCENES).metrics == {}


def test_a_run_is_evaluated_with_it(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "--config.model.conditions=('label',)", config="made_digits") == 0
    assert main(["evaluate", "--workdir", str(run), "--config.evaluate.retrieval_images=50"]) == 0
    assert "zero_shot_accuracy" in capsys.readouterr().out
    entry = results.read(run, "best")["metrics"]["zero_shot_accuracy"]
    assert entry["spec"]["reference_samples"] == 50 and entry["spec"]["protocol.candidates"] == 10
    assert entry["interval"][0] < entry["value"] < entry["interval"][1]
