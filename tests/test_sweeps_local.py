"""Workers on this machine: what happens to one trial happens to no other, and nothing is lost when all are stopped.

Most of it with workers that train nothing; at the end real ones, against the same training in this process.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tiny_runs

from genimg_jax.engine import config_files, run
from genimg_jax.errors import ConfigError, Preempted
from genimg_jax.sweeps import driver, experiment, local, plan, scores, trials
from genimg_jax.sweeps.grid import chain, param, product, seeds
from genimg_jax.sweeps.trials import Trial

TESTS = pathlib.Path(__file__).parent
FOREVER = 300.0  # seconds: nothing that works takes as long


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(local, "WORKER", "fake_worker")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(tiny_runs.ROOT)]))


def trial(workdir: pathlib.Path, how: str, name: str = "", **runtime) -> Trial:
    name = name or how
    return Trial(name, {}, {"how": how, "runtime": runtime}, name, workdir / name)


def attempts(found: Trial) -> list[str]:
    return (found.workdir / trials.LOG).read_text().splitlines()


def wait_for(path: pathlib.Path) -> None:
    until = time.monotonic() + FOREVER
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)


def test_each_cell_ends_for_itself(fake, tmp_path):
    kinds = ["done", "failed", "exit", "killed", "killed once", "failed for good"]
    chosen = [trial(tmp_path, how) for how in kinds] + [trial(tmp_path, "done", f"done {i}") for i in range(4)]
    found = {outcome.trial.name: outcome for outcome in local.launcher(2)(chosen)}
    assert set(found) == {c.name for c in chosen}
    assert {name for name, outcome in found.items() if outcome.status == "failed"} == {
        "failed", "exit", "killed", "failed for good",
    }  # fmt: skip
    tries = {c.name: len(set(attempts(c))) for c in chosen}
    assert {name: n for name, n in tries.items() if n > 1} == {"failed": 2, "exit": 2, "killed": 2, "killed once": 2}
    assert found["failed"].message == "it failed" and found["failed"].seconds == 1.0
    assert "too much memory" in found["killed"].message and "attempt by" in found["killed"].message
    assert "code 3" in found["exit"].message


def test_workers_stay_and_share_the_cores(fake, tmp_path):
    chosen = [trial(tmp_path, "done", f"done {i}") for i in range(12)]
    list(local.launcher(2)(chosen))
    shares = {json.loads((c.workdir / "cores.json").read_text())[0] for c in chosen}
    processes = {line for c in chosen for line in attempts(c)}
    assert 1 <= len(processes) <= 2, "a process takes one trial after another"
    assert shares <= {",".join(map(str, share)) for share in local.core_shares(2)}


@pytest.mark.parametrize("cores", [1, 2, 5, 8])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_shares_are_disjoint_and_nearly_equal(monkeypatch, cores, workers):
    monkeypatch.setattr(local, "available_cores", lambda: list(range(10, 10 + cores)))
    shares = local.core_shares(workers)
    assert len(shares) == workers
    assert {core for share in shares for core in share} == set(range(10, 10 + cores))
    sizes = [len(share) for share in shares]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    if workers <= cores:
        assert sum(sizes) == cores


def test_a_cell_of_another_runtime_gets_another_process(fake, tmp_path):
    one, two = trial(tmp_path, "done", "one", host_devices=1), trial(tmp_path, "done", "two", host_devices=2)
    three = trial(tmp_path, "done", "three", host_devices=2)
    list(local.launcher(1)([one, two, three]))
    assert attempts(one) != attempts(two) == attempts(three)


def test_stopping_saves_what_runs_and_starts_nothing_more(fake, tmp_path):
    running, waiting = trial(tmp_path, "until told"), trial(tmp_path, "done", "never")
    outcomes = local.launcher(1)([trial(tmp_path, "done"), running, waiting])
    assert next(outcomes).status == "done"
    wait_for(running.workdir / "waiting")
    outcomes.close()
    assert (running.workdir / "saved").exists(), "it was asked to, and waited for"
    assert not waiting.workdir.exists()
    assert len(attempts(running)) == 1, "what is stopped is not tried again"


def test_no_cells_and_no_sense(fake):
    assert list(local.launcher()([])) == []
    with pytest.raises(ConfigError, match="--workers is -1"):
        local.launcher(-1)


# ---------------------------------------------------------------------------------------------------- real workers


def few_steps(**changes):
    return {"train.steps": 6, "parallel.devices": 1, **changes}


def tiny(workdir: pathlib.Path, grid, baseline=None, **changes) -> plan.Sweep:
    made = experiment.experiment(
        question="?",
        base=config_files.load(tiny_runs.name_of("made_digits")),
        settings=few_steps(**changes),
        grid=grid,
        metric="negative_log_likelihood",
        better="lower",
        baseline=baseline or {},
    )
    sweep, _ = plan.plan(made, workdir)
    run.prepare(workdir)
    plan.write(sweep, "file.py")
    return sweep


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two configurations by two seeds, one with a learning rate that no network stands, and a data set that
    is not there; trained by one real worker."""
    workdir = tmp_path_factory.mktemp("sweep")
    grid = chain(
        product(param("optimizer.learning_rate", 1e-3, 1e30), seeds(2)),
        param("data.train_split", "trian"),
    )
    sweep = tiny(workdir, grid, {"optimizer.learning_rate": 1e-3, "data.train_split": "train"})
    patch = pytest.MonkeyPatch()
    for name, value in tiny_runs.environment().items():
        patch.setenv(name, value)
    outcomes = driver.run_trials(sweep, sweep.trials, local.launcher(1))
    patch.undo()
    return sweep, {outcome.trial.name: outcome for outcome in outcomes}


