"""The engine, part by part: checkpoints, devices, evaluation and sampling."""

import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import assert_same_state, change, environment, losses, name_of, state, steps, train

from genimg_jax import core
from genimg_jax.data import open_source
from genimg_jax.engine import checkpoint, conditions, config_files, parallel, reproduce, restore, run, tasks, training
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.errors import CheckpointError, ConfigError

# ------------------------------------------------------------------------------------------------------ checkpoints


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
    found = training.transfer(mine, store, 0)
    checkpoint.close(store)
    assert "took 2 of 2 arrays" in capsys.readouterr().out
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
    """Parameters of the same name and shape, averages from their averages, and the rest as it was initialised."""
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
    assert f"took {len(params) - len(other)} of {len(params)} arrays" in output and other[0] in output
    for name in params:
        assert np.array_equal(found[name], donor[name]) == (name not in other), name
    averaged = [name for name in found if name.startswith("ema/") and name.replace("ema/", "params/", 1) not in other]
    for name in averaged:
        # One step with a rate of 0: the average moved by 0.9 towards the parameters, which stood still.
        start = donor.get(name, donor[name.replace("ema/", "params/", 1)])
        wanted = 0.1 * start + 0.9 * donor[name.replace("ema/", "params/", 1)]
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-7)
    assert {name.split("/")[1] for name in averaged} == {"generator", "discriminator"}


def test_nothing_in_common_is_an_error(run_of, tmp_path, capsys):
    assert train(tmp_path, f"--config.init_from={run_of('vae_digits')}", config="gan_digits") == 4
    assert "no array of" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- devices and processes


def build(config: str, **changes) -> tuple[programs.Program, training.Source]:
    values = config_files.load(name_of(config)).to_dict()
    for key, value in changes.items():
        change(values, key.replace("__", "."), value)
    resolved = configs.resolve(values)
    source = open_source(resolved.data, resolved.data.evaluate_split)
    return programs.build(resolved, source.spec, source.stored_levels), source


def trained(program, source, count: int = 3):
    at, batches, history = program.init(0), programs.train_batches(program, source, 0), []
    for _ in range(count):
        at, metrics = program.step(at, parallel.put_batch(next(batches), program.mesh), np.int32(0))
        history.append(jax.device_get(metrics))
    return jax.device_get(at), history


def assert_close(one, two, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), one, two)


@pytest.mark.parametrize("devices", [2, 4])
def test_pmap_trains_as_jit_does(devices):
    alone, wanted = trained(*build("vae_digits", parallel__devices=1, optimizer__name="sgd"))
    mapped, found = trained(
        *build("vae_digits", parallel__devices=devices, parallel__compile="pmap", optimizer__name="sgd")
    )
    assert_close(alone, mapped)
    assert_close(wanted, found)


def test_a_run_may_change_between_pmap_and_jit(tmp_path):
    """Its checkpoints, evaluation and samples are those of the same arrays."""
    sgd = "--config.optimizer.name=sgd"
    assert train(tmp_path, sgd, "--config.train.steps=4", "--config.parallel.compile=pmap", devices=2) == 0
    assert train(tmp_path, sgd) == 0
    whole = tmp_path / "whole"
    assert train(whole, sgd) == 0
    np.testing.assert_allclose(list(losses(tmp_path).values()), list(losses(whole).values()), rtol=1e-5)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_take_disjoint_rows_that_make_up_the_batch(monkeypatch, processes):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    taken = []
    for index in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        taken.extend(range(16)[parallel.local_rows(16)])
    assert taken == list(range(16))


PROCESS = """
import os, signal, sys, jax
index, port, stop = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, index)
from genimg_jax.__main__ import main
from genimg_jax.engine import parallel
put, calls = parallel.put_batch, []
def asked_to_stop(*arguments):
    calls.append(1)
    if index == 1 and len(calls) == stop:
        os.kill(os.getpid(), signal.SIGTERM)
    return put(*arguments)
parallel.put_batch = asked_to_stop
sys.exit(main(sys.argv[4:]))
"""


