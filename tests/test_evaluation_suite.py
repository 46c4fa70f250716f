"""The suite says of planted sets of images what was planted, under specs that tables hold apart.

All generated sets are of one size, so that what measures them is compiled once.
"""

import json

import contract
import numpy as np
import pytest

from genimg_jax import data
from genimg_jax.data import open_source
from genimg_jax.engine.config import EvaluateOptions
from genimg_jax.errors import ConfigError, ResourceError
from genimg_jax.evaluation import classifiers, distances, results, suite
from genimg_jax.evaluation.image_sets import ImageSet, of_source
from genimg_jax.metrics import features as networks
from genimg_jax.metrics.specs import Measurement, MetricSpec

READ = data.Options()
OPTIONS = EvaluateOptions(features="pixels,classifier", classifier_tests=False)


@pytest.fixture(scope="module")
def digits():
    """Training images, held-out ones of the same writers, and further ones that play a perfect generator."""
    source = open_source(READ, "train")
    whole = of_source(source, READ, "train")
    order = np.random.default_rng(0).permutation(len(whole.images))

    def part(rows) -> ImageSet:
        return whole._replace(images=whole.images[order[rows]], labels=whole.labels[order[rows]])

    return part(slice(700)), part(slice(700, 1090)), part(slice(1100, None))


@pytest.fixture(scope="module")
def comparison(digits):
    train, held_out, fresh = digits
    return suite.prepare(OPTIONS, READ, held_out, train, classifiers.shipped("digits"), len(fresh.images))


def values(found) -> dict[str, float]:
    """By name; each is declared, and within its range."""
    found = {name: measurement.value for name, measurement in found.metrics.items()}
    contract.in_range(found)
    return found


@pytest.fixture(scope="module")
def perfect(comparison, digits):
    return suite.measure(comparison, digits[2])


def test_the_data_itself_is_healthy_and_no_copy(perfect):
    assert perfect.verdict.status == "healthy"
    assert all(found["sentence"].startswith("no sign of it") for found in perfect.memorisation.values())
    found = perfect.metrics
    for features in ("pixels", "classifier"):
        distance = found[f"frechet_corrected/{features}"]
        assert distance.low <= 0 <= distance.high
        kernel = found[f"kernel/{features}"]
        assert kernel.low <= 0 <= kernel.high
        assert min(found[f"{name}/{features}"].value for name in ("precision", "recall", "coverage")) > 0.9
    assert found["gan_test"].value > 0.95
    assert found["gan_test_difference"].low <= 0 <= found["gan_test_difference"].high
    assert perfect.classes["names"] == tuple("0123456789")


def test_one_image_again_and_again_has_collapsed(comparison, digits, perfect):
    fresh = digits[2]
    named = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    same = fresh._replace(images=np.repeat(fresh.images[:1], 400, axis=0), labels=None, classes=named)
    found = suite.measure(comparison, same)
    assert found.verdict.status == "collapsed"
    collapsed = {finding.name for finding in found.verdict.findings if finding.status == "collapsed"}
    assert {"duplicates/pixels", "spread/pixels", "class histogram"} <= collapsed
    assert values(found)["vendi/pixels"] == pytest.approx(1)
    assert values(found)["class_histogram"] > 0.8 > values(perfect)["class_histogram"]
    modes = next(finding for finding in found.verdict.findings if finding.name == "modes")
    assert "missing: three" in modes.sentence
    # What it was asked for is not known; what was measured is.
    assert "gan_test" not in found.metrics and any("GAN-test" in name for name in found.skipped)


def test_missing_classes_lower_recall_and_not_precision(comparison, digits, perfect):
    train, _, fresh = digits
    # Training images, that there may be 400 of them: they are no more alike to the held-out ones than others.
    low = [one.images[one.labels < 5] for one in (fresh, train)]
    found = values(suite.measure(comparison, fresh._replace(images=np.concatenate(low)[:400], labels=None)))
    for features in ("pixels", "classifier"):
        assert found[f"recall/{features}"] < values(perfect)[f"recall/{features}"] - 0.2
        assert found[f"precision/{features}"] > 0.9
        assert found[f"frechet/{features}"] > 2 * values(perfect)[f"frechet/{features}"]


