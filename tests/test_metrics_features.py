"""Feature networks, and that distances of their features rank damaged digits by the damage."""

import numpy as np
import pytest
import scipy.ndimage
from sklearn.datasets import load_digits

from genimg_jax.errors import DataError
from genimg_jax.metrics import features
from genimg_jax.metrics.frechet import frechet_distance, moments
from genimg_jax.metrics.kernel import kernel_distance
from genimg_jax.metrics.manifold import manifold_scores
from genimg_jax.metrics.sliced import sliced_distance

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def digits():
    """Two disjoint sets of scikit-learn's digits, f32[256, 8, 8, 1] in [-1, 1], and the classes of the second."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))[:512]
    images = (found.images / 8 - 1).astype(np.float32)[order, ..., None]
    return images[:256], images[256:], found.target[order][256:]


def test_pixels_are_the_image():
    images = np.random.default_rng(0).uniform(-1, 1, size=(5, 3, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(features.extract(features.pixels, images, 2), images.reshape(5, -1))


def test_batches_change_nothing(digits):
    network = features.random_conv(SHAPE)
    images = digits[0][:30]
    whole = features.extract(network, images, 30)
    np.testing.assert_allclose(features.extract(network, images, 7), whole, rtol=1e-5, atol=1e-6)
    uneven = (images[i:j] for i, j in ((0, 1), (1, 1), (1, 20), (20, 30)))
    np.testing.assert_allclose(features.extract(network, uneven, 8), whole, rtol=1e-5, atol=1e-6)


def test_random_convolutions_follow_their_seed(digits):
    images = digits[0][:4]
    one, same, other = (features.random_conv(SHAPE, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(features.extract(one, images), features.extract(same, images))
    assert one.weights == same.weights != other.weights
    assert np.abs(features.extract(one, images) - features.extract(other, images)).max() > 0.1


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (3, 5, 3), (1, 1, 1)])
def test_random_convolutions_take_any_shape(shape):
    images = np.random.default_rng(1).uniform(-1, 1, size=(3, *shape)).astype(np.float32)
    found = features.extract(features.random_conv(shape), images, 4)
    assert np.isfinite(found).all()
    assert 0.05 < found.std() < 20
    assert (found.std(axis=0) > 1e-3).mean() > 0.3


def damaged(images, classes, kind, amount):
    if kind == "blur":
        return scipy.ndimage.gaussian_filter(images, (0, amount, amount, 0))
    if kind == "noise":
        return images + amount * np.random.default_rng(2).normal(size=images.shape).astype(np.float32)
    kept = images[classes >= amount]
    return kept[np.random.default_rng(3).integers(len(kept), size=len(images))]


DAMAGES = [("blur", (0.5, 1.0)), ("noise", (0.3, 0.8)), ("dropped classes", (3, 7))]


@pytest.fixture(scope="module", params=["pixels", pytest.param("random_conv", marks=pytest.mark.slow)])
def network(request):
    return features.pixels if request.param == "pixels" else features.random_conv(SHAPE)


@pytest.fixture(scope="module")
def undamaged(digits, network):
    return [features.extract(network, images) for images in digits[:2]]


@pytest.mark.parametrize(("kind", "amounts"), DAMAGES)
def test_distances_grow_with_the_damage(digits, network, undamaged, kind, amounts):
    _, other, classes = digits
    reference, same = undamaged
    sets = [same]
    sets += [features.extract(network, damaged(other, classes, kind, amount)) for amount in amounts]
    for distance in (
        lambda one: frechet_distance(moments(one), moments(reference)),
        lambda one: kernel_distance(one, reference, 256).estimate,
        lambda one: sliced_distance(one, reference, 64).estimate,
    ):
        assert np.all(np.diff([distance(one) for one in sets]) > 0)


def test_dropped_digits_lower_recall_and_noise_lowers_precision(digits):
    real, other, classes = digits
    whole, dropped, noisy = (
        manifold_scores(one.reshape(256, -1), real.reshape(256, -1), 3, 256)
        for one in (other, damaged(other, classes, "dropped classes", 5), damaged(other, classes, "noise", 0.5))
    )
    assert dropped.recall < whole.recall - 0.3
    assert abs(dropped.precision - whole.precision) < 0.1
    assert noisy.precision < whole.precision - 0.3
    assert noisy.recall > whole.recall - 0.1


def test_no_images():
    with pytest.raises(DataError, match="no images"):
        features.extract(features.pixels, iter([]))