def two_processes(workdir, *flags: str, stop: int = 0) -> list[int]:
    """Trains in two processes of one device each, the second of which gets SIGTERM in step `stop`; their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = ["train", "--config", name_of("vae_digits"), "--workdir", str(workdir), *flags]
    workdir.mkdir(exist_ok=True)
    processes = []
    for index in range(2):
        with (workdir / f"output-{index}.txt").open("w") as output:
            command = [sys.executable, "-c", PROCESS, str(index), str(port), str(stop), *arguments]
            processes.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment()))
    try:
        return [process.wait(300) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """Also where one process takes up what two began, and the reverse; SGD, as for any change of devices."""
    flags = ["--config.optimizer.name=sgd", "--config.train.sample_every=0", "--config.evaluate.batch_size=100"]
    flags += ["--config.optimizer.ema_half_life=100.0"]
    assert train(tmp_path / "one", *flags, devices=2) == 0
    assert two_processes(tmp_path / "two", *flags) == [0, 0], (tmp_path / "two" / "output-0.txt").read_text()
    assert train(tmp_path / "both", *flags, "--config.train.steps=2") == 0
    assert two_processes(tmp_path / "both", *flags, "--config.train.steps=4") == [0, 0]
    assert train(tmp_path / "both", *flags) == 0
    for name in ("two", "both"):
        one, other = state(tmp_path / "one"), state(tmp_path / name)
        assert_close(one, other)
        for split in ("train", "evaluation"):
            a, b = losses(tmp_path / "one", split), losses(tmp_path / name, split)
            assert_close([a[s] for s in sorted(a)], [b[s] for s in sorted(a)])


@pytest.mark.slow
def test_processes_stop_together(tmp_path):
    """A signal to one of them stops both, at a step that they agree on, and both are saved."""
    flags = ["--config.train.sample_every=0", "--config.evaluate.batch_size=100"]
    assert two_processes(tmp_path, *flags, stop=1) == [75, 75], (tmp_path / "output-1.txt").read_text()
    assert steps(tmp_path) == [2]
    assert train(tmp_path, *flags) == 0


def test_a_dry_run_says_what_is_needed_and_writes_nothing(tmp_path, capsys):
    assert train(tmp_path / "run", "--dry_run", devices=2) == 0
    program, _ = build("vae_digits")
    bytes_of_state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.abstract_state))
    assert f"2 devices {{'data': 2, 'fsdp': 1}}; state {bytes_of_state:,} bytes" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", "--dry_run", "--config.parallel.compile=pmap") == 2
    assert "set it to 'jit'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ evaluation and sampling


def test_the_batch_size_changes_no_value():
    """297 images in batches that fit, that leave a rest, and that four devices must add to, to share them."""
    found = []
    for devices, size in ((1, 99), (1, 64), (4, 98)):
        program, source = build(
            "vae_digits", parallel__devices=devices, evaluate__batch_size=size, model__evaluate_samples=2
        )
        weights = core.weights(program.init(3))
        values = tasks.evaluate(program, weights, source)
        values |= tasks.log_prob(program, weights, source)
        assert {v.shape for v in values.values()} == {(source.size,)}
        found.append(values)
    assert_close(found[0], found[1])
    assert_close(found[0], found[2])


def test_random_streams_keep_their_names():
    """Another name gives other images for the seeds of finished runs."""
    named = {task: programs.stream_name(getattr(tasks, task)) for task in vars(tasks) if task.endswith("_task")}
    assert named == {
        "evaluate_task": "evaluate",
        "log_prob_task": "log_prob",
        "sample_task": "sample",
        "sample_beside_task": "sample",
        "reconstruct_task": "encode",
    }
    assert programs.stream_name(tasks.Interpolate(5)) == "sample"
    program, _ = build("vae_digits")
    weights = core.weights(program.init(0))
    keys = core.per_example_keys(core.stream(7, "sample"), jnp.arange(3))
    assert_close(tasks.sample(program, weights, 3, 7), program.family.sample(weights, keys, {}))


def test_sample_i_depends_on_the_seed_and_i_alone():
    program, _ = build("gan_digits", parallel__devices=1, evaluate__batch_size=8)
    wide, _ = build("gan_digits", evaluate__batch_size=20)
    weights = core.weights(program.init(0))
    few, many = tasks.sample(program, weights, 3, seed=5), tasks.sample(program, weights, 21, seed=5)
    assert few.shape == (3, 8, 8, 1) and many.shape == (21, 8, 8, 1)
    assert_close(few, many[:3])
    assert_close(tasks.sample(wide, jax.device_get(weights), 21, seed=5), many)
    assert np.abs(many[:, None] - many[None]).max((2, 3, 4))[~np.eye(21, dtype=bool)].min() > 1e-3, "all are different"
    assert np.abs(tasks.sample(program, weights, 3, seed=6) - few).max() > 1e-3


def test_labels_are_each_in_turn_or_the_one_asked_for():
    program, _ = build("gan_digits", parallel__devices=1, model__conditions=("label",))
    index = np.arange(8, 23)
    assert conditions.rows(program, index)["label"].tolist() == [i % 10 for i in range(8, 23)]
    assert conditions.rows(program, index, {"label": 7})["label"].tolist() == [7] * 15
    weights = core.weights(program.init(0))
    in_turn, sevens = tasks.sample(program, weights, 10, 0), tasks.sample(program, weights, 10, 0, {"label": 7})
    same = [np.allclose(a, b, atol=1e-5) for a, b in zip(in_turn, sevens, strict=True)]
    assert same == [i == 7 for i in range(10)]
    for label in (-1, 10):
        with pytest.raises(ConfigError, match=f"class {label} is not one of 0 to 9"):
            tasks.sample(program, weights, 1, 0, {"label": label})
    unconditional, _ = build("gan_digits")
    assert conditions.rows(unconditional, index) == {}
    with pytest.raises(ConfigError, match="this gan is not told 'label'"):
        conditions.rows(unconditional, index, {"label": 7})


def test_a_column_of_samples_shows_one_class():
    program, _ = build("gan_digits", parallel__devices=1, model__conditions=("label",))

    def columns(classes, count, **given):
        spec = program.spec._replace(num_classes=classes)
        return tasks.sample_columns(program._replace(spec=spec), count, given)

    assert [columns(10, count) for count in (9, 10, 64, 100, 300)] == [None, 10, 10, 10, 20]
    assert [columns(classes, 64) for classes in (1, 2, 3, 16, 17)] == [8, 8, 9, 16, None]
    assert columns(10, 64, label=3) is None
    assert tasks.sample_columns(build("gan_digits")[0], 64) is None, "it is not conditional"


@pytest.mark.parametrize("config", ["vae_digits", "gan_digits"])
def test_interpolations_begin_and_end_at_samples(config):
    program, _ = build(config, parallel__devices=1)
    weights = core.weights(program.init(0))
    rows = tasks.interpolate(program, weights, rows=3, steps=5, seed=2).reshape(3, 5, 8, 8, 1)
    ends = tasks.sample(program, weights, 6, seed=2)
    assert_close(rows[:, 0], ends[0::2])
    assert_close(rows[:, -1], ends[1::2])
    assert np.abs(rows[:, 2] - (rows[:, 0] + rows[:, -1]) / 2).max() > 1e-4, "not a cross-fade of pictures"


def test_capabilities_that_are_lacking_are_named(monkeypatch):
    program, _ = build("gan_digits")
    lacking = program._replace(family=program.family._replace(sample=None, latents=()))
    with pytest.raises(ConfigError, match="gan cannot sample"):
        tasks.sample(lacking, None, 1, 0)
    with pytest.raises(ConfigError, match="gan draws no codes"):
        tasks.interpolate(lacking, None, 1, 2, 0)


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
