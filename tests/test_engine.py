"""The engine, part by part: optimisers, updates, configurations, checkpoints, devices, evaluation and sampling."""

import dataclasses
import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from tiny_runs import ROOT, assert_same_state, compiled_once, environment, losses, name_of, state, steps, train  # noqa: F401

from genimg_jax import core
from genimg_jax.__main__ import main
from genimg_jax.data import open_source
from genimg_jax.engine import checkpoint, optimizers, parallel, restored, run, training
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.errors import CheckpointError, ConfigError, DataError

# ------------------------------------------------------------------------------------------------------ optimisers


def test_learning_rate_follows_its_closed_form():
    constant = optimizers.learning_rate(optimizers.Options(learning_rate=0.3), 100)
    assert constant(0) == constant(99) == 0.3
    rate = optimizers.learning_rate(optimizers.Options(learning_rate=0.3, schedule="cosine", warmup_steps=10), 110)
    at = np.arange(111)
    wanted = np.where(at < 10, 0.3 * at / 10, 0.15 * (1 + np.cos(np.pi * (at - 10) / 100)))
    np.testing.assert_allclose([rate(i) for i in at], wanted, rtol=1e-5, atol=1e-7)


def updates(options: optimizers.Options, params, gradients, steps: int = 1):
    transform = optimizers.make(options, steps=100, batch_size=1).transform
    carried = transform.init(params)
    for _ in range(steps):
        found, carried = transform.update(gradients, carried, params)
    return found


@pytest.mark.parametrize(("norm", "kept"), [(5.0, 2.0), (1.5, 1.5)])
def test_clipping_bounds_the_global_norm(norm, kept):
    gradients = {"a": jnp.array([0.6 * norm]), "b": jnp.array([[0.8 * norm]])}
    options = optimizers.Options("sgd", learning_rate=1.0, clip_norm=2.0)
    found = updates(options, gradients, gradients)
    np.testing.assert_allclose([-found["a"][0], -found["b"][0, 0]], [0.6 * kept, 0.8 * kept], rtol=1e-6)


@pytest.mark.parametrize(("mask", "of_bias"), [("kernels", 0.0), ("all", -0.02)])
def test_weight_decay_spares_vectors(mask, of_bias):
    """Without a gradient, AdamW's update is -rate * decay * parameter."""
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    options = optimizers.Options("adamw", 0.1, {"weight_decay": 0.2}, decay_mask=mask)
    found = updates(options, params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(found["kernel"], np.full((2, 2), -0.02), rtol=1e-6)
    np.testing.assert_allclose(found["bias"], np.full(2, of_bias), rtol=1e-6)


def test_half_life_is_counted_in_images():
    decay = optimizers.make(optimizers.Options(ema_half_life=1000.0), steps=1, batch_size=50).ema_decay
    assert decay**20 == pytest.approx(0.5)
    assert optimizers.make(optimizers.Options(), 1, 1).ema_decay is None


def test_what_optax_lacks_is_named_with_what_is_near():
    with pytest.raises(ConfigError, match=r"'adamm', which optax lacks; did you mean 'adam'\?"):
        optimizers.make(optimizers.Options("adamm"), 1, 1)
    with pytest.raises(ConfigError, match=r"arguments\.beta1 is no argument of optax\.adam.* b1, b2"):
        optimizers.make(optimizers.Options("adam", arguments={"beta1": 0.5}), 1, 1)


# ----------------------------------------------------------------------------------------- the two doors of core.py


def test_the_average_is_warmed_up():
    """At step t its decay is min(decay, (1 + t) / (10 + t)): here 0.9 from step 80 on, 0.1 at step 0."""
    optimizer = core.Optimizer(optax.sgd(1.0), 0.9)
    at = core.init_state({"w": jnp.zeros(1)}, {"w": optimizer})
    expected, position = 0.0, 0.0
    for step in range(100):
        at, _ = core.update(optimizer, at, "w", jnp.full(1, -2.0))
        at = at.replace(step=at.step + 1)
        position += 2.0
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * position
    np.testing.assert_allclose(at.ema["w"], [expected], rtol=1e-5)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    optimizer = core.Optimizer(optax.adam(0.1), 0.9)
    params = {"w": {"a": jnp.ones(2), "b": jnp.ones(1)}}
    before = core.init_state(params, {"w": optimizer}, extra={"statistics": jnp.zeros(1)})
    gradients = {"a": jnp.array([1.0, bad]), "b": jnp.ones(1)}
    after, metrics = core.update(optimizer, before, "w", gradients, {"statistics": jnp.full(1, jnp.nan)})
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert metrics["skipped/w"] == 1
    gradients["a"] = jnp.ones(2)
    after, metrics = core.update(optimizer, before, "w", gradients, {"statistics": jnp.ones(1)})
    assert metrics["skipped/w"] == 0 and metrics["gradient_norm/w"] == pytest.approx(3**0.5)
    assert all((a != b).all() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True) if a.ndim)


