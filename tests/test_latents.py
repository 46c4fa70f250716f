"""Spaces of codes: the contract's check of them finds each fault, and paths between codes by their closed forms."""

import functools

import contract
import gaussian_score
import ideal_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genimg_jax import core
from genimg_jax.families import diffusion, flow
from genimg_jax.objectives import interpolation

NORMAL = core.Spec((1, 1, 3), 10, 0)


def toy(fault: str, options, spec, optimizers) -> core.Family:
    """Tokens are the rows' parities of an image, vectors three of its pixels; both are decoded as far as they go."""

    def init(key, batch):
        return core.init_state({"model": {"gain": jnp.float32(0.5)}}, optimizers)

    def train_step(state, batch, key):
        return state.replace(step=state.step + 1), {}

    def encode_tokens(weights, batch, key):
        tokens = (batch["image"] > 0).sum((2, 3), dtype=jnp.int32)[:, :, None, None] % 2
        return tokens * 2 if fault == "tokens beyond the spec" else tokens

    def decode_tokens(weights, tokens, batch):
        return jnp.broadcast_to(tokens / 2 * weights.params["model"]["gain"], (len(tokens), *spec.image_shape))

    def encode(weights, batch, key):
        pixels = batch["image"][:, 0, :3, 0] + (batch["image"].mean() if fault == "encodes its neighbours" else 0)
        return pixels if fault == "codes of another shape" else pixels[:, None, None]

    def decode(weights, codes, batch):
        codes = codes - codes.mean(0, keepdims=True) if fault == "decodes its neighbours" else codes
        image = jnp.tanh(codes.reshape(-1, 1, 1, 3).sum(-1, keepdims=True) + 0.1 * batch["label"][:, None, None, None])
        return jnp.broadcast_to(image, (len(codes), *spec.image_shape)) * (2 if fault == "out of range" else 1)

    def prior(weights, keys, condition):
        return core.normal(keys, (3,) if fault == "a prior of another shape" else (1, 1, 3))

    def sample(weights, keys, batch):
        keys = core.fold_in(keys, 1) if fault == "samples from other codes" else keys
        return decode(weights, core.normal(keys, (1, 1, 3)), batch)

    tokens = core.Latents(core.Spec((8, 1, 1), 10, 2), decode_tokens, encode_tokens)
    normal = core.Latents(NORMAL, decode, encode, prior, "spherical")
    return core.Family(init, train_step, None, (), sample=sample, latents=(tokens, normal))


def case(fault: str) -> contract.Case:
    return contract.Case(functools.partial(toy, fault), None, ("model",))


def test_sound_latents_pass():
    contract.latents_agree(case(""))


@pytest.mark.parametrize(
    "fault",
    [
        "tokens beyond the spec",
        "encodes its neighbours",
        "codes of another shape",
        "decodes its neighbours",
        "out of range",
        "a prior of another shape",
        "samples from other codes",
    ],
)
def test_a_fault_is_caught(fault):
    with pytest.raises(AssertionError):
        contract.latents_agree(case(fault))


def test_a_path_that_stops_short_is_caught(monkeypatch):
    spherical = interpolation.spherical
    monkeypatch.setitem(interpolation.INTERPOLATIONS, "spherical", lambda a, b, t: spherical(a, b, 0.9 * t))
    with pytest.raises(AssertionError):
        contract.latents_agree(case(""))


def test_a_line_is_a_weighted_mean_and_a_great_circle_turns_evenly():
    first, second = jnp.array([[[3.0, 0.0]]] * 5), jnp.array([[[0.0, 3.0]]] * 5)
    t = jnp.linspace(0.0, 1.0, 5)
    line = np.asarray(interpolation.linear(first, second, t))[:, 0]
    np.testing.assert_allclose(line, np.stack([3 * (1 - t), 3 * t], axis=1), atol=1e-6)
    circle = np.asarray(interpolation.spherical(first, second, t))[:, 0]
    angles = np.linspace(0, np.pi / 2, 5)
    np.testing.assert_allclose(circle, 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1), atol=1e-5)
    # Between codes of high dimension, all of about one length, no code is shorter.
    codes = jax.random.normal(jax.random.key(0), (2, 100, 500))
    middle = interpolation.spherical(*codes, jnp.full(100, 0.5))
    np.testing.assert_allclose(jnp.linalg.norm(middle, axis=1), jnp.linalg.norm(codes, axis=2).mean(0), rtol=0.05)


def test_a_great_circle_between_equal_codes_stays_there():
    codes = jax.random.normal(jax.random.key(0), (4, 2, 3))
    np.testing.assert_allclose(interpolation.spherical(codes, codes, jnp.full(4, 0.3)), codes, rtol=1e-3)


@pytest.mark.parametrize(("module", "steps"), [(diffusion, 60), (flow, 400)])
def test_noise_of_diffusion_and_flow_leads_back_to_the_image(monkeypatch, module, steps):
    ideal_network.install(monkeypatch, ideal_network.Network)
    family, weights = ideal_network.made(module, steps=steps)
    data = ideal_network.batch(16)
    (space,) = family.latents
    noise = jax.jit(space.encode)(weights, data, None)
    sigma_max = module.Options().sigma_max
    exact = gaussian_score.flow(ideal_network.NOTHING, data["image"].reshape(16, 4), 0.0, sigma_max) / sigma_max
    np.testing.assert_allclose(noise.reshape(16, 4), exact, atol=0.05)
    np.testing.assert_allclose(jax.jit(space.decode)(weights, noise, {}), jnp.clip(data["image"], -1, 1), atol=0.02)


def test_a_sampler_that_draws_noise_has_no_latents():
    options = diffusion.Options(network="dit", width=8, depth=1, heads=1, solver="ancestral")
    assert diffusion.make(options, contract.SPEC, {"model": None}).latents == ()
