"""Runs that are one program are what they would have been alone: their numbers, their files, their failures."""

import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from genimg_jax.__main__ import main
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, parallel, run, training, vmapped
from genimg_jax.engine.config_differences import differences
from genimg_jax.errors import NumericsError, Preempted
from genimg_jax.sweeps import launchers, local, vectorised, worker
from genimg_jax.sweeps.trials import LOG, Trial

SETTINGS = {  # of each run: a seed of its own, and float options of the model and of the optimisers
    "vae_digits": [
        {
            "seed": 3 + i,
            "model.beta": 0.5 + i,
            "optimizer.learning_rate": 1e-3 * (i + 1),
            "optimizer.clip_norm": 5.0 - i,
        }
        for i in range(3)
    ],
    "gan_digits": [
        {
            "seed": i,
            "optimizer.generator.learning_rate": 1e-3 * (i + 1),
            "optimizer.generator.ema_half_life": 20.0 * (i + 1),
            "optimizer.discriminator.learning_rate": 2e-3 / (i + 1),
        }
        for i in range(3)
    ],
    "made_digits": [{"seed": i, "optimizer.learning_rate": 1e-3 * (i + 1)} for i in range(3)],
}  # fmt: skip
ALONE = 1  # which of them is trained by itself too


def values_of(config: str, changes: dict, devices: int = 2) -> dict:
    """A tiny configuration as JSON, on two devices: three runs leave a place of the second one empty."""
    values = config_files.load(tiny_runs.name_of(config)).to_dict()
    for key, value in {"parallel.devices": devices, **changes}.items():
        *path, name = key.split(".")
        section = values
        for part in path:
            section = section[part]
        assert name in section
        section[name] = value
    return json.loads(json.dumps(values))


@pytest.fixture(scope="module", params=SETTINGS)
def trained(request, tmp_path_factory):
    """The configuration's name, the directories of three runs trained together, and of one of them trained alone."""
    name, workdir = request.param, tmp_path_factory.mktemp(request.param)
    together = [workdir / str(i) for i in range(3)]
    runs = [(values_of(name, s), w) for s, w in zip(SETTINGS[name], together, strict=True)]
    assert training.train_together(runs) == [None] * 3
    values = values_of(name, SETTINGS[name][ALONE], devices=1)
    training.train(configs.resolve(values), values, workdir / "alone")
    return name, together, workdir / "alone"


def files(workdir: pathlib.Path) -> set[str]:
    """All but what TensorBoard, and Orbax for its own use, name by time, process or size."""
    found = (p.relative_to(workdir).as_posix() for p in workdir.rglob("*"))
    return {name for name in found if not name.startswith("tensorboard/") and name.count("/") < 3}


def assert_close(one: pathlib.Path, two: pathlib.Path, tolerance: float = 1e-5) -> None:
    for split in ("train", "evaluation"):
        a, b = ([line for line in run.read_metrics(w) if line["split"] == split] for w in (one, two))
        assert [line["step"] for line in a] == [line["step"] for line in b] and a
        for x, y in zip(a, b, strict=True):
            assert x.keys() == y.keys()
            for key in x.keys() - {"split", "images_per_second"}:
                np.testing.assert_allclose(x[key], y[key], tolerance, tolerance / 10, err_msg=key)
    a, b = tiny_runs.state(one), tiny_runs.state(two)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], tolerance, tolerance / 5, err_msg=key)


