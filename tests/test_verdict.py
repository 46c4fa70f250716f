"""The verdict on images of digits: planted failures are found, and what stands in for a good generator is healthy.

`experiments/verdict_rates.py` plants all of them, and measures the verdict on trained runs.
"""

import importlib.util
import pathlib

import numpy as np
import pytest

from genimg_jax.data import Part, open_source
from genimg_jax.evaluation import audit

FILE = pathlib.Path(__file__).parents[1] / "experiments" / "verdict_rates.py"
SOME = ("independent pixels", "copies of 5 images with noise", "blurred", "inverted", "salt and pepper on 20 %")


@pytest.fixture(scope="module")
def rates():
    spec = importlib.util.spec_from_file_location("verdict_rates", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def real(rates):
    source = open_source(rates.DATA["grey"], Part.TRAIN)
    rows = source.read(np.arange(source.size))
    return rows["image"] / np.float32(source.stored_levels - 1), rows["label"]


@pytest.mark.parametrize("kind", ["grey", pytest.param("binarised", marks=pytest.mark.slow)])
def test_planted_failures_are_found_and_real_images_are_healthy(rates, real, kind):
    read, count = rates.DATA[kind], 297
    made = rates.planted(*real, count)
    found = {name: rates.judged(2 * made[name] - 1, read).status for name in SOME}
    assert "healthy" not in found.values(), found
    assert found["independent pixels"] == found["inverted"] == "untrained or poor"
    *_, noisy = rates.perfect(real[0], count, seed=0).values()
    verdict = rates.judged(2 * noisy - 1, read)
    assert verdict.status == "healthy", verdict.findings[0]


def test_independent_pixels_keep_each_pixels_distribution_and_nothing_else(rates):
    reference = rates.comparison("none").reference
    made = audit.independent_pixels(reference, 5000, seed=1).images
    assert made.shape == (5000, 8, 8, 1) and made.dtype == np.uint8
    whole = reference.images.astype(float)
    np.testing.assert_allclose(made.mean(axis=0), whole.mean(axis=0), atol=0.4)
    np.testing.assert_allclose(made.std(axis=0), whole.std(axis=0), atol=0.4)
    correlations = np.corrcoef(made.reshape(5000, -1)[:, 1:7].T.astype(float))
    assert np.abs(correlations - np.eye(6))[np.isfinite(correlations)].max() < 0.06
