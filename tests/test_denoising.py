"""What a denoising network promises whichever it is: U-Net and DiT side by side, and the pieces that they share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.networks import attention, denoising
from genimg_jax.networks.dit import DiT
from genimg_jax.networks.unet import UNet

CLASSES = 3
FIELDS = (("label", core.Field((), CLASSES)),)
NETWORKS = {
    "unet": UNet(4, (1, 2), 1, (4,), 2, FIELDS),
    "dit": DiT(2, 8, 2, 2, 2, FIELDS, registers=1, label_tokens=2, remat=True),
}
X = np.random.default_rng(0).standard_normal((4, 8, 8, 2)).astype(np.float32)
C_NOISE, LABEL = np.array([-1.2, 0.0, 0.4, 1.1], np.float32), np.array([0, 1, 2, CLASSES])


def told(label):
    """A condition in which `CLASSES` stands for a class that is hidden."""
    return {"label": jnp.asarray(label) % CLASSES, "keep": jnp.asarray(label) < CLASSES}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    """The compiled function of (params, x, c_noise, label), and parameters with no zeros."""
    module = NETWORKS[request.param]
    params = random_weights(module.init, jax.random.key(0), X, C_NOISE, told(LABEL))["params"]
    return (
        module,
        (jax.jit(lambda p, x, c, label: module.apply({"params": p}, x, c, None if label is None else told(label)))),
        params,
    )


def test_outputs_are_zero_at_first(network):
    module, apply, _ = network
    params = jax.jit(module.init)(jax.random.key(1), X, C_NOISE, told(LABEL))["params"]
    np.testing.assert_array_equal(apply(params, X, C_NOISE, LABEL), np.zeros_like(X))


def test_examples_are_independent(network):
    _, apply, params = network
    whole = apply(params, X, C_NOISE, LABEL)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(apply(params, X[order], C_NOISE[order], LABEL[order]), whole[order], atol=1e-5)
    other = np.arange(4) > 0  # the first one's neighbours change in everything
    changed = apply(params, np.where(other[:, None, None, None], 3 * X[::-1], X), C_NOISE - other, (LABEL + other) % 3)
    np.testing.assert_allclose(changed[0], whole[0], atol=1e-5)
    assert np.abs(changed - whole)[1:].max(axis=(1, 2, 3)).min() > 1e-2


def test_noise_and_class_matter_and_no_class_is_the_null_class(network):
    _, apply, params = network
    nothing = apply(params, X, C_NOISE, np.full(4, CLASSES))
    np.testing.assert_allclose(apply(params, X, C_NOISE, None), nothing, rtol=0, atol=1e-6)  # two programs
    for c_noise, label in [(C_NOISE + 0.1, np.full(4, CLASSES)), (C_NOISE, np.zeros(4, int))]:
        assert np.abs(apply(params, X, c_noise, label) - nothing).max(axis=(1, 2, 3)).min() > 1e-3


def test_the_class_is_told_by_its_embedding_alone(network):
    _, apply, params = network
    embeddings = [p for p, _ in jax.tree_util.tree_leaves_with_path(params) if p[-1].key == "embedding"]
    assert len(embeddings) >= 1

    def share(path, leaf):  # class 1 is embedded as class 0
        return leaf.at[1].set(leaf[0]) if path in embeddings else leaf

    shared = jax.tree_util.tree_map_with_path(share, params)
    zero, one = (apply(shared, X, C_NOISE, np.full(4, label)) for label in (0, 1))
    np.testing.assert_array_equal(zero, one)


def test_derivatives_forward_and_backward_agree(network):
    """Models of average velocities differentiate forward, through the noise level too."""
    _, apply, params = network
    rng = np.random.default_rng(1)
    direction, back = (rng.standard_normal(X.shape).astype(np.float32) for _ in range(2))
    ones = np.ones(4, np.float32)

    def compare(x, c_noise):
        run = lambda x, c: apply(params, x, c, LABEL)  # noqa: E731
        along = jax.jvp(run, (x, c_noise), (direction, ones))[1]
        pulled = jax.vjp(run, x, c_noise)[1](back)
        return jnp.vdot(along, back), jnp.vdot(pulled[0], direction) + pulled[1].sum()

    forward, backward = jax.jit(compare)(X, C_NOISE)
    np.testing.assert_allclose(forward, backward, rtol=1e-3)


def products(jaxpr):
    """Every matrix product and convolution, those inside loops and calls included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def test_computes_in_the_precision_of_its_parameters(network):
    _, apply, params = network
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    jaxpr = jax.make_jaxpr(apply)(half, X, C_NOISE, LABEL)
    found = list(products(jaxpr.jaxpr))
    assert len(found) > 10
    assert {v.aval.dtype for e in found for v in e.invars} == {jnp.dtype(jnp.bfloat16)}
    outputs = apply(half, X, C_NOISE, LABEL)
    assert outputs.dtype == jnp.float32
    exact = apply(params, X, C_NOISE, LABEL)
    assert 0 < np.abs(outputs - exact).mean() < 0.05 * np.abs(exact).mean()


