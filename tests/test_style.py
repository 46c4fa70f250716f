"""Style transfer: colours in closed form, features by optimisation, and `genimg edit style`."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from jax.test_util import check_grads
from tiny_runs import train

from genimg_jax import core
from genimg_jax.__main__ import main
from genimg_jax.commands.edits.style import Options, layers_of, style_of_another
from genimg_jax.engine import images
from genimg_jax.evaluation import classifiers
from genimg_jax.networks.classifier import ImageClassifier
from genimg_jax.tasks import colour, style

WEIGHT = Options().weight


def pictures(seed: int, *shape: int, spread: float = 0.2) -> np.ndarray:
    """Images whose colours are correlated, each in its own way."""
    random = np.random.default_rng(seed)
    count, channels = shape[0], shape[-1]
    matrices = random.normal(size=(count, channels, channels)) * spread
    means = random.uniform(-0.3, 0.3, (count, 1, 1, channels))
    return (np.einsum("bhwc,bdc->bhwd", random.normal(size=shape), matrices) + means).astype(np.float32)


# --------------------------------------------------------------------------------------------------------- colours


def test_the_result_has_the_moments_of_the_style():
    of_style = pictures(1, 3, 7, 5, 3)
    result = colour.match_moments(pictures(0, 3, 6, 9, 3), of_style)
    for got, image in zip(result, of_style, strict=True):
        pixels = image.reshape(-1, 3).astype(float)
        np.testing.assert_allclose(got.mean((0, 1)), pixels.mean(0), atol=1e-5)
        np.testing.assert_allclose(np.cov(got.reshape(-1, 3).T, bias=True), np.cov(pixels.T, bias=True), atol=1e-5)


def test_the_map_is_that_of_the_formula():
    source, target = (colour.moments(pictures(seed, 2, 8, 8, 3))[1] for seed in (0, 1))
    for matrix, s, t in zip(colour.monge_map(source, target), source, target, strict=True):
        root = scipy.linalg.sqrtm(s)
        inverse = np.linalg.inv(root)
        np.testing.assert_allclose(matrix, inverse @ scipy.linalg.sqrtm(root @ t @ root) @ inverse, rtol=1e-8)
        # Of the maps between the two covariances it is the only one that is symmetric and positive.
        np.testing.assert_allclose(matrix @ s @ matrix, t, atol=1e-12)
        assert np.allclose(matrix, matrix.T) and np.linalg.eigvalsh(matrix).min() > 0


def test_of_covariances_that_commute_it_is_the_ratio_of_deviations():
    variances = np.array([[0.1, 0.5, 0.02], [0.3, 0.01, 0.2]])
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    source, target = ((basis * v) @ basis.T for v in variances)
    expected = (basis * np.sqrt(variances[1] / variances[0])) @ basis.T
    np.testing.assert_allclose(colour.monge_map(source[None], target[None])[0], expected, atol=1e-12)
    grey = pictures(2, 2, 6, 6, 1)
    ratio = grey[1].std(dtype=float) / grey[0].std(dtype=float)
    expected = grey[1].mean(dtype=float) + ratio * (grey[0] - grey[0].mean(dtype=float))
    np.testing.assert_allclose(colour.match_moments(grey[:1], grey[1:])[0], expected, atol=1e-6)


def test_an_image_keeps_its_own_colours():
    image = pictures(0, 2, 6, 6, 3)
    np.testing.assert_allclose(colour.match_moments(image, image), image, atol=1e-6)


def test_no_map_between_the_moments_changes_colours_less():
    """Its cost is the Bures-Wasserstein distance; Cholesky factors give the same moments at a higher cost. Its pixels
    are paired at the least cost of all pairings."""
    content, of_style = pictures(0, 1, 8, 8, 3), pictures(1, 1, 8, 8, 3)
    (m, s), (n, t) = ([x[0] for x in colour.moments(image)] for image in (content, of_style))
    root = scipy.linalg.sqrtm(s)
    least = np.sum((m - n) ** 2) + np.trace(s + t) - 2 * np.trace(scipy.linalg.sqrtm(root @ t @ root))
    result = colour.match_moments(content, of_style)
    np.testing.assert_allclose(np.square(result - content).sum(-1).mean(), least, rtol=1e-6)
    other = n + (content - m) @ (np.linalg.cholesky(t) @ np.linalg.inv(np.linalg.cholesky(s))).T
    np.testing.assert_allclose(colour.moments(other)[1][0], t, atol=1e-6)
    assert np.square(other - content).sum(-1).mean() > 1.01 * least
    before, after = content.reshape(-1, 1, 3), result.reshape(1, -1, 3)
    rows, columns = scipy.optimize.linear_sum_assignment(np.square(before - after).sum(-1))
    np.testing.assert_array_equal(rows, columns)


def test_grey_and_constant_images_are_no_failures():
    of_style, grey = pictures(1, 1, 6, 6, 3), np.repeat(pictures(0, 1, 6, 6, 1), 3, -1)
    mean, covariance = (x[0] for x in colour.moments(of_style))
    result = colour.match_moments(grey, of_style)[0] - mean
    np.testing.assert_allclose(result, result[..., :1].repeat(3, -1), atol=1e-6)  # shades of one colour
    # The only direction u that varies, (1, 1, 1) / sqrt 3, gets the style's variance u'Tu, that is sum(T) / 3.
    np.testing.assert_allclose(np.square(result).sum(-1).mean(), covariance.sum() / 3, rtol=1e-6)
    constant = np.full((1, 6, 6, 3), 0.3, np.float32)
    np.testing.assert_allclose(colour.match_moments(constant, of_style)[0], np.broadcast_to(mean, (6, 6, 3)), atol=1e-6)
    np.testing.assert_allclose(colour.match_moments(of_style, constant), constant, atol=1e-6)


def test_what_is_written_is_clipped():
    content, of_style = pictures(0, 2, 6, 6, 3), pictures(1, 2, 6, 6, 3, spread=2.0)
    result = colour.transfer(content, of_style)
    np.testing.assert_allclose(result, np.clip(colour.match_moments(content, of_style), -1, 1), atol=1e-7)
    assert abs(result).max() == 1 and result.dtype == np.float32


# ------------------------------------------------------------------------------------------ statistics and losses


def features(seed: int, *shape: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) * random.uniform(0.5, 2, shape[-1]) + random.normal(size=shape[-1])).astype("f4")


def test_adaptive_instance_normalisation_gives_the_moments_of_the_style():
    content, of_style = features(0, 3, 6, 6, 5), features(1, 3, 4, 7, 5)
    content[..., 1], of_style[..., 2] = 0.7, -0.4  # a constant channel each
    result = np.asarray(style.adain(content, of_style), float)
    np.testing.assert_allclose(result.mean((1, 2)), of_style.mean((1, 2), float), atol=1e-5)
    expected = of_style.std((1, 2), float)
    expected[:, 1] = 0
    np.testing.assert_allclose(result.std((1, 2)), expected, atol=1e-5)
    # Where it varies it is a positive multiple of the content plus a constant.
    correlation = np.corrcoef(result[0, ..., 0].ravel(), content[0, ..., 0].ravel())[0, 1]
    np.testing.assert_allclose(correlation, 1, atol=1e-6)


def test_a_gram_matrix_reads_no_positions_but_reads_which_channels_go_together():
    x, random = features(0, 2, 5, 6, 4), np.random.default_rng(3)
    pixels = x.reshape(2, 30, 4).astype(float)
    np.testing.assert_allclose(style.gram(x), pixels.swapaxes(1, 2) @ pixels / 30, rtol=1e-5, atol=1e-6)
    shuffled = x.reshape(2, 30, 4)[:, random.permutation(30)].reshape(x.shape)
    parted = x.copy()
    parted[..., 0] = x[..., 0].reshape(2, 30)[:, random.permutation(30)].reshape(2, 5, 6)
    loss = {
        method: [style.losses(method, (y,), (x,), (x,)).style for y in (shuffled, parted)] for method in style.METHODS
    }
    assert np.all(loss["gram"][0] < 1e-10) and np.all(loss["gram"][1] > 1e-3)
    assert np.all(np.array(loss["adain"]) < 1e-10)  # means and deviations do not read it


def test_losses_of_features_that_are_multiples():
    """Of a x: the Gram matrix is a^2 G, and the content changes by (a - 1) x. The style loss is the mean of layers."""
    x, y = features(0, 2, 5, 6, 4), features(1, 2, 3, 3, 7)
    result = style.losses("gram", (2 * x, 2 * y), (x, y), (x, y))
    np.testing.assert_allclose(result.content, np.square(y).mean((1, 2, 3)), rtol=1e-5)
    squares = [np.square(style.gram(z)).mean((1, 2)) for z in (x, y)]
    np.testing.assert_allclose(result.style, 9 * np.mean(squares, 0), rtol=1e-5)


@pytest.mark.parametrize("method", style.METHODS)
def test_gradients_are_those_of_the_losses(method):
    x, content, of_style = (features(seed, 1, 3, 4, 2) for seed in range(3))

    def total(x: jax.Array) -> jax.Array:
        return sum(map(jnp.sum, style.losses(method, (x,), (content,), (of_style,))))

    check_grads(total, (x,), 1, modes=["rev"], atol=0.02, rtol=0.02, eps=1e-2)
    x[..., 1] = 0  # as behind a rectifier
    gradient = jax.grad(total)(jnp.asarray(x))
    assert np.isfinite(gradient).all() and abs(gradient).max() > 0


# ---------------------------------------------------------------------------------------------------- optimisation


def pixels_alone(parameters: core.Tree, image: jax.Array) -> style.Features:
    return (image,)


def test_in_pixels_the_result_of_adain_is_known():
    """The target itself is an image, and its means and deviations are the style's: both losses can be 0."""
    content, of_style = pictures(0, 2, 6, 6, 3, spread=0.1), pictures(1, 2, 6, 6, 3, spread=0.1)
    result = style.transfer("adain", pixels_alone, {}, content, of_style, 300, 1.0)
    np.testing.assert_allclose(result.image, style.adain(content, of_style), atol=2e-3)
    assert np.all(np.concatenate(result.after) < 1e-5) and np.all(np.concatenate(result.before) > 1e-3)


