"""StyleGAN2: its layers against loops and SciPy, path lengths in closed form, and codes that are sliced by layer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import stylegan2
from genimg_jax.networks import resampling
from genimg_jax.networks import stylegan2 as networks
from genimg_jax.objectives.path_length import path_length_scale, path_lengths

SPEC = core.Spec((12, 8, 2), 3, 256)  # 12x8 -> 6x4
OPTIONS = stylegan2.Options(
    width=4,
    max_width=6,
    latent=5,
    mapping_depth=1,
    mapping_rate=1.0,
    minibatch_group=2,
    penalty_every=2,
    path_length_every=2,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch(size=8, seed=0):
    image, label = np.tanh(normal(size, *SPEC.image_shape, seed=seed)), np.arange(size, dtype=np.int32) % 3
    return {"image": image, "label": label, "index": np.arange(size, dtype=np.int32)}


def build(options=OPTIONS, microbatches=1, rates=(0.02, 0.02)):
    optimizers = {
        group: core.Optimizer(optax.sgd(rate), microbatches=microbatches)
        for group, rate in zip(stylegan2.GROUPS, rates, strict=True)
    }
    return stylegan2.make(options, SPEC, optimizers)


@functools.cache
def weights(**changes):
    """Random weights, with a strength of noise and a mean w that matter."""
    state = jax.eval_shape(build(dataclasses.replace(OPTIONS, **changes)).init, jax.random.key(0), batch())
    params, means = random_weights(lambda: state.params), state.model_state
    mean = {"w_mean": jnp.asarray(normal(OPTIONS.latent, seed=3)), "path_length": jnp.float32(1.0)}
    return core.Weights(params, {**jax.tree.map(lambda x: jnp.zeros(x.shape), means), **mean}, {})


# ----------------------------------------------------------------------------------------------------- resampling


def scipy_upfirdn(x, up, down, pad):
    """Along height and then width, with `pad` zeros at each end."""
    taps = up * np.array([1, 3, 3, 1]) / 8
    for axis in (1, 2):
        full = scipy.signal.upfirdn(taps, x, up, axis=axis)  # as if padded with 3 zeros at each end
        size = (x.shape[axis] - 1) * up + 1 + 2 * pad - 3
        x = np.take(full, np.arange(3 - pad, 3 - pad + size, down), axis=axis)
    return x


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(resampling.upsample, (2, 1, 2)), (resampling.downsample, (1, 2, 1)), (resampling.blur, (1, 1, 2))],
)
def test_resampling_is_scipys(function, arguments):
    x = normal(2, 6, 4, 3)
    np.testing.assert_allclose(function(x), scipy_upfirdn(x, *arguments), rtol=1e-6, atol=1e-6)


def test_resampling_keeps_a_ramp_in_its_place():
    """Pixel i of the small image covers pixels 2 i and 2 i + 1: away from the border a ramp stays the same ramp."""
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32)[None, :, None, None], (1, 16, 4, 1))
    small = resampling.downsample(ramp)[0, 1:-1, 1, 0]
    np.testing.assert_allclose(small / small[0], (2 * np.arange(1, 7) + 0.5) / 2.5, rtol=1e-5)
    large = resampling.upsample(ramp)[0, 2:-2, 4, 0]
    np.testing.assert_allclose(large, (np.arange(2, 30) + 0.5) / 2 - 0.5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_a_modulated_convolution_has_a_kernel_for_each_example(size, demodulate):
    """Equations 1 and 3, with a convolution for each example."""
    x, kernel, scale = normal(3, 6, 4, 5), normal(size, size, 5, 7, seed=1), normal(3, 5, seed=2)
    outputs = networks.modulated_conv(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(scale), demodulate)
    edge = size // 2
    for i in range(3):
        own = kernel * scale[i][None, None, :, None]
        if demodulate:
            own = own / np.sqrt(np.square(own).sum((0, 1, 2), keepdims=True) + 1e-8)
        padded = np.pad(x[i], [(edge, edge), (edge, edge), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (0, 1))  # [H, W, C, k, k]
        np.testing.assert_allclose(outputs[i], np.einsum("hwckl,klcd->hwd", windows, own), rtol=1e-4, atol=1e-5)


def test_demodulated_outputs_have_unit_variance():
    """Whatever the scales, of independent inputs of unit variance; at the border zeros take a part of it."""
    x, kernel = normal(8, 32, 32, 16), 5 * normal(3, 3, 16, 8, seed=1)
    scale = jnp.asarray(10 * normal(8, 16, seed=2))
    outputs = networks.modulated_conv(jnp.asarray(x), jnp.asarray(kernel), scale)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(outputs.std(axis=(1, 2)), 1, atol=0.15)
    np.testing.assert_allclose(outputs.std(), 1, atol=0.02)


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_equalised_layers_have_unit_variance_and_the_rate_of_learning(rate):
    """At initialisation, whatever the fan in; the gradient of the parameters is that of the kernel times its scale, so
    that a step of an optimiser blind to scale changes the output in proportion to `rate`."""
    x = jnp.asarray(normal(4, 16, 16, 24))
    for layer, inputs in [(networks.dense(200, rate), x[:, :4, 0].reshape(16, -1)), (networks.conv(32), x)]:
        params = layer.init(jax.random.key(1), inputs)
        outputs = layer.apply(params, inputs)
        inner = outputs[:, 1:-1, 1:-1] if outputs.ndim == 4 else outputs  # the border sees zeros
        np.testing.assert_allclose(inner.std(), 1, atol=0.06)
    layer = networks.dense(3, rate, bias=1.0)
    params = layer.init(jax.random.key(0), x[:, 0, 0])
    moved = jax.tree.map(lambda p: p + 0.1, params)
    np.testing.assert_allclose(layer.apply(jax.tree.map(jnp.zeros_like, params), x[:, 0, 0]), 0)
    np.testing.assert_allclose(params["params"]["bias"] * rate, 1, rtol=1e-6)
    expected = 0.1 * rate * (x[:, 0, 0].sum(1) / np.sqrt(24) + 1)
    change = layer.apply(moved, x[:, 0, 0]) - layer.apply(params, x[:, 0, 0])
    np.testing.assert_allclose(change, np.broadcast_to(expected[:, None], (4, 3)), rtol=1e-3, atol=1e-5)


def test_the_mapping_network_normalises_z_and_reads_the_class():
    network = networks.MappingNetwork(5, 2, 0.01, (("label", core.Field((), 3)),))
    z, condition = jnp.asarray(normal(4, 5)), {"label": jnp.array([0, 1, 2, 0])}
    params = network.init(jax.random.key(0), z, condition)
    w = network.apply(params, z, condition)
    np.testing.assert_allclose(network.apply(params, 3 * z, condition), w, rtol=1e-4, atol=1e-5)
    other = network.apply(params, z, {"label": jnp.array([0, 1, 2, 1])})
    np.testing.assert_array_equal(other[:3], w[:3])
    assert np.abs(other[3] - w[3]).max() > 0.01


# ------------------------------------------------------------------------------------- minibatch standard deviation


def test_the_minibatch_standard_deviation_is_numpys():
    x = normal(8, 3, 2, 4)
    for group in (2, 4, 8):
        outputs = networks.minibatch_std(jnp.asarray(x), group)
        for i in range(8):
            members = x[i % (8 // group) :: 8 // group]
            np.testing.assert_allclose(outputs[i], members.std(axis=0).mean(), atol=2e-4)
    np.testing.assert_array_equal(networks.minibatch_std(jnp.ones((4, 3, 2, 4)), 4), 0)
    np.testing.assert_array_equal(networks.minibatch_std(jnp.asarray(x), 1), 0)


def test_groups_are_the_same_under_gradient_accumulation():
    x = normal(8, 3, 2, 4)
    whole = networks.minibatch_std(jnp.asarray(x), 2)
    for i, part in enumerate(core.split(jnp.asarray(x), 4)):
        np.testing.assert_allclose(networks.minibatch_std(part, 2), whole[i::4], rtol=1e-6)


def test_groups_that_do_not_divide_the_batch_are_refused():
    family = build(dataclasses.replace(OPTIONS, minibatch_group=3))
    state = jax.eval_shape(family.init, jax.random.key(0), batch())
    with pytest.raises(ConfigError, match="given 8 images, which groups of 3"):
        jax.eval_shape(family.train_step, state, batch(), jax.random.key(0))


# ------------------------------------------------------------------------------------------------------- training


def test_path_lengths_of_a_linear_generator():
    """|A^T y|, of images A w + b."""
    matrix, y, w = normal(4 * 3 * 2, 5), normal(6, 4, 3, 2, seed=1), normal(6, 5, seed=2)
    lengths = path_lengths(lambda w: (w @ matrix.T + 1).reshape(-1, 4, 3, 2), jnp.asarray(w), jnp.asarray(y))
    np.testing.assert_allclose(lengths, np.linalg.norm(y.reshape(6, -1) @ matrix, axis=1), rtol=1e-5)
    # The mean square is the sum of squares of A.
    many = path_lengths(lambda w: (w @ matrix.T).reshape(-1, 4, 3, 2), jnp.zeros((20_000, 5)), normal(20_000, 4, 3, 2))
    np.testing.assert_allclose(np.square(many).mean(), np.square(matrix).sum(), rtol=0.02)


def test_the_weight_of_path_lengths():
    """At 1024 pixels that of the paper's other form: 2 / 18, a layer's share of a weight of 2, for noise over r."""
    np.testing.assert_allclose(path_length_scale(1024, 1024) * 1024**2, 2 / 18, rtol=1e-6)


@functools.cache
def steps(microbatches):
    family = build(microbatches=microbatches)
    state, step, history = jax.jit(family.init)(jax.random.key(0), batch()), jax.jit(family.train_step), []
    for i in range(3):
        state, metrics = step(state, batch(seed=i), jax.random.key(i))
        history.append((jax.device_get(metrics), jax.device_get(state)))
    return history


@pytest.mark.slow
def test_gradient_accumulation_changes_nothing():
    for (one, before), (two, after) in zip(steps(1), steps(2), strict=True):
        for a, b in zip(jax.tree.leaves((one, before)), jax.tree.leaves((two, after)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


def test_terms_are_lazy_and_means_run():
    (first, start), (second, middle), (third, end) = steps(1)
    assert first["penalty"] > 0 and second["penalty"] == 0 and third["penalty"] > 0  # R1, every other step
    assert first["path_penalty"] == second["path_penalty"] == 0 < third["path_penalty"]  # a must be measured first
    lengths = [state.model_state["path_length"] for state in (start, middle, end)]
    assert lengths[0] > 0 and lengths[0] == lengths[1] != lengths[2]
    assert abs(lengths[2] / lengths[1] - 1) < 0.1
    assert third["path_length"] == lengths[2]
    # The mean of w begins at 0, and sees the w of the generator's step.
    generator, initial = stylegan2.generator_of(OPTIONS, SPEC), jax.jit(build().init)(jax.random.key(0), batch())
    keys = core.per_example_keys(jax.random.split(jax.random.key(0))[1], jnp.arange(8))
    w = generator.mapping(initial.params["generator"], generator.codes(keys), batch())
    np.testing.assert_allclose(start.model_state["w_mean"], 0.005 * w.mean(0), rtol=1e-4, atol=1e-7)


def test_path_lengths_that_weigh_nothing_are_not_measured():
    family = build(dataclasses.replace(OPTIONS, path_length_weight=0.0, penalty="none"))
    state = jax.jit(family.init)(jax.random.key(0), batch())
    state, _ = jax.jit(family.train_step)(state, batch(), jax.random.key(0))
    assert state.model_state["path_length"] == 0


def test_style_mixing_changes_layers_from_a_random_one_on():
    keys, layers = jax.random.split(jax.random.key(0), 4000), 6
    first, second = jnp.zeros((4000, 1)), jnp.ones((4000, 1))
    mixed = np.asarray(stylegan2.style_mix(keys, 0.75, first, second, layers))[..., 0]
    assert (np.diff(mixed, axis=1) >= 0).all() and (mixed[:, 0] == 0).all()
    counts = np.bincount(mixed.sum(1).astype(int), minlength=layers) / 4000
    np.testing.assert_allclose(counts, [0.25, *[0.15] * 5], atol=0.03)
    np.testing.assert_array_equal(stylegan2.style_mix(keys, 0.0, first, second, layers), 0)


# ---------------------------------------------------------------------------------------------------------- codes


def test_each_layer_reads_its_own_w():
    """By gradients: the image of level l reads layers 0 to 2 l + 1, its features those before, and none later ones."""
    assert stylegan2.generator_of(OPTIONS, SPEC).layers == 4  # two levels
    shapes = networks.noise_shapes(*SPEC.image_shape[:2])
    assert shapes == [(6, 4), (12, 8), (12, 8)]
    params, noise = weights().params["generator"]["synthesis"], [jnp.zeros((1, *shape)) for shape in shapes]
    network = networks.SynthesisNetwork(OPTIONS.width, OPTIONS.max_width, SPEC.image_shape)
    w = jnp.asarray(normal(2, 4, 5, seed=4))

    def features(name, w):
        _, kept = network.apply({"params": params}, w, noise, capture_intermediates=True)
        return jnp.square(kept["intermediates"][name]["__call__"][0]).sum()

    reads = {"block_0": [0], "to_image_0": [0, 1], "up_1": [0, 1], "block_1": [0, 1, 2], "to_image_1": [0, 1, 2, 3]}
    for name, expected in reads.items():
        sizes = np.abs(jax.grad(functools.partial(features, name))(w)).max((0, 2))
        np.testing.assert_array_equal(np.flatnonzero(sizes), expected, name)


def test_the_two_spaces_give_the_same_images_and_mix_by_slices():
    family, trained, keys = build(), weights(), jax.random.split(jax.random.key(1), 4)
    z, w = family.latents
    assert w.spec.image_shape == (4, 1, 5) and z.spec.image_shape == (1, 1, 5)
    codes = jax.jit(w.prior)(trained, keys, {})
    decode = jax.jit(w.decode)
    np.testing.assert_array_equal(codes, np.broadcast_to(codes[:, :1], codes.shape))
    images = decode(trained, codes, {})
    np.testing.assert_allclose(images, jax.jit(family.sample)(trained, keys, {}), rtol=1e-4, atol=1e-5)
    mixed = codes.at[:, 3:].set(codes[::-1, 3:])  # the last layer: the colours of the finest level alone
    assert np.abs(decode(trained, mixed, {}) - images).max() > 0.01
    np.testing.assert_allclose(decode(trained, codes.at[:, :].set(codes[::-1]), {}), images[::-1], rtol=1e-4, atol=1e-5)


def sample(truncation, trained):
    family = build(dataclasses.replace(OPTIONS, truncation=truncation))
    return jax.jit(family.sample)(trained, jax.random.split(jax.random.key(1), 4), {})


def test_truncation_moves_images_to_the_mean_image():
    trained = weights()
    layers = stylegan2.generator_of(OPTIONS, SPEC).layers
    plain, nothing = sample(1.0, trained), sample(0.0, trained)
    np.testing.assert_array_equal(nothing, np.broadcast_to(nothing[:1], nothing.shape))
    codes = jnp.broadcast_to(trained.model_state["w_mean"][None, None, None], (4, layers, 1, 5))
    np.testing.assert_allclose(nothing, build().latents[1].decode(trained, codes, {}), rtol=1e-5, atol=1e-6)
    other = {**trained.model_state, "w_mean": jnp.full(5, 100.0)}
    np.testing.assert_array_equal(plain, sample(1.0, trained._replace(model_state=other)))
    assert np.abs(plain - nothing).max() > 0.01


def test_without_noise_an_image_is_a_function_of_w():
    generator, trained = stylegan2.generator_of(OPTIONS, SPEC), weights()
    w = jnp.asarray(normal(3, 4, 5))

    def images(params, seed):
        noise = generator.noise(jax.random.split(jax.random.key(seed), 3))
        return jax.jit(generator.synthesize)(params, w, noise)

    params = trained.params["generator"]
    assert np.abs(images(params, 0) - images(params, 1)).max() > 0.01
    silent = jax.tree_util.tree_map_with_path(lambda path, x: 0 * x if path[-1].key == "noise_strength" else x, params)
    np.testing.assert_array_equal(images(silent, 0), images(silent, 1))


def test_noise_begins_at_nothing():
    params = jax.jit(build().init)(jax.random.key(0), batch()).params["generator"]["synthesis"]
    strengths = [x for path, x in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "noise_strength"]
    assert len(strengths) == 3 and not any(strengths)
