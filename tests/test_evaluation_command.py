"""genimg evaluate over runs and over files: the same images give the same figures, and mistakes are answered."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_runs import steps, train

from genimg_jax import data
from genimg_jax.__main__ import main
from genimg_jax.commands import report
from genimg_jax.commands.evaluate import beside
from genimg_jax.data import open_source, shapes
from genimg_jax.engine import images, restore, tasks
from genimg_jax.evaluation import attributes, evaluate_run, external, image_sets, named_sources, suite
from genimg_jax.evaluation import recipe as recipes
from genimg_jax.evaluation.labels import renumbered, shares_of
from genimg_jax.metrics import features

COUNT = 60
CHEAP = [f"--config.evaluate.samples={COUNT}", "--config.evaluate.features=pixels,classifier"]
CHEAP += ["--config.evaluate.classifier_tests=False"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A conditional GAN of grey digits, at several steps."""
    workdir = tmp_path_factory.mktemp("runs") / "gan"
    flags = ["--config.model.conditions=('label',)", "--config.optimizer.generator.learning_rate=0.05"]
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
    """The run's images as other programs would leave them: archives with labels, and a folder of a folder a class."""
    place = tmp_path_factory.mktemp("generated")
    opened = restore.open_run(workdir, json.loads((workdir / "config.json").read_text()), "best")
    held_out = open_source(data.Options(), "test")
    label = shares_of(held_out.read(np.arange(held_out.size))["label"], COUNT, 0)
    image = images.to_uint8(tasks.sample(opened.program, opened.weights, COUNT, 0, {"label": label}))
    np.savez(place / "images.npz", image=image, label=label)
    np.savez(place / "unlabelled.npz", image=image)
    np.savez(place / "named.npz", image=image, label=label.astype(str))
    for i in range(COUNT):
        images.save_png(place / "folder" / str(label[i]) / f"{i}.png", image[i])
    return place


def figures(report: dict, *without: str) -> dict[str, float]:
    return {name: entry["value"] for name, entry in report["metrics"].items() if not name.startswith(without)}


def test_the_folder_that_sample_writes_is_evaluated_as_its_samples(workdir, tmp_path):
    made, cheap = tmp_path / "made", CHEAP[1:]
    assert main(["sample", "--workdir", str(workdir), "--count", "34", "--seed", "2", "--out", str(made)]) == 0
    with np.load(made / "images.npz") as archive:
        np.testing.assert_array_equal(archive["label"], np.arange(34) % 10)
        np.savez(tmp_path / "same.npz", image=archive["image"], label=archive["label"])
    reports = []
    for place in (made, f"{made}/", tmp_path / "same.npz"):
        assert evaluate("--generated", place, "--reference", "digits", "--out", tmp_path / "out", *cheap) == 0
        reports.append(found_of(tmp_path / "out"))
    assert all(found["samples"] == 34 and "gan_test" in found["metrics"] for found in reports)
    assert all(found["metrics"] == reports[-1]["metrics"] for found in reports)
    # Names say which class a number is, whatever the order.
    order = np.random.default_rng(0).permutation(10)
    with np.load(made / "images.npz") as archive:
        arrays = {"image": archive["image"], "label": order.argsort()[archive["label"]]}
    np.savez(tmp_path / "other.npz", **arrays, classes=order.astype(str))
    assert (
        evaluate("--generated", tmp_path / "other.npz", "--reference", "digits", "--out", tmp_path / "out", *cheap) == 0
    )
    assert found_of(tmp_path / "out")["metrics"] == reports[-1]["metrics"]


