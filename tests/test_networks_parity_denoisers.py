"""The PyTorch denoising networks of the speed measurement are this project's, given this project's parameters."""

import pathlib
import sys

import jax
import needs
import numpy as np
import pytest
from random_weights import random_weights

from genimg_jax.networks.dit import DiT
from genimg_jax.networks.unet import UNet

torch = needs.module("torch")

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "experiments" / "benchmarks"))
import problems  # noqa: E402
import torch_denoisers  # noqa: E402

torch.set_num_threads(1)  # its threads wait for each other spinning, which starves whoever shares the cores
MODELS = {
    "unet": (UNet, {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,)}),
    "dit": (DiT, {"patch": 2, "width": 16, "depth": 2, "heads": 2}),
}


def torch_parameters(params):
    """By PyTorch's names, with PyTorch's order of axes."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names, value = [p.key for p in path if not p.key.startswith("GroupNorm")], np.asarray(leaf)
        names[-1] = {"kernel": "weight", "scale": "weight", "bias": "bias"}[names[-1]]
        if names[:2] == ["trunk", "blocks"]:
            stacked = {".".join(["blocks", str(i), *names[2:]]): block for i, block in enumerate(value)}
        else:
            stacked = {".".join(names): value}
        # [rows, columns, in, out] -> [out, in, rows, columns], and [in, out] -> [out, in]
        found.update({k: v.transpose(3, 2, 0, 1) if v.ndim == 4 else v.T for k, v in stacked.items()})
    return found


@pytest.mark.parametrize("name", MODELS)
def test_networks_agree(name):
    kind, model = MODELS[name]
    problem = problems.PROBLEMS["unet"]._replace(model={"network": name, **model}, image_shape=(8, 12, 3))
    rng = np.random.default_rng(0)
    x, c_noise = rng.standard_normal((3, 8, 12, 3)).astype(np.float32), np.array([-1.3, 0.0, 0.9], np.float32)
    network = kind(**model, out=3)
    params = random_weights(network.init, jax.random.key(0), x, c_noise, None)["params"]
    outputs = jax.jit(network.apply)({"params": params}, x, c_noise, None)

    theirs = torch_denoisers.NETWORKS[name](problem)
    named, copied = dict(theirs.named_parameters()), torch_parameters(params)
    assert set(named) == set(copied)
    for key, value in copied.items():
        value = value.reshape(named[key].shape) if key.endswith("skip.weight") else value  # a 1x1 convolution there
        assert value.shape == tuple(named[key].shape), key
        named[key].data = torch.tensor(np.ascontiguousarray(value))
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(c_noise)).detach().numpy()
    np.testing.assert_allclose(outputs, expected.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
