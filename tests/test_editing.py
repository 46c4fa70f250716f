"""Editing of images, against closed forms of Gaussian data and of linear decoders, and its commands on tiny runs."""

import itertools

import gaussian_score
import ideal_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from tiny_runs import train

from genimg_jax import core
from genimg_jax.__main__ import main
from genimg_jax.engine import images
from genimg_jax.errors import ConfigError
from genimg_jax.samplers import ode, sde
from genimg_jax.samplers.sigma_schedules import karras
from genimg_jax.tasks import editing
from genimg_jax.tasks.editing import Edit

NOTHING, KEY = core.Weights({}, {}, {}), jax.random.key(0)
SHAPE, CLASSES = ideal_network.SHAPE, ideal_network.CLASSES

# ------------------------------------------------------------------------------------------------- Gaussian data


def gaussian_family(classes=CLASSES, **capabilities) -> core.Family:
    """The ideal denoiser of Gaussian data, a Gaussian for each class."""

    def denoise(weights, noisy, sigma, condition):
        each = jnp.stack([gaussian_score.denoiser(toy)(noisy, sigma) for toy in classes])
        return jnp.take_along_axis(each, condition["label"].reshape(1, -1, 1, 1, 1), axis=0)[0]

    def sigmas(weights, steps):
        return karras()(steps, 0.002, 80.0)

    functions = {"denoise": denoise, "sigmas": sigmas, **capabilities}
    return core.Family(None, None, None, (), conditions=("label",), **functions)


def batch_of(image: np.ndarray, label: int = 0, **further) -> core.Batch:
    count = len(image)
    rows = {"index": jnp.arange(count), "draw": jnp.zeros(count, jnp.int32), "label": jnp.full(count, label, jnp.int32)}
    return {"image": jnp.asarray(image, jnp.float32), **rows, **further}


def run(task: Edit, batch: core.Batch, family: core.Family | None = None) -> np.ndarray:
    family = family or gaussian_family()
    return np.asarray(jax.jit(lambda batch: task(family, NOTHING, batch, KEY).image)(batch))


def pictures(count: int, seed: int = 1) -> np.ndarray:
    return gaussian_score.draw(CLASSES[0], np.random.default_rng(seed), count).reshape(count, *SHAPE)


@pytest.mark.parametrize("solver", editing.SOLVERS)
def test_at_level_0_it_is_the_image_and_at_level_1_a_sample(solver):
    one, two = pictures(3, 1), pictures(3, 2)
    np.testing.assert_array_equal(run(Edit("vary", 0.0, 10, solver), batch_of(one)), np.float32(one))
    first, second = (run(Edit("vary", 1.0, 10, solver), batch_of(image)) for image in (one, two))
    np.testing.assert_array_equal(first, second)
    between = [run(Edit("vary", 0.3, 10, solver), batch_of(image)) for image in (one, two)]
    assert (between[0] != between[1]).any()


