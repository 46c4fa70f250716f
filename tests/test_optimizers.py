"""Optimisers, and the only functions that change parameters: `value_and_grad`, `update` and `train_group` of `core`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genimg_jax import core
from genimg_jax.engine import config as configs
from genimg_jax.engine import optimizers, vmapped
from genimg_jax.errors import ConfigError

# ------------------------------------------------------------------------------------------------------ optimisers


def test_learning_rate_follows_its_closed_form():
    constant = optimizers.learning_rate(optimizers.Options(learning_rate=0.3), 100)
    assert constant(0) == constant(99) == 0.3
    rate = optimizers.learning_rate(optimizers.Options(learning_rate=0.3, schedule="cosine", warmup_steps=10), 110)
    at = np.arange(111)
    wanted = np.where(at < 10, 0.3 * at / 10, 0.15 * (1 + np.cos(np.pi * (at - 10) / 100)))
    np.testing.assert_allclose([rate(i) for i in at], wanted, rtol=1e-5, atol=1e-7)
    rate = optimizers.learning_rate(optimizers.Options(learning_rate=0.3, schedule="linear", warmup_steps=10), 111)
    wanted = np.interp(np.arange(112), [0, 10, 60, 111], [0, 0.3, 0.3, 0])
    np.testing.assert_allclose([rate(i) for i in range(112)], wanted, rtol=1e-5, atol=1e-7)


def updates(options: optimizers.Options, params, gradients, steps: int = 1):
    transform = optimizers.make(options, steps=100, batch_size=1).transform
    carried = transform.init(params)
    for _ in range(steps):
        found, carried = transform.update(gradients, carried, params)
    return found


@pytest.mark.parametrize(("norm", "kept"), [(5.0, 2.0), (1.5, 1.5)])
def test_clipping_bounds_the_global_norm(norm, kept):
    gradients = {"a": jnp.array([0.6 * norm]), "b": jnp.array([[0.8 * norm]])}
    options = optimizers.Options("sgd", learning_rate=1.0, clip_norm=2.0)
    found = updates(options, gradients, gradients)
    np.testing.assert_allclose([-found["a"][0], -found["b"][0, 0]], [0.6 * kept, 0.8 * kept], rtol=1e-6)


@pytest.mark.parametrize(("mask", "of_bias"), [("kernels", 0.0), ("all", -0.02)])
def test_weight_decay_spares_vectors(mask, of_bias):
    """Without a gradient, AdamW's update is -rate * decay * parameter."""
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    options = optimizers.Options("adamw", 0.1, {"weight_decay": 0.2}, decay_mask=mask)
    found = updates(options, params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(found["kernel"], np.full((2, 2), -0.02), rtol=1e-6)
    np.testing.assert_allclose(found["bias"], np.full(2, of_bias), rtol=1e-6)


def test_muon_updates_the_matrices_of_kernels_and_adam_the_rest():
    """The first update from a gradient U S V^T is along -U V^T, its singular values between 0.7 and 1.2 (Jordan et al.
    2024). A stack's blocks are matrices each, a convolution is one."""
    shapes = {"dense": (4, 6), "stack": (3, 4, 6), "convolution": (3, 3, 2, 5)}
    kernels = {name: jax.random.normal(jax.random.key(0), shape) for name, shape in shapes.items()}
    gradients = {name: {"kernel": kernel, "bias": jnp.ones(2)} for name, kernel in kernels.items()}
    gradients["word"] = {"embedding": kernels["dense"]}
    changes = updates(optimizers.Options("muon", 0.1, {"consistent_rms": 1.0}), gradients, gradients)
    for name, matrix in {"dense": (1, 4, 6), "stack": (3, 4, 6), "convolution": (1, 18, 5)}.items():
        u, _, v = np.linalg.svd(kernels[name].reshape(matrix), full_matrices=False)
        scaled = changes[name]["kernel"].reshape(matrix) / -(0.1 * max(matrix[1:]) ** 0.5)
        inner = np.einsum("bri,brc,bjc->bij", u, scaled, v)
        values = np.einsum("bii->bi", inner)
        assert (values > 0.6).all() and (values < 1.3).all(), (name, values)
        np.testing.assert_allclose(np.linalg.norm(scaled), np.linalg.norm(values), rtol=1e-3)
    by_adam = updates(optimizers.Options("adam", 0.1, {"nesterov": True}), gradients, gradients)
    np.testing.assert_allclose(changes["word"]["embedding"], by_adam["word"]["embedding"], rtol=1e-5)
    np.testing.assert_allclose(changes["stack"]["bias"], by_adam["stack"]["bias"], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_frozen_subtrees_keep_every_bit(name):
    """Also under weight decay. The others move as if they were alone: the clipped norm is theirs."""
    options = optimizers.Options(name, 0.1, {"weight_decay": 0.5} if name != "sgd" else {}, clip_norm=1e-3)
    params = {"low": {"kernel": jax.random.normal(jax.random.key(0), (3, 4)), "zero": -jnp.zeros(2)}}
    params |= {
        "high": {"block": {"kernel": jnp.ones((3, 4))}, "out": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    }
    gradients = jax.tree.map(lambda x: 100 * jnp.cos(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)), params)

    def trained(options, params, gradients):
        optimizer = optimizers.make(options, 100, 1)
        state = core.init_state({"w": params}, {"w": optimizer})
        step = jax.jit(lambda state: core.update(optimizer, state, "w", gradients)[0])
        return step(step(state))

    part = {"high": {"out": params["high"]["out"]}}
    alone = trained(options, part, {"high": {"out": gradients["high"]["out"]}})
    state = trained(dataclasses.replace(options, frozen=("low", "block")), params, gradients)
    after = state.params["w"]
    jax.tree.map(np.testing.assert_array_equal, after["high"]["out"], alone.params["w"]["high"]["out"])
    for one, two in ((after["low"], params["low"]), (after["high"]["block"], params["high"]["block"])):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True))
    assert (after["high"]["out"]["bias"] != 1).all()
    shapes = [sorted(x.shape for x in jax.tree.leaves(s.opt_state)) for s in (state, alone)]
    assert shapes[0] == shapes[1], "no moments of frozen arrays"


