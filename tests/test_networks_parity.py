"""The PyTorch networks of the speed measurement are this project's, given this project's parameters."""

import pathlib
import sys

import jax
import needs
import numpy as np
import pytest

from genimg_jax.core import Spec
from genimg_jax.networks.image import ImageDecoder, ImageEncoder
from genimg_jax.objectives.likelihoods import LIKELIHOODS

torch = needs.module("torch")

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "experiments" / "benchmarks"))
import problems  # noqa: E402
import torch_step  # noqa: E402

torch.set_num_threads(1)  # its threads wait for each other spinning, which starves whoever shares the cores


@pytest.fixture(params=[name for name, p in problems.PROBLEMS.items() if p.family in ("gan", "vae") and not p.plain])
def problem(request):
    problem = problems.PROBLEMS[request.param]
    return problem._replace(model={**problem.model, "width": 8, "latent": 6})


def copy_parameters(params, network, small):
    """Linen's parameters into a `Sequential`: the layers come in the same order, with their axes arranged otherwise.

    `small` is (channels, height, width) where an image is flattened: rows of channels last become channels first.
    """

    def layers(*kinds):
        return enumerate(module for module in network.modules() if isinstance(module, kinds))

    def assign(module, source, weight):
        module.weight.data = torch.tensor(np.ascontiguousarray(weight))
        if "bias" in source:
            module.bias.data = torch.tensor(np.asarray(source["bias"]))

    def order(size):
        if small is None or size != np.prod(small):
            return np.arange(size)
        channels, height, width = small
        return np.arange(size).reshape(height, width, channels).transpose(2, 0, 1).ravel()

    for i, module in layers(torch.nn.Linear):
        source = dict(params[f"Dense_{i}"])
        weight = np.asarray(source["kernel"])[order(module.in_features)][:, order(module.out_features)].T
        if "bias" in source:
            source["bias"] = np.asarray(source["bias"])[order(module.out_features)]
        assign(module, source, weight)
    for i, module in layers(torch.nn.Conv2d):
        assign(module, params[f"Downsample_{i}"], np.asarray(params[f"Downsample_{i}"]["kernel"]).transpose(3, 2, 0, 1))
    for i, module in layers(torch.nn.ConvTranspose2d):
        assign(module, params[f"Upsample_{i}"], np.asarray(params[f"Upsample_{i}"]["kernel"]).transpose(3, 2, 0, 1))
    for i, module in layers(torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
        source = params[f"Normalization_{i}"]["BatchNorm_0"]
        module.weight.data, module.bias.data = (torch.tensor(np.asarray(source[n])) for n in ("scale", "bias"))


def initialize(module, inputs):
    """Variables with biases and scales of no special value, so that each of them shows."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, None, True))
    generator = np.random.default_rng(7)
    return jax.tree.map(lambda x: generator.normal(0.2, 0.2, x.shape).astype(np.float32), shapes)


def small_image(problem):
    features, (height, width, _) = torch_step.levels(problem), problem.image_shape
    if problem.model["network"] == "mlp":
        return None
    return features[-1], height >> len(features), width >> len(features)


def test_encoders_agree(problem):
    image = np.random.default_rng(0).standard_normal((3, *problem.image_shape)).astype(np.float32)
    module = ImageEncoder(problem.model["network"], 8, problem.model.get("depth", 1), 5)
    params = initialize(module, image)["params"]
    network = torch_step.encoder(problem, 5)
    copy_parameters(next(iter(params.values())), network, small_image(problem))
    expected = network(torch.tensor(image.transpose(0, 3, 1, 2))).detach().numpy()
    outputs = jax.jit(module.apply, static_argnums=(2, 3))({"params": params}, image, None, True)
    np.testing.assert_allclose(outputs, expected, atol=1e-4, rtol=1e-4)


def test_decoders_agree(problem):
    normalized = "generator_normalization" in problem.model
    code = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    module = ImageDecoder(
        problem.model["network"],
        8,
        problem.model.get("depth", 1),
        problem.image_shape,
        normalization="batch" if normalized else "none",
    )
    variables = initialize(module, code)
    network = torch_step.decoder(problem, problem.image_shape[2], normalized)
    copy_parameters(next(iter(variables["params"].values())), network, small_image(problem))
    expected = network(torch.tensor(code)).detach().numpy().transpose(0, 2, 3, 1)
    apply = jax.jit(lambda x: module.apply(x, code, None, True, mutable=["batch_stats"]))
    outputs, _ = apply(variables)
    np.testing.assert_allclose(outputs, expected, atol=1e-4, rtol=1e-3)


def test_likelihoods_agree():
    problem = problems.PROBLEMS["conv_vae"]
    image = problems.batches(problem, 1)[0][:4].astype(np.float32) / 127.5 - 1
    outputs = np.random.default_rng(0).standard_normal((4, 32, 32, 6)).astype(np.float32)
    expected = LIKELIHOODS["discretized_logistic"](Spec(problem.image_shape, 0, 256)).log_prob(outputs, image)
    actual = torch_step.log_prob(*(torch.tensor(x.transpose(0, 3, 1, 2)) for x in (outputs, image)))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5)
