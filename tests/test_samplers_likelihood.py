"""Log densities of the probability-flow ODE against those of Gaussians and mixtures, whose every marginal is known."""

import pathlib
import sys

import gaussian_score as toys
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genimg_jax import core
from genimg_jax.core import per_example_keys
from genimg_jax.objectives import interpolants, targets
from genimg_jax.samplers import likelihood

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "experiments"))

import likelihood_error

RNG = np.random.default_rng(0)
SIZE = 4
GAUSSIAN = toys.gaussian(RNG.normal(size=SIZE) * 0.5, toys.random_covariance(RNG, SIZE))
MIXTURE = toys.mixture(
    [0.6, 0.4], RNG.normal(size=(2, SIZE)), [toys.random_covariance(RNG, SIZE, 0.5) for _ in range(2)]
)
LEAST, GREATEST = 0.05, 5000.0


def exact(toy, x, level):
    return np.asarray(jax.jit(lambda x: toys.log_density(toy, x, jnp.full(len(x), level)))(x), np.float64)


def data(toy, count):
    return jnp.asarray(toys.draw(toy, np.random.default_rng(1), count), jnp.float32)


@pytest.mark.parametrize("toy", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_log_density_is_the_analytic_one(toy):
    """The start's density is that of pure noise: at the greatest level the data's own share is below the tolerance."""
    x = data(toy, 8)
    found = jax.jit(lambda x: likelihood.log_density(toys.denoiser(toy), x, LEAST, GREATEST, 64))(x)
    np.testing.assert_allclose(found.log_prob, exact(toy, x, LEAST), atol=2e-3)
    np.testing.assert_array_equal(found.standard_error, 0)
    change = exact(toy, x, LEAST) - exact(toy, found.latent, GREATEST)
    np.testing.assert_allclose(found.log_volume, change, atol=2e-3)


def test_adaptive_log_density_keeps_its_tolerance_whatever_the_batch():
    x = data(MIXTURE, 6).at[3].mul(20.0)  # one image that needs other steps
    run = jax.jit(
        lambda x, tolerance, steps: likelihood.adaptive_log_density(
            lambda _: toys.denoiser(MIXTURE), None, x, LEAST, GREATEST, None, tolerance, 200
        ),
        static_argnums=2,
    )
    expected = exact(MIXTURE, x, LEAST)
    errors = [np.abs(run(x, tolerance, 200).log_prob - expected)[[0, 1, 2, 4, 5]].max() for tolerance in (1e-2, 1e-5)]
    assert errors[1] < 1e-3 < errors[0]
    alone = run(jnp.repeat(x[:1], 6, axis=0), 1e-5, 200).log_prob
    np.testing.assert_allclose(alone, np.repeat(run(x, 1e-5, 200).log_prob[:1], 6), atol=1e-5)


def test_directions_in_parts_are_those_at_once(monkeypatch):
    x, found = data(MIXTURE, 3), []
    for at_once in (32, 1, 2, 3):
        monkeypatch.setattr(likelihood, "AT_ONCE", at_once)
        run = jax.jit(lambda x: likelihood.log_density(toys.denoiser(MIXTURE), x, LEAST, GREATEST, 9).log_prob)
        found.append(np.asarray(run(x)))
    np.testing.assert_allclose(found[1:], np.broadcast_to(found[0], (3, 3)), rtol=1e-5)


def test_adaptive_log_density_says_where_it_failed():
    x = data(GAUSSIAN, 2)
    found = jax.jit(
        lambda x: likelihood.adaptive_log_density(
            lambda _: toys.denoiser(GAUSSIAN), None, x, LEAST, GREATEST, None, 1e-6, 3
        )
    )
    assert np.isnan(found(x).log_prob).all()


def test_order_of_fixed_steps_is_4():
    with jax.enable_x64(True):
        x = jnp.asarray(toys.draw(MIXTURE, np.random.default_rng(2), 4))
        found = [
            jax.jit(lambda x, n=n: likelihood.log_density(toys.denoiser(MIXTURE), x, LEAST, GREATEST, n))(x)
            for n in (32, 64, 128)
        ]
        start = exact(MIXTURE, x, LEAST)
        errors = [np.abs(start - exact(MIXTURE, f.latent, GREATEST) - f.log_volume).max() for f in found]
    order = -np.polyfit(np.log([32, 64, 128]), np.log(errors), 1)[0]
    assert abs(order - 4) < 0.5, errors


@pytest.mark.parametrize("steps", range(2, 12))
def test_end_corrections_integrate_cubics_exactly(steps):
    x = np.linspace(0, 1, steps + 1)
    weights = likelihood._gregory(steps) / steps
    np.testing.assert_allclose([weights @ x**k for k in range(4)], [1 / (k + 1) for k in range(4)], rtol=1e-12)


def test_hutchinson_is_within_its_standard_error():
    """Unbiased, and the error that it states is the error that it makes."""
    count = 64
    x, keys = data(MIXTURE, count), per_example_keys(jax.random.key(3), jnp.arange(count))

    @jax.jit
    def run(x, keys):
        arguments = toys.denoiser(MIXTURE), x, LEAST, GREATEST, 32
        probes = likelihood.rademacher(keys, 16, (SIZE,))
        return likelihood.log_density(*arguments), likelihood.log_density(*arguments, probes)

    truth, estimate = run(x, keys)
    scores = np.asarray((estimate.log_prob - truth.log_prob) / estimate.standard_error)
    assert np.median(np.abs(scores)) < 1
    assert (np.abs(scores) < 3).mean() > 0.93  # Student's t of 15 degrees of freedom: 0.99
    assert 0.7 < scores.std() < 1.5
    assert abs(scores.mean()) < 3 * scores.std() / np.sqrt(count)
    assert (estimate.standard_error > 0.01).all()
    order = np.roll(np.arange(count), 5)
    np.testing.assert_allclose(run(x[order], keys[order])[1].log_prob, estimate.log_prob[order], atol=1e-4)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (interpolants.rectified(), targets.flow_velocity_target),
        (interpolants.cosine(), targets.v_target),
        (interpolants.linear_beta(), targets.epsilon_target),
        (interpolants.variance_exploding(), targets.edm_target(0.5)),
    ],
    ids=["rectified", "cosine", "linear_beta", "edm"],
)
def test_every_path_has_the_same_density(path, target):
    """The ideal network of any path and target, through the change of variables, is the ideal denoiser."""
    ideal = toys.denoiser(MIXTURE)

    def predict(x, t):
        level = interpolants.noise_level(path, t)
        z = x / interpolants.per_example(path.alpha(t), x)
        return targets.convert(path, t, x, ideal(z, level), targets.x0_target, target)

    x = data(MIXTURE, 4).reshape(4, 2, 2, 1)
    found, expected = (
        jax.jit(lambda x, d=d: likelihood.log_density(d, x, LEAST, 50.0, 32))(x).log_prob
        for d in (targets.denoiser(path, target, predict), ideal)
    )
    np.testing.assert_allclose(found, expected, atol=5e-3)


@pytest.mark.parametrize("name", likelihood_error.FAMILIES)
def test_the_study_of_errors_has_families_of_today(name):
    family = likelihood_error.family(likelihood_error.Toy(GAUSSIAN, (2, 2, 1), 3), name)
    weights, keys = core.Weights({"model": {}}, {}, {}), per_example_keys(jax.random.key(0), jnp.arange(3))
    batch = {"image": jnp.zeros((3, 2, 2, 1)), "index": jnp.arange(3)}
    for log_prob in (family.log_prob, family.log_prob_at_half):
        assert jax.eval_shape(log_prob, weights, batch, jax.random.key(0)).shape == (3,)
    assert jax.eval_shape(family.sample, weights, keys, batch).shape == (3, 2, 2, 1)
