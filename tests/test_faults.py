"""Runs survive what happens to them, and say what did: the rows of the fault table that a run directory answers for.

Exit codes: 2 usage or configuration, 3 data, 4 checkpoint, 5 numerics, 6 resources, 75 stopped and saved.
"""

import functools
import importlib.util
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_runs import ROOT, assert_same_state, environment, losses, name_of, state, steps, train

from genimg_jax.__main__ import main
from genimg_jax.data import open_source
from genimg_jax.engine import checkpoint, config_files, images, loop, parallel, run, tasks
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.families import vae


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert train(workdir) == 0
    return workdir


def sentence(capsys) -> str:
    """The last failure: one sentence, perhaps with a table, and no traceback."""
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    failures = re.findall(r"^genimg: (.*)", errors, re.MULTILINE | re.DOTALL)
    assert len(failures) == 1, errors
    return failures[0]


# -------------------------------------------------------------------------------------------- rows 1 to 3: kill -9


def kill_and_resume(*arguments: str) -> int:
    file = ROOT / "experiments" / "kill_and_resume.py"
    spec = importlib.util.spec_from_file_location("kill_and_resume", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(arguments)


def test_two_killed_runs_end_as_if_they_had_not_been(monkeypatch, capsys):
    """One killed at a random moment and one during a save, of a GAN: two optimisers, averages, batch statistics."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    code = kill_and_resume("--kills", "2", "--steps", "15", "--config", name_of("gan_digits"))
    assert code == 0, capsys.readouterr().out
    assert "a save" in capsys.readouterr().out


@pytest.mark.slow
def test_twenty_killed_runs_of_each_family(monkeypatch, capsys):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    code = kill_and_resume("--kills", "20", "--config", name_of("vae_digits"), name_of("gan_digits"))
    assert code == 0, capsys.readouterr().out


def test_left_overs_of_a_crash_are_named_and_removed(whole, tmp_path, capsys):
    assert train(tmp_path, "--config.train.steps=4") == 0
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    assert train(tmp_path) == 0
    assert "6.orbax-checkpoint-tmp, which was never finished" in capsys.readouterr().err
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    assert_same_state(whole, tmp_path)


def test_a_directory_that_is_no_checkpoint_is_never_the_latest(whole, tmp_path, capsys):
    """Row 6; one of them at the very step that is to be saved next."""
    assert train(tmp_path, "--config.train.steps=4") == 0
    checkpoints = tmp_path / "checkpoints"
    for name in ("6", "9"):
        (checkpoints / name).mkdir()
    (checkpoints / "6" / "notes.txt").write_text("keep me")
    (checkpoints / "7").write_text("a file")
    (checkpoints / "stray.txt").write_text("")
    assert main(["evaluate", "--workdir", str(tmp_path), "--checkpoint", "last"]) == 0
    assert json.loads((tmp_path / "evaluation" / "last.json").read_text())["step"] == 4
    assert (checkpoints / "9").is_dir(), "reading must not move anything"
    capsys.readouterr()
    assert train(tmp_path) == 0
    output = capsys.readouterr()
    assert "from step 4" in output.out and output.err.count("is no checkpoint: set aside as") == 3
    assert steps(tmp_path) == [4, 6]
    assert [p.read_text() for p in checkpoints.glob("6.set-aside-*/notes.txt")] == ["keep me"]
    assert_same_state(whole, tmp_path)


def test_a_half_written_line_of_metrics_is_dropped(whole, tmp_path):
    """A crash after the checkpoint of step 4: what was logged since is logged again, once."""
    assert train(tmp_path, "--config.train.steps=4") == 0
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "images": 80, "split": "train", "loss": 1.0}\n{"step": 6, "ima')
    assert train(tmp_path) == 0
    assert losses(tmp_path) == losses(whole)
    assert losses(tmp_path, "evaluation") == losses(whole, "evaluation")


# ---------------------------------------------------------------------------------- rows 9 and 10: asked to stop


def interrupt(function, number: int, at_call: int = 1):
    """`function`, whose call number `at_call` is preceded by a signal to this process."""
    calls = iter(range(1, 1000))

    @functools.wraps(function)
    def interrupted(*arguments, **keywords):
        if next(calls) == at_call:
            os.kill(os.getpid(), number)
        return function(*arguments, **keywords)

    return interrupted


@pytest.mark.parametrize(
    ("module", "name", "at_call", "saved"),
    [
        (checkpoint, "open_store", 1, 1),  # before anything is compiled
        (parallel, "put_batch", 2, 2),  # in a step
        (tasks, "evaluate", 1, 5),  # after the step that is being evaluated and saved: the next one is the last
        (checkpoint, "save", 1, 5),  # as that save begins
    ],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    whole, tmp_path, capsys, monkeypatch, module, name, at_call, saved
):
    number = signal.SIGINT if name == "save" else signal.SIGTERM
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupt(getattr(module, name), number, at_call))
        assert train(tmp_path, "--config.train.sample_every=0") == 75
    assert f"saved at step {saved}" in sentence(capsys)
    assert steps(tmp_path)[-1] == saved and not list((tmp_path / "checkpoints").glob("*tmp*"))
    assert signal.getsignal(signal.SIGINT) == before, "handlers are put back"
    assert train(tmp_path, "--config.train.sample_every=0") == 0
    assert_same_state(whole, tmp_path)


def test_a_stop_waits_for_few_steps(tmp_path, monkeypatch):
    """However long a step takes, the loop is not far ahead of what the device has done."""
    begun, ended, ahead = itertools.count(1), [], []
    build = programs.build

    def end(values):
        time.sleep(0.02)
        ended.append(1)
        return values

    @jax.jit
    def slow(values):
        return jax.pure_callback(end, values, values)

    def slow_program(*arguments, **keywords):
        program = build(*arguments, **keywords)

        def step(state, batch, seed):
            ahead.append(next(begun) - len(ended))
            state, metrics = program.step(state, batch, seed)
            return state, metrics.replace(values=slow(metrics.values))

        return program._replace(step=step)

    monkeypatch.setattr(programs, "build", slow_program)
    keys = ("steps", "log_every", "evaluate_every", "checkpoint_every", "sample_every")
    assert train(tmp_path, *(f"--config.train.{key}=20" for key in keys)) == 0
    assert len(ended) == 20 and max(ahead) <= loop.AHEAD + 1, ahead


def test_a_signal_in_the_last_step_changes_nothing(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(images, "save_png", interrupt(images.save_png, signal.SIGTERM, 3))  # the grid of step 6
        assert train(tmp_path) == 0
    assert_same_state(whole, tmp_path)


TWICE = """
import os, signal, sys
from genimg_jax.__main__ import main
from genimg_jax.engine import parallel
put, calls = parallel.put_batch, []
def twice(*arguments):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    return put(*arguments)
parallel.put_batch = twice
sys.exit(main(sys.argv[1:]))
"""


def test_a_second_signal_leaves_at_once_and_breaks_nothing(whole, tmp_path):
    flags = ["--config", name_of("vae_digits"), "--workdir", str(tmp_path), "--config.train.evaluate_every=0"]
    flags += ["--config.train.best=", "--config.train.sample_every=0"]
    done = subprocess.run(
        [sys.executable, "-c", TWICE, "train", *flags], capture_output=True, text=True, env=environment(), timeout=300
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert 6 not in steps(tmp_path)
    assert train(tmp_path) == 0
    assert_same_state(whole, tmp_path)


# ------------------------------------------------------------------------------------- rows 11 and 12: not finite


def faulty(monkeypatch, change) -> None:
    """VAEs whose training step is changed by `change(train_step, state, batch, key)`."""
    make = vae.make

    def made(options, spec, optimizers):
        family = make(options, spec, optimizers)
        return family._replace(train_step=functools.partial(change, family.train_step))

    monkeypatch.setattr(vae, "make", made)


def poison(bad, train_step, state, batch, key):
    """Pixels that are not numbers where `bad(state, batch)` says so."""
    return train_step(state, {**batch, "image": jnp.where(bad(state, batch), jnp.nan, batch["image"])}, key)


def test_a_batch_that_is_not_finite_is_as_if_left_out(monkeypatch):
    """Bit for bit, optimiser and average included: steps 2 and 3 of the one are never made by the other."""
    faulty(monkeypatch, functools.partial(poison, lambda _, batch: (batch["label"] < 0).any()))
    values = config_files.load(name_of("vae_digits"))
    values.update({"optimizer": {"ema_half_life": 100.0}, "parallel": {"devices": 1}})
    config = configs.resolve(values)
    source = open_source(config.data, "train")
    program = programs.build(config, source.spec, source.stored_levels)

    def run(left_out: bool):
        state, batches = program.init(0), programs.train_batches(program, source, 0)
        for step in range(6):
            batch = next(batches)
            if step in (2, 3) and left_out:
                state = state.replace(step=state.step + 1)
                continue
            if step in (2, 3):
                batch["label"][-1] = -1
            state, metrics = program.step(state, parallel.put_batch(batch, program.mesh), np.int32(0))
            assert jax.device_get(metrics).unpack()["skipped/model"] == (step in (2, 3))
        return jax.device_get(state)

    jax.tree.map(np.testing.assert_array_equal, run(False), run(True))


def test_a_batch_that_is_not_finite_is_counted_and_passed(tmp_path, monkeypatch):
    """Even where a line of metrics, or the steps between two checkpoints, hold no other."""
    faulty(monkeypatch, functools.partial(poison, lambda state, _: (state.step == 2) | (state.step == 3)))
    assert train(tmp_path, "--config.train.log_every=1", "--config.train.checkpoint_every=1") == 0
    lines = [line for line in run.read_metrics(tmp_path) if line["split"] == "train"]
    assert [line["skipped/model"] for line in lines] == [0, 0, 1, 1, 0, 0]
    assert lines[2]["loss"] == "nan"


def test_gradients_that_stay_not_finite_stop_the_run(tmp_path, monkeypatch, capsys):
    flags = ("--config.train.steps=100", "--config.train.sample_every=0", "--config.train.evaluate_every=0")
    flags = (*flags, "--config.train.best=")
    with monkeypatch.context() as patch:
        faulty(patch, functools.partial(poison, lambda state, _: state.step >= 6))
        assert train(tmp_path, *flags) == 5
    message = sentence(capsys)
    assert "model" in message and "from step 7 on" in message and "learning rate" in message
    last = steps(tmp_path)[-1]
    assert 6 <= last < 6 + loop.PATIENCE
    assert all(np.isfinite(x).all() for x in state(tmp_path).values())
    assert train(tmp_path, *flags) == 0, "what was kept is good to go on from"


def test_weights_that_are_not_finite_are_never_saved(tmp_path, capsys):
    """Finite gradients, but a step so long that it overflows: no step was skipped yet."""
    flags = ("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=3e38", "--config.train.evaluate_every=0")
    assert train(tmp_path, *flags, "--config.train.best=", "--config.train.checkpoint_every=1") == 5
    assert "the parameters of model overflow at step 1" in sentence(capsys)
    assert steps(tmp_path) == []


# --------------------------------------------------------------------------------- row 15: other numbers of devices


def test_the_number_of_devices_may_change(tmp_path, monkeypatch):
    """The same images at every step, and the same losses. SGD: Adam makes full steps of rounding noise."""
    seen: dict[str, list] = {}
    put = parallel.put_batch

    def record(batch, mesh):
        seen[name].append(np.asarray(batch["image"]))
        return put(batch, mesh)

    monkeypatch.setattr(parallel, "put_batch", record)
    flags = ("--config.optimizer.name=sgd", "--config.train.log_every=1", "--config.train.evaluate_every=0")
    flags = (*flags, "--config.train.best=", "--config.train.sample_every=0")
    for name, plan in {"alone": [(1, 8)], "changing": [(4, 2), (2, 4), (1, 6), (4, 8)]}.items():
        seen[name] = []
        for devices, last in plan:
            assert train(tmp_path / name, *flags, f"--config.train.steps={last}", devices=devices) == 0
    np.testing.assert_array_equal(seen["alone"], seen["changing"])
    alone, changing = losses(tmp_path / "alone"), losses(tmp_path / "changing")
    assert alone.keys() == changing.keys() == set(range(1, 9))
    np.testing.assert_allclose(list(alone.values()), list(changing.values()), rtol=1e-5)


def test_a_batch_that_devices_cannot_share(tmp_path, capsys):
    assert train(tmp_path / "run", devices=3) == 2
    assert "train.batch_size is 16, which 3 devices cannot share; use a multiple of 3" in sentence(capsys)


# ------------------------------------------------------------------------- rows 18 and 19: another configuration


def test_a_checkpoint_of_another_family(whole, capsys):
    before = steps(whole)
    assert train(whole, config="gan_digits") == 4
    message = sentence(capsys)
    assert "family" in message and "stored 'vae', given 'gan'" in message and "--workdir" in message
    assert steps(whole) == before


def test_a_checkpoint_of_another_model_is_not_forced_into_this_one(whole, capsys):
    assert train(whole, "--config.model.width=24", "--force_resume") == 4
    message = sentence(capsys)
    named = re.findall(r"^  (.*): stored \[.*\], wanted \[.*\]$", message, re.MULTILINE)
    assert len(named) == 5 and all(name.startswith(("params/", "opt/")) for name in named)


def test_what_changes_the_result_is_refused(whole, tmp_path, capsys):
    assert train(tmp_path, "--config.train.steps=4") == 0
    changed = ("--config.optimizer.learning_rate=0.1", "--config.seed=7", "--config.train.log_every=3")
    capsys.readouterr()
    assert train(tmp_path, *changed) == 4
    message = sentence(capsys)
    assert re.search(r"optimizer.learning_rate +stored 0.001, given 0.1", message)
    assert re.search(r"seed +stored 0, given 7", message)
    assert "log_every" not in message and "train.steps" not in message, "these are safe"
    assert train(tmp_path, *changed, "--force_resume") == 0
    assert steps(tmp_path)[-1] == 6


def test_what_changes_no_result_is_accepted_and_told(whole, tmp_path, capsys):
    assert train(tmp_path, "--config.train.steps=4") == 0
    capsys.readouterr()
    flags = ("--config.train.log_every=3", "--config.train.checkpoint_every=1", "--config.evaluate.batch_size=100")
    assert train(tmp_path, *flags) == 0
    output = capsys.readouterr().out
    assert re.search(r"train.log_every +stored 2, given 3", output) and "train.steps" in output
    assert_same_state(whole, tmp_path)


def test_more_steps_are_not_safe_under_a_schedule_that_ends(tmp_path, capsys):
    assert train(tmp_path, "--config.train.steps=4", "--config.optimizer.schedule=cosine") == 0
    assert train(tmp_path, "--config.optimizer.schedule=cosine") == 4
    assert re.search(r"train.steps +stored 4, given 6", sentence(capsys))


# ------------------------------------------------------------------------------------------------ data: exit code 3


def folder(path: pathlib.Path, count: int = 20, level: int = 0) -> pathlib.Path:
    for split in ("train", "test"):
        (path / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([level, i]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(path / split / f"{i}.png")
    return path


def from_folder(path: pathlib.Path) -> list[str]:
    return ["--config.data.source=folder", f"--config.data.path={path}"]


def spoil(path: pathlib.Path, how: str) -> str:
    """Returns what the message must name."""
    if how == "missing":
        return str(path)
    if how == "empty":
        (path / "train").mkdir(parents=True)
        return str(path)
    folder(path, 8 if how == "few" else 20)
    victim = path / "train" / "7.png"
    if how == "truncated":
        victim.write_bytes(victim.read_bytes()[:60])
    elif how == "text":
        victim.write_text("not a picture")
    return "7 examples" if how == "few" else "7.png"  # the eighth is for validation


@pytest.mark.parametrize("how", ["missing", "empty", "few", "truncated", "text"])
def test_data_that_cannot_be_read(tmp_path, capsys, how):
    named = spoil(tmp_path / "images", how)
    assert train(tmp_path / "run", *from_folder(tmp_path / "images")) == 3
    message = sentence(capsys)
    assert named in message and message.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists() or steps(tmp_path / "run") == []


def test_a_split_that_is_not_there(tmp_path, capsys):
    assert train(tmp_path / "run", "--config.data.train_split=training") == 3
    assert "training" in sentence(capsys)


def test_data_that_changed_since_the_run_began(tmp_path, capsys):
    whole = "--config.data.validation_split=none"
    flags = [*from_folder(folder(tmp_path / "images")), whole, "--config.train.best="]
    assert train(tmp_path / "run", *flags, "--config.train.steps=4") == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / "7.png")
    capsys.readouterr()
    assert train(tmp_path / "run", *flags) == 3
    assert "changed since this run began" in sentence(capsys)
    assert train(tmp_path / "run", *flags, "--force_resume") == 0


# ------------------------------------------------------------------------------------------- places: exit code 6


def test_a_run_directory_is_held_by_one_process(whole, tmp_path, capsys):
    """And reading is allowed meanwhile."""
    assert train(tmp_path, "--config.train.steps=4") == 0
    capsys.readouterr()
    with run.lock(tmp_path):
        assert train(tmp_path) == 6
        assert f"in use by process {os.getpid()} on " in sentence(capsys)
        assert main(["sample", "--workdir", str(tmp_path), "--count", "4"]) == 0
    assert steps(tmp_path) == [4]
    assert train(tmp_path) == 0
    assert_same_state(whole, tmp_path)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, capsys):
    code = "import pathlib, os; from genimg_jax.engine import run; run.lock(pathlib.Path('.')).__enter__(); os._exit(9)"
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), timeout=300)
    assert process.returncode == 9 and "process" in (tmp_path / "lock").read_text()
    with run.lock(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()


def test_a_workdir_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    """Before anything is compiled or written."""
    monkeypatch.setattr(programs, "build", None)
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (file, file / "below"):
        assert train(place) == 6
        assert f"cannot write to {place}: " in sentence(capsys)
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]


def test_a_workdir_without_permission(capsys, monkeypatch):
    monkeypatch.setattr(programs, "build", None)
    place = pathlib.Path(tempfile.mkdtemp())  # not in pytest's folder, which others may not even enter
    place.chmod(0o555)
    superuser = os.geteuid() == 0
    try:
        if superuser:  # who may write anywhere
            os.seteuid(65534)
        for workdir in (place, place / "run"):
            assert train(workdir) == 6
            assert f"cannot write to {workdir}: Permission denied" in sentence(capsys)
        assert not list(place.iterdir())
    finally:
        if superuser:
            os.seteuid(0)
        place.chmod(0o755)
        place.rmdir()


def test_a_workdir_of_any_name(whole, tmp_path):
    place = tmp_path / "Läufe, die dauern" / "数字"
    assert train(place) == 0
    assert_same_state(whole, place)
    assert main(["sample", "--workdir", str(place), "--count", "2"]) == 0