def test_what_fails_says_why_and_stops_no_other(finished):
    sweep, outcomes = finished
    assert len(outcomes) == 5
    assert {name for name, o in outcomes.items() if o.status == "done"} == {
        "learning_rate=0.001,seed=0", "learning_rate=0.001,seed=1",
    }  # fmt: skip
    assert "overflow" in outcomes["learning_rate=1e+30,seed=0"].message
    assert "trian" in outcomes["train_split=trian"].message
    states = {state.trial.name: state for state in driver.states(sweep)}
    assert {name for name, s in states.items() if s.status == "failed"} == {
        name for name, o in outcomes.items() if o.status == "failed"
    }
    assert states["train_split=trian"].message == outcomes["train_split=trian"].message
    assert all(states[name].evaluated for name, o in outcomes.items() if o.status == "done")
    assert all(state.estimate is not None for state in states.values())


def test_a_cell_is_the_run_that_it_would_be_alone(finished, tmp_path):
    sweep, _ = finished
    one = sweep.trials[1]
    overrides = [f"--config.{key}={value}" for key, value in {**few_steps(), **one.overrides}.items()]
    code = (
        "import sys; from genimg_jax.__main__ import main; "
        f"sys.exit(main(['train', '--config', {tiny_runs.name_of('made_digits')!r}, '--workdir', {str(tmp_path)!r}, "
        f"*{overrides!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], env=tiny_runs.environment(), check=True, capture_output=True)
    tiny_runs.assert_same_state(tmp_path, one.workdir)
    assert tiny_runs.losses(tmp_path) == tiny_runs.losses(one.workdir)


def test_the_same_again_trains_only_what_is_missing(finished):
    sweep, outcomes = finished
    asked: list[list[str]] = []

    def launcher(chosen):
        asked.append([c.name for c in chosen])
        yield from ()

    driver.run_trials(sweep, sweep.trials, launcher)
    driver.run_trials(sweep, driver.select(sweep, "*seed=1"), launcher)
    driver.run_trials(sweep, sweep.trials, launcher, most=1)
    failed = [c.name for c in sweep.trials if outcomes[c.name].status == "failed"]
    assert asked == [failed, ["learning_rate=1e+30,seed=1"], failed[:1]]


def test_only_names_cells_or_is_refused(finished):
    sweep, _ = finished
    assert [c.name for c in driver.select(sweep, "train_split=trian")] == ["train_split=trian"]
    with pytest.raises(ConfigError, match="did you mean 'train_split=trian'"):
        driver.select(sweep, "train_split=train")
    named = ("train_split=train[:25%],seed=0", "train_split=train[:25%],seed=1", "arguments={},seed=*", "seed=0")
    sweep = sweep._replace(trials=tuple(sweep.trials[0]._replace(name=name) for name in named))
    for name in named:
        assert [c.name for c in driver.select(sweep, name)] == [name], "the very name that is printed"
    assert [c.name for c in driver.select(sweep, "*train[:25%],*")] == list(named[:2])


def test_an_evaluation_older_than_the_training_does_not_count(finished):
    sweep, _ = finished
    one = sweep.trials[0]
    file = scores.path(one, sweep.measure)
    assert scores.evaluated(one, sweep.measure)
    since = file.stat()
    os.utime(file, (0, 0))
    assert not scores.evaluated(one, sweep.measure)
    os.utime(file, (since.st_atime, since.st_mtime))


LONG = """
from genimg_jax.engine.config_files import load
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import seeds

def get_experiment():
    return experiment(
        question="?",
        base=load(CONFIG),
        settings={
            "train.steps": 4000, "train.evaluate_every": 0, "train.sample_every": 0, "train.checkpoint_every": 500,
            "train.best": "", "parallel.devices": 1,
        },
        grid=seeds(1),
        metric="negative_log_likelihood",
        better="lower",
        baseline={},
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_stopped_in_any_way_goes_on_to_the_same_bits(tmp_path, number):
    """SIGKILL leaves the sweep no time to stop its workers: they see that they are alone."""
    file = tmp_path / "long.py"
    file.write_text(LONG.replace("CONFIG", repr(tiny_runs.name_of("made_digits"))))

    def command(name):
        flags = ["--workdir", str(tmp_path / name), "--launcher", "local", "--workers", "1"]
        return [sys.executable, "-m", "genimg_jax", "sweep", str(file), *flags]

    options = {"env": tiny_runs.environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    stopped = subprocess.Popen(command("stopped"), **options)
    trial = tmp_path / "stopped" / "cells" / "seed=0"
    until = time.monotonic() + FOREVER
    while not run.read_metrics(trial):
        assert time.monotonic() < until
        time.sleep(0.05)
    stopped.send_signal(number)
    assert stopped.wait() == (Preempted.exit_code if number == signal.SIGTERM else -number)
    again = plan.read(tmp_path / "stopped")
    assert not trials.trained(again.trials[0]), "it was still under way"
    assert subprocess.run(command("stopped"), check=False, **options).returncode == 0
    assert subprocess.run(command("alone"), check=False, **options).returncode == 0
    tiny_runs.assert_same_state(trial, tmp_path / "alone" / "cells" / "seed=0")
    assert "resuming" in (trial / trials.LOG).read_text()
