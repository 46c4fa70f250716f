"""Codes that are vectors: their scale, what samples from an ideal prior over them come to, and whole runs."""

import functools

import contract
import gaussian_score
import ideal_network
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import autoencoder, diffusion, flow, transformer, vae, vq, vqgan
from genimg_jax.families.latent import latent
from genimg_jax.families.standardized import DEVIATION, standardized

FIRST = core.Weights({"model": {"scale": jnp.float32(4.0), "shift": jnp.float32(4.8)}}, {}, {})


def affine(spec: core.Spec, cell: int) -> core.Family:
    """The top left pixel of each cell, rows turned around, scaled and shifted, as one vector; and back."""
    height, width, channels = spec.image_shape
    shape = (height // cell, width // cell, channels)

    def encode(weights, batch, key):
        first = weights.params["model"]
        codes = first["scale"] * batch["image"][:, ::cell, ::cell][:, ::-1] + first["shift"]
        return codes

    def decode(weights, codes, condition):
        first = weights.params["model"]
        image = (codes[:, ::-1] - first["shift"]) / first["scale"]
        return jnp.clip(image.repeat(cell, axis=1).repeat(cell, axis=2), -1, 1)

    codes = spec._replace(image_shape=shape, levels=0)
    return core.Family(None, None, None, (), latents=(core.Latents(codes, decode, encode, interpolate="linear"),))


# --------------------------------------------------------------------------------------------------------- the scale


def recorder() -> core.Family:
    """Tells what it is trained on, and counts its steps."""

    def init(key, batch):
        return core.init_state({}, {}, {"steps": jnp.int32(0)})

    def train_step(state, batch, key):
        state = state.replace(step=state.step + 1, model_state={"steps": state.model_state["steps"] + 1})
        return state, {"image": batch["image"]}

    def sample(weights, keys, condition):
        return core.normal(keys, (2, 2, 3))

    return core.Family(init, train_step, lambda weights, batch, key: {"image": batch["image"]}, (), sample=sample)


def batches() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    spread, mean = np.array([1.0, 3.0, 0.1]), np.array([-4.0, 20.0, 0.3])
    return [(spread * factor * rng.normal(size=(8, 2, 2, 3)) + mean).astype(np.float32) for factor in (1, 2)]


def test_the_first_batch_sets_the_scale_and_every_later_use_keeps_it():
    first, second = batches()
    family = standardized(recorder())
    state = family.init(jax.random.key(0), {"image": jnp.zeros((2, 2, 2, 3))})
    keys = core.per_example_keys(jax.random.key(1), jnp.arange(4))
    noise = core.normal(keys, (2, 2, 3))
    np.testing.assert_array_equal(family.sample(core.weights(state), keys, {}), noise)  # nothing is known yet
    state, metrics = family.train_step(state, {"image": first}, None)
    mean = first.mean((0, 1, 2))
    deviation = np.sqrt(np.square(first - mean).mean())
    np.testing.assert_allclose(metrics["image"], (first - mean) / deviation * DEVIATION, atol=1e-5)
    expected = (second - mean) / deviation * DEVIATION
    np.testing.assert_allclose(
        family.evaluate(core.weights(state), {"image": second}, None)["image"], expected, atol=1e-5
    )
    state, metrics = family.train_step(state, {"image": second}, None)
    np.testing.assert_allclose(metrics["image"], expected, atol=1e-5)
    assert state.model_state["family"]["steps"] == 2 and state.step == 2
    drawn = family.sample(core.weights(state), keys, {})
    np.testing.assert_allclose(drawn, np.asarray(noise) / DEVIATION * deviation + mean, rtol=1e-5, atol=1e-5)


def test_mapped_devices_agree_on_the_scale():
    image = batches()[0]
    whole, mapped = standardized(recorder()), standardized(recorder(), lambda tree: jax.lax.pmean(tree, "data"))
    state = whole.init(None, {"image": image})
    expected = whole.train_step(state, {"image": image}, None)[0].model_state["scale"]
    halves = {"image": image.reshape(2, 4, *image.shape[1:])}
    found = jax.vmap(mapped.train_step, (None, 0, None), axis_name="data")(state, halves, None)[0].model_state["scale"]
    for name in expected:
        np.testing.assert_allclose(found[name], np.stack([expected[name]] * 2), rtol=1e-5)


def test_codes_that_are_all_the_same_stay_finite():
    family = standardized(recorder())
    image = jnp.full((4, 2, 2, 3), 7.0)
    _, metrics = family.train_step(family.init(None, {"image": image}), {"image": image}, None)
    np.testing.assert_array_equal(metrics["image"], np.zeros(image.shape))


# --------------------------------------------------------------------------------------------------- the composition


@pytest.fixture
def ideal(monkeypatch):
    """Two stages of which the second is ideal for standardised codes with the distribution `NOTHING`."""
    ideal_network.install(monkeypatch, ideal_network.Network)
    options = diffusion.Options(sigma_data=ideal_network.DATA_STD, steps=60)

    def make_prior(spec):
        return diffusion.make(options, spec, ideal_network.OPTIMIZERS)

    spec = core.Spec(ideal_network.SHAPE, 0, 256)
    family = latent(make_prior, spec, affine(spec, 1), True)
    weights = core.weights(core.attach(family.init(jax.random.key(0), ideal_network.batch(2)), FIRST))
    scale = {"mean": jnp.array([5.0]), "deviation": jnp.float32(1.5)}
    return (
        family,
        weights._replace(model_state={**weights.model_state, "scale": scale}),
        make_prior(family.latents[0].spec),
    )


def test_samples_are_decoded_from_the_ideal_priors_codes(ideal):
    """Codes are 3 z + 5 of z from `NOTHING`, and images (codes - 4.8) / 4 with their rows turned around."""
    family, weights, _ = ideal
    count = 8192
    keys = core.per_example_keys(jax.random.key(3), jnp.arange(count))
    drawn = np.asarray(jax.jit(family.sample)(weights, keys, {}), np.float64).reshape(count, -1)
    mean, covariance = gaussian_score.moments(ideal_network.NOTHING)
    order = [2, 3, 0, 1]
    mean, covariance = 0.75 * mean[order] + 0.05, 0.75**2 * covariance[order][:, order]
    variances = np.diagonal(covariance)
    assert (abs(drawn.mean(0) - mean) < 5 * np.sqrt(variances / count)).all()
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
    assert (abs(np.cov(drawn.T) - covariance) < 5 * error).all()


def test_evaluation_is_that_of_the_standardised_codes(ideal):
    family, weights, prior = ideal
    codes = ideal_network.batch(16)
    image = {**codes, "image": 0.75 * codes["image"][:, ::-1] + 0.05}
    own = core.Weights(weights.params, {}, {})
    found, expected = family.evaluate(weights, image, KEY), prior.evaluate(own, codes, KEY)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)


