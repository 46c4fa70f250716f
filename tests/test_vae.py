"""The VAE's bounds against the exact likelihood, by quadrature over a latent of two dimensions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from enumeration import all_images
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.families import vae

SPEC = core.Spec((2, 2, 1), 0, 2)
IMAGES = all_images(2, 2, 2)
DRAWS = 1000  # evaluations of each bound, with draws of their own
OPTIMIZERS = {"model": core.Optimizer(optax.sgd(0.1))}


def family(samples: int = 1) -> core.Family:
    options = vae.Options(width=8, depth=1, latent=2, evaluate_samples=samples)
    return vae.make(options, SPEC, OPTIMIZERS)


def weights() -> core.Weights:
    """An encoder and a decoder that have nothing to do with each other: no bound is tight, and none is hopeless."""
    batch = {"image": jnp.asarray(IMAGES), "index": jnp.arange(len(IMAGES))}
    found = core.weights(random_weights(family().init, jax.random.key(0), batch, scale=2.0))
    model = found.params["model"]
    return found._replace(params={"model": {**model, "encoder": jax.tree.map(lambda x: 0.4 * x, model["encoder"])}})


@functools.cache
def exact() -> np.ndarray:
    """log p(x) of every image: Gauss-Hermite quadrature of p(x | z) over the normal prior, Bernoulli by hand."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(80)
    codes = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2).astype(np.float32)
    mass = np.outer(mass, mass).reshape(-1) / (2 * np.pi)
    expected = np.asarray(family().latents[0].decode(weights(), jnp.asarray(codes), {}), np.float64)
    on = ((expected + 1) / 2).reshape(-1, 4)  # probability of each pixel being 1
    pixels = (IMAGES.reshape(-1, 1, 4) + 1) / 2
    return np.log((np.where(pixels > 0.5, on, 1 - on).prod(-1) * mass).sum(-1))


def draws(capability: str, samples: int) -> np.ndarray:
    """Independent evaluations of a bound on every image."""  # -> f64[DRAWS, images]
    made = family(samples)
    index = jnp.arange(DRAWS * len(IMAGES))
    batch = {"image": jnp.tile(jnp.asarray(IMAGES), (DRAWS, 1, 1, 1)), "index": index}
    found = jax.jit(getattr(made, capability))(weights(), batch, jax.random.key(1))
    found = -found["loss"] if capability == "evaluate" else found
    return np.asarray(found, np.float64).reshape(DRAWS, -1)


def check_bounds() -> None:
    """ELBO < IWAE_5 < IWAE_50 <= log p, and what 500 samples give lies within its standard errors of log p."""
    found = [draws("evaluate", 1), draws("log_prob", 5), draws("log_prob", 50), draws("log_prob", 500)]
    means = [f.mean(0) for f in found]
    errors = [f.std(0) / np.sqrt(DRAWS) for f in found]
    for low, high, e, f in zip(means, means[1:], errors, errors[1:], strict=False):
        assert (low <= high + 4 * np.hypot(e, f)).all(), (low, high)
    for mean, error in zip(means, errors, strict=True):
        assert (mean <= exact() + 4 * error).all(), (mean, exact())
    # The bound's gap is about half its variance (Nowozin 2018): take it off.
    np.testing.assert_allclose(means[-1] + found[-1].var(0) / 2, exact(), atol=0.05)
    # One sample of the importance bound is the evidence bound.
    one = draws("log_prob", 1)
    assert (abs(one.mean(0) - means[0]) < 4 * np.hypot(errors[0], one.std(0) / np.sqrt(DRAWS))).all()


def test_quadrature_sums_to_one():
    np.testing.assert_allclose(np.exp(exact()).sum(), 1.0, atol=1e-5)


def test_bounds_are_below_the_likelihood_and_reach_it():
    check_bounds()


@pytest.mark.parametrize("fault", ["kl", "posterior", "count"])
def test_faults_are_caught(monkeypatch, fault):
    if fault == "kl":
        monkeypatch.setattr(vae, "kl_standard_normal", lambda mean, log_variance: jnp.zeros(len(mean)))
    elif fault == "posterior":  # the density of the code under the posterior's mean alone
        log_normal = vae.log_normal
        monkeypatch.setattr(vae, "log_normal", lambda x, mean, log_variance: log_normal(x, mean, 0 * mean))
    else:  # a sum in place of a mean over samples
        monkeypatch.setattr(vae.jnp, "log", lambda x: 0.0 if isinstance(x, int) else jax.lax.log(x))
    with pytest.raises(AssertionError):
        check_bounds()


# ---------------------------------------------------------------------------------------------------- grids of codes


def test_the_bounds_are_over_every_code_of_a_grid():
    """Where the decoder takes no notice of its 2x2 codes, log p(x) is known: 16 fair coins."""
    count, shape = 4000, (4, 4, 1)
    bits = np.random.default_rng(0).integers(0, 2, (count, *shape))
    batch = {"image": jnp.asarray(2.0 * bits - 1, jnp.float32), "index": jnp.arange(count)}
    options = vae.Options(network="grid", width=4, depth=1, latent=2)
    made, single = (
        vae.make(dataclasses.replace(options, evaluate_samples=k), core.Spec(shape, 0, 2), OPTIMIZERS) for k in (20, 1)
    )
    found = core.weights(random_weights(made.init, jax.random.key(0), {k: v[:2] for k, v in batch.items()}))
    model = found.params["model"]
    encoder = jax.tree.map(lambda x: 0.5 * x, model["encoder"])  # posteriors not far from the prior
    decoder = jax.tree.map(jnp.zeros_like, model["decoder"])
    found = found._replace(params={"model": {"encoder": encoder, "decoder": decoder}})
    assert made.latents[0].encode(found, batch, None).shape == (count, 2, 2, 2)

    bound = np.asarray(jax.jit(made.log_prob)(found, batch, jax.random.key(1)), np.float64)
    ratio = np.exp(bound + 16 * np.log(2))  # of the importance samples' mean to p(x): 1 in expectation
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(count), ratio.mean()
    assert ratio.std() > 0.02, "the posterior is the prior, and the codes say nothing"
    terms = jax.jit(made.evaluate)(found, batch, jax.random.key(2))
    np.testing.assert_allclose(terms["reconstruction"], 16 * np.log(2), rtol=1e-5)
    # One sample of the importance bound is the evidence bound in expectation.
    gap = np.asarray(jax.jit(single.log_prob)(found, batch, jax.random.key(3)) + terms["loss"], np.float64)
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(count), gap.mean()
