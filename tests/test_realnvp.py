"""The real NVP's change of variables is exact, and its likelihood is a bound on the mass of what it samples."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.families import realnvp
from genimg_jax.objectives.gaussian import log_normal
from genimg_jax.objectives.likelihoods import to_values

TINY = core.Spec((2, 3, 1), 3, 5)
PAIR = core.Spec((1, 2, 1), 0, 3)  # two pixels of three levels
OPTIONS = realnvp.Options(couplings=4, width=6, depth=1, alpha=0.1)


def model_of(spec: core.Spec, options: realnvp.Options = OPTIONS, scale: float = 1.0):
    """The flow with random weights, whose gains are not 0."""
    fields = core.fields_of(options.conditions, spec)
    network = realnvp.Flow(spec.image_shape, options.couplings, options.width, options.depth, fields)
    like = jnp.zeros((1, np.prod(spec.image_shape)))
    init = functools.partial(network.init, condition={"label": jnp.zeros(1, jnp.int32)}, limit=options.scale_limit)
    return realnvp.Model(options, spec, network), random_weights(init, jax.random.key(0), like, scale=scale)["params"]


def images(spec: core.Spec, count: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Random images, and noise in [0, 1)."""  # -> 2 x f32[B, H, W, C]
    rng = np.random.default_rng(seed)
    shape = (count, *spec.image_shape)
    return to_values(jnp.asarray(rng.integers(spec.levels, size=shape)), spec.levels), jnp.float32(rng.random(shape))


def jacobian(model: realnvp.Model, params: core.Tree, image: jax.Array, noise: jax.Array, condition) -> jax.Array:
    """Of the codes by the noise, which is that by the dequantised image."""  # [1, H, W, C], [H, W, C] -> [D, D]

    def codes(flat):
        return model.to_codes(params, image, flat.reshape(image.shape), condition)[0][0]

    return jax.jit(jax.jacfwd(codes))(noise.reshape(-1))


def check_log_determinant(options: realnvp.Options = OPTIONS) -> None:
    model, params = model_of(TINY, options)
    image, noise = images(TINY, 5)
    condition = {"label": jnp.array([0, 1, 2, 0, 1])}
    _, found = model.to_codes(params, image, noise, condition)
    for i in range(5):
        one = {"label": condition["label"][i : i + 1]}
        sign, wanted = jnp.linalg.slogdet(jacobian(model, params, image[i : i + 1], noise[i], one))
        assert sign == 1
        np.testing.assert_allclose(found[i], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conditions", [(), ("label",)])
def test_the_log_determinant_is_the_jacobians(conditions):
    check_log_determinant(dataclasses.replace(OPTIONS, conditions=conditions))


@pytest.mark.parametrize(("couplings", "all_of_them"), [(1, False), (2, False), (3, True)])
def test_three_layers_let_every_code_depend_on_every_pixel(couplings, all_of_them):
    model, params = model_of(TINY, dataclasses.replace(OPTIONS, couplings=couplings, width=32))
    image, noise = images(TINY, 1)
    reached = np.abs(jacobian(model, params, image, noise[0], {})) > 1e-8
    assert reached.all() == all_of_them and reached.diagonal().all()


def check_identity(spec: core.Spec) -> None:
    """All codes of an image's cell are decoded to it, and values come back as they were."""
    model, params = model_of(spec)
    image, noise = images(spec, 64)
    codes, _ = model.to_codes(params, image, 0.01 + 0.98 * noise, {})
    np.testing.assert_allclose(model.from_codes(params, codes, {}), image, atol=1e-6)
    x = jnp.float32(np.random.default_rng(1).normal(size=codes.shape))
    z, _ = model.network.apply({"params": params}, x, {}, 2.0)
    back = model.network.apply({"params": params}, z, {}, 2.0, method="inverse")
    np.testing.assert_allclose(back, x, atol=1e-4)
    assert np.abs(z - x).max() > 0.1


@pytest.mark.parametrize("spec", [TINY, PAIR, core.Spec((3, 3, 2), 0, 2)], ids=["grey", "pair", "two channels"])
def test_codes_of_an_image_are_decoded_to_it(spec):
    check_identity(spec)


def test_an_image_is_reconstructed_exactly():
    family = realnvp.make(OPTIONS, TINY, {"model": core.Optimizer(optax.sgd(0.1))})
    _, params = model_of(TINY)
    weights, image = core.Weights({"model": params}, {}, {}), images(TINY, 64)[0]
    codes = family.latents[0].encode(weights, {"image": image, "index": jnp.arange(64)}, jax.random.key(0))
    np.testing.assert_allclose(family.latents[0].decode(weights, codes, {}), image, atol=1e-6)


# ----------------------------------------------------------------------------------------- two pixels, by quadrature

POINTS = 48  # Gauss-Legendre points a level and pixel


def cell_masses(options: realnvp.Options = OPTIONS) -> tuple[np.ndarray, np.ndarray, realnvp.Model, core.Tree]:
    """The integral of the density over the cell of each of the 9 images, and that of its logarithm."""
    model, params = model_of(PAIR, options, 0.7)
    nodes, node_weights = np.polynomial.legendre.leggauss(POINTS)
    grid = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 1, 2, 1) / 2 + 0.5
    area = np.outer(node_weights, node_weights).reshape(-1) / 4
    masses, means = [], []
    for levels in itertools.product(range(3), repeat=2):
        image = jnp.broadcast_to(to_values(jnp.array(levels), 3).reshape(1, 1, 2, 1), grid.shape)
        codes, log_determinant = model.to_codes(params, image, jnp.float32(grid), {})
        log_density = np.asarray(log_normal(codes, 0.0, 0.0) + log_determinant, np.float64)
        masses.append((area * np.exp(log_density)).sum())
        means.append((area * log_density).sum())
    return np.array(masses), np.array(means), model, params