def least_squares(params, batch, key):
    residual = batch["x"] @ params - batch["y"]
    return (residual**2).mean(), {"residual": residual.mean()}


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_microbatches_give_the_gradient_of_the_whole(parts):
    rng = np.random.default_rng(0)
    x, y, w = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 3), (8,), (3,)))
    gradient = core.value_and_grad(core.Optimizer(optax.sgd(1.0), microbatches=parts), least_squares)
    (value, auxiliary), found = gradient(jnp.array(w), {"x": jnp.array(x), "y": jnp.array(y)}, jax.random.key(0))
    residual = x @ w - y
    np.testing.assert_allclose(value, (residual**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(auxiliary["residual"], residual.mean(), rtol=1e-5)
    np.testing.assert_allclose(found, 2 * x.T @ residual / 8, rtol=1e-5)


def test_bfloat16_computes_on_rounded_parameters_and_returns_float32():
    seen = []

    def loss(params, batch, key):
        seen.append(params.dtype)
        return (params * batch["x"].astype(params.dtype)).sum(), {"aux": params.sum()}

    gradient = core.value_and_grad(core.Optimizer(optax.sgd(1.0), compute_dtype=jnp.bfloat16), loss)
    params = jnp.array([1.0 + 2**-10])  # rounds to 1 in bfloat16
    (value, auxiliary), found = gradient(params, {"x": jnp.array([2.0 + 2**-10])}, jax.random.key(0))
    assert seen == [jnp.bfloat16] and value.dtype == found.dtype == auxiliary["aux"].dtype == jnp.float32
    assert value == 2.0 and found == 2.0 and auxiliary["aux"] == 1.0


# --------------------------------------------------------------------------------------------------- configurations


def test_differences_say_what_is_safe():
    one, two = (configs.experiment("vae").to_dict() for _ in range(2))
    two["train"] |= {"log_every": 7, "steps": 2000}
    two["model"]["latent"], two["resume"], two["init_from"] = 3, "elsewhere", "elsewhere"
    found = {d.key: d.safe for d in configs.differences(one, two)}
    assert found == {
        "train.log_every": True,
        "train.steps": True,
        "resume": True,
        "init_from": False,
        "model.latent": False,
    }
    two["optimizer"]["schedule"] = one["optimizer"]["schedule"] = "cosine"
    assert not {d.key: d.safe for d in configs.differences(one, two)}["train.steps"]
    assert configs.differences(one, one) == []


def test_what_training_does_not_read_is_safe_to_change():
    one, two = (configs.experiment("diffusion").to_dict() for _ in range(2))
    two["model"] |= {"steps": 50, "solver": "euler", "data_std": 0.4}
    assert {d.key: d.safe for d in configs.differences(one, two)} == {
        "model.steps": True,
        "model.solver": True,
        "model.data_std": False,
    }
    assert configs.digest(one) != configs.digest({**one, "model": {**one["model"], "steps": 50}})


def test_the_digest_changes_with_whatever_changes_the_result():
    """Every leaf is changed in turn; the digest follows exactly where `differences` says unsafe."""
    base = configs.experiment("gan").to_dict()
    other = {bool: lambda v: not v, str: lambda v: v + "x", tuple: lambda v: (*v, 1), dict: lambda v: {"b1": 0.5}}
    paths = [k.split(".") for k in configs.flatten(base)] + [["optimizer", "generator", "arguments"]]
    safe = 0
    for *sections, last in paths:
        changed = configs.experiment("gan").to_dict()
        at = changed
        for name in sections:
            at = at[name]
        at[last] = other.get(type(at[last]), lambda v: v + 1)(at[last])
        (difference,) = configs.differences(base, changed)
        unsafe = not difference.safe or difference.key == "train.steps"  # safe to go on with, but another result
        assert (configs.digest(base) != configs.digest(changed)) == unsafe, difference
        safe += not unsafe
    assert 0 < safe < len(paths)


HEAD = "from genimg_jax.engine.config import experiment\n\n\ndef get_config(variant='full'):\n"


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ('model={"latent": 4,\n"widht": 8}', 6, "config.model.widht is not an option; did you mean 'width'?"),
        ('modle={"latent": 4}', 5, "config.modle is not an option; did you mean 'model'?"),
        ('train={\n"steps": "100"}', 6, "config.train.steps is '100', a str; it must be a int"),
        ('train={"steps": 1.5}', 5, "config.train.steps is 1.5, a float"),
        ('train={"steps": True}', 5, "config.train.steps is True, a bool"),
        ('train={"steps": 0}', 5, "config.train.steps is 0; it must be at least 1"),
        ('optimizer={"learning_rate": "1e-4"}', 5, "config.optimizer.learning_rate is '1e-4', a str"),
        ('evaluate={"likelihood": "false"}', 5, "config.evaluate.likelihood is 'false', a str; it must be a bool"),
        ('model={"network": "cnn"}', 5, "config.model.network is 'cnn'"),
        ('data={"source": "digit"}', 5, "digit"),
        ('model={"latent": 4,\n "width": 8,\n "latent": 5}', 7, "the key 'latent' is given twice"),
        ('model={"latent": unknown}', 5, "NameError"),
        ('model={"latent": 4', 5, "SyntaxError"),
        ("[]", 5, "TypeError"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, section, line, message):
    file = tmp_path / "broken.py"
    file.write_text(f'{HEAD}    return experiment("vae", {section})\n')
    with pytest.raises(ConfigError) as caught:
        configs.load(str(file))
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert message in str(caught.value)


def test_other_things_a_file_can_lack(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(HEAD + "    return {}\n")
    with pytest.raises(ConfigError, match="get_config returned dict"):
        configs.load(str(file))
    file.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="get_config"):
        configs.load(str(file))
    with pytest.raises(ConfigError, match=r"no config file .*your\.py; config files beside it: .*mine\.py"):
        configs.load(str(tmp_path / "your.py"))


def test_a_variant_is_passed_on_and_defaults_are_filled_in():
    tiny, full = configs.load(name_of("vae_digits")), configs.load(str(ROOT / "configs" / "vae_digits.py"))
    assert tiny.model.width < full.model.width
    assert tiny.train.keep == configs.TrainOptions().keep
    assert configs.resolve(tiny).model.width == tiny.model.width


def change(values: dict, key: str, value) -> dict:
    *sections, last = key.split(".")
    at = values
    for name in sections:
        at = at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return values


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "config.seed is -1; it must be between 0"),
        ("seed", 2**31, "config.seed is 2147483648"),
        ("seed", 1.0, "config.seed is 1.0; it must be a int"),
        ("resume", None, "config lacks resume"),
        ("train.keep", None, "config.train lacks keep"),
        ("family", "vea", "family is 'vea'; did you mean 'vae'?"),
        ("optimizer", {"generatr": {}}, "config.optimizer has groups"),
        ("extra", 1, "config.extra is not an option"),
    ],
)
def test_a_resolved_configuration_is_complete_and_in_range(key, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        configs.resolve(change(configs.experiment("gan").to_dict(), key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.microbatches", 3, "train.microbatches is 3, which does not divide 16"),
        ("parallel.fsdp", 3, "parallel.fsdp is 3, which does not divide the 4 devices"),
        ("parallel.devices", 5, "parallel.devices is 5, but there are 4"),
        ("train.batch_size", 6, "train.batch_size is 6, which 4 devices cannot share"),
        ("model.conditional", True, "no labels"),
    ],
)
def test_a_program_that_cannot_work_is_refused_before_compiling(key, value, message):
    config = configs.resolve(change(configs.load(name_of("vae_digits")).to_dict(), key, value))
    with pytest.raises(ConfigError, match=re.escape(message)):
        programs.build(config, core.Spec((8, 8, 1), 0, 2), 17)


def test_the_best_metric_must_be_measured(tmp_path, capsys):
    for flags, found in (
        (["--config.train.best=lss"], "measures kl, loss, reconstruction"),
        (["--config.train.evaluate_every=0"], "measures nothing, with train.evaluate_every at 0"),
    ):
        assert train(tmp_path, *flags) == 2
        assert found in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


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


def test_a_dtype_is_never_cast(tmp_path):
    store = checkpoint.open_store(tmp_path)
    checkpoint.save(store, small_state(1), {}, None)
    checkpoint.wait(store)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, small_state(0))
    with pytest.raises(CheckpointError, match=r"params/w: stored \[\[2\], 'float32'\], wanted \[\[2\], 'bfloat16'\]"):
        checkpoint.restore(store, 1, half)
    checkpoint.close(store)


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
    values = configs.load(name_of(config)).to_dict()
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
    bytes_of_state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.like))
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
        values = programs.evaluate(program, weights, source)
        values |= programs.evaluate(program, weights, source, "log_prob")
        assert {v.shape for v in values.values()} == {(source.size,)}
        found.append(values)
    assert_close(found[0], found[1])
    assert_close(found[0], found[2])


