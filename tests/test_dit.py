"""The diffusion Transformer: its patches, its tokens, and its blocks looped, recomputed and one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.networks import dit
from genimg_jax.networks.dit import Block, Blocks, DiT, patchify, unpatchify

RNG = np.random.default_rng(0)
CLASSES, CAPTIONS = (("label", core.Field((), 10)),), (("tokens", core.Field((3,), 6)),)
TOKENS, CONDITION = (RNG.standard_normal(shape).astype(np.float32) for shape in ((3, 6, 8), (3, 5)))


@pytest.mark.parametrize(("patch", "shape"), [(1, (4, 6, 2)), (2, (8, 4, 3)), (4, (32, 32, 1))])
def test_patches(patch, shape):
    image = RNG.standard_normal((2, *shape)).astype(np.float32)
    tokens = patchify(jnp.asarray(image), patch)
    assert tokens.shape == (2, shape[0] * shape[1] // patch**2, patch**2 * shape[2])
    np.testing.assert_array_equal(unpatchify(tokens, patch, *shape[:2]), image)
    columns = shape[1] // patch
    for number in (0, 1, columns, tokens.shape[1] - 1):
        top, left = (n * patch for n in divmod(number, columns))
        np.testing.assert_array_equal(
            tokens[:, number], image[:, top : top + patch, left : left + patch].reshape(2, -1)
        )


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (DiT(1, 8, 1, 2, 4), (7, 7, 4)),
        (DiT(2, 8, 1, 2, 1), (28, 28, 1)),
        (DiT(4, 8, 1, 2, 3, CLASSES, registers=3, label_tokens=2, scan_layers=False), (32, 16, 3)),
    ],
)
def test_fits_images(network, shape):
    for c_noise in (jnp.zeros(2), jnp.zeros((2, 2))):
        arguments = jnp.zeros((2, *shape)), c_noise, None
        outputs = jax.eval_shape(lambda arguments=arguments: network.init_with_output(jax.random.key(0), *arguments)[0])
        assert outputs.shape == (2, *shape[:2], network.out)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (DiT(4, 8, 1, 2, 1), "patches of 4x4 do not divide a 30x30 image"),
        (DiT(2, 20, 1, 2, 1), "width is 20, which 2 heads .* multiple of 8"),
    ],
)
def test_refuses_what_cannot_be(network, sentence):
    with pytest.raises(ConfigError, match=sentence):
        jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 30, 30, 1)), jnp.zeros(1), None))


def test_places_are_all_different_and_turn_with_their_distance():
    vectors = dit.position_embedding(5, 7, 16)
    assert vectors.shape == (35, 16)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    assert distances[~np.eye(35, dtype=bool)].min() > 0.1
    products = (vectors @ vectors.T).reshape(5, 7, 5, 7)
    # cos(a) cos(b) + sin(a) sin(b) = cos(a - b): only how far apart two places are tells.
    np.testing.assert_allclose(products[0, 1, 2, 4], products[2, 3, 4, 6], rtol=1e-4)
    assert abs(products[0, 1, 2, 4] - products[0, 1, 2, 5]) > 1e-3


def test_new_blocks_hand_on_what_they_are_given():
    init = jax.jit(Blocks(3, 2, False, True).init_with_output)
    outputs, variables = init(jax.random.key(0), TOKENS, CONDITION)
    np.testing.assert_array_equal(outputs, TOKENS)
    blocks = variables["params"]["blocks"]
    assert blocks["hidden"]["kernel"].shape == (3, 8, 32)
    one, two = blocks["hidden"]["kernel"][:2]
    assert np.abs(one - two).max() > 0.1, "every block starts alike"


@pytest.fixture(scope="module")
def trunk():
    """Parameters, and the value and gradients of applying the blocks one by one."""
    variables = random_weights(Blocks(3, 2, False, True).init, jax.random.key(0), TOKENS, CONDITION)

    def one_by_one(variables, tokens):
        for i in range(3):
            own = jax.tree.map(lambda x, i=i: x[i], variables["params"]["blocks"])
            tokens = Block(2).apply({"params": own}, tokens, CONDITION)
        return tokens

    return variables, with_gradients(one_by_one, variables)


def with_gradients(function, variables):
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(TOKENS.shape), jnp.float32)
    run = jax.value_and_grad(lambda v, t: (jnp.sum(weights * (out := function(v, t))), out), (0, 1), has_aux=True)
    return jax.jit(run)(variables, TOKENS)


@pytest.mark.parametrize(("remat", "loop"), [(False, True), (True, True), (True, False)])
def test_loops_and_recomputation_change_nothing(trunk, remat, loop):
    variables, expected = trunk
    found = with_gradients(lambda v, t: Blocks(3, 2, remat, loop).apply(v, t, CONDITION), variables)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def kept(remat):
    """Numbers that the backward pass is handed, for a wide perceptron over many tokens."""
    tokens = jnp.zeros((2, 64, 8))
    module = Blocks(4, 2, remat, True)
    variables = jax.eval_shape(module.init, jax.random.key(0), tokens, CONDITION[:2])
    pull = jax.eval_shape(lambda v: jax.vjp(lambda v, t: module.apply(v, t, CONDITION[:2]), v, tokens)[1], variables)
    return sum(x.size for x in jax.tree.leaves(pull))


def test_recomputation_keeps_less():
    blocks_inputs = 4 * 2 * 64 * 8
    assert kept(True) < 6 * blocks_inputs
    assert kept(False) > 3 * kept(True)


def test_blocks_know_no_order(trunk):
    variables, ((_, outputs), _) = trunk
    order = np.array([3, 0, 5, 1, 4, 2])
    turned = jax.jit(Blocks(3, 2, False, True).apply)(variables, TOKENS[:, order], CONDITION)
    np.testing.assert_allclose(turned, outputs[:, order], rtol=1e-4, atol=1e-4)


def apply(network):
    return jax.jit(lambda p, x, condition=None: network.apply(p, x, jnp.zeros(len(x)), condition))


def test_the_network_knows_the_places_of_patches():
    """Without them, patches that change places would take their outputs with them."""
    network = DiT(2, 8, 1, 2, 1)
    image = jnp.asarray(RNG.standard_normal((1, 4, 4, 1)), jnp.float32)
    params = random_weights(network.init, jax.random.key(0), image, jnp.zeros(1), None)
    outputs, turned = (apply(network)(params, x) for x in (image, jnp.roll(image, 2, axis=1)))
    assert np.abs(jnp.roll(turned, 2, axis=1) - outputs).max() > 1e-2


def test_tokens_in_front():
    """Registers, the class in context, and the words of a caption reach every pixel; none is mistaken for a patch."""
    network = DiT(2, 8, 1, 2, 1, (*CLASSES, *CAPTIONS), registers=2, label_tokens=2)
    image, words = jnp.zeros((2, 4, 4, 1)), jnp.array([[1, 2, 3], [4, 2, 0]])
    condition = {"label": jnp.array([0, 1]), "tokens": words}
    params = random_weights(network.init, jax.random.key(0), image, jnp.zeros(2), condition)["params"]
    run = apply(network)

    def outputs(words=words, **changes):
        return run({"params": {**params, **changes}}, image, {**condition, "tokens": words})

    def roll(tree):
        return jax.tree.map(lambda x: jnp.roll(x, 1, axis=-1), tree)

    plain = outputs()
    assert plain.shape == image.shape
    tokens = params["tokens"]
    changed = {
        "registers": outputs(registers=roll(params["registers"])),
        "label": outputs(tokens={**tokens, "label": roll(tokens["label"])}),
        "captions in context": outputs(tokens={**tokens, "tokens": roll(tokens["tokens"])}),
        "captions": outputs(words[:, ::-1]),  # of the same words in another order
    }
    for name, other in changed.items():
        assert np.abs(other - plain).max(axis=3).min() > 1e-5, name
    # Blocks that add nothing leave the patches as they would be by themselves.
    idle = {**params, "trunk": jax.tree.map(jnp.zeros_like, params["trunk"])}
    alone = apply(DiT(2, 8, 1, 2, 1, (*CLASSES, *CAPTIONS)))({"params": idle}, image, condition)
    np.testing.assert_allclose(outputs(trunk=idle["trunk"]), alone, atol=1e-5)