def test_a_name_that_freezes_nothing_is_refused():
    optimizer = optimizers.make(optimizers.Options(frozen=("block_0", "from_imag")), 1, 1)
    params = {"from_image": {"kernel": jnp.ones(2)}, "block_0": {"kernel": jnp.ones(2)}}
    with pytest.raises(ConfigError, match=r"has 'from_imag', .*'from_image'\? Names: block_0, kernel, from_image\."):
        core.init_state({"w": params}, {"w": optimizer})


def test_runs_that_freeze_other_subtrees_share_no_program():
    values = configs.experiment("gan").to_dict()
    assert vmapped.shared(values)["optimizer.discriminator.frozen"] == []


def test_half_life_is_counted_in_images():
    decay = optimizers.make(optimizers.Options(ema_half_life=1000.0), steps=1, batch_size=50).ema_decay
    assert decay**20 == pytest.approx(0.5)
    assert optimizers.make(optimizers.Options(), 1, 1).ema_decay is None


def test_what_optax_lacks_is_named_with_what_is_near():
    with pytest.raises(ConfigError, match=r"'adamm', which optax lacks; did you mean 'adam'\?"):
        optimizers.make(optimizers.Options("adamm"), 1, 1)
    with pytest.raises(ConfigError, match=r"arguments\.beta1 is no argument of optax\.adam.* b1, b2"):
        optimizers.make(optimizers.Options("adam", arguments={"beta1": 0.5}), 1, 1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adam", {"b1": "half"}, "optax.adam cannot work with {'b1': 'half'}"),
        ("adam", {"eps": None}, "optax.adam cannot work with"),
        ("adam", {"mu_dtype": "float33"}, "float33"),
        ("adam", {"nesterov": "false"}, "arguments.nesterov is 'false'; it must be True or False"),
        ("adam", {"learning_rate": 0.1}, "arguments.learning_rate is no argument"),
        ("adamw", {"mask": None}, "arguments.mask is no argument"),
        ("lbfgs", {}, "optax.lbfgs cannot work with"),
    ],
)
def test_what_optax_cannot_work_with_is_refused_in_a_sentence(name, arguments, message):
    with pytest.raises(ConfigError, match=f"config.optimizer.*{message}"):
        optimizers.check(optimizers.Options(name, arguments=arguments), "config.optimizer")
    optimizers.check(optimizers.Options("adam", arguments={"b1": 0, "nesterov": True}), "config.optimizer")


# ------------------------------------------------------------------------ the only functions that change parameters


def test_the_average_is_warmed_up():
    """At step t its decay is min(decay, (1 + t) / (10 + t)): here 0.9 from step 80 on, 0.1 at step 0."""
    optimizer = core.Optimizer(optax.sgd(1.0), 0.9)
    at = core.init_state({"w": jnp.zeros(1)}, {"w": optimizer})
    expected, position = 0.0, 0.0
    for step in range(100):
        at, _ = core.update(optimizer, at, "w", jnp.full(1, -2.0))
        at = at.replace(step=at.step + 1)
        position += 2.0
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * position
    np.testing.assert_allclose(at.ema_params["w"], [expected], rtol=1e-5)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    optimizer = core.Optimizer(optax.adam(0.1), 0.9)
    params = {"w": {"a": jnp.ones(2), "b": jnp.ones(1)}}
    before = core.init_state(params, {"w": optimizer}, model_state={"statistics": jnp.zeros(1)})
    gradients = {"a": jnp.array([1.0, bad]), "b": jnp.ones(1)}
    after, metrics = core.update(optimizer, before, "w", gradients, {"statistics": jnp.full(1, jnp.nan)})
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert metrics["skipped/w"] == 1
    gradients["a"] = jnp.ones(2)
    after, metrics = core.update(optimizer, before, "w", gradients, {"statistics": jnp.ones(1)})
    assert metrics["skipped/w"] == 0 and metrics["gradient_norm/w"] == pytest.approx(3**0.5)
    assert all((a != b).all() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True) if a.ndim)