def test_codes_are_denoised_on_their_own_scale(ideal):
    """Codes are 3 z + 5: noise of deviation 3 s on codes is noise of deviation s on z."""
    family, weights, prior = ideal
    noisy, level = 2.0 * core.normal(core.per_example_keys(KEY, jnp.arange(4)), ideal_network.SHAPE), jnp.full(4, 0.7)
    found = family.denoise(weights, 3 * noisy + 5, 3 * level, {})
    own = core.Weights(weights.params, {}, {})
    np.testing.assert_allclose(found, 3 * prior.denoise(own, noisy, level, {}) + 5, rtol=1e-4)
    assert family.denoise_space is family.latents[0]
    levels = prior.sigmas(own, 5)
    assert levels[-1] == 0 and levels[-2] > 0 and levels[0] > 10
    assert (np.diff(levels) < 0).all()
    np.testing.assert_allclose(family.sigmas(weights, 5), 3 * levels, rtol=1e-6)


KEY = jax.random.key(4)
DIFFUSION = diffusion.Options(
    network="dit", patch=2, width=8, depth=1, heads=1, solver="dpm_solver", steps=3, evaluate_times=2
)


def make(options, spec, optimizers) -> core.Family:
    family = latent(lambda codes: diffusion.make(options, codes, optimizers), spec, affine(spec, 2), True)
    return family._replace(init=lambda key, batch: core.attach(family.init(key, batch), FIRST))


