"""What families say of their likelihood, and how far its interval reaches."""

import dataclasses
from types import SimpleNamespace

import contract
import gaussian_score
import ideal_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ideal_network import NOTHING
from test_contract import case

from genimg_jax import core, data, families
from genimg_jax.data.source import open_source
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, tasks
from genimg_jax.engine import program as programs
from genimg_jax.evaluation import likelihood
from genimg_jax.families import denoising, diffusion, flow
from genimg_jax.metrics import intervals
from genimg_jax.samplers import sigma_schedules
from genimg_jax.samplers.likelihood import LogDensity

# ------------------------------------------------------------------------------- the ODE as families integrate it


def bits_off(module, count: int = 256, **options) -> tuple[np.ndarray, np.ndarray]:
    """How far `log_prob` is from the known density, and how far from it at half the steps: in bits a dimension.

    Levels are so many that the dequantisation's noise is nothing; the trace is exact.
    """
    levels = 2**16
    family, weights = ideal_network.made(module, levels=levels, likelihood_probes=0, **options)
    batch = ideal_network.batch(count)
    run = jax.jit(lambda name, key: getattr(family, name)(weights, batch, key), static_argnums=0)
    found, half = (np.asarray(run(n, jax.random.key(7)), np.float64) for n in ("log_prob", "log_prob_at_half"))
    image = batch["image"].reshape(count, -1)
    exact = jax.jit(lambda x: gaussian_score.log_density(NOTHING, x, jnp.full(len(x), 0.002)))(image)
    unit = image.shape[1] * np.log(2)
    return (found - exact - image.shape[1] * np.log(2 / (levels - 1))) / unit, (found - half) / unit