@pytest.mark.parametrize("size", [1e18, 1e30, 3e37])
@pytest.mark.parametrize("name", ["sgd", "adam", "clipped"])
def test_a_large_finite_gradient_is_followed(name, size):
    """Its square overflows in float32. The direction is kept, and no state of the optimiser becomes infinite."""
    options = optimizers.Options("sgd" if name == "sgd" else "adam", 1e-3, clip_norm=float(name == "clipped"))
    optimizer = optimizers.make(options, 1, 1)
    before = core.init_state({"w": {"a": jnp.zeros(2), "b": jnp.zeros(1)}}, {"w": optimizer})
    gradients = {"a": jnp.array([3 * size, 0.0]), "b": jnp.array([-4 * size])}
    after, metrics = jax.jit(lambda state, given: core.update(optimizer, state, "w", given))(before, gradients)
    assert metrics["skipped/w"] == 0
    np.testing.assert_allclose(metrics["gradient_norm/w"], 5 * size, rtol=1e-5)
    expected = 1e15 * np.array([-0.6, 0, 0.8]) if name == "sgd" else 1e-3 * np.array([-1, 0, 1])
    np.testing.assert_allclose([*after.params["w"]["a"], *after.params["w"]["b"]], expected, rtol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e10])
def test_the_norm_of_ordinary_values_is_unchanged(size):
    tree = {"a": size * jnp.array([1.0, -2.0]), "b": jnp.full((2, 2), size)}
    np.testing.assert_allclose(core.global_norm(tree), size * 3, rtol=1e-6)


def least_squares(params, batch, key):
    residual = batch["x"] @ params - batch["y"]
    return (residual**2).mean(), {"residual": residual.mean()}


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_microbatches_give_the_gradient_of_the_whole(parts):
    rng = np.random.default_rng(0)
    x, y, w = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 3), (8,), (3,)))
    gradient = core.value_and_grad(core.Optimizer(optax.sgd(1.0), microbatches=parts), least_squares)
    (value, auxiliary), found = gradient(jnp.array(w), {"x": jnp.array(x), "y": jnp.array(y)}, jax.random.key(0))
    residual = x @ w - y
    np.testing.assert_allclose(value, (residual**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(auxiliary["residual"], residual.mean(), rtol=1e-5)
    np.testing.assert_allclose(found, 2 * x.T @ residual / 8, rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_group_is_trained_on_the_whole_batch_and_finished_once(parts):
    """`finish` gets the mean over all microbatches, and its entry of `model_state` is kept beside the others."""

    def loss(params, batch, key):
        value, observed = least_squares(params, batch, key)
        return value, ({"loss": value}, observed)

    x, y = jnp.arange(8.0)[:, None], 3 * jnp.arange(8.0)
    optimizer = core.Optimizer(optax.sgd(0.01), microbatches=parts)
    model_state = {"residual": jnp.ones(()), "other": jnp.ones(1)}
    before = core.init_state({"a": jnp.zeros(1), "b": jnp.ones(2)}, {"a": optimizer, "b": optimizer}, model_state)

    def finish(model_state, observed):
        return {"change": observed["residual"] - model_state["residual"]}, observed

    key = jax.random.key(0)
    after, metrics = core.train_group(optimizer, before, "a", loss, {"x": x, "y": y}, key, finish)
    np.testing.assert_allclose(after.params["a"], [0.01 * 2 * 3 * 17.5], rtol=1e-5)  # the mean of x^2 is 17.5
    np.testing.assert_allclose(metrics["gradient_norm/a"], 105, rtol=1e-5)
    np.testing.assert_allclose((after.model_state["residual"], metrics["change"]), (-10.5, -11.5), rtol=1e-5)
    assert after.model_state["other"] is before.model_state["other"] and after.params["b"] is before.params["b"]
    same, metrics = core.train_group(optimizer, before, "a", loss, {"x": x, "y": y + jnp.nan}, key, finish)
    assert metrics["skipped/a"] == 1 and same.model_state["residual"] == 1


def test_bfloat16_computes_on_rounded_parameters_and_returns_float32():
    seen = []

    def loss(params, batch, key):
        seen.append(params.dtype)
        return (params * batch["x"].astype(params.dtype)).sum(), {"aux": params.sum()}

    gradient = core.value_and_grad(core.Optimizer(optax.sgd(1.0), compute_dtype=jnp.bfloat16), loss)
    params = jnp.array([1.0 + 2**-10])  # rounds to 1 in bfloat16
    (value, auxiliary), found = gradient(params, {"x": jnp.array([2.0 + 2**-10])}, jax.random.key(0))
    assert seen == [jnp.bfloat16] and value.dtype == found.dtype == auxiliary["aux"].dtype == jnp.float32
    assert value == 2.0 and found == 2.0 and auxiliary["aux"] == 1.0
