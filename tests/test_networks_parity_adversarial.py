"""The PyTorch StyleGAN2 of the speed measurement is this project's, given this project's parameters."""

import pathlib
import sys

import jax
import needs
import numpy as np
from random_weights import random_weights

from genimg_jax.networks.stylegan2 import (
    MappingNetwork,
    ResidualDiscriminator,
    SynthesisNetwork,
    every_layer,
    noise_shapes,
)

torch = needs.module("torch")

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "experiments" / "benchmarks"))
import problems  # noqa: E402
import torch_adversarial  # noqa: E402
import torch_training  # noqa: E402

torch.set_num_threads(1)  # its threads wait for each other spinning, which starves whoever shares the cores
SHAPE, LATENT = (8, 16, 3), 6
MODEL = {"width": 4, "max_width": 6, "latent": LATENT, "mapping_depth": 2}
PROBLEM = problems.PROBLEMS["stylegan2"]
PROBLEM = PROBLEM._replace(model={**PROBLEM.model, **MODEL}, image_shape=SHAPE)


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def channels_first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def copy_parameters(params, network):
    """By name, with PyTorch's order of axes."""
    named = dict(network.named_parameters())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, value = ".".join(p.key for p in path), np.asarray(leaf)
        if name.endswith("constant"):
            name, value = "constant", value.transpose(2, 0, 1)
        elif name.endswith("kernel"):
            name, value = f"{name.removesuffix('kernel')}weight", np.moveaxis(value, (-1, -2), (0, 1))
        parameter = named.pop(name)
        assert parameter.shape == value.shape, name
        parameter.data = torch.tensor(np.ascontiguousarray(value))
    assert not named


def test_generators_agree():
    rate, shapes = PROBLEM.model["mapping_rate"], noise_shapes(*SHAPE[:2])
    mapping = MappingNetwork(LATENT, 2, rate)
    synthesis = SynthesisNetwork(4, 6, SHAPE)
    z, noise = draw(4, LATENT), [draw(4, *shape) for shape in shapes]
    w = every_layer(z, len(shapes) + 1) * draw(1, len(shapes) + 1, 1)
    params = {
        "mapping": random_weights(mapping.init, jax.random.key(0), z, {}, scale=1 / rate)["params"],
        "synthesis": random_weights(synthesis.init, jax.random.key(0), w, noise, scale=4.0)["params"],
    }
    expected_w = mapping.apply({"params": params["mapping"]}, z, {})
    expected = jax.jit(synthesis.apply)({"params": params["synthesis"]}, w, noise)
    for grouped in (False, True):
        network = torch_adversarial.Generator(PROBLEM, grouped)
        copy_parameters(params, network)
        assert network.shapes == shapes
        np.testing.assert_allclose(network.map(torch.tensor(z)).detach(), expected_w, rtol=1e-4, atol=1e-4)
        outputs = network.synthesize(torch.tensor(np.array(w)), [torch.tensor(x[:, None]) for x in noise])
        np.testing.assert_allclose(outputs.detach().permute(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-4)


def test_discriminators_and_their_penalties_agree():
    """The gradient of R1 by the parameters as well."""
    network, image = torch_adversarial.ResidualDiscriminator(PROBLEM), draw(8, *SHAPE)
    discriminator = ResidualDiscriminator(4, 6, 1, PROBLEM.model["minibatch_group"])
    variables = random_weights(lambda: discriminator.init(jax.random.key(0), image, None, True), scale=4.0)

    def logits(params, image):
        changed = {**variables, "params": params}
        return discriminator.apply(changed, image, None, True, mutable=["batch_stats"])[0]

    def r1(params):
        gradient = jax.grad(lambda image: logits(params, image).sum())(image)
        return 0.5 * (gradient**2).sum((1, 2, 3)).mean(), logits(params, image)

    (penalty, outputs), gradient = jax.jit(jax.value_and_grad(r1, has_aux=True))(variables["params"])
    copy_parameters(variables["params"], network)
    expected, expected_penalty = torch_training.logits_and_r1(network, channels_first(image))
    np.testing.assert_allclose(outputs, expected.detach(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(penalty, expected_penalty.detach(), rtol=1e-4)
    expected_penalty.backward()
    for name in ("from_image", "block_0", "down_0", "skip_0", "last"):
        actual = np.moveaxis(gradient[name]["kernel"], (3, 2), (0, 1))
        expected = network.get_submodule(name).weight.grad
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
