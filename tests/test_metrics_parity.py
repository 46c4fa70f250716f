"""The same features give the published implementations' figures; needs the parity extra."""

import importlib
import sys
from unittest import mock

import needs
import numpy as np
import pytest
from scipy.special import softmax

from genimg_jax.metrics.diversity import inception_score
from genimg_jax.metrics.frechet import frechet_distance, moments
from genimg_jax.metrics.kernel import kernel_distance
from genimg_jax.metrics.manifold import manifold_scores


@pytest.fixture(scope="module", autouse=True)
def _torchvision():
    """Both packages import it for image files and pretrained networks, which are not needed here.

    A build of torchvision suits one build of PyTorch, so that it may be missing, or not load.
    """
    with pytest.MonkeyPatch.context() as patch:
        try:
            importlib.import_module("torchvision")
        except (ImportError, RuntimeError):
            for name in ("", ".datasets", ".transforms", ".transforms.functional"):
                patch.setitem(sys.modules, f"torchvision{name}", mock.MagicMock())
        yield


@pytest.fixture(scope="module")
def sets():
    """Correlated, skewed and not negative, as pooled features are."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(64, 64)) / 8
    return [np.maximum(rng.normal(shift, 1, size=(300, 64)) @ mixing, 0).astype(np.float32) for shift in (0, 0.3)]


def test_frechet_distance_is_pytorch_fids(sets):
    reference = needs.module("pytorch_fid.fid_score")
    generated, real = (features.astype(np.float64) for features in sets)
    expected = reference.calculate_frechet_distance(
        generated.mean(axis=0), np.cov(generated.T), real.mean(axis=0), np.cov(real.T)
    )
    np.testing.assert_allclose(frechet_distance(*map(moments, sets)), expected, rtol=1e-6)


def test_kernel_distance_is_torch_fidelitys(sets):
    """On one subset of all samples."""
    reference = needs.module("torch_fidelity.metric_kid")
    generated, real = (features.astype(np.float64) for features in sets)
    kernel = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    expected = reference.mmd2(
        *(reference.kernel_poly(*pair, **kernel) for pair in ((generated, generated), (generated, real), (real, real)))
    )
    np.testing.assert_allclose(kernel_distance(*sets, 512).estimate, expected, rtol=1e-4)


def test_precision_and_recall_are_torch_fidelitys(sets):
    torch, reference = needs.module("torch"), needs.module("torch_fidelity.metric_prc")
    generated, real = map(torch.from_numpy, sets)
    expected = reference.calculate_precision_recall_full(generated, real, neighborhood=3)
    np.testing.assert_allclose(manifold_scores(*sets, 3, 512)[:2], expected, rtol=1e-6)


def test_inception_score_is_torch_fidelitys():
    torch, reference = needs.module("torch"), needs.module("torch_fidelity.metric_isc")
    logits = 2 * np.random.default_rng(1).normal(size=(300, 20))
    expected = reference.isc_features_to_metric(torch.from_numpy(logits), splits=1)["inception_score_mean"]
    np.testing.assert_allclose(inception_score(softmax(logits, axis=1)).score, expected, rtol=1e-6)
