"""genimg evaluate over runs and over files: the same images give the same figures, and mistakes are answered."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_runs import steps, train

from genimg_jax.__main__ import main
from genimg_jax.commands import report
from genimg_jax.engine import images
from genimg_jax.evaluation import evaluate_run

COUNT = 60
CHEAP = [f"--config.evaluate.samples={COUNT}", "--config.evaluate.features=pixels,classifier"]
CHEAP += ["--config.evaluate.classifier_tests=False"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A conditional GAN of grey digits, at several steps."""
    workdir = tmp_path_factory.mktemp("runs") / "gan"
    flags = ["--config.model.conditional=True", "--config.optimizer.generator.learning_rate=0.05"]
    assert train(workdir, *flags, config="gan_digits") == 0
    return workdir


def evaluate(*flags) -> int:
    return main(["evaluate", *map(str, flags)])


@pytest.fixture(scope="module")
def full(workdir):
    assert evaluate("--workdir", workdir, "--suite", "full", *CHEAP) == 0
    return json.loads((workdir / "evaluation" / "best-full.json").read_text())


@pytest.fixture(scope="module")
def generated(workdir, tmp_path_factory):
    """The run's images as other programs would leave them: an archive with labels, and a folder of a folder a class."""
    place = tmp_path_factory.mktemp("generated")
    flags = ["--count", str(COUNT), "--seed", "0", "--nosingles", "--out", str(place)]
    assert main(["sample", "--workdir", str(workdir), *flags]) == 0
    image, label = np.load(place / "images.npz")["image"], np.arange(COUNT) % 10
    np.savez(place / "labelled.npz", image=image, label=label)
    for i in range(COUNT):
        images.save_png(place / "folder" / str(label[i]) / f"{i}.png", image[i])
    return place


def figures(report: dict, *without: str) -> dict[str, float]:
    return {name: entry["value"] for name, entry in report["metrics"].items() if not name.startswith(without)}


FACTS = ("images_", "training_")
# What images are dealt to blocks by, and what breaks ties between equally near ones, is their order.
ORDERED = ("frechet_corrected", "copies", "data_copying")


def test_the_full_suite_of_a_run_is_written_with_its_pictures(workdir, full):
    folder = workdir / "evaluation"
    assert set(full["files"]) == {"best-full.json", "best-full-closest-pixels.png", "best-full-closest-classifier.png"}
    assert np.asarray(Image.open(folder / "best-full-closest-pixels.png")).ndim == 2
    assert (full["samples"], full["examples"], full["step"]) == (COUNT, 297, 6)
    assert full["verdict"]["status"] in ("suspicious", "collapsed")  # six steps teach it nothing
    assert {"loss_discriminator", "frechet/pixels", "inception_score/classifier", "gan_test"} <= full["metrics"].keys()
    assert full["metrics"]["images_seen"]["value"] == 6 * 16
    assert "classifier_tests" in full["left_out"]["GAN-train"]
    assert len(full["classes"]["conditional accuracy"]) == 10
    page = report.run(workdir).read_text()
    assert "best-full" in page and full["verdict"]["status"] in page and "frechet/pixels" in page


