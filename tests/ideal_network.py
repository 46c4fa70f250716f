"""A network in place of a trained one: what an ideal denoiser would have it predict, from what networks are told."""

from collections.abc import Callable

import gaussian_score
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import multivariate_normal

from genimg_jax import core
from genimg_jax.families import prediction
from genimg_jax.networks.conditioning import keep_mask
from genimg_jax.objectives import targets

SHAPE = (2, 2, 1)
DATA_STD = 0.3
OPTIMIZERS = {"model": core.Optimizer(optax.sgd(0.1))}
CLASSES = tuple(
    gaussian_score.gaussian(np.linspace(-0.3, 0.1, 4) + 0.2 * k, gaussian_score.random_covariance(rng, 4, 0.02))
    for k, rng in enumerate(np.random.default_rng(0).spawn(2))
)
# As mixtures of the classes are not Gaussian, what is known without the class is another Gaussian, to tell it apart.
NOTHING = gaussian_score.gaussian(
    [0.2, -0.1, 0.0, 0.1], gaussian_score.random_covariance(np.random.default_rng(1), 4, 0.03)
)


def told(condition, count: int, classes: int) -> jax.Array:  # -> i32[B]
    """The class that each example's network is told; `classes` stands for none."""
    if not condition:
        return jnp.full(count, classes)
    return jnp.where(keep_mask(condition, count), condition["label"], classes)


class Network:
    """Linen's two methods, and a parameter that nothing depends on."""

    def __init__(self, path, target, classes: int):
        self.path, self.target, self.classes = path, target, classes

    def init(self, key, image, c_noise, condition):
        return {"params": {"unused": jnp.zeros(1)}}

    def apply(self, variables, scaled, c_noise, condition):
        t, level = self.path.time(-8 * c_noise), jnp.exp(4 * c_noise)
        alpha, sigma = (f(t).reshape(-1, 1, 1, 1) for f in (self.path.alpha, self.path.sigma))
        x = scaled * jnp.sqrt(sigma**2 + (alpha * DATA_STD) ** 2)
        label = told(condition, len(x), self.classes)
        known = [*CLASSES[: self.classes], NOTHING]
        clean = jnp.stack([gaussian_score.denoiser(toy)(x / alpha, level) for toy in known])
        clean = jnp.take_along_axis(clean, label.reshape(1, -1, 1, 1, 1), axis=0)[0]
        return targets.convert(self.path, t, x, clean, targets.x0_target, self.target)


def install(monkeypatch, network: Callable) -> None:
    """Have families use `network(path, target, classes)`."""
    plain = prediction.model

    def with_network(options, spec, regression):
        made = network(regression.interpolant, regression.target, spec.num_classes if options.conditions else 0)
        monkeypatch.setattr(prediction.backbone, "build", lambda *_: made)
        return plain(options, spec, regression)

    monkeypatch.setattr(prediction, "model", with_network)


def made(module, classes: int = 0, levels: int = 256, optimizers=None, **options) -> tuple[core.Family, core.Weights]:
    options = module.Options(**{"sigma_data": DATA_STD, "conditions": ("label",) * (classes > 0), **options})
    family = module.make(options, core.Spec(SHAPE, classes, levels), optimizers or OPTIMIZERS)
    return family, core.weights(family.init(jax.random.key(0), batch(2)))


def batch(count: int, toy=NOTHING, label: int = 0) -> core.Batch:
    image = gaussian_score.draw(toy, np.random.default_rng(2), count).reshape(count, *SHAPE)
    return {
        "image": jnp.asarray(image, jnp.float32),
        "index": jnp.arange(count),
        "label": jnp.full(count, label, jnp.int32),
    }


def check_moments(module, count: int = 8192, **options) -> None:
    """Mean and covariance of samples are those of the data, within 5 standard errors."""
    family, weights = made(module, **options)
    keys = core.per_example_keys(jax.random.key(3), jnp.arange(count))
    drawn = np.asarray(jax.jit(family.sample)(weights, keys, {}), np.float64).reshape(count, -1)
    mean, covariance = gaussian_score.moments(NOTHING)
    variances = np.diagonal(covariance)
    assert (abs(drawn.mean(0) - mean) < 5 * np.sqrt(variances / count)).all()
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
    assert (abs(np.cov(drawn.T) - covariance) < 5 * error).all()


def image_error(level: np.ndarray) -> np.ndarray:
    """The ideal denoiser's mean squared error a pixel."""  # [N] -> [N]
    spectrum, level = NOTHING.spectra[0], level[:, None]
    return (spectrum * level**2 / (spectrum + level**2)).mean(1)


def check_loss(module, expected: float, **options) -> None:
    """The loss in training and in evaluation, with the ideal denoiser, is the closed form, within 5 standard errors."""
    family, weights = made(module, **options)
    data = batch(8192)
    found = np.asarray(jax.jit(family.evaluate)(weights, data, jax.random.key(4))["loss"], np.float64)
    assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(len(found)), (found.mean(), expected)
    state = family.init(jax.random.key(0), data)
    # One time an image: as many standard errors as that many times of evaluation are more.
    error = found.std() * np.sqrt(8 / len(found))
    trained = float(jax.jit(family.train_step)(state, data, jax.random.key(5))[1]["loss"])
    assert abs(trained - expected) < 5 * error, (trained, expected)


def check_denoise(module, levels=(0.05, 0.3, 1.0, 9.0), tolerance: float = 1e-3, **options) -> None:
    """The trained network is the ideal denoiser, whatever it predicts."""
    family, weights = made(module, **options)
    level = jnp.repeat(jnp.asarray(levels), 4)
    noisy = batch(len(level))["image"] + level.reshape(-1, 1, 1, 1) * core.normal(
        core.per_example_keys(jax.random.key(6), jnp.arange(len(level))), SHAPE
    )
    expected = gaussian_score.denoiser(NOTHING)(noisy, level)
    np.testing.assert_allclose(family.denoise(weights, noisy, level, {}), expected, atol=tolerance)


def check_log_prob(module, **options) -> None:
    """On average over images, the logarithm of the expected density's lower bound in closed form.

    With uniform noise u of width w, E log N(x + u; m, C) = log N(x; m, C) - w^2 trace(1 / C) / 24.
    """
    family, weights = made(module, levels=17, **options)
    data, width = batch(4096), 2 / 16
    found = jax.jit(family.log_prob)(weights, data, jax.random.key(7))
    mean, covariance = gaussian_score.moments(NOTHING)
    exact = multivariate_normal(mean, covariance).logpdf(np.asarray(data["image"]).reshape(-1, 4))
    exact += 4 * np.log(width) - width**2 / 24 * np.trace(np.linalg.inv(covariance))
    difference = np.asarray(found, np.float64) - exact
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(len(exact)) + 0.01, difference.mean()