def test_samples_carry_the_names_of_their_classes(workdir, tmp_path):
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    shutil.copytree(workdir, tmp_path / "run")
    manifest = json.loads((workdir / "manifest.json").read_text())
    manifest["dataset"]["classes"] = names
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    flags = ["--workdir", str(tmp_path / "run"), "--count", "30", "--nosingles", "--out", str(tmp_path / "made")]
    assert main(["sample", *flags]) == 0
    with np.load(tmp_path / "made" / "images.npz") as archive:
        assert archive["classes"].tolist() == names
        np.testing.assert_array_equal(archive["label"], np.arange(30) % 10)
        # A reference of the same classes, in an order of its own.
        np.savez(tmp_path / "real.npz", image=archive["image"], label=np.array(names)[archive["label"]])
    seen = image_sets.of_source(*opened_as(tmp_path / "made")), image_sets.of_source(*opened_as(tmp_path / "real.npz"))
    assert seen[1].classes == tuple(sorted(names)) and (seen[0].labels != seen[1].labels).any()
    np.testing.assert_array_equal(renumbered(seen[0], seen[1]).labels, seen[1].labels)


def opened_as(path):
    place = named_sources.named(str(path), data.Options(), "--generated")
    return named_sources.open_named(place, "--generated"), place.options, place.split


def test_interpolations_are_evaluated_under_the_classes_of_their_rows(workdir, tmp_path):
    flags = ["--workdir", str(workdir), "--nosingles"]
    out = ["--out", str(tmp_path / "rows")]
    assert main(["sample", *flags, "--interpolate", "3", "--steps", "4", *out]) == 0
    with np.load(tmp_path / "rows" / "images.npz") as archive:
        np.testing.assert_array_equal(archive["label"], np.repeat([0, 1, 2], 4))
        assert len(archive["image"]) == 12
    assert evaluate("--generated", tmp_path / "rows", "--reference", "digits", "--out", tmp_path / "out", *CHEAP) == 0
    assert found_of(tmp_path / "out")["samples"] == 12


def test_classes_are_asked_for_in_the_shares_of_the_held_out_images(workdir, tmp_path, monkeypatch):
    """Seven of ten are of class 0, whatever the number of images and their order."""
    image, label = np.zeros((30, 8, 8), np.uint8), np.repeat(np.arange(10), [21, *[1] * 9])
    np.savez(tmp_path / "unequal.npz", test_image=image, test_label=label, train_image=image, train_label=label)
    seen = []
    monkeypatch.setattr(suite, "measure", lambda comparison, made, *_: seen.append(made) or suite.SuiteResult({}))
    monkeypatch.setattr(suite, "prepare", prepared)
    shutil.copytree(workdir, tmp_path / "run")
    values = json.loads((workdir / "config.json").read_text())
    values["data"] |= {"source": "npz", "path": str(tmp_path / "unequal.npz")}
    values["evaluate"] |= {"features": "pixels", "samples": 20}
    report = evaluate_run(tmp_path / "run", values, which="full")
    asked = np.bincount(seen[0].labels, minlength=10)
    assert asked[0] == 14 and sorted(asked[1:]) == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert report["protocol"]["classes asked for"] == seen[0].asked["classes asked for"] == "as held out"
    # They are what the images were drawn of, not only what they are called.
    opened = restore.open_run(workdir, values, "best")
    again = tasks.sample(opened.program, opened.weights, 20, 0, {"label": seen[0].labels})
    expected = image_sets.of_generated(again, REFERENCE, data.Options(), "", 0)
    np.testing.assert_array_equal(seen[0].images, expected.images)


REFERENCE = image_sets.ImageSet(np.zeros((1, 8, 8, 1), np.uint8), 256, None, (), "reference")


def prepared(options, read, reference, *_):
    nothing = dict.fromkeys(suite.Comparison._fields)
    return suite.Comparison(**{**nothing, "options": options, "data": read, "reference": reference})


FACTS = ("images_", "training_")
# What images are dealt to blocks by, and what breaks ties between equally near ones, is their order.
ORDERED = ("frechet_corrected", "copies", "data_copying")