def test_in_grey_pixels_the_result_of_gram_matrices_is_known():
    """The least of |x - c|^2 + w (mean x^2 - g)^2 is x = a c, where a - 1 + 2 w a (a^2 q - g) = 0 and q = mean c^2."""
    content, of_style = pictures(0, 1, 6, 6, 1, spread=0.3), pictures(1, 1, 6, 6, 1, spread=0.3)
    q, g, weight = np.square(content).mean(dtype=float), np.square(of_style).mean(dtype=float), 20.0
    roots = np.roots([2 * weight * q, 0, 1 - 2 * weight * g, -1])
    (root,) = roots.real[(abs(roots.imag) < 1e-9) & (roots.real > 0)]
    result = style.transfer("gram", pixels_alone, {}, content, of_style, 500, weight)
    assert abs(root - 1) > 0.05 and abs(root * content).max() < 1
    np.testing.assert_allclose(result.image, root * content, atol=2e-3)


def test_a_black_image_can_become_lighter():
    black, grey = np.full((1, 4, 4, 1), -1, np.float32), np.full((1, 4, 4, 1), 0.2, np.float32)
    result = style.transfer("adain", pixels_alone, {}, black, grey, 300, 1.0)
    np.testing.assert_allclose(result.image, grey, atol=2e-3)