def check_integral() -> None:
    """The density integrates to 1 over all x of the logit, of which images take the part of alpha to 1 - alpha."""
    model, params = model_of(PAIR, scale=0.7)
    x = np.linspace(-14, 14, 1401)
    grid = jnp.float32(np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2))
    z, log_determinant = jax.jit(lambda x: model.network.apply({"params": params}, x, {}, OPTIONS.scale_limit))(grid)
    density = np.exp(np.asarray(log_normal(z, 0.0, 0.0) + log_determinant, np.float64))
    assert density.sum() * (x[1] - x[0]) ** 2 == pytest.approx(1, abs=2e-3)


def check_cells() -> None:
    """Masses of the cells are the frequencies of samples that fall into them; the end levels also take what lies
    beyond, so that a sample's frequency is at least the mass."""
    masses, _, model, params = cell_masses()
    assert 0.2 < masses.sum() <= 1
    codes = jax.random.normal(jax.random.key(3), (200_000, 2))
    x = model.network.apply({"params": params}, codes, {}, OPTIONS.scale_limit, method="inverse")
    v = np.asarray(realnvp.unlogit(x, OPTIONS.alpha, 3))
    inside = ((v >= 0) & (v < 3)).all(axis=1)
    found = np.bincount((3 * np.floor(v[inside, 0]) + np.floor(v[inside, 1])).astype(int), minlength=9) / len(v)
    np.testing.assert_allclose(found, masses, atol=5 * np.sqrt(masses.max() / len(v)))
    image = np.asarray(model.from_codes(params, codes, {}))
    drawn = np.bincount((3 * (image[:, 0, 0, 0] + 1) + image[:, 0, 1, 0] + 1).astype(int), minlength=9) / len(v)
    assert (drawn >= found).all() and drawn.sum() == pytest.approx(1)


def test_the_density_integrates_to_one():
    check_integral()


def test_samples_fall_into_cells_as_often_as_the_density_says():
    check_cells()


def test_the_likelihood_is_a_bound_on_the_mass():
    """Its expectation is the integral of the log density over the cell, which Jensen's inequality puts below."""
    options = dataclasses.replace(OPTIONS, evaluate_draws=2000)
    masses, means, _, params = cell_masses(options)
    family = realnvp.make(options, PAIR, {"model": core.Optimizer(optax.sgd(0.1))})
    image = to_values(jnp.array(list(itertools.product(range(3), repeat=2))), 3).reshape(9, 1, 2, 1)
    batch, weights = {"image": image, "index": jnp.arange(9)}, core.Weights({"model": params}, {}, {})
    found = np.asarray(family.log_prob(weights, batch, jax.random.key(0)))
    np.testing.assert_allclose(found, means, atol=0.15)
    assert (means < np.log(masses)).all() and (means > np.log(masses) - 2).all()
    one_draw = -np.asarray(family.evaluate(weights, batch, jax.random.key(0))["loss"])
    assert np.abs(one_draw - means).max() > 0.05
    assert family.likelihood_kind == "lower bound" and "2000 draws" in family.protocol["dequantisation"]


# ---------------------------------------------------------------------------------------------------- planted faults


def test_faults_are_caught(monkeypatch):
    call, logit = realnvp.Coupling.__call__, realnvp.logit

    def sees_itself(self, x, condition, limit):
        """The log-scales of a layer depend on what it changes."""
        log_scale, shift = call(self, x, condition, limit)
        return log_scale + 0.1 * (log_scale != 0) * x, shift

    with monkeypatch.context() as patch:
        patch.setattr(realnvp.Coupling, "__call__", sees_itself)
        for check in (check_log_determinant, functools.partial(check_identity, TINY), check_integral):
            with pytest.raises(AssertionError):
                check()
    with monkeypatch.context() as patch:
        patch.setattr(realnvp, "logit", lambda v, alpha, levels: (logit(v, alpha, levels)[0], jnp.zeros(len(v))))
        for check in (check_log_determinant, check_cells):
            with pytest.raises(AssertionError):
                check()