def test_the_full_suite_of_a_run_is_written_with_its_pictures(workdir, full):
    folder = workdir / "evaluation"
    assert set(full["files"]) == {"best-full.json", "best-full-closest-pixels.png", "best-full-closest-classifier.png"}
    assert np.asarray(Image.open(folder / "best-full-closest-pixels.png")).ndim == 2
    assert (full["samples"], full["examples"], full["step"]) == (COUNT, 297, 6)
    assert full["trained_on"] == [], "of a game, and stated"
    assert full["verdict"]["status"] in ("untrained or poor", "collapsed")  # six steps teach it nothing
    assert {"loss_discriminator", "frechet/pixels", "inception_score/classifier", "gan_test"} <= full["metrics"].keys()
    assert full["metrics"]["images_seen"]["value"] == 6 * 16
    assert "classifier_tests" in full["left_out"]["GAN-train"]
    assert len(full["classes"]["conditional accuracy"]) == 10
    page = report.run(workdir).read_text()
    assert "best-full" in page and full["verdict"]["status"] in page and "frechet/pixels" in page


def test_neither_batch_size_nor_what_came_after_a_checkpoint_changes_a_figure(workdir, full, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    with (copy / "metrics.jsonl").open("a") as file:  # of a run that went on, and diverged
        file.write(
            json.dumps({"step": 9, "images": 144, "split": "train", "images_per_second": 1, "loss": "nan"}) + "\n"
        )
    values = json.loads((workdir / "config.json").read_text())
    cheap = {"samples": COUNT, "features": "pixels,classifier", "classifier_tests": False}
    values["evaluate"] |= cheap | {"batch_size": 7}
    found = evaluate_run(copy, values, which="full")
    assert found["metrics"].keys() == full["metrics"].keys()
    statuses, expected = ({one["name"]: one["status"] for one in r["verdict"]["findings"]} for r in (found, full))
    assert (statuses, statuses["finite"]) == (expected, "healthy")
    expected = {name: full["metrics"][name]["value"] for name in figures(found, *FACTS)}
    assert figures(found, *FACTS) == pytest.approx(expected, rel=1e-4)
    for name in figures(found, *FACTS):
        assert found["metrics"][name]["digest"] == full["metrics"][name]["digest"]


def test_the_same_images_from_a_run_an_archive_and_a_folder(workdir, full, generated, capsys):
    names = ("images.npz", "named.npz", "folder")
    places = {name: generated / f"{name.removesuffix('.npz')}.evaluation" for name in names}
    for name, place in places.items():
        slash = "/" * (name == "folder")  # as a shell completes it
        assert evaluate("--generated", f"{generated / name}{slash}", "--reference", workdir, *CHEAP) == 0
        found = json.loads((place / "report.json").read_text())
        assert set(found["files"]) == {path.name for path in place.iterdir()}
        measured = figures(found, *(ORDERED if name == "folder" else ()))
        assert "gan_test" in measured and "precision/classifier" in measured
        assert measured == pytest.approx({n: full["metrics"][n]["value"] for n in measured}, rel=1e-5)
        for metric in measured:
            assert found["metrics"][metric]["digest"] == full["metrics"][metric]["digest"]
    assert f"{COUNT} images of {generated / 'folder'}/ beside {workdir}" in capsys.readouterr().out


def test_a_report_of_a_part_of_a_folder_is_not_written_into_it():
    assert str(beside("/made/images/:test")) == "/made/images:test.evaluation"
    assert (
        beside("images") == beside("./images/") == beside("images.npz") == pathlib.Path("images.evaluation").absolute()
    )
    assert beside(".").parent == pathlib.Path.cwd().parent


def found_of(place) -> dict:
    return json.loads((place / "report.json").read_text())


def test_digits_are_read_by_the_shipped_classifier_without_training_images(generated, tmp_path):
    assert evaluate("--generated", generated / "images.npz", "--reference", "digits", "--out", tmp_path, *CHEAP) == 0
    found = found_of(tmp_path)
    assert {"precision/classifier", "class_histogram", "gan_test"} <= found["metrics"].keys()
    assert found["classes"]["classifier"]["name"] == "digits"
    assert "memorisation" in found["left_out"] and "what a classifier reads" not in found["left_out"]


@pytest.fixture
def bare(monkeypatch):
    """Pixels stand in for random convolutions, and nothing is trained."""
    monkeypatch.setattr(features, "random_conv", lambda shape: features.pixels)
    monkeypatch.setattr(recipes, "fit", None)
    return ["--config.evaluate.features=pixels,classifier"]


@pytest.fixture
def both(generated, tmp_path):
    """An archive with training images and labelled held-out ones."""
    image = np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8)
    label = np.arange(80) % 10
    arrays = {"train_image": image[:50], "train_label": label[:50], "test_image": image[50:], "test_label": label[50:]}
    np.savez(tmp_path / "both.npz", **arrays)
    return tmp_path / "both.npz"