@pytest.mark.parametrize("module", [UNet(4, (1,), 1, (), 2), DiT(4, 8, 1, 2, 2)])
def test_without_classes_there_are_no_parameters_for_them(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), X, C_NOISE, LABEL)
    assert not [p for p, _ in jax.tree_util.tree_leaves_with_path(shapes) if p[-1].key == "embedding"]


# ----------------------------------------------------------------------------------------------------- the pieces


def test_waves():
    x = np.array([[0.0, 0.3], [-1.5, 2.0]], np.float32)
    cycles = [(1 / 32) * 64 ** (k / 3) for k in range(4)]
    expected = np.stack([f(2 * np.pi * c * x) for f in (np.cos, np.sin) for c in cycles], axis=-1)
    np.testing.assert_allclose(denoising.fourier_features(jnp.asarray(x), 8), expected, atol=1e-5)


def test_several_noise_levels_are_told_apart():
    module = denoising.Modulator(8, ())
    levels = jnp.array([[0.1, 0.7], [0.7, 0.1], [0.1, 0.1]])
    params = random_weights(module.init, jax.random.key(0), levels, None)
    vectors = module.apply(params, levels, None)
    assert vectors.shape == (3, 8)
    assert min(np.abs(vectors[i] - vectors[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.01


def test_full_attention():
    query, key, value = np.random.default_rng(0).standard_normal((3, 2, 3, 5, 4)).astype(np.float32)
    scores = query @ key.swapaxes(2, 3) / 2
    mass = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        attention.full_attention(*map(jnp.asarray, (query, key, value))), mass @ value, atol=1e-5
    )


def test_attention_on_a_gpu(monkeypatch):
    """The branch that is taken there, in float32 here; and which kernel 16-bit numbers are given to."""
    query, key, value = np.random.default_rng(1).standard_normal((3, 2, 3, 5, 8)).astype(np.float32)
    valid = jnp.array([[True, True, False, True, False], [False] * 4 + [True]])  # not the last slot, or it alone
    functions = [
        functools.partial(f, valid=v)
        for f in (attention.full_attention, attention.causal_attention)
        for v in (None, valid)
    ]
    here = [f(query, key, value) for f in functions]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for f, expected in zip(functions, here, strict=True):
        np.testing.assert_allclose(f(*map(jnp.asarray, (query, key, value))), expected, atol=1e-5)
    chosen = []
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, k, v, implementation, **_: chosen.append(implementation) or q
    )
    for size, forward in ((64, False), (12, False), (136, False), (64, True)):
        attention.full_attention(*[jnp.zeros((1, 1, 4, size), jnp.bfloat16)] * 3, forward)
    assert chosen == ["cudnn", "xla", "xla", "xla"]


def test_kernels_have_the_variance_of_their_fan_in():
    kernel = denoising.normal(jax.random.key(0), (3, 3, 40, 50))
    np.testing.assert_allclose(kernel.var(), 1 / 360, rtol=0.05)
    np.testing.assert_allclose(kernel.var(axis=(0, 1, 2)).mean(), 1 / 360, rtol=0.05)