def test_level_1_draws_as_the_sampler_does():
    denoise, keys = gaussian_score.denoiser(CLASSES[0]), core.per_example_keys(KEY, jnp.arange(3))
    sigmas, image = karras()(10, 0.002, 80.0), jnp.ones((3, *SHAPE))
    edited = editing.sdedit(denoise, sde.ancestral, sigmas, image, 1.0, keys)
    sampled = ode.from_noise(sde.ancestral, denoise, sigmas, core.normal(core.fold_in(keys, 0), SHAPE), keys)
    np.testing.assert_allclose(edited, sampled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", editing.SOLVERS)
def test_variations_have_the_moments_of_the_closed_form(solver):
    """z = x + s n, then x_0 is drawn given z, or the ODE's deterministic map of it.

    In an eigenvector with variance c, with k = c / (c + s^2): a draw has mean k (x - m) and variance k^2 s^2 + k s^2,
    the map has mean sqrt(k) (x - m) and variance k s^2.
    """
    count, levels, toy = 8192, 400, CLASSES[0]
    x = toy.means[0] + [0.3, -0.2, 0.1, 0.3]
    edit = Edit("vary", 0.25, levels, solver)
    results = run(edit, batch_of(np.tile(x.reshape(1, *SHAPE), (count, 1, 1, 1)))).reshape(count, -1)
    s = float(karras()(levels, 0.002, 80.0)[levels - levels // 4])
    k = toy.spectra[0] / (toy.spectra[0] + s**2)
    assert 0.05 < k.min() < k.max() < 0.95  # the image and the data both count
    share, variance = {"ancestral": (k, k**2 * s**2 + k * s**2), "heun": (np.sqrt(k), k * s**2)}[solver]
    found = (results.astype(np.float64) - toy.means[0]) @ toy.bases[0]
    covariance = np.cov(found.T)
    # 5 standard errors, and half a percent for the steps of the solver.
    error = 5 * np.sqrt(variance / count) + 0.005 * np.sqrt(variance)
    assert (abs(found.mean(0) - share * ((x - toy.means[0]) @ toy.bases[0])) < error).all()
    error = 5 * np.sqrt((np.outer(variance, variance) + np.diag(variance) ** 2) / count) + 0.005 * variance
    assert (abs(covariance - np.diag(variance)) < error).all()


def test_each_result_has_its_own_noise_whatever_stands_beside():
    image = np.repeat(pictures(2), 2, axis=0)
    batch = batch_of(image) | {"index": jnp.array([0, 0, 1, 1]), "draw": jnp.array([0, 1, 0, 1])}
    together = run(Edit("vary", 0.5, 8), batch)
    assert len(np.unique(together, axis=0)) == 4
    alone = run(Edit("vary", 0.5, 8), {name: values[3:] for name, values in batch.items()})
    np.testing.assert_allclose(alone, together[3:], rtol=1e-5, atol=1e-6)


def test_inversion_under_the_same_condition_is_the_identity():
    image = pictures(16)
    batch = batch_of(image, previous_label=jnp.zeros(16, jnp.int32))
    np.testing.assert_allclose(run(Edit("invert", noise_levels=100), batch), image, atol=2e-3)


@pytest.mark.parametrize("commuting", [True, False])
def test_inversion_under_another_condition_is_the_closed_form(commuting):
    """Standard normal noise between N(m, C) and N(n, D): n + D^(1/2) C^(-1/2) (x - m).

    If C and D commute, that is the optimal map of squared distances, C^(-1/2) (C^(1/2) D C^(1/2))^(1/2) C^(-1/2).
    """
    rng = np.random.default_rng(3)
    first = gaussian_score.random_covariance(rng, 4, 0.02)
    other = gaussian_score.random_covariance(rng, 4, 0.02)
    if commuting:
        basis = np.linalg.eigh(first)[1]
        other = basis * [0.01, 0.04, 0.02, 0.03] @ basis.T
    means = np.array([[0.1, -0.1, 0.0, 0.2], [-0.1, 0.1, 0.2, 0.0]])
    worlds = [gaussian_score.gaussian(m, c) for m, c in zip(means, (first, other), strict=True)]
    x = gaussian_score.draw(worlds[0], rng, 16)
    batch = batch_of(x.reshape(16, *SHAPE), label=1, previous_label=jnp.zeros(16, jnp.int32))
    root, inverse = sqrtm(first), np.linalg.inv(sqrtm(first))
    linear = inverse @ sqrtm(root @ other @ root) @ inverse if commuting else sqrtm(other) @ inverse
    expected = np.clip(means[1] + (x - means[0]) @ linear.T, -1, 1)
    found = run(Edit("invert", noise_levels=100), batch, gaussian_family(worlds)).reshape(16, 4)
    np.testing.assert_allclose(found, expected, atol=4e-3)


# ------------------------------------------------------------------------------------------------------- masks


def half(count: int) -> jax.Array:
    return jnp.tile(jnp.array([[True, False], [True, False]])[None], (count, 1, 1))


def encoder_family() -> core.Family:
    """Codes whose meaning depends on the class: image = code + label / 2."""

    def shift(batch):
        return batch["label"].reshape(-1, 1, 1, 1) / 2

    space = core.Latents(
        core.Spec(SHAPE, 2, 0),
        lambda weights, codes, batch: codes + shift(batch),
        lambda weights, batch, key: batch["image"] - shift(batch),
        lambda weights, keys, batch: core.normal(keys, SHAPE),
        "spherical",
    )
    return core.Family(None, None, None, (), conditions=("label",), latents=(space,))


def test_the_same_code_is_decoded_under_the_new_condition():
    image = pictures(4)
    batch = batch_of(image, label=1, previous_label=jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(run(Edit("invert"), batch, encoder_family()), image + 0.5, rtol=1e-5)


@pytest.mark.parametrize("method", editing.METHODS)
def test_pixels_outside_the_mask_are_kept(method):
    def inpaint(weights, image, known, keys, batch):
        return jnp.where(known[..., None], jnp.nan, batch["label"].reshape(-1, 1, 1, 1) / 4)  # whatever it does there

    image = np.float32(pictures(8))
    batch = batch_of(image, label=1, previous_label=jnp.zeros(8, jnp.int32), mask=half(8))
    edited = run(Edit(method, 0.6, 20), batch, gaussian_family(inpaint=inpaint))
    np.testing.assert_array_equal(edited[:, :, 1], image[:, :, 1])
    assert (edited[:, :, 0] != image[:, :, 0]).all() and np.isfinite(edited).all()


def replacement_moments(covariance: np.ndarray, kept: float, sigmas: np.ndarray) -> tuple[float, float]:
    """Mean and variance of the first of two pixels, the second of which is kept, after all ancestral steps.

    Steps are linear in Gaussian data with mean 0, and the kept pixel's noise is its own in every step.
    """
    mean, spread = np.zeros(2), sigmas[0] ** 2 * np.eye(2)
    for sigma, following in itertools.pairwise(sigmas):
        denoised, new = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(2)), 1 - (following / sigma) ** 2
        first = (denoised + following / sigma * np.sqrt(1 - new) * (np.eye(2) - denoised))[0]
        variance = first @ spread @ first + following**2 * new
        mean, spread = np.array([first @ mean, kept]), np.diag([variance, following**2])
    return mean[0], spread[0, 0]


def test_changed_pixels_fit_the_kept_ones():
    """Of two pixels with correlation 0.9, the changed one has the moments of the replacement method."""
    covariance, kept, count = 0.02 * (0.9 * np.ones((2, 2)) + 0.1 * np.eye(2)), 0.3, 65536
    denoise = gaussian_score.denoiser(gaussian_score.gaussian(np.zeros(2), covariance))
    keys, mask = core.per_example_keys(KEY, jnp.arange(count)), jnp.array([[True, False]])
    image, sigmas = jnp.tile(jnp.array([[0.0, kept]]), (count, 1)), karras()(50, 0.002, 80.0)
    edit = jax.jit(lambda mask: editing.sdedit(denoise, sde.ancestral, sigmas, image, 1.0, keys, mask))
    result = np.asarray(edit(mask), np.float64)
    np.testing.assert_array_equal(result[:, 1], np.float32(kept))
    mean, variance = replacement_moments(covariance, kept, np.asarray(sigmas, np.float64))
    assert abs(result[:, 0].mean() - mean) < 4 * np.sqrt(variance / count)
    assert abs(result[:, 0].var() - variance) < 4 * variance * np.sqrt(2 / count)
    assert mean < 0.9 * kept  # the exact conditional mean, which replacement falls short of
    np.testing.assert_allclose(edit(jnp.ones((1, 2), bool)), edit(None), rtol=1e-5, atol=1e-6)


def test_a_code_changes_if_any_of_its_pixels_may():
    mask = np.zeros((2, 4, 6), bool)
    mask[0, 0, 5], mask[1, 2:, :2] = True, True
    cells = editing.changing_cells(jnp.asarray(mask), (2, 3, 8))
    np.testing.assert_array_equal(cells[..., 0], [[[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]]])


@pytest.mark.parametrize("levels", [0, 5])
def test_latent_families_are_edited_in_their_codes(levels):
    """Without noise the result is the reconstruction, of vectors or of tokens."""

    def encode(weights, batch, key):
        codes = jnp.round(batch["image"] * 2) + 2
        return codes.astype(jnp.int32) if levels else codes

    space = core.Latents(core.Spec(SHAPE, 2, levels), lambda weights, codes, batch: (codes - 2) / 2, encode)
    family = gaussian_family(denoise_space=space)
    image = np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE))
    np.testing.assert_allclose(run(Edit("vary", 0.0, 8), batch_of(image), family), np.round(image * 2) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "masked", "name"),
    [
        (gaussian_family(), False, "invert"),
        (gaussian_family(), True, "vary"),
        (gaussian_family(inpaint=print, inpaint_method="exact"), True, "inpaint"),
        (encoder_family(), True, "invert"),
    ],
)
def test_the_method_is_what_the_family_can(family, masked, name):
    assert editing.plan("auto", family, masked)[0] == name


