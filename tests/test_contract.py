"""The contract over the whole registry, and a planted fault for each of its checks."""

import dataclasses
import functools
import itertools

import class_mean
import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import BATCH

from genimg_jax import core, families
from genimg_jax.engine import checkpoint, config_files, parallel
from genimg_jax.options import parse

SMALL_DIT = {"network": "dit", "width": 8, "depth": 1, "heads": 1}
# Families that digits do not suit: a configuration, changes of its options, and the fields that the family needs. The
# hinge loss has no gradient by the last bias while every logit is within the margin.
OTHERS = {
    "cyclegan": ("cyclegan_emoji", {}, {"source": contract.FIELDS["source"]._replace(paired=False)}),
    "pix2pix": ("pix2pix_emoji", {}, {"source": contract.FIELDS["source"]}),
    "regressor": ("regressor_shapes", SMALL_DIT, {"source": contract.FIELDS["source"]}),
    "spade": ("spade_shapes", {"loss": "non_saturating"}, {"map": contract.FIELDS["map"]}),
}


def case(name: str) -> contract.Case:
    """The family at the size of its `tiny` configuration, that of digits unless it is among the `OTHERS`."""
    module = families.load(name)
    config, changes, fields = OTHERS.get(name, (f"{name}_digits", {}, {}))
    values = config_files.load(f"configs/{config}.py:tiny").model.to_dict() | changes
    spec = contract.SPEC._replace(fields=fields)
    return contract.Case(module.make, parse(module.Options, values, "model"), module.GROUPS, spec)


CONDITIONED = [name for name in families.REGISTRY if hasattr(families.load(name).Options, "conditions")]


COMPILES_LONG = ("stylegan2", "cyclegan", "spade", "pix2pix")  # a program in five seconds and more
SHORT = [pytest.param(name, marks=pytest.mark.slow) if name in COMPILES_LONG else name for name in families.REGISTRY]


@pytest.fixture(params=families.REGISTRY)
def made(request) -> contract.Case:
    return case(request.param)


@pytest.mark.parametrize("made", SHORT, indirect=True)
def test_loss_falls(made):
    contract.loss_falls(made)


def test_groups_cover_parameters(made):
    contract.groups_cover_parameters(made)


def test_same_seed_same_bits(made):
    contract.same_seed_same_bits(made)


MESHES = [(2, 2), *(pytest.param(*mesh, marks=pytest.mark.slow) for mesh in ((2, 1), (4, 1), (4, 4)))]


@pytest.mark.parametrize("made", SHORT, indirect=True)
@pytest.mark.parametrize(("devices", "fsdp"), MESHES)
def test_devices_agree(made, devices, fsdp):
    contract.devices_agree(made, devices, fsdp)


@pytest.mark.parametrize(("devices", "fsdp"), MESHES)
def test_resumes(made, devices, fsdp, tmp_path):
    contract.resumes(made, tmp_path, devices, fsdp)


def test_microbatches_agree(made):
    contract.microbatches_agree(made)


def test_samples_are_their_own(made):
    contract.samples_are_their_own(made)


@pytest.mark.parametrize("name", CONDITIONED)
def test_conditions_are_told(name):
    contract.conditions_are_told(case(name))


@pytest.mark.parametrize("name", ["diffusion", "flow"])
def test_nothing_is_told_at_guidance_0(name):
    contract.nothing_is_told_at_guidance_0(case(name))


def test_latents_agree(made):
    contract.latents_agree(made)


def test_evaluation_ignores_padding(made):
    contract.evaluation_ignores_padding(made)


def test_objective_is_stated(made):
    contract.objective_is_stated(made)


@pytest.mark.parametrize("made", SHORT, indirect=True)
def test_float_options_vectorise(made):
    contract.float_options_vectorise(made)


def test_options_are_read(made):
    contract.options_are_read(made)


# ---------------------------------------------------------------------------------------------------- planted faults


@dataclasses.dataclass(frozen=True)
class Options:
    scale: float = 1.0
    conditions: tuple[str, ...] = ("label",)
    guidance: float = 1.0