CASE = contract.Case(make, DIFFUSION, ("model",))


@pytest.mark.parametrize(
    "check",
    [
        contract.groups_cover_parameters,
        contract.same_seed_same_bits,
        contract.samples_are_their_own,
        contract.conditions_are_told,
        contract.latents_agree,
        # As over discrete codes, which are always tried.
        pytest.param(functools.partial(contract.devices_agree, devices=4, fsdp=2), marks=pytest.mark.slow),
        pytest.param(contract.evaluation_ignores_padding, marks=pytest.mark.slow),
        pytest.param(contract.float_options_vectorise, marks=pytest.mark.slow),
    ],
    ids=lambda check: getattr(check, "__name__", "devices_agree"),
)
def test_contract(check):
    check(CASE)


def test_resumes(tmp_path):
    contract.resumes(CASE, tmp_path)


def test_neither_microbatches_nor_training_change_the_first_stage_or_the_scale():
    start, data = contract.train(CASE, 0)[0], contract.batch()
    one, two = (jax.jit(contract.family(CASE, microbatches=m).train_step)(start, data, KEY)[0] for m in (1, 2))
    contract.close(one, two)
    contract.identical(start.frozen_params, one.frozen_params)
    later = contract.train(CASE, 3)[0]
    contract.identical(one.model_state["scale"], later.model_state["scale"])
    assert one.model_state["scale"]["mean"] != start.model_state["scale"]["mean"]


# -------------------------------------------------------------------------------------------------------- tokenizers

LABEL = {"conditions": ("label",)}
TOKENIZERS = {
    "vae": (vae, {"width": 8, "depth": 1, "latent": 3}, (1, 1, 3)),
    "vae of a grid": (
        vae,
        {"network": "grid", "width": 4, "latent": 3, "depth": 1, "conditions": ("label",)},
        (4, 4, 3),
    ),
    "autoencoder": (autoencoder, {"width": 8, "depth": 1, "latent": 3, "bank": 4}, (1, 1, 3)),
    "vq": (vq, {"width": 4, "blocks": 0, "num_downsamples": 1, "codebook_size": 16, "features": 3}, (4, 4, 3)),
    "fsq": (vq, {"width": 4, "blocks": 0, "num_downsamples": 1, "quantizer": "fsq", "levels": (4, 3)}, (4, 4, 2)),
    "vqgan": (vqgan, {"width": 4, "num_downsamples": 2, "codebook_size": 16, "features": 3}, (2, 2, 3)),
}


def plain(groups) -> dict[str, core.Optimizer]:
    return {group: core.Optimizer(optax.sgd(0.1)) for group in groups}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    module, options, shape = TOKENIZERS[request.param]
    made = module.make(module.Options(**options), contract.SPEC, plain(module.GROUPS))
    batch = contract.batch(4)
    return made, core.weights(random_weights(made.init, KEY, batch)), batch, shape


def test_continuous_codes_decode_to_the_tokenizers_own_reconstructions(tokenizer):
    made, weights, batch, shape = tokenizer
    first, vectors = made.latents[0], made.latents[-1]
    assert vectors.spec == core.Spec(shape, 10, 0)
    image = vectors.decode(weights, vectors.encode(weights, batch, None), batch)
    np.testing.assert_allclose(image, first.decode(weights, first.encode(weights, batch, None), batch), atol=1e-6)
    assert image.shape == batch["image"].shape and np.std(image, axis=0).max() > 1e-4