def test_what_lacks_is_said():
    with pytest.raises(ConfigError, match="vary needs a family that denoises"):
        editing.plan("vary", encoder_family(), False)
    with pytest.raises(ConfigError, match="invert needs a denoiser"):
        editing.plan("auto", encoder_family()._replace(latents=()), False)


# -------------------------------------------------------------------------------------------------- directions


def decoder_family(nonlinear: bool) -> tuple[core.Family, np.ndarray]:
    matrix = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)

    def decode(weights, codes, batch):
        image = (codes.reshape(-1, 6) @ matrix.T + 0.1).reshape(-1, 4, 4, 1)
        return jnp.tanh(image) if nonlinear else image

    space = core.Latents(core.Spec((2, 1, 3), 0, 0), decode, prior=lambda *_: None, interpolate="linear", layered=True)
    return core.Family(None, None, None, (), latents=(space,)), matrix


@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_directions_are_eigenvectors_of_the_mean_of_products_of_jacobians(nonlinear, rank):
    """Of a linear decoder those are the eigenvectors of A'A, SeFa's."""
    family, matrix = decoder_family(nonlinear)
    codes = np.random.default_rng(1).normal(size=(5, 2, 1, 3)).astype(np.float32)

    def multiply(vector):
        batch = {"codes": codes, "direction": np.broadcast_to(np.float32(vector).reshape(1, 2, 1, 3), codes.shape)}
        return np.asarray(editing.jacobian_product(family, NOTHING, batch, KEY)).mean(0).ravel()

    jacobians = [matrix] * 5
    if nonlinear:
        jacobians = [(1 - np.tanh(matrix @ z + 0.1) ** 2)[:, None] * matrix for z in codes.reshape(5, 6)]
    exact = np.linalg.eigh(np.mean([j.T @ j for j in jacobians], axis=0))[1][:, ::-1][:, rank]
    found = editing.leading_eigenvector(multiply, 6, rank)
    np.testing.assert_allclose(found * np.sign(found @ exact), exact, atol=1e-4)
    assert found[np.abs(found).argmax()] > 0