def test_a_run_is_as_if_it_had_run_alone(trained):
    """Its numbers to the rounding of float32; its configuration, files and pictures."""
    _, together, alone = trained
    assert_close(together[ALONE], alone)
    assert files(together[ALONE]) == files(alone)
    stored, wanted = (run.read_json(w, "config.json") for w in (together[ALONE], alone))
    assert {d.key for d in differences(stored, wanted)} == {"parallel.devices"}
    one, two = (run.read_json(w, "manifest.json") for w in (together[ALONE], alone))
    assert one["config_digest"] == two["config_digest"] and one["parameters"] == two["parameters"]
    assert (one["trained_together"], one["mesh"], two["trained_together"]) == (3, {"run": 2}, 1)
    for step in (4, 6):
        pictures = [np.asarray(Image.open(w / "samples" / f"{step}.png"), int) for w in (together[ALONE], alone)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_runs_differ_as_their_options_do(trained):
    _, together, _ = trained
    states = [tiny_runs.state(w) for w in together]
    key = next(k for k in states[0] if k.startswith("params/") and k.endswith("kernel"))
    assert len({states[i][key].tobytes() for i in range(3)}) == 3


@pytest.mark.parametrize("trained", ["gan_digits"], indirect=True)
def test_the_ordinary_commands_take_a_run_up(trained, tmp_path, capsys):
    name, runs, single = trained
    together, alone = (shutil.copytree(w, tmp_path / kind) for w, kind in ((runs[ALONE], "group"), (single, "single")))
    assert main(["evaluate", "--workdir", str(together)]) == 0
    assert main(["sample", "--workdir", str(together), "--count", "4"]) == 0
    values = values_of(name, SETTINGS[name][ALONE], devices=1)
    values["train"]["steps"] = 8
    for workdir in (together, alone):
        training.train(configs.resolve(values), values, workdir)
    assert f"resuming {together} from step 6" in capsys.readouterr().out
    assert_close(together, alone)


def runs_in(workdir: pathlib.Path, count: int = 3, **changes) -> list[tuple[dict, pathlib.Path]]:
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    configurations = [{**SETTINGS["vae_digits"][i], "train.sample_every": 0, **changed} for i in range(count)]
    return [(values_of("vae_digits", s), workdir / str(i)) for i, s in enumerate(configurations)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    runs = runs_in(tmp_path_factory.mktemp("whole"))
    training.train_together(runs)
    return [workdir for _, workdir in runs]


def test_interrupted_runs_go_on_together(whole, tmp_path, monkeypatch):
    """Bit for bit; and where an interruption left one behind, those that are equally far, one after another."""
    runs, put, calls = runs_in(tmp_path), parallel.put_batch, iter(range(100))

    def interrupted(*arguments):
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return put(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(parallel, "put_batch", interrupted)
        with pytest.raises(Preempted, match="saved at step 3"):
            training.train_together(runs)
    assert [tiny_runs.steps(workdir) for _, workdir in runs] == [[3]] * 3
    assert training.train_together(runs) == [None] * 3
    for one, (_, two) in zip(whole, runs, strict=True):
        tiny_runs.assert_same_state(one, two)
        assert tiny_runs.losses(one, "evaluation") == tiny_runs.losses(two, "evaluation")


def test_runs_at_different_steps_are_brought_to_their_end(whole, tmp_path):
    runs = runs_in(tmp_path)
    values = {
        **runs[0][0],
        "train": {**runs[0][0]["train"], "steps": 4},
        "parallel": {**runs[0][0]["parallel"], "devices": 1},
    }
    training.train(configs.resolve(values), values, runs[0][1])
    assert [reply["status"] for reply in worker.train(runs)] == ["done"] * 3
    for one, (_, two) in zip(whole, runs, strict=True):
        assert_close(one, two)


def test_a_run_that_is_not_finite_fails_alone(tmp_path):
    """A step so long that it overflows: the others go on as if it were not there."""
    runs = runs_in(tmp_path, optimizer__name="sgd", optimizer__clip_norm=0.0)
    fails = runs[1][0]
    fails["optimizer"]["learning_rate"] = 3e38
    first, failure, last = training.train_together(runs)
    assert first is None and last is None and isinstance(failure, NumericsError)
    assert "the parameters of model overflow at step" in str(failure)
    assert [tiny_runs.steps(w)[-1:] for _, w in runs] == [[6], [], [6]]
    alone = runs_in(tmp_path / "alone", optimizer__name="sgd", optimizer__clip_norm=0.0)[2]
    values = {**alone[0], "parallel": {**alone[0]["parallel"], "devices": 1}}
    training.train(configs.resolve(values), values, alone[1])
    assert_close(runs[2][1], alone[1])


def test_a_directory_that_is_held_fails_alone(tmp_path, monkeypatch):
    runs = runs_in(tmp_path, 2)
    run.prepare(runs[0][1])
    with run.lock(runs[0][1]):
        failures = training.train_together(runs)
    assert "is in use by process" in str(failures[0]) and failures[1] is None
    assert tiny_runs.steps(runs[1][1])[-1] == 6 and not (runs[0][1] / "metrics.jsonl").exists()


# ------------------------------------------------------------------------------------------------ what is grouped


def trial(config: str = "vae_digits", **changes) -> Trial:
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    name = ",".join(f"{k}={v}" for k, v in changed.items())
    return Trial(name, changed, values_of(config, changed), name, pathlib.Path(name))


def test_cells_that_differ_in_shape_are_apart():
    trials = [trial(seed=s, model__beta=b, model__latent=z) for z in (4, 5) for b in (1.0, 2.0) for s in (0, 1)]
    odd = trial(seed=0, model__latent=6)
    split = [trial(seed=s, parallel__compile="pmap") for s in range(2)]
    found = vectorised.groups([*trials, odd, *split])
    assert found.together == [trials[:4], trials[4:]] and found.alone == [odd, *split]
    assert "4 trials as one program: they differ in model.beta, seed." in found.sentence
    assert f"{odd.name} alone, whose model.latent no other shares." in found.sentence
    assert "alone, because parallel.compile is 'pmap'." in found.sentence


def test_an_option_that_is_off_shapes_the_program():
    off, on, more = (trial(optimizer__ema_half_life=value) for value in (0.0, 10.0, 20.0))
    found = vectorised.groups([off, on, more])
    assert found.together == [[on, more]] and found.alone == [off]
    assert "optimizer.ema_half_life" in found.sentence


def test_convolutions_on_a_cpu_are_left_to_workers():
    plain = [trial(seed=s) for s in range(2)]
    convolutions = [trial(seed=s, model__network="conv") for s in range(2)]
    assert vectorised.groups([*plain, *convolutions]).together == [plain, convolutions]
    found = vectorised.groups([*plain, *convolutions], without_convolutions=True)
    assert (found.together, found.alone) == ([plain], convolutions)
    assert "because convolutions of several runs at once are slow on a CPU" in found.sentence


def test_what_may_differ_is_what_families_prove():
    """Every float that is not static, of the model and of each group's optimiser, and the seed."""
    assert set(vmapped.traceable(values_of("vae_digits", {}))) == {
        "seed", "model.beta", "model.kl_warmup",
        "optimizer.learning_rate", "optimizer.clip_norm", "optimizer.ema_half_life",
    }  # fmt: skip
    assert "optimizer.discriminator.learning_rate" in vmapped.traceable(values_of("gan_digits", {}))


@pytest.mark.parametrize(
    ("count", "workers", "sizes"), [(16, 2, [8, 8]), (5, 2, [2, 3]), (2, 4, [1, 1]), (130, 1, [43, 43, 44])]
)
def test_workers_share_a_group(count, workers, sizes):
    group = [trial(seed=i) for i in range(count)]
    found = vectorised.parts(group, workers)
    assert [len(part) for part in found] == sizes and [c for part in found for c in part] == group


def test_what_a_dead_worker_held_is_tried_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WORKER", "fake_worker")
    tests = pathlib.Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), str(tiny_runs.ROOT)]))
    kinds = ("done", "killed", "failed", "failed for good")
    chosen = [Trial(how, {}, {"how": how, "runtime": {}}, how, tmp_path / how) for how in kinds]
    launch = local.job_launcher(1, lambda trials, _: [list(trials)])
    found = {outcome.trial.name: outcome.status for outcome in launch(chosen)}
    assert found == {"done": "done", "killed": "failed", "failed": "failed", "failed for good": "failed"}
    tries = {c.name: len(set((c.workdir / LOG).read_text().splitlines())) for c in chosen}
    assert tries == {"done": 2, "killed": 2, "failed": 1, "failed for good": 1}, "the job ended with the second"


@pytest.mark.slow
def test_the_launcher_trains_groups_and_the_rest(whole, tmp_path, monkeypatch, capsys):
    for name, value in tiny_runs.environment().items():
        monkeypatch.setenv(name, value)
    runs = runs_in(tmp_path, parallel__devices=1)
    changes = {"model.latent": 5, "train.sample_every": 0}
    runs.append((values_of("vae_digits", changes, devices=1), tmp_path / "other"))
    chosen = [Trial(w.name, {}, values, configs.digest(values), w) for values, w in runs]
    outcomes = list(launchers.choose("auto", 1)(chosen))
    assert {o.trial.name: (o.status, o.message) for o in outcomes} == dict.fromkeys("012", ("done", "")) | {
        "other": ("done", "")
    }
    assert "3 trials as one program" in capsys.readouterr().out
    for one, (_, two) in zip(whole, runs, strict=False):
        assert_close(one, two, 1e-3)  # compiled otherwise: Adam makes a step of what is rounding on a gradient near 0