def test_training_images_are_the_training_split(generated, both, bare, tmp_path):
    flags = ["--reference", both, "--train", both, "--out", tmp_path, "--config.evaluate.features=pixels"]
    assert evaluate("--generated", generated / "images.npz", *flags) == 0
    stated = found_of(tmp_path)["metrics"]["copies/pixels"]["spec"]
    assert stated["protocol.train"].endswith(" train") and stated["protocol.train images"] == 50
    assert (stated["split"], stated["reference_samples"]) == ("test", 30)


def test_every_source_is_held_in_the_memory_that_an_evaluation_has(generated, workdir, bare, tmp_path, monkeypatch):
    held, open_named = {}, external.open_named
    monkeypatch.setattr(
        external, "open_named", lambda found, flag: held.update({flag: found.options}) or open_named(found, flag)
    )
    monkeypatch.setattr(suite, "measure", lambda *_: suite.SuiteResult({}))
    flags = ["--reference", workdir, "--train", workdir, "--out", tmp_path, "--config.evaluate.features=pixels"]
    assert evaluate("--generated", generated / "images.npz", *flags) == 0
    limits = {flag: options.memory_mib for flag, options in held.items()}
    assert limits == dict.fromkeys(["--reference", "--generated", "--train"], image_sets.IN_MEMORY_MIB)


def test_a_reference_without_labels_is_compared_with_and_trains_nothing(generated, both, bare, tmp_path):
    flags = ["--reference", generated / "unlabelled.npz", "--train", both, "--out", tmp_path, *bare]
    assert evaluate("--generated", generated / "images.npz", *flags) == 0
    found = found_of(tmp_path)
    assert found["metrics"]["frechet/pixels"]["value"] == pytest.approx(0, abs=1e-6)
    assert "the reference's are not" in found["left_out"]["what a classifier reads"]


def test_numbers_of_an_archive_are_places_in_the_references_classes(bare, tmp_path, monkeypatch):
    for i in range(30):
        images.save_png(tmp_path / "real" / ("cat" if i % 3 else "ant") / f"{i}.png", np.full((8, 8, 1), i, np.uint8))
    np.savez(tmp_path / "made.npz", image=np.zeros((30, 8, 8), np.uint8), label=np.arange(30) % 2)
    np.savez(tmp_path / "more.npz", image=np.zeros((30, 8, 8), np.uint8), label=np.arange(30) % 3)
    seen = []
    monkeypatch.setattr(suite, "measure", lambda comparison, made: seen.append(made) or suite.SuiteResult({}))
    for name in ("made.npz", "more.npz"):
        flags = ["--reference", tmp_path / "real", "--config.evaluate.features=pixels"]
        assert evaluate("--generated", tmp_path / name, *flags) == 0
    assert seen[0].classes == ("ant", "cat")
    np.testing.assert_array_equal(seen[0].labels, np.arange(30) % 2)
    assert seen[1].labels is None and "of the classes '0', '1', '2', which the reference" in seen[1].unlabelled