def test_principal_directions_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(50, 6)) * [1, 2, 3, 4, 5, 6] @ rng.normal(size=(6, 6)) + 7).reshape(50, 2, 1, 3)
    reference = PCA().fit(codes.reshape(50, 6))
    for rank in range(3):
        direction = editing.principal_direction(codes, rank)
        assert abs(direction.ravel() @ reference.components_[rank]) > 1 - 1e-9
        expected = np.sqrt(reference.explained_variance_[rank] * 49 / 50)
        np.testing.assert_allclose(editing.deviation_along(codes, direction), expected)


def test_the_direction_of_a_label_is_the_difference_of_means():
    noise = np.random.default_rng(0).normal(size=(10, 3))
    means = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])
    codes = np.concatenate([mean + sign * noise for mean in means for sign in (1, -1)])
    labels = np.repeat([3, 8], 20)
    np.testing.assert_allclose(editing.label_direction(codes, labels, 3), means[0] - means[1], atol=1e-12)
    with pytest.raises(ConfigError, match="0 of 40 images are of class 5"):
        editing.label_direction(codes, labels, 5)


@pytest.mark.parametrize("rank", [-1, 5])
def test_a_direction_that_codes_do_not_have_is_refused(rank):
    with pytest.raises(ConfigError, match="none of 0 to 4"):
        editing.leading_eigenvector(lambda v: v, 6, rank)


# ---------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A diffusion model that is told classes, and a VAE that is not."""
    root = tmp_path_factory.mktemp("runs")
    for config in ("diffusion_digits", "vae_digits"):  # a high rate, for outputs that depend on inputs visibly
        flags = ["--config.train.steps=2", "--config.optimizer.learning_rate=0.1"]
        assert train(root / config, *flags, config=config) == 0
    return root


def edit(workdir, out, task: str, *flags: str) -> dict[str, np.ndarray]:
    given = [] if {"--images", "--given"} & set(flags) else ["--given", "test", "--limit", "4"]
    arguments = ["--workdir", str(workdir), "--checkpoint", "last", "--out", str(out), *given, *flags]
    assert main(["edit", task, *arguments]) == 0
    with np.load(out / "images.npz") as file:
        return dict(file)