def check_error_at_the_defaults(module) -> None:
    error, change = bits_off(module)
    assert abs(error.mean()) < 5e-4, error.mean()
    assert abs(error).max() < 5e-3, abs(error).max()  # at level 80 images are not quite drowned
    coarse, coarse_change = bits_off(module, likelihood_steps=module.Options().likelihood_steps // 2)
    np.testing.assert_allclose(error - change, coarse, atol=1e-5)  # half of the steps are just that
    assert abs(coarse.mean()) < abs(coarse_change).mean(), (coarse.mean(), abs(coarse_change).mean())


@pytest.mark.parametrize("module", [diffusion, flow], ids=["to 80", "to 1000"])
def test_the_likelihood_that_users_get_is_the_known_one(monkeypatch, module):
    ideal_network.install(monkeypatch, ideal_network.Network)
    check_error_at_the_defaults(module)


def heun(denoise, image, least, greatest, steps, probes):
    """Heun's method on the sampler's grid: biased by 0.03 bits a dimension at 32 steps to level 80, by 0.07 to 1000."""
    levels = sigma_schedules.karras()(steps + 1, least, greatest)[-2::-1]
    size = np.prod(image.shape[1:])

    def field(noisy, level):
        clean = lambda x: denoise(x[None], level[None])[0]  # noqa: E731
        jacobian = jax.vmap(jax.jacfwd(clean))(noisy).reshape(len(noisy), size, size)
        return noisy - jax.vmap(clean)(noisy), size - jnp.trace(jacobian, axis1=1, axis2=2)

    def visit(state, ends):
        (noisy, volume), (level, following) = state, ends
        change, products = field(noisy, level)
        after, products_after = field(noisy + (following - level) / level * change, following)
        noisy = noisy + 0.5 * (following - level) * (change / level + after / following)
        return (noisy, volume + 0.5 * jnp.log(following / level) * (products + products_after)), None

    (noisy, volume), _ = jax.lax.scan(visit, (image, jnp.zeros(len(image))), (levels[:-1], levels[1:]))
    prior = -0.5 * jnp.sum((noisy / levels[-1]) ** 2, axis=(1, 2, 3)) - size * jnp.log(levels[-1] * (2 * np.pi) ** 0.5)
    return LogDensity(prior + volume, jnp.zeros_like(volume), noisy, volume)


@pytest.mark.parametrize("module", [diffusion, flow], ids=["to 80", "to 1000"])
def test_faults_of_the_solver_are_caught(monkeypatch, module):
    ideal_network.install(monkeypatch, ideal_network.Network)
    monkeypatch.setattr(denoising, "log_density", heun)
    with pytest.raises(AssertionError):
        check_error_at_the_defaults(module)


# ---------------------------------------------------------------------------------------------------- half the count


def test_half_is_the_same_bound_with_half_of_its_samples():
    """In one pass of the program, which gives both the same key."""
    values, found = config_files.load("configs/vae_digits.py:tiny").to_dict(), []
    for samples in (12, 6):
        values["model"]["evaluate_samples"] = samples
        config = configs.resolve(values)
        source = open_source(config.data, "test[:8]")
        program = programs.build(config, source.spec, source.stored_levels)
        found.append(tasks.log_prob(program, core.weights(program.init(0)), source))
    np.testing.assert_allclose(found[0]["log_prob_at_half"], found[1]["log_prob"], rtol=1e-5)
    assert np.abs(found[0]["log_prob"] - found[1]["log_prob"]).max() > 1e-3


def measured(monkeypatch, kind: str, change: float):
    """Measurements and warnings where half of the steps change 100 log-likelihoods by `change` nats."""
    logs = np.random.default_rng(0).normal(-50.0, 2.0, 100).astype(np.float32)
    values = {"evaluate": {}, "log_prob": {"log_prob": logs, "log_prob_at_half": logs - np.float32(change)}}
    nothing = lambda *_: None  # noqa: E731
    family = core.Family(
        nothing, nothing, nothing, (), log_prob=nothing, log_prob_at_half=nothing, likelihood_kind=kind
    )
    spec = core.Spec((2, 2, 1), 0, 16)
    program = SimpleNamespace(
        family=family, spec=spec, config=SimpleNamespace(evaluate=SimpleNamespace(likelihood=True))
    )
    monkeypatch.setattr(likelihood, "dataset", lambda options, source: "made")
    for name, value in values.items():
        monkeypatch.setattr(tasks, name, lambda *_, value=value: value)
    found, each = likelihood.measure(program, None, SimpleNamespace(spec=spec, size=100, split="test"), data.Options())
    np.testing.assert_array_equal(each, logs)
    return found, likelihood.warnings(found), intervals.mean(-logs.astype(np.float64))


@pytest.mark.parametrize("change", [0.1, -3.0])
def test_the_error_of_an_estimate_widens_its_interval_and_warns(monkeypatch, change):
    found, warnings, plain = measured(monkeypatch, "estimate", change)
    nats, bits = found["negative_log_likelihood"], found["bits_per_dimension"]
    ends = np.array([plain.low - abs(change), plain.high + abs(change)])
    np.testing.assert_allclose([nats.low, nats.high], ends, rtol=1e-5)
    np.testing.assert_allclose([bits.low, bits.high], ends / (4 * np.log(2)), rtol=1e-5)
    assert found["discretisation_error"].value == pytest.approx(abs(change), rel=1e-4)
    assert ("likelihood_steps" in warnings.get("warning", "")) == (abs(change) > plain.high - plain.estimate)


def test_the_gap_of_a_bound_is_measured_and_its_interval_is_its_own(monkeypatch):
    found, warnings, plain = measured(monkeypatch, "lower bound", 3.0)
    nats = found["negative_log_likelihood"]
    np.testing.assert_allclose([nats.low, nats.high], [plain.low, plain.high], rtol=1e-6)
    assert found["bound_gap"].value == pytest.approx(3.0, rel=1e-4) and not warnings
    assert "bound_gap" in nats.spec.protocol["gap"]


# ---------------------------------------------------------------------------------------------------- the protocol

# Families that have no likelihood.
WITHOUT = ("autoencoder", "bigan", "cyclegan", "gan", "pix2pix", "regressor", "spade", "stylegan2", "vq", "vqgan")


def reads_the_class(family: core.Family) -> bool:
    """Whether `log_prob` looks at the class of an image."""
    image, index = jnp.zeros((2, 8, 8, 1)), jnp.arange(2)

    def run(batch):
        state = family.init(jax.random.key(0), {**batch, "label": jnp.zeros(2, jnp.int32)})
        return family.log_prob(core.weights(state), batch, jax.random.key(1))

    try:
        jax.eval_shape(run, {"image": image, "index": index})
    except KeyError as error:
        assert error.args == ("label",)
        return True
    return False


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", [name for name in families.REGISTRY if name not in WITHOUT])
def test_a_likelihood_given_the_class_says_so(name, conditional):
    """A table has one column a protocol: log p(image) and log p(image | class) never share one."""
    changes = {"conditions": ("label",) * conditional, "guidance": 1.0}
    known = {field.name for field in dataclasses.fields(case(name).options)}
    options = dataclasses.replace(case(name).options, **{k: v for k, v in changes.items() if k in known})
    family = contract.family(case(name)._replace(options=options))
    stated = likelihood.protocol(SimpleNamespace(family=family))
    assert "given" not in family.protocol, "one place makes it, from the conditions of any family"
    assert reads_the_class(family) == conditional == (stated.get("given") == "the class"), stated


@pytest.mark.parametrize("name", WITHOUT)
def test_the_others_have_no_likelihood(name):
    assert contract.family(case(name)).log_prob is None