def test_sample_i_depends_on_the_seed_and_i_alone():
    program, _ = build("gan_digits", parallel__devices=1, evaluate__batch_size=8)
    wide, _ = build("gan_digits", evaluate__batch_size=20)
    weights = core.weights(program.init(0))
    few, many = programs.sample(program, weights, 3, seed=5), programs.sample(program, weights, 21, seed=5)
    assert few.shape == (3, 8, 8, 1) and many.shape == (21, 8, 8, 1)
    assert_close(few, many[:3])
    assert_close(programs.sample(wide, jax.device_get(weights), 21, seed=5), many)
    assert np.abs(many[:, None] - many[None]).max((2, 3, 4))[~np.eye(21, dtype=bool)].min() > 1e-3, "all are different"
    assert np.abs(programs.sample(program, weights, 3, seed=6) - few).max() > 1e-3


def test_labels_are_each_in_turn_or_the_one_asked_for():
    program, _ = build("gan_digits", parallel__devices=1, model__conditional=True)
    index = np.arange(8, 23)
    assert programs.condition_for(program, index)["label"].tolist() == [i % 10 for i in range(8, 23)]
    assert programs.condition_for(program, index, 7)["label"].tolist() == [7] * 15
    weights = core.weights(program.init(0))
    in_turn, sevens = programs.sample(program, weights, 10, 0), programs.sample(program, weights, 10, 0, label=7)
    same = [np.allclose(a, b, atol=1e-5) for a, b in zip(in_turn, sevens, strict=True)]
    assert same == [i == 7 for i in range(10)]
    for label in (-1, 10):
        with pytest.raises(ConfigError, match=f"class {label} is not one of 0 to 9"):
            programs.sample(program, weights, 1, 0, label=label)
    unconditional, _ = build("gan_digits")
    assert programs.condition_for(unconditional, index) == {}
    with pytest.raises(ConfigError, match="not class-conditional"):
        programs.condition_for(unconditional, index, 7)


