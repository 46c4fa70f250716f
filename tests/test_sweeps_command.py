"""`genimg sweep` and `genimg reproduce` from the command line, on tiny runs."""

import json
import os
import shutil

import pytest
import tiny_runs

from genimg_jax import files
from genimg_jax.__main__ import main
from genimg_jax.engine import checkpoint, config_files, reproduce, run, training
from genimg_jax.sweeps import plan
from genimg_jax.sweeps.grid import overlay

FILE = """
from genimg_jax.engine.config_files import load
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import param, product, seeds

def get_experiment(variant="two"):
    return experiment(
        question="Is a wide network better?",
        base=load(CONFIG),
        settings={"parallel.devices": 1, "data.train_split": "trian" if variant == "broken" else "train"},
        grid=product(param("model.width", 70, 80), seeds(2 if variant == "two" else 1)),
        metric="negative_log_likelihood",
        better="lower",
        baseline={"model.width": 70},
    )
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    for name, value in tiny_runs.environment().items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "width.py"
    path.write_text(FILE.replace("CONFIG", repr(tiny_runs.name_of("made_digits"))))
    return path


def test_a_dry_run_plans_and_touches_nothing(file, tmp_path, capsys):
    assert main(["sweep", str(file), "--workdir", str(tmp_path / "sweep"), "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "Is a wide network better?" in out and "4 trials: 4 waiting" in out
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_runs_in_parts_and_is_reported(file, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    command = ["sweep", f"{file}:one", "--workdir", str(sweep), "--launcher", "local", "--workers", "1", "--mixed"]
    assert main([*command, "--only", "*seed=0", "--max-runs", "1"]) == 0
    assert "1 done, 1 waiting" in _status(sweep, capsys)
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "[1/1]" in out and "| width=80 | 1 * |" in out
    assert "2 trials: 2 done" in _status(sweep, capsys)
    assert {p.name for p in sweep.iterdir()} >= {"report.md", "report.html", plan.PLAN, plan.OUTCOMES}
    assert main(["sweep", "report", "--workdir", str(sweep), "--mixed"]) == 0
    first = {p: p.stat().st_mtime_ns for p in sweep.glob("cells/*/checkpoints/*")}
    assert main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in sweep.glob("cells/*/checkpoints/*")} == first, "nothing is trained again"


def _status(sweep, capsys):
    capsys.readouterr()
    assert main(["sweep", "status", "--workdir", str(sweep)]) == 0
    return capsys.readouterr().out


def test_failed_cells_are_named_and_the_code_says_so(file, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    assert main(["sweep", f"{file}:broken", "--workdir", str(sweep), "--launcher", "local", "--workers", "1"]) == 1
    captured = capsys.readouterr()
    assert "2 of 2 cells failed" in captured.err and "trian" in captured.out
    assert "2 failed" in _status(sweep, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which experiment?"),
        (["--workdir", "x"], "which experiment?"),
        (["nowhere.py", "--workdir", "x"], "no config file nowhere.py"),
        (["status"], "which run?"),
        (["status", "--workdir", "nowhere"], "nowhere holds no sweep"),
        (["report", "--workdir", "nowhere"], "nowhere holds no sweep"),
        (["x.py", "--launcher", "cloud", "--workdir", "x"], "cloud"),
    ],
)
def test_a_command_that_means_nothing_says_why(arguments, message, capsys):
    assert main(["sweep", *arguments]) == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- reproduce


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reproduce") / "run"
    assert tiny_runs.train(workdir, config="made_digits") == 0
    return workdir


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


@pytest.fixture(autouse=True)
def cores():
    """Reproducing a run takes cores from the process."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


def test_a_run_is_reproduced_bit_for_bit(original, tmp_path, capsys):
    assert main(["reproduce", str(original), "--workdir", str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert "is reproduced, bit for bit" in out and "the same" in out
    assert tiny_runs.steps(tmp_path / "again") == tiny_runs.steps(original)


def test_one_of_several_runs_that_were_one_program_is_reproduced_with_them(tmp_path, capsys):
    base = config_files.load(tiny_runs.name_of("made_digits")).to_dict()
    overrides = [{"seed": 3}, {"seed": 1, "optimizer.learning_rate": 2e-3}, {"optimizer.learning_rate": 5e-3}]
    runs = [(overlay(base, {"parallel.devices": 1, **own}), tmp_path / str(i)) for i, own in enumerate(overrides)]
    assert training.train_together(runs) == [None] * 3
    assert main(["reproduce", str(tmp_path / "1")]) == 0
    assert "one of 3 runs" in capsys.readouterr().out


def test_another_result_is_found_wherever_it_is(copy, tmp_path, capsys):
    """A bit of a weight, and a digit of a loss that was logged."""
    other = tmp_path / "other"
    assert tiny_runs.train(other, "--config.optimizer.learning_rate=0.0010001", config="made_digits") == 0
    last = tiny_runs.steps(copy)[-1]
    shutil.rmtree(copy / "checkpoints" / str(last))
    shutil.copytree(other / "checkpoints" / str(last), copy / "checkpoints" / str(last))
    found = reproduce.compare(other, copy, last)
    assert not found.arrays_differing and found.lines_differing
    lines = run.read_metrics(copy)
    lines[-1]["loss"] += 1e-6
    lines[0]["images_per_second"] = 0.0
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["reproduce", str(copy)]) == 1
    captured = capsys.readouterr()
    assert "was not reproduced" in captured.err
    assert f"1 of {len(lines)} lines differ, first: {lines[-1]['split']} at step {last}" in captured.out
    assert "arrays differ, first: " in captured.out


def test_what_was_not_the_same_is_said(copy, capsys):
    manifest = run.read_json(copy, "manifest.json")
    manifest["git"]["commit"], manifest["versions"]["jax"] = "c0ffee", "0.0.1"
    manifest["dataset"]["fingerprint"] = "other"
    files.write_json(copy / "manifest.json", manifest)
    assert main(["reproduce", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "then c0ffee, now" in out and "then 0.0.1, now" in out and "then other, now" in out


def test_what_cannot_be_reproduced_is_refused(copy, tmp_path, capsys):
    assert main(["reproduce"]) == 2 and "which run?" in capsys.readouterr().err
    assert main(["reproduce", str(tmp_path)]) == 2 and "no run directory" in capsys.readouterr().err
    assert main(["reproduce", str(copy), "--workdir", str(copy)]) == 2 and "itself" in capsys.readouterr().err
    shutil.rmtree(copy / "checkpoints" / str(tiny_runs.steps(copy)[-1]))
    assert main(["reproduce", str(copy)]) == 4
    assert "stopped at step 4 of 6" in capsys.readouterr().err
    assert checkpoint.open_store(copy, read_only=True)