def test_variations_from_the_command_line(runs, tmp_path):
    flags = ["--count", "2", "--task.noise_levels=4"]
    same = edit(runs / "diffusion_digits", tmp_path / "same", "vary", "--task.level=0", *flags)
    np.testing.assert_array_equal(same["image"], same["original"].repeat(2, axis=0))
    varied = edit(runs / "diffusion_digits", tmp_path / "varied", "vary", *flags)
    assert len(np.unique(varied["image"], axis=0)) == 8


def test_only_white_pixels_of_the_mask_file_change(runs, tmp_path):
    mask = np.zeros((8, 8, 1), np.uint8)
    mask[2:5, 3:6] = 255
    images.save_png(tmp_path / "mask.png", mask)
    flags = ["--condition.label=3", f"--task.mask_file={tmp_path / 'mask.png'}", "--task.noise_levels=4"]
    changed = edit(runs / "diffusion_digits", tmp_path / "changed", "change", *flags)
    moved = (changed["image"] != changed["original"]).any((0, 3))
    assert moved.any() and not moved[mask[..., 0] == 0].any()


@pytest.mark.slow
def test_a_class_is_changed_by_inversion(runs, tmp_path):
    """--task.was stands for the label that an image of the data has; here a split's image has another one."""
    workdir, flags = runs / "diffusion_digits", ["--condition.label=3", "--task.noise_levels=4", "--task.by=invert"]
    split = edit(workdir, tmp_path / "split", "change", "--task.was=5", "--given", "test", "--limit", "1", *flags)
    images.save_png(tmp_path / "picture.png", split["original"][0])
    same, other = (
        edit(workdir, tmp_path / was, "change", "--images", str(tmp_path / "picture.png"), f"--task.was={was}", *flags)
        for was in ("5", "1")
    )
    np.testing.assert_array_equal(same["image"], split["image"])
    assert (other["image"] != split["image"]).any()


@pytest.mark.slow
def test_paths_and_directions_pass_through_the_same_codes(runs, tmp_path):
    """Without a move, and at both ends of a path, an image is what its own code decodes to."""
    path = edit(runs / "vae_digits", tmp_path / "path", "interpolate", "--task.steps=3")
    moved = edit(
        runs / "vae_digits",
        tmp_path / "moved",
        "direction",
        "--task.columns=3",
        "--task.examples=8",
        "--task.strength=9",
    )
    rows, paths = moved["image"].reshape(4, 3, 8, 8, 1), path["image"].reshape(2, 3, 8, 8, 1)
    np.testing.assert_array_equal(paths[:, [0, 2]].reshape(4, 8, 8, 1), rows[:, 1])
    assert (rows[:, 0] != rows[:, 2]).any()
    np.testing.assert_allclose(moved["strengths"], [-9, 0, 9])
    label = edit(runs / "vae_digits", tmp_path / "label", "direction", "--task.direction=label:3", "--task.columns=2")
    assert label["direction"].shape == moved["direction"].shape and (label["direction"] != moved["direction"]).any()


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        ("vae_digits", ["vary"], "vary needs a family that denoises"),
        ("vae_digits", ["change", "--condition.label=3"], "is told nothing"),
        ("diffusion_digits", ["change"], "change to what?"),
        ("diffusion_digits", ["change", "--condition.label=3", "--count", "2"], "leave --count out"),
        ("diffusion_digits", ["change", "--condition.label=3", "--task.by=inpaint"], "completes images"),
        ("diffusion_digits", ["direction", "--task.direction=label:3"], "use genimg edit change"),
        ("vae_digits", ["direction", "--task.direction=pca:0"], "use jacobian:0"),
        ("vae_digits", ["direction", "--task.direction=left"], "label:CLASS"),
        ("vae_digits", ["interpolate", "--limit", "1"], "give several"),
    ],
)
def test_what_cannot_be_done_is_said(runs, config, flags, message, capsys):
    arguments = ["--workdir", str(runs / config), "--checkpoint", "last", "--given", "test"]
    assert main(["edit", *flags[:1], *arguments, *flags[1:]]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["vary"], "image files do not have"), (["change", "--condition.label=3"], "--task.was=VALUE")],
)
def test_the_condition_of_image_files_must_be_given(runs, tmp_path, flags, message, capsys):
    images.save_png(tmp_path / "picture.png", np.zeros((8, 8, 1), np.uint8))
    arguments = ["--workdir", str(runs / "diffusion_digits"), "--checkpoint", "last", "--images", str(tmp_path)]
    assert main(["edit", *flags[:1], *arguments, *flags[1:]]) == 2
    assert message in capsys.readouterr().err