@pytest.fixture(scope="module")
def digits():
    classifier = classifiers.shipped("digits")
    return layers_of(ImageClassifier(16, 128, 10)), classifier


def digit_images(seed: int) -> np.ndarray:
    return np.clip(pictures(seed, 3, 8, 8, 1, spread=0.5), -1, 1)


def test_the_last_layer_is_what_the_classifier_reads(digits):
    """A dense layer, its normalisation and a rectifier give the classifier's features from it."""
    layers, (network, *_) = digits
    image, variables = digit_images(0), jax.device_get(network.parameters)
    dense = np.asarray(layers(variables, image)[-1]).reshape(3, -1) @ variables["params"]["Dense_0"]["kernel"]
    statistics = variables["batch_stats"]["Normalization_2"]["BatchNorm_0"]
    scale = variables["params"]["Normalization_2"]["BatchNorm_0"]
    normal = (dense - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * scale["scale"] + scale["bias"]
    np.testing.assert_allclose(np.maximum(normal, 0), network.apply(variables, image), rtol=1e-3, atol=1e-4)


def test_layers_are_the_convolutions_from_fine_to_coarse():
    network = ImageClassifier(2, 4, 3)
    image = jax.ShapeDtypeStruct((1, 448, 448, 3), jnp.float32)
    variables = jax.eval_shape(lambda image: network.init(jax.random.key(0), image, False), image)
    shapes = [x.shape[1:] for x in jax.eval_shape(layers_of(network), variables, image)]
    sizes = [(224, 2), (112, 4), (56, 8), (28, 8), (14, 8), (7, 8)]  # more than ten layers, in the order of numbers
    assert shapes == [(size, size, width) for size, width in sizes for _ in range(2)]


@pytest.mark.parametrize("method", style.METHODS)
def test_optimisation_lowers_the_losses_of_each_image(digits, method):
    layers, (network, *_) = digits
    content, of_style = digit_images(0), digit_images(1)
    result = style.transfer(method, layers, network.parameters, content, of_style, 100, 1.0)
    assert np.all(result.after.style < 0.7 * result.before.style)
    assert np.all(sum(result.after) < 0.8 * sum(result.before)) and abs(result.image).max() <= 1
    if method == "adain":
        assert np.all(result.after.content < result.before.content)
    else:
        assert np.all(result.before.content == 0)  # it begins at the content
    alone = style.transfer(method, layers, network.parameters, content[1:2], of_style[1:2], 100, 1.0)
    np.testing.assert_allclose(alone.image[0], result.image[1], atol=0.02)


def test_a_heavier_style_loss_is_met_better_and_the_content_worse(digits):
    layers, (network, *_) = digits
    light, heavy = (
        style.transfer("gram", layers, network.parameters, digit_images(0), digit_images(1), 100, weight).after
        for weight in (0.1, 10.0)
    )
    assert np.all(heavy.style < light.style) and np.all(heavy.content > light.content)


# --------------------------------------------------------------------------------------------------------- models


def test_the_code_of_the_style_is_decoded_with_the_map_of_the_content():
    def encode(weights, batch, key):
        return batch["image"].mean((1, 2), keepdims=True)

    def decode(weights, codes, batch):
        return codes + batch["map"][..., None]

    spec = core.Spec((4, 4, 1), 0, 256)
    family = core.Family(None, None, None, (), latents=(core.Latents(spec, decode, encode),), conditions=("map",))
    content, of_style = pictures(0, 2, 4, 4, 1), pictures(1, 2, 4, 4, 1)
    batch = {"image": content, "style": of_style, "map": np.arange(32).reshape(2, 4, 4)}
    result = style_of_another(family, core.Weights({}, {}, {}), batch, jax.random.key(0))
    np.testing.assert_allclose(result, of_style.mean((1, 2), keepdims=True) + batch["map"][..., None], rtol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of digits, and a folder with two styles: strokes light on dark and dark on light."""
    root = tmp_path_factory.mktemp("runs")
    assert train(root / "run", "--config.train.steps=1") == 0
    save_styles(root)
    return root


def save_styles(root: pathlib.Path) -> None:
    strokes = np.zeros((8, 8, 1), np.uint8)
    strokes[:, 3:5] = 255
    for i, picture in enumerate((strokes, 255 - strokes)):
        images.save_png(root / "styles" / f"{i}.png", picture)


def edit(root: pathlib.Path, name: str, *flags: str, task: str = "style") -> dict[str, np.ndarray]:
    out = root / name
    arguments = ["--workdir", str(root / "run"), "--checkpoint", "last", "--out", str(out), *flags]
    assert main(["edit", task, *arguments]) == 0
    with np.load(out / "images.npz") as file:
        return dict(file)


def test_styles_are_used_in_turn(folder):
    flags = "--given", "test", "--limit", "3", f"--task.style={folder / 'styles'}", "--task.by=colour"
    result = edit(folder, "colour", *flags)
    assert result["image"].shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(result["style"][2], result["style"][0])
    np.testing.assert_array_equal(result["style"][1], 255 - result["style"][0])
    content, of_style = (result[name].astype(np.float32) / 127.5 - 1 for name in ("original", "style"))
    expected = images.to_uint8(colour.transfer(content, of_style)).astype(int)
    assert abs(result["image"] - expected).max() <= 2  # contents have 17 levels, of which a file holds the nearest
    assert len(list((folder / "colour").glob("*.png"))) == 4


def test_features_are_those_of_the_shipped_classifier_or_of_a_file(folder, capsys):
    flags = "--given", "test", "--limit", "3", f"--task.style={folder / 'styles'}", "--task.steps=30"
    shipped = edit(folder, "gram", *flags)
    text = capsys.readouterr().out
    before, after = (float(x) for x in text.split("style loss: ")[1].split()[:5:4])
    assert "gram, " in text and after < before
    by_adain = f"--task.features={classifiers.WEIGHTS / 'digits.safetensors'}", "--task.by=adain"
    from_file = edit(folder, "adain", *flags, *by_adain)
    for result, method in ((shipped, "gram"), (from_file, "adain")):
        network = classifiers.shipped("digits").features
        pair = (result[name].astype(np.float32) / 127.5 - 1 for name in ("original", "style"))
        expected = style.transfer(
            method, layers_of(ImageClassifier(16, 128, 10)), network.parameters, *pair, 30, WEIGHT
        )
        difference = abs(result["image"].astype(int) - images.to_uint8(expected.image))
        assert np.mean(difference <= 5) > 0.95  # contents are rounded, as above


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "which style?"),
        (["--task.style=nowhere.png"], "nowhere.png"),
        (["--task.style=train", "--task.by=encoder"], "by encoder: it does not encode the style"),
        (["--task.style=train", "--task.by=mixing"], "by mixing: it has no layers"),
        (
            ["--task.style=train", "--task.by=gram", f"--task.features={classifiers.WEIGHTS / 'mnist.safetensors'}"],
            "is of images [8, 8, 1], and the classifier",
        ),
    ],
)
def test_what_cannot_be_done_is_said(folder, flags, message, capsys):
    workdir = str(folder / "run")
    assert main(["edit", "style", "--workdir", workdir, "--checkpoint", "last", "--given", "test", *flags]) != 0
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.slow
def test_layers_of_two_projections_are_mixed(tmp_path, capsys):
    """With one picture as both it is its projection. The content's layers are the first."""
    assert train(tmp_path / "run", "--config.train.steps=1", config="stylegan2_digits") == 0
    save_styles(tmp_path)
    flags = "--seed", "3", "--task.steps=20"
    pairs = {name: f"--images={tmp_path / 'styles' / name}.png" for name in "01"}
    first, second = (edit(tmp_path, f"project{i}", pairs[i], *flags, task="project")["image"] for i in "01")
    styled = {}
    for of_style, crossover in (("0", 1), ("1", 1), ("1", 2)):
        more = f"--task.style={tmp_path / 'styles' / of_style}.png", f"--task.crossover={crossover}"
        styled[of_style, crossover] = edit(tmp_path, f"mixed{of_style}{crossover}", pairs["0"], *flags, *more)["image"]
    assert abs(styled["0", 1].astype(int) - first).max() <= 1
    # With one layer of the content it is nearer to the style's projection than with two, and both differ from it.
    distances = [np.square(styled["1", crossover].astype(float) - second).mean() for crossover in (1, 2)]
    assert 0 < distances[0] < distances[1]
    arguments = ["edit", "style", "--workdir", str(tmp_path / "run"), "--checkpoint", "last", "--given", "test"]
    assert main([*arguments, "--task.style=train", "--task.crossover=9"]) == 2
    assert "layers" in capsys.readouterr().err
    assert main([*arguments, "--task.style=train", "--task.by=colour", "--condition.label=3"]) == 2
    assert "leave --condition out" in capsys.readouterr().err


@pytest.mark.slow
def test_spade_decodes_the_style_of_one_image_with_the_map_of_another(tmp_path):
    """An image in its own style is its reconstruction."""
    assert train(tmp_path / "run", "--config.train.steps=1", config="spade_shapes") == 0
    same = edit(tmp_path, "same", "--given", "test", "--limit", "4", "--task.style=test")
    arguments = ["--workdir", str(tmp_path / "run"), "--checkpoint", "last", "--out", str(tmp_path / "again")]
    assert main(["sample", *arguments, "--reconstruct", "8"]) == 0
    with np.load(tmp_path / "again" / "images.npz") as again:
        assert abs(same["image"].astype(int) - again["image"][:4]).max() <= 1
    images.save_png(tmp_path / "style.png", same["original"][0])
    other = edit(tmp_path, "other", "--given", "test", "--limit", "4", f"--task.style={tmp_path / 'style.png'}")
    differences = abs(other["image"].astype(int) - same["image"]).max((1, 2, 3))
    assert differences[0] <= 1 and differences[1:].min() > 1
