"""The best checkpoint is chosen on validation images, and its figure on test images has no optimism: shown on noise."""

import json
import shutil

import numpy as np
import pytest

from genimg_jax import evaluation
from genimg_jax.__main__ import main
from genimg_jax.data import Part, open_source
from genimg_jax.engine import config_files, restore, tasks
from genimg_jax.engine.checkpoint import open_store
from genimg_jax.engine.checkpoint import steps as checkpoints

LOSS = "negative_log_likelihood"


@pytest.fixture(scope="module")
def on_noise(tmp_path_factory):
    """A VAE trained on noise: no checkpoint is truly better than another by much, and by chance some seem to be."""
    place = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    sizes = {"train": 64, "validation": 40, "test": 3000}
    np.savez(place / "noise.npz", **{f"{s}_image": rng.integers(0, 2, (n, 4, 4), np.uint8) for s, n in sizes.items()})
    flags = {
        "data.source": "npz", "data.path": str(place / "noise.npz"), "data.binarize": "threshold",
        "data.validation_split": "validation", "data.evaluate_split": "test", "optimizer.learning_rate": "0.03",
        "train.steps": "40", "train.checkpoint_every": "2", "train.evaluate_every": "2", "train.keep": "40",
        "train.sample_every": "0",
    }  # fmt: skip
    command = ["train", "--config", "configs/vae_digits.py:tiny", "--workdir", str(place / "run")]
    assert main([*command, *(f"--config.{key}={value}" for key, value in flags.items())]) == 0
    return place / "run"


def losses(workdir, part):
    """The loss of each image at each checkpoint."""  # -> f64[checkpoints, N]
    program = restore.open_run(workdir, config_files.of_run(workdir), "last").program
    source = open_source(program.config.data, part)
    rows = []
    for step in checkpoints(open_store(workdir, read_only=True)):
        weights, _ = restore.load(workdir, program, str(step))
        rows.append(tasks.evaluate(program, weights, source)["loss"].astype(np.float64))
    return np.array(rows)


def test_the_best_checkpoint_is_that_of_the_validation_images_alone(on_noise):
    validation, test = losses(on_noise, Part.VALIDATION).mean(1), losses(on_noise, Part.EVALUATE).mean(1)
    assert validation.argmin() != test.argmin()  # else this test could not tell them apart
    report = evaluation.evaluate_run(on_noise)
    assert report["step"] == 2 * (validation.argmin() + 1)
    assert report["metrics"]["loss"]["value"] == pytest.approx(test[validation.argmin()], rel=1e-5)
    assert report["metrics"]["loss"]["spec"]["split"] == "test"
    assert report["selection"] == {"evaluated": 1, "split": "validation", "metric": "loss", "candidates": 20}
    assert evaluation.evaluate_run(on_noise, checkpoint="4")["selection"] == {"evaluated": 2}
    assert evaluation.evaluate_run(on_noise, checkpoint="4", part=Part.VALIDATION)["selection"] == {"evaluated": 1}


def test_a_run_that_knew_two_splits_is_said_to_be_chosen_on_the_reported_one(on_noise, tmp_path):
    shutil.copytree(on_noise, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    del stored["data"]["validation_split"], stored["data"]["allow_overlap"]
    path.write_text(json.dumps(stored))
    report = evaluation.evaluate_run(tmp_path / "run")
    assert report["selection"]["split"] == "test"
    assert "data.validation_split 'test' and data.evaluate_split 'test' share 3000 images" in report["split"]


def test_a_figure_chosen_on_validation_has_no_optimism_and_one_chosen_on_test_has(on_noise):
    """Over many draws of small validation and test sets, against the mean over all images as the truth."""
    pool, rng, count = losses(on_noise, Part.EVALUATE), np.random.default_rng(1), 30
    truth, optimism = pool.mean(1), {"validation": [], "test": []}
    for _ in range(2000):
        chosen = rng.permutation(pool.shape[1])[: 2 * count]
        sets = {"validation": pool[:, chosen[:count]].mean(1), "test": pool[:, chosen[count:]].mean(1)}
        for name, means in sets.items():
            best = means.argmin()
            optimism[name].append(sets["test"][best] - truth[best])
    means = {name: np.mean(found) for name, found in optimism.items()}
    errors = {name: np.std(found) / len(found) ** 0.5 for name, found in optimism.items()}
    assert abs(means["validation"]) < 3 * errors["validation"]
    assert means["test"] < -5 * errors["test"]


def test_a_run_that_knew_two_splits_is_continued_with_them(tmp_path, capsys):
    command = ["train", "--config", "configs/vae_digits.py:tiny", "--workdir", str(tmp_path / "run")]
    as_then = ["--config.data.validation_split=test", "--config.data.allow_overlap=True"]
    assert main([*command, *as_then, "--config.train.steps=4"]) == 0
    for path in [tmp_path / "run" / "config.json", *(tmp_path / "run" / "checkpoints").glob("*/about/metadata")]:
        stored = json.loads(path.read_text())
        options = stored.get("config", stored)["data"]
        del options["validation_split"], options["allow_overlap"]
        path.write_text(json.dumps(stored))
    assert main(command) == 4
    assert "data.validation_split  stored 'test', given 'auto'" in capsys.readouterr().err
    assert main([*command, *as_then]) == 0
