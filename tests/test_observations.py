"""Observations: adjoints, linearity, and each operator against an independent implementation."""

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from PIL import Image
from sklearn.datasets import load_sample_images

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.observations import Options, jpeg, masks, observing, operators

SHAPE, BATCH = (16, 24, 3), 3
KEYS = core.per_example_keys(jax.random.key(0), jnp.arange(BATCH))
NOISY = Options(kind="denoise", noise=0.3)
LINEAR = {
    "box": Options(kind="inpaint"),
    "half": Options(kind="inpaint", mask="half"),
    "random": Options(kind="inpaint", mask="random", share=0.6),
    "centre": Options(kind="inpaint", mask="centre"),
    "outpaint": Options(kind="outpaint", share=0.6),
    "mean 2": Options(kind="superres", factor=2),
    "mean 4": Options(kind="superres"),
    "bicubic 2": Options(kind="superres", factor=2, resampling="bicubic"),
    "bicubic 4": Options(kind="superres", resampling="bicubic"),
    "blur": Options(kind="deblur"),
    "wide blur": Options(kind="deblur", sigma=6.0),  # a kernel larger than the image
    "blur, zeros": Options(kind="deblur", padding="zero"),
    "denoise": NOISY,
    "colourise": Options(kind="colourise"),
    "several": Options(kind="several", steps=("deblur", "colourise", "superres")),
    "masked": Options(kind="several", steps=("deblur", "denoise", "inpaint"), mask="random"),
}


def images(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape or (BATCH, *SHAPE)).astype(np.float32)


@functools.cache
def built(name: str) -> tuple[observing.Observation, jax.Array | None]:
    options = LINEAR[name]
    observation = observing.build(options, SHAPE)
    return observation, masks.draw(options, KEYS, SHAPE[:2]) if observation.needs_mask else None


# --------------------------------------------------------------------------------------------- every linear operator


