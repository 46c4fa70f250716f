"""The engine, part by part: devices, evaluation and sampling."""

import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import change, environment, losses, name_of, state, steps, train

from genimg_jax import core
from genimg_jax.data import open_source
from genimg_jax.engine import codes, conditions, config_files, parallel, tasks, training
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.errors import ConfigError

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
    every = vars(tasks) | vars(codes)
    named = {name: programs.stream_name(task) for name, task in every.items() if name.endswith("_task")}
    assert named == {
        "evaluate_task": "evaluate",
        "log_prob_task": "log_prob",
        "sample_task": "sample",
        "sample_beside_task": "sample",
        "translate_task": "sample",
        "cycle_task": "sample",
        "prior_task": "sample",
        "encode_decode_task": "encode",
        "reconstruct_task": "encode",
        "encode_task": "encode",
    }
    assert programs.stream_name(codes.Interpolate(5)) == "sample"
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
    rows = codes.interpolate(program, weights, rows=3, steps=5, seed=2).reshape(3, 5, 8, 8, 1)
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
        codes.interpolate(lacking, None, 1, 2, 0)