@pytest.mark.parametrize("config", ["vae_digits", "gan_digits"])
def test_interpolations_begin_and_end_at_samples(config):
    program, _ = build(config, parallel__devices=1)
    weights = core.weights(program.init(0))
    rows = programs.interpolate(program, weights, rows=3, steps=5, seed=2).reshape(3, 5, 8, 8, 1)
    ends = programs.sample(program, weights, 6, seed=2)
    assert_close(rows[:, 0], ends[0::2])
    assert_close(rows[:, -1], ends[1::2])
    assert np.abs(rows[:, 2] - (rows[:, 0] + rows[:, -1]) / 2).max() > 1e-4, "not a cross-fade of pictures"


def test_capabilities_that_are_lacking_are_named(monkeypatch):
    program, _ = build("gan_digits")
    lacking = program._replace(family=program.family._replace(sample=None, prior=None))
    with pytest.raises(ConfigError, match="gan cannot sample"):
        programs.sample(lacking, None, 1, 0)
    with pytest.raises(ConfigError, match="gan draws no codes"):
        programs.interpolate(lacking, None, 1, 2, 0)


def test_a_run_is_opened_as_it_was_trained(run_of, capsys):
    workdir = run_of("gan_digits")
    values = run.read_json(workdir, "config.json")
    averaged = restored.open_run(workdir, values, "last")
    plain = restored.open_run(workdir, values, "last", averaged=False)
    stored = state(workdir)
    for opened, group in ((averaged, "ema"), (plain, "params")):
        found = {checkpoint.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(opened.weights.params)}
        for name in (n for n in stored if n.startswith(f"{group}/generator")):
            np.testing.assert_array_equal(found[name.removeprefix(f"{group}/")], stored[name])
    values["model"]["width"] = 99
    with pytest.raises(CheckpointError, match=r"model\.width +stored 16, given 99"):
        restored.open_run(workdir, values, "last")


