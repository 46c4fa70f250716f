"""A real Slurm of one node: a sweep of which one trial is preempted ends with the bits that it would have had here."""

import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time

import needs
import pytest
import tiny_runs

from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files
from genimg_jax.errors import ConfigError
from genimg_jax.sweeps import launchers, local, slurm
from genimg_jax.sweeps.trials import LOG, Trial

START = pathlib.Path(__file__).parent / "start_slurm.sh"
FOREVER = 900.0  # seconds: nothing that works takes as long


def test_without_slurm_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="there is no sbatch here; use local or vectorised"):
        slurm.launcher()


def test_parameters_are_of_slurm_alone():
    assert launchers.parameters(["time=600", "partition=gpu"]) == {"time": 600, "partition": "gpu"}
    with pytest.raises(ConfigError, match="--slurm has 'time'; give NAME=VALUE"):
        launchers.parameters(["time"])
    with pytest.raises(ConfigError, match="no meaning for --launcher local"):
        launchers.choose("local", 1, {"time": 1})


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    needs.module("submitit")
    directory = tmp_path / "slurm"
    started = subprocess.run([START, "start", directory], capture_output=True, text=True, timeout=120)
    if started.returncode:
        needs.missing("Slurm", f"none can be started here: {started.stderr.strip()}")
    monkeypatch.setenv("SLURM_CONF", str(directory / "slurm.conf"))
    for name, value in tiny_runs.environment().items():
        monkeypatch.setenv(name, value)
    yield
    subprocess.run([START, "stop", directory], check=False, timeout=60)


def trials(workdir: pathlib.Path, *seeds: int) -> list[Trial]:
    found = []
    for seed in seeds:
        values = config_files.load(tiny_runs.name_of("made_digits")).to_dict()
        values["train"] |= {"steps": 4000, "checkpoint_every": 4000, "evaluate_every": 0, "sample_every": 0, "best": ""}
        values |= {"seed": seed}
        found.append(Trial(f"seed={seed}", {}, values, configs.digest(values), workdir / "cells" / f"seed={seed}"))
    return found


def wait_for(condition) -> None:
    until = time.monotonic() + FOREVER
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_preempted_cell_is_requeued_and_ends_with_the_same_bits(cluster, tmp_path, capfd):
    """Four trials, of which the first is warned in the middle of its training."""
    there, here = trials(tmp_path / "there", *range(4)), trials(tmp_path / "here", *range(4))
    job = {}

    def preempt():
        wait_for((there[0].workdir / "metrics.jsonl").exists)
        number = subprocess.run(
            ["squeue", "--noheader", "--format=%F"], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        job["task"] = f"{number}_0"
        subprocess.run(["scancel", "--signal=USR2", job["task"]], check=False)  # it may arrive more than once
        wait_for(lambda: "PENDING" in state(job["task"]))
        # Slurm lets two minutes go by before it starts again what was requeued.
        subprocess.run(["scontrol", "update", f"job={job['task']}", "StartTime=now"], check=True)

    watcher = threading.Thread(target=preempt)
    watcher.start()
    outcomes = list(launchers.choose("slurm", 2, {"time": 60})(there))
    watcher.join()
    assert {o.trial.name: (o.status, o.message) for o in outcomes} == {c.name: ("done", "") for c in there}
    log = (there[0].workdir / LOG).read_text()
    assert "stopped and saved at step" in log and "resuming" in log
    assert all("resuming" not in (trial.workdir / LOG).read_text() for trial in there[1:])
    assert {o.status for o in local.launcher(1)(here)} == {"done"}
    for one, two in zip(there, here, strict=True):
        tiny_runs.assert_same_state(one.workdir, two.workdir)
    # Stopping ended a line of metrics early; what is logged after that is the same.
    logged, wanted = ([tiny_runs.losses(c.workdir) for c in side] for side in (there, here))
    assert logged[1:] == wanted[1:]
    assert list(logged[0].items())[-100:] == list(wanted[0].items())[-100:]


def state(task: str) -> str:
    command = ["squeue", "--noheader", "--array", "--format=%T", f"--jobs={task}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_what_slurm_ends_has_failed_and_what_it_refuses_is_said(cluster, tmp_path):
    """A task that is killed without a word; a parameter that sbatch does not know, a partition that is not there."""
    [trial] = trials(tmp_path, 0)

    def kill():
        wait_for((trial.workdir / "metrics.jsonl").exists)
        os.kill(int((trial.workdir / "lock").read_text().split()[1]), signal.SIGKILL)

    threading.Thread(target=kill).start()
    [outcome] = slurm.launcher(0, {"time": 60})([trial])
    assert outcome.status == "failed" and "Slurm ended task" in outcome.message
    for parameters in ({"partition": "nowhere"}, {"colour": "red"}):
        with pytest.raises(ConfigError, match="Slurm does not take these jobs"):
            list(slurm.launcher(0, parameters)([trial]))