@pytest.mark.parametrize("name", LINEAR)
def test_the_adjoint_has_the_inner_products_of_the_operator(name):
    observation, mask = built(name)
    x = images(0)
    forward = jax.jit(observation.apply)(x, mask)
    y = images(1, *forward.shape)
    back = jax.jit(observing.adjoint(observation, SHAPE, mask))(y)
    left, right = ((a * np.float64(b)).sum((1, 2, 3)) for a, b in ((forward, y), (x, back)))
    scale = np.sqrt((np.float64(x) ** 2).sum((1, 2, 3)) * (np.float64(back) ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose((left - right) / scale, 0, atol=1e-6)  # some roundings, of 2^-24 each
    assert observation.linear


@pytest.mark.parametrize("name", LINEAR)
def test_linear_is_without_a_constant_term(name):
    observation, mask = built(name)
    apply = jax.jit(observation.apply)
    x, y = images(0), images(1)
    np.testing.assert_allclose(apply(2 * x - 0.5 * y, mask), 2 * apply(x, mask) - 0.5 * apply(y, mask), atol=3e-6)
    np.testing.assert_array_equal(apply(0 * x, mask), 0)


@pytest.mark.parametrize("name", [*LINEAR, "jpeg"])
def test_a_row_depends_on_its_image_and_key_alone(name):
    options = LINEAR.get(name, Options(kind="jpeg"))
    run = jax.jit(functools.partial(observing.random_source, dataclasses.replace(options, noise=0.1)))
    whole, x = run(images(0), KEYS), images(0)
    np.testing.assert_allclose(run(x[::-1], KEYS[::-1])[::-1], whole, atol=1e-6)
    np.testing.assert_allclose(run(x[1:2], KEYS[1:2]), whole[1:2], atol=1e-6)
    assert (np.abs(run(x, core.fold_in(KEYS, 7)) - whole).max((1, 2, 3)) > 0.01).all(), "the noise is new"


def test_noise_has_its_deviation_and_stays_off_unknown_pixels():
    for options in (NOISY, Options(kind="inpaint", noise=0.3)):
        observation, x = observing.build(options, (64, 64, 1)), images(0, BATCH, 64, 64, 1)
        mask = masks.draw(options, KEYS, (64, 64)) if observation.needs_mask else None
        noise = observing.observe(observation, x, mask, KEYS) - observation.apply(x, mask)
        known = np.ones((BATCH, 64, 64), bool) if mask is None else mask
        np.testing.assert_array_equal(noise[~known], 0)
        count = known.sum()  # the deviation of a sample deviation is 1 / sqrt(2 n)
        assert abs(noise[known].std() / 0.3 - 1) < 5 / np.sqrt(2 * count)


# ------------------------------------------------------------------------------------------------- single operators


@pytest.mark.parametrize("name", ["mean 2", "mean 4", "bicubic 2", "bicubic 4", "blur", "wide blur", "colourise"])
def test_a_constant_image_stays_one(name):
    observation, _ = built(name)
    np.testing.assert_allclose(observation.apply(jnp.full((1, *SHAPE), 0.7), None), 0.7, atol=1e-6)


def test_block_means_are_the_means_and_are_shown_as_blocks():
    x = images(0)
    small = operators.block_mean(x, 4)
    np.testing.assert_allclose(small[1, 2, 3], x[1, 8:12, 12:16].mean((0, 1)), atol=1e-6)
    shown = built("mean 4")[0].show(small)
    assert shown.shape == x.shape
    np.testing.assert_array_equal(shown[1, 8:12, 12:16], np.broadcast_to(small[1, 2, 3], (4, 4, 3)))


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_is_that_of_pillow(factor):
    """Both stretch Keys' kernel by the factor and renormalise it at the edges."""
    x = images(0)
    small = operators.bicubic(x, factor)
    plane = Image.fromarray(x[0, ..., 1]).resize((24 // factor, 16 // factor), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(small[0, ..., 1], np.asarray(plane), atol=1e-5)


@pytest.mark.parametrize(("padding", "mode"), [("reflect", "mirror"), ("zero", "constant")])
@pytest.mark.parametrize("sigma", [0.7, 1.5, 6.0])
def test_a_gaussian_blur_is_that_of_scipy(sigma, padding, mode):
    kernel = operators.gaussian_kernel(sigma)
    assert abs(kernel.sum() - 1) < 1e-12
    x = images(0)
    expected = scipy.ndimage.gaussian_filter(x.astype(np.float64), sigma, axes=(1, 2), mode=mode)
    np.testing.assert_allclose(operators.blur(x, kernel, padding), expected, atol=2e-6)


def test_a_kernel_of_a_file_is_convolved_after_division_by_its_sum(tmp_path):
    kernel = np.random.default_rng(0).uniform(size=(3, 5))  # no symmetry: a correlation would differ
    np.save(tmp_path / "kernel.npy", 7 * kernel)
    options = Options(kind="deblur", kernel_file=str(tmp_path / "kernel.npy"))
    x = images(0)
    blurred = observing.build(options, SHAPE).apply(x, None)
    expected = scipy.ndimage.convolve(x[2, ..., 0].astype(np.float64), kernel / kernel.sum(), mode="mirror")
    np.testing.assert_allclose(blurred[2, ..., 0], expected, atol=2e-6)


def test_luma_is_that_of_pillow():
    u8 = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    grey = 127.5 * (operators.luma(u8[None] / np.float32(127.5) - 1) + 1)
    np.testing.assert_allclose(grey[0, ..., 0], np.asarray(Image.fromarray(u8).convert("L")), atol=0.51)  # rounds


# ------------------------------------------------------------------------------------------------------------- masks


def test_masks_hide_their_share_and_known_pixels_stay():
    x = images(0)
    for name, hidden in {"box": 8 * 12, "random": round(0.6 * 384), "half": 192, "centre": 8 * 12}.items():
        observation, mask = built(name)
        np.testing.assert_array_equal((~mask).sum((1, 2)), hidden, name)
        observed = observation.apply(x, mask)
        np.testing.assert_array_equal(observed[mask], x[mask])
        np.testing.assert_array_equal(observed[~mask], 0)
    _, mask = built("outpaint")
    np.testing.assert_array_equal(np.argwhere(mask[0])[[0, -1]], [[3, 4], [12, 18]])  # round(sqrt(0.4) (16, 24))


def test_masks_are_where_they_are_said_to_be():
    keys = core.per_example_keys(jax.random.key(1), jnp.arange(500))
    boxes = masks.draw(Options(kind="inpaint", share=0.25), keys, (8, 8))
    corners = {tuple(np.argwhere(~box)[0].tolist()) for box in np.asarray(boxes)}
    assert corners == {(row, column) for row in range(5) for column in range(5)}, "any place, and no other"
    halves = np.asarray(masks.draw(Options(kind="inpaint", mask="half"), keys, (4, 6)))
    each = {
        half: np.asarray(masks.draw(Options(kind="inpaint", mask="half", half=half), keys[:1], (4, 6)))[0]
        for half in masks.HALVES
    }
    columns, rows = np.arange(6), np.arange(4)
    np.testing.assert_array_equal(each["left"], np.broadcast_to(columns >= 3, (4, 6)))
    np.testing.assert_array_equal(each["right"], np.broadcast_to(columns < 3, (4, 6)))
    np.testing.assert_array_equal(each["top"], np.broadcast_to(rows[:, None] >= 2, (4, 6)))
    np.testing.assert_array_equal(each["bottom"], np.broadcast_to(rows[:, None] < 2, (4, 6)))
    counts = [(halves == mask).all((1, 2)).sum() for mask in each.values()]
    assert sum(counts) == 500 and min(counts) > 125 - 5 * np.sqrt(500 * 3 / 16)  # five binomial deviations


def test_a_mask_of_a_file_is_read_from_images_and_arrays(tmp_path):
    known = np.random.default_rng(0).uniform(size=SHAPE[:2]) < 0.5
    Image.fromarray(np.where(known, 200, 90).astype(np.uint8)).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", known)
    for name in ("mask.png", "mask.npy"):
        options = Options(kind="inpaint", mask="file", mask_file=str(tmp_path / name))
        np.testing.assert_array_equal(masks.draw(options, KEYS, SHAPE[:2])[2], known)
        with pytest.raises(ConfigError, match="of 16x24 pixels, and the images are 8x8"):
            masks.draw(options, KEYS, (8, 8))


def test_a_source_shows_the_mask_in_its_last_channel():
    observation, mask = built("box")
    source = observing.as_source(observation, observation.apply(images(0), mask), mask)
    assert source.shape == (*mask.shape, 4)
    np.testing.assert_array_equal(source[..., 3], np.where(mask, 1, -1))
    np.testing.assert_array_equal(source[..., :3][mask], images(0)[mask])


# -------------------------------------------------------------------------------------------------------------- JPEG


def photograph(height: int, width: int, colour: bool) -> np.ndarray:  # -> u8[height, width, 1 or 3]
    image = Image.fromarray(load_sample_images().images[0]).resize((160, 107), Image.Resampling.BOX)
    image = image if colour else image.convert("L")
    return np.asarray(image).reshape(107, 160, -1)[:height, :width]


def by_libjpeg(image: np.ndarray, quality: int) -> np.ndarray:  # u8[H, W, C] -> u8[H, W, C]
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        file, "JPEG", quality=quality, subsampling="4:2:0"
    )
    return np.asarray(Image.open(file)).reshape(image.shape)


def difference_from_libjpeg(image: np.ndarray, quality: int) -> np.ndarray:  # in levels
    mine = 127.5 * (jax.jit(jpeg.compress, static_argnums=1)(image[None] / np.float32(127.5) - 1, quality)[0] + 1)
    return np.abs(np.asarray(mine) - by_libjpeg(image, quality))


@pytest.mark.parametrize("shape", [(64, 96), (61, 90)])  # blocks divide the first
@pytest.mark.parametrize(("colour", "most"), [(False, 0.3), (True, 0.9)])
def test_jpeg_is_that_of_libjpeg(shape, colour, most):
    """Of grey images, 0.002 to 0.26 levels on average; of colour, 0.01 to 0.84.

    The cosine transform of libjpeg is in integers: its coefficients differ by up to a tenth, some of which are then
    rounded to another multiple. In colour it also rounds the means of chroma, and its enlarged values, to integers.
    """
    for quality in (5, 10, 50, 75, 95):
        assert difference_from_libjpeg(photograph(*shape, colour), quality).mean() < most, quality


def test_the_cosine_transform_is_that_of_scipy():
    block = images(0, 8, 8)
    expected = scipy.fft.dctn(block, norm="ortho")
    np.testing.assert_allclose(jpeg.cosines() @ block @ jpeg.cosines().T, expected, atol=1e-5)


@pytest.mark.parametrize("quality", [1, 10, 50, 90, 100])
def test_the_quantisation_tables_are_those_of_libjpeg(quality):
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "JPEG", quality=quality)
    found = Image.open(file).quantization
    for base, written in ((jpeg.LUMINANCE, found[0]), (jpeg.CHROMINANCE, found[1])):
        np.testing.assert_array_equal(jpeg.table(base, quality).ravel(), written)


def test_a_better_quality_is_nearer_and_none_has_an_adjoint():
    image = photograph(64, 96, True)[None] / np.float32(127.5) - 1
    errors = [np.abs(jpeg.compress(image, quality) - image).mean() for quality in (5, 20, 50, 95)]
    assert sorted(errors, reverse=True) == errors
    observation = observing.build(Options(kind="several", steps=("deblur", "jpeg")), SHAPE)
    assert not observation.linear
    with pytest.raises(ConfigError, match="not linear, and has no adjoint"):
        observing.adjoint(observation, SHAPE, None)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"kind": "colourise"}, (8, 8, 1), "the image is grey already"),
        ({"kind": "superres"}, (8, 10, 1), "observation.factor is 4, which does not divide a 8x10 image"),
        ({"kind": "jpeg"}, (8, 8, 2), "has 2 channels, not 1 or 3"),
        ({"kind": "several"}, (8, 8, 1), "name them in observation.steps"),
        ({"kind": "several", "steps": ("debur",)}, (8, 8, 1), "did you mean 'deblur'"),
        ({"kind": "several", "steps": ("inpaint", "deblur")}, (8, 8, 1), "name what hides pixels once, and last"),
        ({"kind": "several", "steps": ("superres", "inpaint")}, (8, 8, 1), "a mask is of the image's size"),
        ({"kind": "deblur", "kernel_file": "no.npy"}, (8, 8, 1), "kernel_file is no.npy, which cannot be read"),
        ({"kind": "inpaint", "share": 0.99}, (8, 8, 1), "hides all pixels of an image"),
        ({"kind": "inpaint", "share": 1.0, "mask": "random"}, (8, 8, 1), "hides all pixels of an image"),
        ({"kind": "outpaint", "share": 0.999}, (8, 8, 1), "hides all pixels of an image"),
        ({"kind": "inpaint", "mask": "file"}, (8, 8, 1), "name the file with observation.mask_file"),
        ({"kind": "inpaint", "mask": "file", "mask_file": "no.png"}, (8, 8, 1), "mask_file is no.png, which cannot be"),
    ],
)
def test_what_does_not_suit_an_image_is_refused(options, shape, message):
    with pytest.raises(ConfigError, match=message):
        observing.random_source(Options(**options), np.zeros((1, *shape), np.float32), KEYS[:1])