@pytest.fixture(scope="module")
def scenes():
    """Scenes of another seed than the reference's, their images, and flags for a small reference."""
    scene = shapes.scenes(5, np.arange(12))
    flags = ["--reference", "shapes", "--config.data.shapes.count=200", "--config.evaluate.features=pixels"]
    return scene, shapes.draw(scene, shapes.DEFAULT_SIZE), flags


def test_what_captions_labels_and_masks_ask_for_is_checked_exactly(scenes, bare, tmp_path):
    scene, image, flags = scenes
    # Three of twelve are asked to be in another colour, and half to be of another kind.
    caption, kind = shapes.captions(scene), scene["kind"][:, 0]
    for i in range(3):
        colour = list(shapes.COLOURS)[scene["colour"][i, 0]]
        caption[i] = caption[i].replace(f"large {colour}", f"large {'red' if colour != 'red' else 'blue'}")
    label = np.where(np.arange(12) % 2, kind, (kind + 1) % len(shapes.KINDS))
    mask = shapes.annotations(scene, shapes.DEFAULT_SIZE)["mask"]
    np.savez(tmp_path / "made.npz", image=image, caption=np.array(caption), label=label, mask=mask)
    assert evaluate("--generated", tmp_path / "made.npz", *flags) == 0
    found = figures(found_of(tmp_path / "made.evaluation"))
    assert (
        found["prompt_accuracy/large_colour"],
        found["prompt_accuracy/class"],
        found["prompt_accuracy/large_kind"],
    ) == (0.75, 0.5, 1)
    assert found["prompt_accuracy/caption"] == 0.75 and found["prompt_accuracy/mask_overlap"] > 0.99
    # The same from a folder, as other programs write captions beside images.
    lines = []
    for i in range(12):
        images.save_png(tmp_path / "folder" / f"{i}.png", image[i])
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption[i]}))
    (tmp_path / "folder" / "metadata.jsonl").write_text("\n".join(lines))
    assert evaluate("--generated", tmp_path / "folder", *flags) == 0
    again = figures(found_of(tmp_path / "folder.evaluation"))
    for name in ("caption", "large_colour", "relation"):
        assert again[f"prompt_accuracy/{name}"] == found[f"prompt_accuracy/{name}"]
    assert "prompt_accuracy/mask_overlap" not in again


def test_scenes_whose_attributes_cannot_be_checked_are_measured_otherwise_and_the_reason_is_given(scenes):
    image, label = scenes[1], scenes[0]["kind"][:, 0]
    reference = image_sets.ImageSet(image, 256, None, shapes.KINDS, "shapes 0", "test")
    mask = np.zeros(image.shape[:3], np.uint8)
    for changes, said in (
        ({}, "not asked to be of any class"),
        ({"labels": label, "images": image[..., :1]}, "3 channels"),
        ({"labels": label, "images": image[:, ::4, ::4]}, "from 16x16 on"),
        ({"labels": label, "levels": 2}, "256 levels"),
        ({"captions": [*shapes.captions(scenes[0])[:-1], "a cat"]}, "'a cat', that of image 11, is no caption"),
        ({"masks": mask[:, :16, :16]}, "masks of [12, 16, 16] do not fit"),
        ({"masks": mask + 255}, "found 255"),
    ):
        found = attributes.measure(reference._replace(**changes), reference, 0)
        assert said in found.skipped["prompt_accuracy"] and not found.metrics
    found = attributes.measure(reference._replace(labels=label, masks=mask), reference, 0)
    assert (
        found.metrics.keys() == {"prompt_accuracy/class"}
        and "no image" in found.skipped["prompt_accuracy/mask_overlap"]
    )
    # Other questions are another protocol.
    other = attributes.measure(reference._replace(labels=label[::-1]), reference, 0)
    assert other.metrics["prompt_accuracy/class"].spec.digest() != found.metrics["prompt_accuracy/class"].spec.digest()


