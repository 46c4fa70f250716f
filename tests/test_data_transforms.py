"""What happens inside the compiled step, and binarisation on the host."""

import jax
import numpy as np
import pytest

from genimg_jax import data
from genimg_jax.data.transforms import prepare

KEY = jax.random.key(0)


def batch_of(image):
    return {"image": np.asarray(image, np.uint8), "index": np.arange(len(image), dtype=np.int32)}


def run(batch, key=KEY, levels=256, training=True, **options):
    step = jax.jit(lambda batch, key: prepare(batch, key, data.Options(**options), levels, training))
    return jax.tree.map(np.asarray, step(batch, key))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_spread_evenly_over_minus_one_to_one(levels):
    values = np.arange(levels).reshape(levels, 1, 1, 1)
    image = run(batch_of(values), levels=levels)["image"]
    assert image.dtype == np.float32
    assert (image[0], image[-1]) == (-1, 1)
    np.testing.assert_allclose(image.ravel(), np.linspace(-1, 1, levels), atol=1e-6)


def test_everything_but_the_image_passes_through():
    batch = {**batch_of(np.zeros((4, 2, 2, 1))), "label": np.arange(4), "valid": np.array([True, True, False, False])}
    prepared = run(batch, flip=True, binarize="dynamic")
    for name in ("index", "label", "valid"):
        np.testing.assert_array_equal(prepared[name], batch[name])


def test_flips_mirror_half_of_the_training_images_and_none_in_evaluation():
    image = np.broadcast_to(np.arange(12).reshape(1, 2, 2, 3), (400, 2, 2, 3))
    plain = run(batch_of(image), training=False, flip=True)["image"]
    np.testing.assert_array_equal(plain, run(batch_of(image))["image"])
    flipped = run(batch_of(image), flip=True)["image"]
    mirrored = (flipped == plain[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (flipped == plain).all((1, 2, 3))).all()
    assert abs(mirrored.sum() - 200) < 5 * 10  # five standard deviations


def test_randomness_belongs_to_the_index_not_to_the_place_in_the_batch():
    batch = batch_of(np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1)))
    whole = run(batch, flip=True, binarize="dynamic")["image"]
    part = run({name: array[5:9] for name, array in batch.items()}, flip=True, binarize="dynamic")["image"]
    np.testing.assert_array_equal(part, whole[5:9])


def test_dynamic_binarisation_draws_each_pixel_with_its_own_probability_anew():
    values = np.array([0, 64, 128, 200, 255])
    batch = batch_of(np.broadcast_to(values.reshape(1, 1, 5, 1), (4000, 1, 5, 1)))
    first = run(batch, binarize="dynamic")["image"]
    assert set(np.unique(first)) == {-1, 1}
    rate, expected = (first > 0).mean((0, 1, 3)), values / 255
    assert (abs(rate - expected) <= 5 * np.sqrt(expected * (1 - expected) / 4000)).all()
    again = run(batch, jax.random.key(1), binarize="dynamic")["image"]
    assert (first != again).any()


def test_static_binarisation_is_one_draw_an_example_whatever_the_slice():
    grey = data.open_source(data.Options(), "train")
    whole = data.open_source(data.Options(binarize="static"), "train")
    slice_ = data.open_source(data.Options(binarize="static"), "train[700:720]")
    streamed = data.open_source(data.Options(binarize="static", memory_mib=0), "train[700:720]")
    assert whole.spec.levels == whole.stored_levels == 2
    images = whole.read(np.arange(1500))["image"]
    np.testing.assert_array_equal(slice_.read(np.arange(20))["image"], images[700:720])
    np.testing.assert_array_equal(streamed.read(np.arange(20))["image"], images[700:720])
    values = grey.read(np.arange(1500))["image"]
    for value in range(17):
        chosen, p = images[values == value], value / 16
        assert abs(chosen.mean() - p) <= 5 * np.sqrt(p * (1 - p) / chosen.size)


def test_the_threshold_is_one_half():
    grey = data.open_source(data.Options(), "test").read(np.arange(297))["image"]
    source = data.open_source(data.Options(binarize="threshold"), "test")
    np.testing.assert_array_equal(source.read(np.arange(297))["image"], grey >= 8)
    assert source.spec.levels == 2


def test_dynamic_binarisation_stores_grey_and_promises_two_levels():
    source = data.open_source(data.Options(binarize="dynamic"), "test")
    assert (source.stored_levels, source.spec.levels) == (17, 2)
