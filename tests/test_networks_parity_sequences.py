"""The PyTorch autoregressive models of the speed measurement are this project's, given this project's parameters."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import needs
import numpy as np
import optax
import pytest
from random_weights import random_weights

from genimg_jax import core, families
from genimg_jax.options import parse

torch = needs.module("torch")

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "experiments" / "benchmarks"))
import problems  # noqa: E402
import torch_sequences  # noqa: E402

torch.set_num_threads(1)  # its threads wait for each other spinning, which starves whoever shares the cores
SMALL = {"width": 8, "features": 4, "layers": 2, "depth": 2, "heads": 2}


def convolution(kernel):  # [rows, columns, in, out] -> [out, in, rows, columns]
    return kernel.transpose(3, 2, 0, 1)


def rows(params, problem):
    place = params["row_bias"] + params["column_bias"]
    bias = params["input_bias_0"].copy()
    if problem.model["cell"] == "lstm":
        bias[8:16] += 1  # the forget gate, open at first, is no parameter here
    return {
        "recurrent.weight_ih_l0": np.concatenate([params["input_kernel_0"], place]).T,
        "recurrent.bias_ih_l0": bias,
        "recurrent.weight_hh_l0": params["recurrent_kernel_0"].T,
        "recurrent.bias_hh_l0": np.zeros_like(bias),
        "output.weight": params["output_kernel"].T,
        "output.bias": params["output_bias"],
    }


def pixelcnn(params, problem):
    found = {"place": params["place"].transpose(2, 0, 1)}
    names = {name: name for name in ("first_down", "first_across", "hidden", "output")}
    for i in range(problem.model["layers"]):
        names.update({f"stack_{i}/{name}": f"stack.{i}.{name}" for name in ("down", "link", "across", "out")})
    for ours, theirs in names.items():
        module = params
        for part in ours.split("/"):
            module = module[part]
        found[f"{theirs}.weight"], found[f"{theirs}.bias"] = convolution(module["kernel"]), module["bias"]
    return found


def transformer(params, problem):
    embeddings = {"prefix": "prefix", "token": "token", "place_0": "row", "place_1": "column"}
    found = {f"{theirs}.weight": params[ours]["embedding"] for ours, theirs in embeddings.items()}
    modules = {"norm": params["norm"], "logits": params["logits"]}
    for i in range(problem.model["depth"]):
        modules.update({f"blocks.{i}.{name}": module for name, module in params[f"blocks_{i}"].items()})
    for name, module in modules.items():
        found[f"{name}.weight"] = module["kernel"].T if "kernel" in module else module["scale"]
        if "bias" in module:
            found[f"{name}.bias"] = module["bias"]
    return found


COPIES = {"rnn": rows, "pixelcnn": pixelcnn, "transformer": transformer}


@pytest.mark.parametrize("name", [name for name, p in problems.PROBLEMS.items() if p.family in COPIES])
def test_likelihoods_agree(name):
    problem = problems.PROBLEMS[name]
    changes = {key: value for key, value in SMALL.items() if key in problem.model}
    problem = problem._replace(
        model={**problem.model, **changes}, image_shape=(6, 7, 1), batch_size=3, levels=min(problem.levels, 5)
    )
    module = families.load(problem.family)
    defaults = vars(module.Options())
    options = parse(module.Options, {**defaults, **problem.model}, "model")
    spec = core.Spec(problem.image_shape, 0, problem.levels)
    family = module.make(options, spec, {"model": core.Optimizer(optax.sgd(0.1))})
    image = jnp.asarray(2 * problems.batches(problem, 1)[0] / (problem.levels - 1) - 1, jnp.float32)
    batch = {"image": image, "index": jnp.arange(3)}
    params = random_weights(lambda key: family.init(key, batch).params, jax.random.key(0), scale=1.5)
    expected = jax.jit(family.log_prob)(core.Weights(params, {}, {}), batch, jax.random.key(0))

    model = torch_sequences.MODELS[problem.family](problem)
    copied = COPIES[problem.family](jax.tree.map(np.asarray, params["model"]), problem)
    named = dict(model.named_parameters())
    assert set(copied) == set(named)
    for key, value in copied.items():
        assert value.shape == tuple(named[key].shape), key
        named[key].data = torch.tensor(np.ascontiguousarray(value))
    assert sum(x.size for x in jax.tree.leaves(params)) == sum(p.numel() for p in named.values())
    actual = model(torch.tensor(np.asarray(image).transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(-actual.item(), expected.mean(), rtol=1e-5)