def test_training_images_of_other_levels_are_refused(generated, tmp_path, capsys):
    np.savez(tmp_path / "train.npz", image=np.zeros((30, 8, 8), np.uint8))
    flags = ["--reference", "digits", "--train", tmp_path / "train.npz", "--out", tmp_path / "out", *CHEAP]
    assert evaluate("--generated", generated / "images.npz", *flags) == 2
    assert "have 256 levels and the reference's 17" in capsys.readouterr().err


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
    assert rows[0] == "|  | kernel/pixels ↓ | recall/pixels ↑ | selected among |"
    assert rows[2].startswith("| gan |") and rows[3].startswith("| other |")
    # Runs of one name are told apart by their places; a column that no run has is answered.
    (tmp_path / "gan").symlink_to(other)
    shutil.copytree(other, tmp_path / "more" / "other")
    assert evaluate("--table", f"{other},{tmp_path / 'more' / 'other'}", columns) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith(f"| {other} |") and rows[3].startswith(f"| {tmp_path / 'more' / 'other'} |")
    assert evaluate("--table", f"{workdir},{other}", f"{columns},recal/pixels") == 2
    assert "recal/pixels has not been measured in gan, other; did you mean 'recall/pixels'?" in capsys.readouterr().err
    full["metrics"]["recall/pixels"]["spec"]["protocol.k"] = 3
    (other / "evaluation" / "best-full.json").write_text(json.dumps(full))
    assert evaluate("--table", f"{workdir},{other}", columns) == 3
    assert "protocol.k (5 and 3)" in capsys.readouterr().err


def test_likelihoods_of_two_runs_are_compared_image_by_image(tmp_path, capsys):
    runs, values = [tmp_path / name for name in ("one", "other")], []
    for seed, run in enumerate(runs):
        assert train(run, "--config.train.steps=2", f"--config.seed={seed}", config="made_digits") == 0
        assert evaluate("--workdir", run) == 0
        folder = run / "evaluation"
        report = json.loads((folder / "best.json").read_text())
        assert report["files"] == ["best.json", "best-log_prob.npz"]
        assert report["trained_on"] == ["loss", "negative_log_likelihood", "bits_per_dimension"]
        with np.load(folder / "best-log_prob.npz") as archive:
            values.append(archive["log_prob"])
            assert str(archive["data"]) == report["protocol"]["data"]
        assert len(values[-1]) == report["examples"]
        assert -values[-1].mean() == pytest.approx(report["metrics"]["negative_log_likelihood"]["value"])
        # The suites store it alike, and of samples nothing is asked here.
        (folder / "best.json").rename(folder / "best-full.json")
        (folder / "best-log_prob.npz").rename(folder / "best-full-log_prob.npz")
    capsys.readouterr()
    assert evaluate("--table", ",".join(map(str, runs))) == 0
    output = capsys.readouterr().out
    assert "negative_log_likelihood (exact) less one [95 %]" in output and "† trained on" in output
    assert f"| {np.mean(values[0] - values[1]):+.4g} [" in output
    (runs[1] / "evaluation" / "best-full-log_prob.npz").write_bytes(b"")
    assert evaluate("--table", ",".join(map(str, runs))) == 3
    assert "best-full-log_prob.npz is damaged" in capsys.readouterr().err


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


