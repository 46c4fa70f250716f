"""Checkpoints: which one is the best, earlier names of arrays, and runs that continue from others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import assert_same_state, state, steps, train

from genimg_jax import core
from genimg_jax.engine import checkpoint, reproduce, restore, run
from genimg_jax.engine.transfer import transfer
from genimg_jax.errors import CheckpointError


def small_state(step: int) -> core.TrainState:
    made = core.init_state({"w": jnp.full(2, float(step))}, {"w": core.Optimizer(optax.sgd(1.0))})
    return made.replace(step=jnp.int32(step))


def test_best_is_the_lowest_and_last_is_the_last(tmp_path):
    """A step that was not ranked, or whose metric is not a number, is never the best; the best one is never removed."""
    store = checkpoint.open_store(tmp_path, keep=2, best="loss")
    with pytest.raises(CheckpointError, match="train first"):
        checkpoint.choose(store, "last")
    ranked = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: float("nan"), 6: 4.0, 7: None}
    for step, loss in ranked.items():
        checkpoint.save(store, small_state(step), {}, None if loss is None else {"loss": loss, "kl": -9.0})
    checkpoint.close(store)
    store = checkpoint.open_store(tmp_path, keep=2, best="loss", read_only=True)
    assert checkpoint.steps(store) == [2, 6, 7]
    assert (checkpoint.choose(store, "best"), checkpoint.choose(store, "last")) == (2, 7)
    assert checkpoint.choose(store, "6") == 6
    with pytest.raises(CheckpointError, match=r"no checkpoint 5 .* best, last, 2, 6, 7"):
        checkpoint.choose(store, "5")
    assert checkpoint.choose(store._replace(best=""), "best") == 7
    found = checkpoint.restore(store, 2, small_state(0))
    assert found.params["w"].tolist() == [2.0, 2.0] and found.step == 2
    checkpoint.close(store)


@pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("psnr", 6)])
def test_best_follows_the_direction_of_its_metric(tmp_path, metric, best):
    store = checkpoint.open_store(tmp_path, keep=1, best=metric)
    for step, value in {1: 3.0, 2: 1.0, 4: 2.0, 6: 4.0, 7: 2.0}.items():
        checkpoint.save(store, small_state(step), {}, {metric: value})
    checkpoint.close(store)
    store = checkpoint.open_store(tmp_path, keep=1, best=metric, read_only=True)
    assert checkpoint.steps(store) == [best, 7] and checkpoint.choose(store, "best") == best


def test_a_dtype_is_never_cast(tmp_path):
    store = checkpoint.open_store(tmp_path)
    checkpoint.save(store, small_state(1), {}, None)
    checkpoint.wait(store)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, small_state(0))
    with pytest.raises(CheckpointError, match=r"params/w: stored \[\[2\], 'float32'\], wanted \[\[2\], 'bfloat16'\]"):
        checkpoint.restore(store, 1, half)
    checkpoint.close(store)


def embedding_state(place: str, value: float, **averages) -> core.TrainState:
    params = {"embedding": jnp.full((3, 2), value)}
    for name in reversed(place.split("/")):
        params = {name: params}
    optimizer = core.Optimizer(optax.adam(1.0), **(averages or {"ema_decay": 0.9}))
    return core.init_state({"model": {**params, "bias": jnp.ones(2)}}, {"model": optimizer})


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ("net/condition/fields/label", "net/condition/label/Embed_0"),
        ("net/tokens/label/label", "net/label_tokens/Embed_0"),
        ("condition_hidden/label", "class_hidden"),
        ("condition_outputs/label", "class_outputs"),
        ("net/condition/label", "net/ClassEmbedding_0/Embed_0"),
        ("net/condition/label", "net/class_bias"),
        ("net/condition/label/label", "net/prefix"),
    ],
)
def test_embeddings_are_found_where_they_were_before(tmp_path, now, then):
    """With their averages and moments. An array that is wanted nowhere is still refused."""
    store = checkpoint.open_store(tmp_path)
    checkpoint.save(store, embedding_state(then, 7.0), {}, None)
    checkpoint.wait(store)
    found = checkpoint.restore(store, 0, embedding_state(now, 0.0))
    jax.tree.map(np.testing.assert_array_equal, found, embedding_state(now, 7.0))
    with pytest.raises(CheckpointError, match=f"model/{then}/embedding: stored .*, wanted nothing"):
        checkpoint.restore(store, 0, embedding_state("elsewhere", 0.0))
    checkpoint.close(store)


@pytest.mark.parametrize("averaged", [True, False])
def test_embeddings_are_transferred_from_where_they_were_before(tmp_path, capsys, averaged):
    """And their averages, or the parameters where none were kept, also of a second width."""
    donor = embedding_state("net/class_bias", 7.0)
    donor = donor.replace(ema_params=jax.tree.map(lambda x: x + 1, donor.ema_params) if averaged else {})
    store = checkpoint.open_store(tmp_path)
    checkpoint.save(store, donor, {}, None)
    checkpoint.wait(store)
    mine = embedding_state("net/condition/label", 0.0, ema_exponents=(1.0, 2.0))
    found, manifest = transfer(mine, store, 0)
    checkpoint.close(store)
    assert "took 2 of 2 arrays" in capsys.readouterr().out
    assert manifest["init_from"] == {"directory": str(store.directory), "step": 0, "arrays": {"model": "all 2"}}
    first, second = found.ema_params.values()
    for tree, value in ((found.params["model"], 7.0), (first, 7.0 + averaged), (second, 7.0)):
        np.testing.assert_array_equal(tree["net"]["condition"]["label"]["embedding"], np.full((3, 2), value))


def test_embeddings_of_an_earlier_version_are_compared_as_they_are_called_now(tmp_path):
    for name, place in {"original": "net/class_bias", "again": "net/condition/label", "other": "elsewhere"}.items():
        store = checkpoint.open_store(tmp_path / name)
        checkpoint.save(store, embedding_state(place, 7.0), {}, None)
        checkpoint.close(store)
        (tmp_path / name / "metrics.jsonl").touch()
    assert not reproduce.compare(tmp_path / "original", tmp_path / "again", 0).arrays_differing
    assert len(reproduce.compare(tmp_path / "original", tmp_path / "other", 0).arrays_differing) == 8


def test_the_digest_of_weights_does_not_change_with_the_names_of_arrays():
    then, now = (embedding_state(place, 7.0) for place in ("net/class_bias", "net/condition/label"))
    first = checkpoint.digest(core.weights(then), checkpoint.shapes(then))
    assert checkpoint.digest(core.weights(now), checkpoint.shapes(then)) == first
    assert checkpoint.digest(core.weights(now), checkpoint.shapes(now)) != first


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """{config: run directory} of finished tiny runs, made as they are asked for."""
    made = {}

    def get(config: str):
        if config not in made:
            made[config] = tmp_path_factory.mktemp("runs") / config
            assert train(made[config], config=config) == 0
        return made[config]

    return get


def test_another_run_can_be_continued(run_of, tmp_path):
    """In a directory of its own, to where the run would have come by itself."""
    assert train(tmp_path / "first", "--config.train.steps=4") == 0
    assert train(tmp_path / "second", f"--config.resume={tmp_path / 'first'}") == 0
    assert steps(tmp_path / "first") == [4] and steps(tmp_path / "second") == [6]
    assert_same_state(run_of("vae_digits"), tmp_path / "second")


def test_a_run_that_is_not_there_cannot_be_continued(tmp_path, capsys):
    for key in ("resume", "init_from"):
        assert train(tmp_path / "run", f"--config.{key}={tmp_path / 'nowhere'}") in (2, 4)
        error = capsys.readouterr().err
        assert "nowhere" in error and "Traceback" not in error


def test_transfer_takes_what_matches(run_of, tmp_path, capsys):
    """Arrays of the same name and shape, averages from their averages, and the rest as it was initialised."""
    donor = state(run_of("gan_digits"))
    flags = [f"--config.init_from={run_of('gan_digits')}", "--config.model.latent=6"]
    flags += ["--config.optimizer.generator.learning_rate=0.0", "--config.optimizer.discriminator.learning_rate=0.0"]
    flags += ["--config.optimizer.discriminator.ema_half_life=100.0", "--config.train.steps=1"]
    flags += ["--config.train.evaluate_every=0", "--config.train.sample_every=0"]
    capsys.readouterr()
    assert train(tmp_path, *flags, config="gan_digits") == 0
    output = capsys.readouterr().out
    found = state(tmp_path)
    params = [name for name in found if name.startswith("params/")]
    other = [name for name in params if found[name].shape != donor[name].shape]
    assert 0 < len(other) < len(params)
    inner = [name for name in found if name.startswith("extra/")]
    assert inner and all(found[name].shape == donor[name].shape for name in inner)
    arrays = len(params) + len(inner)
    assert f"took {arrays - len(other)} of {arrays} arrays" in output
    origin = run.read_json(tmp_path, "manifest.json")["init_from"]
    assert origin["directory"] == str(run_of("gan_digits") / "checkpoints") and origin["step"] == 6
    assert all(f"  {place}: {text}\n" in output for place, text in origin["arrays"].items())
    _, group, network, subtree, rest = other[0].split("/", 4)
    shapes = [f"float32[{','.join(map(str, x[other[0]].shape))}]" for x in (donor, found)]
    described = f"{rest} is {shapes[0]} there, {shapes[1]} here"
    assert f"1 of another shape: {described}" in origin["arrays"][f"{group}/{network}/{subtree}"]
    for name in params:
        assert np.array_equal(found[name], donor[name]) == (name not in other), name
    for name in (name for name in inner if name.endswith("/mean")):
        # One step with momentum 0.99 or less moves means that were learned, and not those of a new network, 0.
        assert np.linalg.norm(found[name] - donor[name]) < np.linalg.norm(found[name]), name
    averaged = [name for name in found if name.startswith("ema/") and name.replace("ema/", "params/", 1) not in other]
    for name in averaged:
        # One step with a rate of 0: the average moved by 0.9 towards the parameters, which stood still.
        start = donor.get(name, donor[name.replace("ema/", "params/", 1)])
        wanted = 0.1 * start + 0.9 * donor[name.replace("ema/", "params/", 1)]
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-7)
    assert {name.split("/")[1] for name in averaged} == {"generator", "discriminator"}


def test_a_transfer_says_what_it_lacks_in_a_few_lines(tmp_path, capsys):
    """First a group's sum, then its subtrees; of a large model only those of which arrays are missing."""

    def model(blocks: int, width: int) -> core.TrainState:
        params = {f"block_{i:02}": {"kernel": jnp.ones((2, width)), "bias": jnp.ones(2)} for i in range(blocks)}
        groups = {"generator": params, "discriminator": {"out": jnp.ones(2)}}
        return core.init_state(groups, {group: core.Optimizer(optax.sgd(1.0)) for group in groups})

    store = checkpoint.open_store(tmp_path)
    checkpoint.save(store, model(3, 5), {}, None)
    checkpoint.wait(store)
    _, manifest = transfer(model(4, 6), store, 0)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  discriminator: all 1",
        "  generator: 3 of 8; 2 absent there; 3 of another shape",
        *[
            f"  generator/block_{i:02}: 1 of 2; 1 of another shape: kernel is float32[2,5] there, float32[2,6] here"
            for i in range(3)
        ],
        "  generator/block_03: 0 of 2; 2 absent there: bias, ...",
    ]
    assert len(manifest["init_from"]["arrays"]) == 6
    with pytest.raises(CheckpointError, match=r"generator.frozen keeps the random values of generator/block_00/kernel"):
        transfer(model(4, 6), store, 0, {"generator": ("block_00",)})
    transfer(model(4, 6), store, 0, {"generator": ("bias_of_others",), "discriminator": ("out",)})
    capsys.readouterr()
    _, manifest = transfer(model(40, 5), store, 0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20 and lines[2] == "  generator/block_03: 0 of 2; 2 absent there: bias, ..."
    assert lines[-1] == "  and 24 more: see init_from in manifest.json"
    assert len(manifest["init_from"]["arrays"]) == 42
    checkpoint.close(store)


def test_nothing_in_common_is_an_error(run_of, tmp_path, capsys):
    assert train(tmp_path, f"--config.init_from={run_of('vae_digits')}", config="gan_digits") == 4
    assert "no array of" in capsys.readouterr().err


def test_a_run_is_opened_as_it_was_trained(run_of, capsys):
    workdir = run_of("gan_digits")
    values = run.read_json(workdir, "config.json")
    averaged = restore.open_run(workdir, values, "last")
    plain = restore.open_run(workdir, values, "last", averaged=False)
    stored = state(workdir)
    for opened, group in ((averaged, "ema"), (plain, "params")):
        found = {checkpoint.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(opened.weights.params)}
        for name in (n for n in stored if n.startswith(f"{group}/generator")):
            np.testing.assert_array_equal(found[name.removeprefix(f"{group}/")], stored[name])
    values["model"]["width"] = 99
    with pytest.raises(CheckpointError, match=r"model\.width +stored 16, given 99"):
        restore.open_run(workdir, values, "last")
