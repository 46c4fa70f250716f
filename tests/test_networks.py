"""Whole networks: shapes, dtypes, vectorisation over parameters, sharding, and no parameter in vain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genimg_jax.errors import ConfigError
from genimg_jax.networks.convolutional import Decoder, Encoder, levels
from genimg_jax.networks.mlp import MLP
from genimg_jax.networks.residual import ResidualDecoder, ResidualEncoder

IMAGE = np.random.default_rng(0).standard_normal((8, 8, 8, 3)).astype(np.float32)
CODE = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
NETWORKS = {
    "mlp": (MLP((16, 12), 5, normalization="batch", spectral=True), CODE),
    "encoder": (Encoder(8, 5, normalization="batch", spectral=True), np.tile(IMAGE, (1, 2, 2, 1))),
    "group encoder": (Encoder(16, 5, normalization="group", activation="silu"), np.tile(IMAGE, (1, 2, 2, 1))),
    "decoder": (Decoder(8, (16, 8, 2), normalization="batch"), CODE),
    "plain decoder": (Decoder(8, (8, 8, 1)), CODE),
    "residual encoder": (ResidualEncoder(8, 1, 5, spectral=True), np.tile(IMAGE, (1, 2, 2, 1))),
    "residual decoder": (ResidualDecoder(8, 2, (16, 8, 2), normalization="batch"), CODE),
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    """A network with its parameters near those it begins with, none at 0."""
    module, inputs = NETWORKS[request.param]
    variables = jax.jit(module.init, static_argnums=2)(jax.random.key(0), inputs, True)
    moved = jax.tree.map(lambda x: x + 0.03 * jax.random.normal(jax.random.key(9), x.shape), variables["params"])
    return module, inputs, {**variables, "params": moved}


def train(module, variables, inputs):
    return module.apply(variables, inputs, True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("size", "count"), [((8, 8), 1), ((28, 28), 2), ((32, 32), 3), ((64, 64), 4), ((64, 32), 3), ((12, 20), 2)]
)
def test_images_are_halved_while_even_and_above_four(size, count):
    assert levels(*size) == count


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(ConfigError, match="a 33x32 image cannot be halved; resize or pad it"):
        levels(33, 32)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3), (16, 24, 2)])
def test_encoder_and_decoder_fit_any_image(shape):
    image, code = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2, 6), jnp.float32)

    def outputs(module, inputs):
        return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, True)[0], inputs)

    for encoder, decoder in (
        (Encoder(4, 5), Decoder(4, shape)),
        (ResidualEncoder(4, 1, 5), ResidualDecoder(4, 1, shape)),
    ):
        assert outputs(encoder, image).shape == (2, 5)
        assert outputs(decoder, code).shape == (2, *shape)


def test_residual_networks_begin_as_if_they_had_no_blocks():
    """So that deep ones neither enlarge nor damp a signal; a block whose last kernel is not 0 is seen."""
    deep, shallow = ResidualEncoder(4, 3, 5), ResidualEncoder(4, 0, 5)
    variables = jax.jit(deep.init, static_argnums=2)(jax.random.key(0), IMAGE, True)
    plain = {name: value for name, value in variables["params"].items() if not name.startswith("Block")}
    expected = shallow.apply({"params": plain}, IMAGE, True)
    np.testing.assert_allclose(deep.apply(variables, IMAGE, True), expected, atol=1e-6)
    variables["params"]["Block_1"]["Conv_1"]["kernel"] += 0.1
    assert np.abs(deep.apply(variables, IMAGE, True) - expected).max() > 0.01


def test_channels_double_up_to_eight_times_the_width():
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: Encoder(4, 1).init(jax.random.key(0), x, True), image)
    features = [variables["params"][f"Downsample_{level}"]["kernel"].shape[-1] for level in range(6)]
    assert features == [4, 8, 16, 32, 32, 32]


def test_the_scale_of_an_image_reaches_the_encoder():
    module = Encoder(8, 5, normalization="batch")
    variables = jax.jit(module.init, static_argnums=2)(jax.random.key(0), IMAGE, True)
    # Without normalisation, and with biases of 0, this network of one level is homogeneous of degree one.
    np.testing.assert_allclose(
        module.apply(variables, 3 * IMAGE, True), 3 * module.apply(variables, IMAGE, True), atol=1e-4
    )


def test_every_parameter_matters(network):
    module, inputs, variables = network

    def loss(params):
        y = train(module, {**variables, "params": params}, inputs)[0]
        return (y * jax.random.normal(jax.random.key(2), y.shape)).sum()

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"])):
        assert np.abs(gradient).max() > 1e-3, f"{jax.tree_util.keystr(path)} has no gradient"


def test_bfloat16_parameters_compute_in_bfloat16(network):
    module, inputs, variables = network
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables["params"])
    apply = jax.jit(lambda params: train(module, {**variables, "params": params}, inputs))
    half, changed = apply(params)
    assert half.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(changed)} <= {jnp.dtype("float32")}
    single, _ = apply(variables["params"])
    assert np.abs(half.astype(jnp.float32) - single).max() < 0.1 * np.abs(single).max()


def test_vectorised_over_parameters(network):
    module, inputs, variables = network
    scales = np.array([1.0, 0.9], np.float32)

    def gradient(scale):
        scaled = jax.tree.map(lambda x: scale * x, variables)
        return jax.grad(lambda params: jnp.square(train(module, {**scaled, "params": params}, inputs)[0]).mean())(
            scaled["params"]
        )

    together, alone = jax.jit(jax.vmap(gradient))(scales), jax.jit(gradient)
    assert_close(jax.tree.map(lambda x: x[0], together), alone(scales[0]))
    assert_close(jax.tree.map(lambda x: x[1], together), alone(scales[1]))


def test_a_batch_over_four_devices_changes_nothing(network):
    module, inputs, variables = network
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    spread = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
    variables_everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))

    def loss(variables, x):
        y, changed = train(module, variables, x)
        return jnp.square(y).mean(), changed

    step = jax.jit(jax.grad(loss, has_aux=True))
    assert_close(step(variables_everywhere, spread), step(variables, inputs))


def assert_close(actual, expected):
    for path, x in jax.tree_util.tree_leaves_with_path(actual):
        y = dict(jax.tree_util.tree_leaves_with_path(expected))[path]
        np.testing.assert_allclose(x, y, atol=1e-5 + 1e-4 * np.abs(y).max(), err_msg=jax.tree_util.keystr(path))