def test_batch_size_changes_no_figure(workdir, full, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    values = json.loads((workdir / "config.json").read_text())
    cheap = {"samples": COUNT, "features": "pixels,classifier", "classifier_tests": False}
    values["evaluate"] |= cheap | {"batch_size": 7}
    found = evaluate_run(copy, values, which="full")
    assert found["metrics"].keys() == full["metrics"].keys()
    expected = {name: full["metrics"][name]["value"] for name in figures(found, *FACTS)}
    assert figures(found, *FACTS) == pytest.approx(expected, rel=1e-4)
    for name in figures(found, *FACTS):
        assert found["metrics"][name]["digest"] == full["metrics"][name]["digest"]


def test_the_same_images_from_a_run_an_archive_and_a_folder(workdir, full, generated, capsys):
    places = {"labelled.npz": generated / "labelled.evaluation", "folder": generated / "folder.evaluation"}
    for name, place in places.items():
        assert evaluate("--generated", generated / name, "--reference", workdir, *CHEAP) == 0
        found = json.loads((place / "report.json").read_text())
        assert set(found["files"]) == {path.name for path in place.iterdir()}
        measured = figures(found, *(ORDERED if name == "folder" else ()))
        assert "gan_test" in measured and "precision/classifier" in measured
        assert measured == pytest.approx({n: full["metrics"][n]["value"] for n in measured}, rel=1e-5)
        for metric in measured:
            assert found["metrics"][metric]["digest"] == full["metrics"][metric]["digest"]
    assert f"{COUNT} images of {generated / 'folder'} beside {workdir}" in capsys.readouterr().out


def test_every_checkpoint_and_its_trajectory(workdir, capsys):
    assert evaluate("--workdir", workdir, "--all-checkpoints") == 0
    folder = workdir / "evaluation"
    for step in steps(workdir):
        assert json.loads((folder / f"{step}.json").read_text())["step"] == step
    assert len(steps(workdir)) > 1
    assert min(np.asarray(Image.open(folder / "trajectory.png")).shape[:2]) > 100
    output = capsys.readouterr().out
    assert all(f"checkpoint {step} (step {step})" in output for step in steps(workdir))
    assert "trajectory.png" in output


def test_a_table_of_runs(workdir, full, tmp_path, capsys):
    other = tmp_path / "other"
    (other / "evaluation").mkdir(parents=True)
    (other / "evaluation" / "best-full.json").write_text(json.dumps(full))
    columns = "--columns=kernel/pixels,recall/pixels"
    assert evaluate("--table", f"{workdir},{other}", columns) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "|  | kernel/pixels | recall/pixels |"
    assert rows[2].startswith("| gan |") and rows[3].startswith("| other |")
    full["metrics"]["recall/pixels"]["spec"]["protocol.k"] = 3
    (other / "evaluation" / "best-full.json").write_text(json.dumps(full))
    assert evaluate("--table", f"{workdir},{other}", columns) == 3
    assert "protocol.k (5 and 3)" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_has_the_defaults_of_options_it_did_not_know(workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    values = json.loads((workdir / "config.json").read_text())
    known = evaluate_run(copy, values)["metrics"]
    del values["tokenizer"], values["evaluate"]["samples"], values["optimizer"]["generator"]["clip_norm"]
    del values["model"]["penalty"]
    (copy / "config.json").write_text(json.dumps(values))
    assert evaluate("--workdir", copy, "--config.evaluate.samples=3") == 0
    assert json.loads((copy / "evaluation" / "best.json").read_text())["metrics"] == known


def test_what_cannot_sample_is_refused_the_full_suite(tmp_path, capsys):
    assert train(tmp_path, "--config.train.steps=1", config="vq_digits") == 0
    assert evaluate("--workdir", tmp_path, "--suite", "full") == 2
    assert "vq cannot sample, and the suite 'full' compares samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--generated", "PLACE/nothing", "--reference", "digits"], "PLACE/nothing: there is no such folder"),
        (["--generated", "PLACE/empty", "--reference", "digits"], "holds no images"),
        (["--generated", "PLACE/sounds.npz", "--reference", "digits"], "--generated: 'PLACE/sounds.npz' holds sound"),
        (["--generated", "PLACE/large.npz", "--reference", "digits"], "images are 9 x 9 x 1 and the reference's 8 x 8"),
        (["--generated", "PLACE/few.npz", "--reference", "digits"], "there are 3 generated and 297 reference images"),
        (["--generated", "PLACE/few.npz", "--reference", "digits:val"], "--reference: There is no split 'val'"),
        (["--generated", "PLACE/few.npz"], "compared with what? Give --reference"),
        (["--generated", "PLACE/few.npz", "--reference", "digits", "--workdir", "x"], "leave --workdir out"),
        (["--workdir", "RUN", "--reference", "digits"], "--reference goes with --generated"),
        (["--workdir", "RUN", "--suite", "ful"], "suite"),
        (["--workdir", "RUN", "--suite=full", "--config.evaluate.inception=PLACE/no.pth"], "where there is no file"),
        (["--workdir", "RUN", "--suite=full", "--config.evaluate.inception=PLACE/few.npz"], "evaluate.inception: "),
        (["--workdir", "RUN", "--suite=full", "--config.evaluate.neighbours=500"], "neighbours is 500"),
        (["--workdir", "RUN", "--suite=full", "--config.evaluate.features=resnet"], "features has 'resnet'"),
        (["--table", "PLACE"], "has no evaluation/best-full.json; make it with genimg evaluate"),
        (["--all-chekpoints", "--workdir", "RUN"], "all_chekpoints"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(flags, message, workdir, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "sounds.npz", sound=np.zeros(3))
    np.savez(tmp_path / "few.npz", image=np.zeros((3, 8, 8), np.uint8))
    np.savez(tmp_path / "large.npz", image=np.zeros((30, 9, 9), np.uint8))
    before = sorted(path.name for path in tmp_path.iterdir())
    given = [flag.replace("PLACE", str(tmp_path)).replace("RUN", str(workdir)) for flag in flags]
    assert evaluate(*given) == 2
    error = capsys.readouterr().err
    assert "genimg: " in error and message.replace("PLACE", str(tmp_path)) in error and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before