def test_every_tokenizer_can_be_diffused_over(tokenizer):
    made, weights, batch, _ = tokenizer
    options = diffusion.Options(network="dit", patch=1, width=8, depth=1, heads=1, conditions=("label",), steps=2)
    family = latent(lambda spec: diffusion.make(options, spec, plain(diffusion.GROUPS)), contract.SPEC, made, True)
    assert family.conditions == ("label",) and family.log_prob is None and family.likelihood_kind is None
    assert "real numbers" in family.protocol["log-likelihood"] and family.likelihood_spec is None

    def everything(weights):
        state, _ = family.train_step(core.attach(family.init(KEY, batch), weights), batch, KEY)
        second = core.weights(state)
        return family.evaluate(second, batch, KEY), family.sample(
            second, core.per_example_keys(KEY, batch["index"]), batch
        )

    measured, image = jax.eval_shape(everything, weights)
    assert measured["loss"].shape == (4,) and image.shape == batch["image"].shape


def second(module, first: core.Family) -> core.Family:
    def make_prior(spec):
        return module.make(module.Options(), spec, plain(module.GROUPS))

    return latent(make_prior, contract.SPEC, first, getattr(module, "CONTINUOUS_VALUED", False))


def test_each_family_is_given_the_codes_that_it_can_model():
    first = vq.make(vq.Options(codebook_size=16, features=3), contract.SPEC, plain(vq.GROUPS))
    tokens, vectors = first.latents
    over_tokens = second(transformer, first)
    assert (
        over_tokens.latents[0].spec == over_tokens.likelihood_spec == tokens.spec
        and over_tokens.likelihood_kind == "exact"
    )
    over_vectors = second(flow, first)
    assert over_vectors.latents[0].spec == vectors.spec and over_vectors.likelihood_spec is None
    # A tokenizer that has tokens and nothing else: they are dequantised, and the likelihood is of them.
    dequantised = second(flow, first._replace(latents=(tokens,)))
    assert dequantised.likelihood_spec == tokens.spec and dequantised.likelihood_kind == "estimate"
    assert dequantised.log_prob_at_half is not None
    assert "dequantisation" in dequantised.protocol
    with pytest.raises(ConfigError, match=r"codes are vectors, and the family models tokens.* diffusion or"):
        second(transformer, first._replace(latents=(vectors,)))


# -------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A trained tokenizer's run directory."""
    workdir = tmp_path_factory.mktemp("first") / "vae"
    assert tiny_runs.train(workdir, config="vae_grid_digits") == 0
    return workdir


def train(workdir, first, *flags, config="latent_diffusion_digits"):
    return tiny_runs.train(workdir, f"--config.tokenizer.workdir={first}", *flags, config=config)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_and_says_why_it_has_no_likelihood(first, tmp_path, capsys):
    before = tiny_runs.state(first)
    assert train(tmp_path / "whole", first) == 0
    assert train(tmp_path / "cut", first, "--config.train.checkpoint_every=1", "--config.train.keep=9") == 0
    for name in ("4", "5", "6"):
        (tmp_path / "cut" / "checkpoints" / name).rename(tmp_path / name)
    assert train(tmp_path / "cut", first) == 0
    assert "from step 3" in capsys.readouterr().out
    tiny_runs.assert_same_state(tmp_path / "whole", tmp_path / "cut")
    saved = tiny_runs.state(tmp_path / "whole")
    assert "extra/scale/deviation" in saved and not [name for name in saved if name.startswith("frozen")]
    after = tiny_runs.state(first)
    assert all((before[name] == after[name]).all() for name in before)
    assert tiny_runs.main(["evaluate", "--workdir", str(tmp_path / "whole")]) == 0
    shown = capsys.readouterr().out
    assert "log-likelihood: none: the codes are real numbers" in shown and "bits_per" not in shown


def test_a_family_of_tokens_is_refused(first, tmp_path, capsys):
    assert train(tmp_path / "run", first, config="latent_digits") == 2
    shown = capsys.readouterr().err
    assert "codes are vectors, and the family models tokens" in shown and "Traceback" not in shown