FEW = ["--generated", "PLACE/eights.npz", "--reference", "PLACE/eights.npz"]


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
        (["--generated", "RUN", "--reference", "digits"], "RUN is a run directory; measure its samples by"),
        (["--generated", "RUN:test", "--reference", "digits"], "is a run directory"),
        (["--generated", "PLACE/few.npz", "--reference", "digits", "--config.evaluate.features="], "names nothing"),
        ([*FEW, "--config.evaluate.features=classifier"], "the training set is not known, and no classifier of such"),
        (
            ["--generated", "PLACE/named.npz", "--reference", "digits"],
            "named.npz: the images are of the classes 'a', 'b', which the reference lacks; call them",
        ),
        (["--generated", "PLACE/adm.npz", "--reference", "digits"], "adm.npz' holds arr_0: save u8 images as `image`"),
        ([*FEW, "--train", "PLACE/nines.npz"], "the training images alone have '8', '9'; give sources of the same"),
        ([*FEW, "--train", "PLACE/large.npz"], "training images are 9 x 9 x 1 and the reference's 8 x 8"),
        ([*FEW, "--train", "PLACE/held.npz"], "has no split train; name one as"),
        ([*FEW, "--workdir", "x"], "--workdir does not go with --generated; leave one of them out"),
        ([*FEW, "--human", "page.html"], "--human does not go with --generated"),
        (
            [*FEW, "--suite", "full"],
            "--suite goes with --all_checkpoints or --workdir, not with --generated; leave it out",
        ),
        ([*FEW, "--checkpoint", "last"], "--checkpoint goes with --table or --workdir, not with --generated"),
        ([*FEW, "--noaveraged"], "--averaged goes with"),
        ([*FEW, "--all-checkpoints"], "--all_checkpoints does not go with --generated"),
        (["--human", "PLACE/page.html", "--sets=a=digits", "--out", "x"], "--out goes with --generated or --answers"),
        (["--human", "PLACE/page.html", "--sets=a=digits", "--keep_failed"], "--keep_failed goes with --answers, not"),
        (["--answers", "a.json", "--seed=1"], "--seed goes with --human, not with --answers"),
        (["--table", "PLACE", "--suite", "full"], "--suite goes with"),
        (["--table", "PLACE", "--workdir", "RUN"], "--workdir does not go with --table"),
        (["--table="], "which runs?"),
        (["--workdir", "RUN", "--all_checkpoints", "--checkpoint=4"], "not with --all_checkpoints; leave it out"),
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
    grey = np.zeros((30, 8, 8), np.uint8)
    np.savez(tmp_path / "eights.npz", image=grey, label=np.arange(30) % 8)
    np.savez(tmp_path / "nines.npz", image=grey, label=np.arange(30) % 10)
    np.savez(tmp_path / "held.npz", test_image=grey)
    np.savez(tmp_path / "named.npz", image=grey, label=np.array(["a", "b"]).repeat(15))
    np.savez(tmp_path / "adm.npz", grey)
    before = sorted(path.name for path in tmp_path.iterdir())
    given = [flag.replace("PLACE", str(tmp_path)).replace("RUN", str(workdir)) for flag in flags]
    assert evaluate(*given) == 2
    error = capsys.readouterr().err
    message = message.replace("PLACE", str(tmp_path)).replace("RUN", str(workdir))
    assert "genimg: " in error and message in error and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_place_that_cannot_be_written_is_known_before_anything_is_measured(workdir, tmp_path, monkeypatch, capsys):
    """A file is in the way, which stops a superuser too."""
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    (tmp_path / "run" / "evaluation").write_text("")
    np.savez(tmp_path / "few.npz", image=np.zeros((30, 8, 8), np.uint8))
    monkeypatch.setattr(suite, "measure", None)
    monkeypatch.setattr(restore, "open_run", None)
    out = tmp_path / "few.npz" / "report"
    for flags, message in (
        (
            ["--generated", tmp_path / "few.npz", "--reference", "digits", "--out", out],
            f"write to {out}: Not a directory",
        ),
        (["--workdir", tmp_path / "run"], "Not a directory; make it writable, or evaluate a copy of the run."),
        (["--workdir", tmp_path / "run", "--all_checkpoints"], "evaluate a copy of the run."),
    ):
        assert evaluate(*flags) == 6
        assert message in capsys.readouterr().err