# --------------------------------------------------------------------------- every leaf of a configuration is read


def kinds() -> dict[str, type]:
    return {**configs.SECTIONS, "optimizer": optimizers.Options}


def unread(monkeypatch, exercise) -> set[str]:
    """Fields of the sections' options that `exercise` never reads; checking, comparing and copying do not count."""
    found = {f"{name}.{field.name}" for name, kind in kinds().items() for field in dataclasses.fields(kind)}
    for name, kind in kinds().items():

        def read(self, field, name=name):
            caller = sys._getframe(1).f_code.co_filename
            if os.path.basename(caller) not in ("dataclasses.py", "options.py", "<string>"):
                found.discard(f"{name}.{field}")
            return object.__getattribute__(self, field)

        monkeypatch.setattr(kind, "__getattribute__", read, raising=False)
    exercise()
    return found


def use_everything(tmp_path):
    """Train, evaluate and sample, with the branches of the options that a single run does not take."""

    def exercise():
        workdir = tmp_path / "run"
        flags = ["--config.data.source=folder", f"--config.data.path={tmp_path / 'images'}", "--config.train.steps=2"]
        flags += ["--config.parallel.fsdp=2"]
        assert train(workdir, *flags, devices=2) == 0
        assert main(["evaluate", "--workdir", str(workdir)]) == 0
        digits = ["--config.data.source=digits", "--config.evaluate.samples=16", "--config.evaluate.likelihood=False"]
        assert main(["evaluate", "--workdir", str(workdir), "--suite", "full", *digits]) == 0
        assert main(["sample", "--workdir", str(workdir), "--count", "2"]) == 0
        assert train(tmp_path / "over", *flags, f"--config.tokenizer.workdir={workdir}", devices=2) == 2, "no tokenizer"
        for source, named in {"tfds": "mnist", "shapes": ""}.items():
            values = configs.load(name_of("vae_digits")).to_dict()
            values["data"] |= {"source": source, "path": str(tmp_path), "name": named, "shapes_count": 20}
            try:
                open_source(configs.resolve(values).data, "train")
            except DataError:
                assert source == "tfds", "which is not prepared there"

    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(16):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / "images" / split / f"{i}.png")
    return exercise


def test_every_leaf_of_a_configuration_is_read(tmp_path, monkeypatch):
    assert unread(monkeypatch, use_everything(tmp_path)) == set()
    top = {field for field in configs.Config._fields if field not in {*kinds(), "model", "family"}}
    assert top == {"seed", "resume", "init_from"}, "whose effects the other tests show"


def test_a_leaf_that_nothing_reads_is_found(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Forgetful(configs.EvaluateOptions):
        forgotten: int = 0

    monkeypatch.setitem(configs.SECTIONS, "evaluate", Forgetful)
    assert unread(monkeypatch, use_everything(tmp_path)) == {"evaluate.forgotten"}