def toy(fault: str, options: Options, spec: core.Spec, optimizers) -> core.Family:
    """Learns the mean image of each class, with noise added: the smallest family there is, with a fault by name."""
    optimizer = optimizers["model"]

    def told(condition):  # -> f32[B, 1, 1, 1]
        """A number that every value of every field changes."""
        total = 0.0
        for name in options.conditions:
            flat = condition[name].reshape(len(condition[name]), -1)
            total += (
                flat
                @ (jnp.sqrt(1.0 + jnp.arange(flat.shape[1])) / flat.shape[1])
                * (name != "map" or fault != "ignores maps")
            )
        total += jnp.roll(total, 1) * (fault == "reads its neighbour's condition")
        return total.reshape(-1, 1, 1, 1)

    def init(key, batch):
        params = {"mean": 0.1 * jax.random.normal(key, (spec.num_classes, *spec.image_shape))}
        if fault == "untrained":
            params["unused"] = jnp.ones(2)
        return core.init_state({"model": params}, optimizers)

    def train_step(state, batch, key):
        if fault == "own randomness":
            count = jax.pure_callback(lambda: np.int32(next(COUNTER)), jax.ShapeDtypeStruct((), jnp.int32))
            key = jax.random.fold_in(key, count)

        def loss(params, part, key):
            keys = core.per_example_keys(key, part["index"])
            noise = core.normal(keys, spec.image_shape)
            if fault == "noise by position":
                noise = jax.random.normal(key, part["image"].shape)
            error = (params["mean"][part["label"]] - part["image"] - 0.1 * noise) ** 2
            scale = 1.0 if fault == "unread" else options.scale
            if fault == "branch" and scale > 1:
                scale = 1.0
            return scale * error.sum((1, 2, 3)).mean(), {}

        (value, _), gradients = core.value_and_grad(optimizer, loss)(state.params["model"], batch, key)
        if fault == "uphill":
            gradients = jax.tree.map(jnp.negative, gradients)
        state, metrics = core.update(optimizer, state, "model", gradients)
        return state.replace(step=state.step + 1), {"loss": value, **metrics}

    def evaluate(weights, batch, key):
        image = batch["image"]
        if fault == "sees its neighbours":
            image = image - image.mean(0, keepdims=True)
        return {"loss": ((weights.params["model"]["mean"][batch["label"]] - image) ** 2).sum((1, 2, 3))}

    def sample(weights, keys, condition):
        noise = core.normal(keys, spec.image_shape)
        if fault == "noise by position":
            noise = jax.random.normal(keys[0], noise.shape)
        return jnp.tanh(weights.params["model"]["mean"][condition["label"]] + 0.1 * noise + 0.05 * told(condition))

    def denoise(weights, noisy, sigma, condition):
        return noisy * (options.guidance + (fault == "guided by nothing")) * told(condition)

    objective = () if fault == "keeps its loss to itself" else ("loss",)
    return core.Family(
        init, train_step, evaluate, objective, sample=sample, conditions=options.conditions, denoise=denoise
    )


COUNTER = itertools.count()


def broken(fault: str) -> contract.Case:
    return contract.Case(functools.partial(toy, fault), Options(), ("model",))


TOY = broken("")
CHECKS = {
    contract.loss_falls: "uphill",
    contract.groups_cover_parameters: "untrained",
    contract.same_seed_same_bits: "own randomness",
    contract.microbatches_agree: "noise by position",
    contract.samples_are_their_own: "noise by position",
    contract.evaluation_ignores_padding: "sees its neighbours",
    contract.objective_is_stated: "keeps its loss to itself",
    contract.float_options_vectorise: "branch",
    contract.options_are_read: "unread",
    contract.conditions_are_told: "ignores maps",
    contract.nothing_is_told_at_guidance_0: "guided by nothing",
}


BOUND = {"noise_schedule": "learned", "target": "epsilon", "weighting": "variational", "times": "uniform_times"}


@pytest.mark.parametrize(
    ("name", "changes", "stated"),
    [
        ("vq", {"reconstruction": "absolute_error"}, {"loss"}),
        ("diffusion", BOUND, {"loss", "diffusion", "prior", "reconstruction", "log_prob"}),
        ("diffusion", {"autoguidance_width": 4}, {"loss", "loss_guide"}),
    ],
)
def test_the_objective_follows_the_options(name, changes, stated):
    made = case(name)
    made = made._replace(options=dataclasses.replace(made.options, **changes))
    contract.objective_is_stated(made)
    assert set(contract.family(made).objective) == stated


TOLD = (contract.conditions_are_told, contract.nothing_is_told_at_guidance_0)  # it reads the class alone


@pytest.mark.parametrize("check", [c for c in CHECKS if c not in TOLD], ids=lambda check: check.__name__)
def test_the_readmes_family_keeps_the_contract(check):
    options = class_mean.Options(conditions=("label",))
    check(contract.Case(class_mean.make, options, class_mean.GROUPS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_sound_family_passes_and_a_fault_is_caught(check):
    check(TOY)
    with pytest.raises((AssertionError, jax.errors.TracerBoolConversionError)):
        check(broken(CHECKS[check]))


def test_a_condition_that_reaches_a_neighbour_is_caught():
    with pytest.raises(AssertionError, match="reaches another"):
        contract.conditions_are_told(broken("reads its neighbour's condition"))


def test_lost_rows_are_caught(monkeypatch):
    """A device that is given another's rows, not its own."""
    contract.devices_agree(TOY, 4, 2)
    put = parallel.put_batch

    def repeat(batch, mesh):
        rows = BATCH // mesh.size
        return put({k: np.concatenate([v[:rows]] * mesh.size) for k, v in batch.items()}, mesh)

    monkeypatch.setattr(parallel, "put_batch", repeat)
    with pytest.raises(AssertionError):
        contract.devices_agree(TOY, 4, 2)


def test_a_checkpoint_that_forgets_is_caught(monkeypatch, tmp_path):
    contract.resumes(TOY, tmp_path / "sound")
    save = checkpoint.save

    def forget(store, state, config, metrics):
        save(store, state.replace(ema_params=jax.tree.map(jnp.zeros_like, state.ema_params)), config, metrics)

    monkeypatch.setattr(checkpoint, "save", forget)
    with pytest.raises(AssertionError):
        contract.resumes(TOY, tmp_path / "forgetful")