def test_noise_lowers_precision_and_the_class_asked_for_is_not_read(comparison, digits, perfect):
    fresh = digits[2]
    rng = np.random.default_rng(0)
    noise = fresh._replace(images=rng.integers(0, 17, fresh.images.shape, np.uint8))
    found = values(suite.measure(comparison, noise))
    assert found["precision/pixels"] < 0.1 < values(perfect)["precision/pixels"]
    assert found["gan_test"] < 0.3
    swapped = suite.measure(comparison, fresh._replace(labels=(fresh.labels + 1) % 10))
    assert swapped.metrics["gan_test"].value < 0.1
    assert max(swapped.classes["conditional accuracy"]) < 0.2
    assert values(swapped)["frechet/pixels"] == values(perfect)["frechet/pixels"]


def test_copies_of_training_images_are_found_and_drawn(comparison, digits):
    train, _, fresh = digits
    planted = fresh.images.copy()
    planted[:40] = train.images[100:140]
    found = suite.measure(comparison, fresh._replace(images=planted))
    for features in ("pixels", "classifier"):
        assert found.memorisation[features]["sentence"].startswith("copies of training images")
        assert found.metrics[f"copies/{features}"].value >= 0.09
    pairs = [(pair["generated"], pair["train"]) for pair in found.memorisation["pixels"]["closest"]]
    assert len(pairs) == 10 and all(i < 40 and j == i + 100 for i, j in pairs)
    drawn = found.pictures["closest-pixels"]
    height = (drawn.shape[0] - 2) // 2  # of a row and its frame
    np.testing.assert_array_equal(drawn[2:height], drawn[2 + height : -2])
    assert drawn.max() == 255


def test_images_that_are_no_numbers_and_a_history_that_broke_are_evidence(comparison, digits):
    history = [{"split": "train", "step": s, "images": s, "loss": value} for s, value in enumerate([2.0, "nan"])]
    history += [{"split": "evaluation", "step": 1, "images": 1, "loss": "inf"}]
    broken = digits[2]._replace(not_finite=len(digits[2].images) // 2)
    verdict = suite.measure(comparison, broken, history).verdict
    statuses = {finding.name: finding.status for finding in verdict.findings}
    assert verdict.status == statuses["images"] == statuses["finite"] == "collapsed"


def test_what_is_not_known_is_left_out_by_name(digits):
    held_out, fresh = (one._replace(images=one.images[:60, 2:6, 2:6], labels=None) for one in digits[1:])
    bare = suite.prepare(EvaluateOptions(features="random_conv"), READ, held_out, None, None, 60)
    found = suite.measure(bare, fresh)
    assert {"memorisation", "what a classifier reads"} <= found.skipped.keys()
    assert not found.memorisation and not found.classes
    assert {name.partition("/")[2] for name in found.metrics} == {"random_conv"}
    # The covariance of so few images is singular for want of images.
    assert "192 features need more than 203 images" in found.skipped["frechet_corrected/random_conv"]
    assert found.metrics["frechet/random_conv"].low is None


def test_a_covariance_that_no_memory_holds_is_left_out(digits, monkeypatch):
    held_out, fresh = (one._replace(images=one.images[:60], labels=None) for one in digits[1:])
    monkeypatch.setattr(distances, "WIDEST", 63)
    found = suite.measure(suite.prepare(EvaluateOptions(features="pixels"), READ, held_out, None, None, 60), fresh)
    assert (
        found.skipped["frechet/pixels"] == found.skipped["frechet_corrected/pixels"] == "64 features are more than 63"
    )
    assert "kernel/pixels" in found.metrics and "frechet/pixels" not in found.metrics


def test_pixels_that_no_memory_holds_are_left_out_of_every_measure(digits, monkeypatch):
    train, held_out, fresh = (one._replace(images=one.images[:60], labels=None) for one in digits)
    monkeypatch.setattr(suite, "MOST_BYTES", 3 * 60 * 64 * 4 - 1)
    extracted, extract = [], distances.extract
    monkeypatch.setattr(
        distances, "extract", lambda network, images: extracted.append(network.name) or extract(network, images)
    )
    stand_in = networks.pixels._replace(name="random_conv")  # which takes no time
    monkeypatch.setattr(networks, "random_conv", lambda shape: stand_in)
    options = EvaluateOptions(features="pixels,random_conv")
    found = suite.measure(suite.prepare(options, READ, held_out, train, None, 60), fresh)
    assert found.skipped["pixels"] == "the pixels of all images take 0.0 GiB as numbers"
    assert set(extracted) == {"random_conv"} and found.memorisation.keys() == {"random_conv"}
    assert not any(name.endswith("/pixels") for name in found.metrics)
    monkeypatch.setattr(suite, "MOST_BYTES", 3 * 60 * 64 * 4)
    assert suite.prepare(options, READ, held_out, train, None, 60).audited == ("pixels", "random_conv")
    monkeypatch.setattr(suite, "MOST_BYTES", 0)
    with pytest.raises(ConfigError, match=r"there is none: the pixels of all images take .* as numbers; add another"):
        suite.prepare(EvaluateOptions(features="pixels"), READ, held_out, train, None, 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EvaluateOptions(neighbours=400), "neighbours is 400, and there are 400 generated and 390 reference images"),
        (EvaluateOptions(features="pixels,inception"), r"features has 'inception'\. There are pixels"),
        (EvaluateOptions(inception="nowhere.pth"), "inception is nowhere.pth, where there is no file"),
        (EvaluateOptions(features=" ,"), "features names nothing to compare by; there are pixels"),
        (EvaluateOptions(features="classifier"), "is classifier, and there is none: the training set is not known"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(options, message, digits):
    with pytest.raises(ConfigError, match=message):
        suite.prepare(options, READ, digits[1], None, None, 400)


def test_a_spec_says_what_was_compared(perfect, digits):
    spec = perfect.metrics["recall/classifier"].spec
    shipped = classifiers.shipped("digits")
    assert (spec.metric, spec.features, spec.weights) == ("recall", "classifier digits", shipped.record["weights"])
    assert (spec.samples, spec.reference, spec.reference_samples) == (400, digits[1].name, 390)
    assert spec.protocol == {"levels": 17, "k": 5, "ties": "include"}
    digests = [measurement.spec.digest() for measurement in perfect.metrics.values()]
    assert len(set(digests)) == len(digests)


# ------------------------------------------------------------------------------------------------------- reports


def test_a_report_holds_measurements_whole(perfect, tmp_path):
    report = suite.write(tmp_path / "best-full.json", {"checkpoint": "best"}, perfect)
    assert report == json.loads((tmp_path / "best-full.json").read_text())
    assert set(report["files"]) == {path.name for path in tmp_path.iterdir()}
    for name, measurement in perfect.metrics.items():
        assert results.measurement(report["metrics"][name]) == measurement
        assert report["metrics"][name]["digest"] == measurement.spec.digest()
    text = results.text(report)
    assert "verdict: healthy" in text and "memorisation in pixels: no sign" in text
    assert "frechet_corrected/classifier" in text and "(the data: " in text


def test_a_report_that_cannot_be_written_is_a_sentence(perfect, tmp_path):
    (tmp_path / "best-full.json").mkdir()
    with pytest.raises(ResourceError, match=r"the report .*best-full\.json cannot be written: Is a directory\."):
        suite.write(tmp_path / "best-full.json", {}, perfect._replace(pictures={}))


def test_a_report_of_nothing_has_a_text():
    assert results.text({"metrics": {}}).startswith("metric ")


def test_numbers_that_json_has_not_are_words():
    spec = MetricSpec("loss", None, None, None, 0, None, None, None, None)
    entry = results.metric(Measurement(float("nan"), spec))
    assert entry["value"] == "nan" and np.isnan(results.measurement(entry).value)
    assert results.plain({"a": (np.float32(1), [float("-inf"), 1024])}) == {"a": [1.0, ["-inf", 1024]]}
