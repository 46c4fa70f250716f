"""A denoising network's training step on a plain loss: what is measured is the network, whatever family trains it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from problems import Problem

from genimg_jax import core
from genimg_jax.data import transforms
from genimg_jax.data.records import Options as DataOptions
from genimg_jax.engine import optimizers, parallel, program
from genimg_jax.networks.dit import DiT
from genimg_jax.networks.unet import UNet

NETWORKS = {"unet": UNet, "dit": DiT}


class Denoiser(NamedTuple):
    """What the measurement needs of an `engine.program.Program`."""

    mesh: jax.sharding.Mesh
    init: Callable
    step: Callable


def loss(network, params: core.Tree, batch: core.Batch, key: jax.Array) -> jax.Array:
    """Squared error of the clean image, from one with noise of a level in [0, 1]."""  # [B, H, W, C] -> f32[]
    image, keys = batch["image"], core.item_keys(key, batch["index"])
    c_noise = jax.vmap(jax.random.uniform)(core.fold_in(keys, 0))
    noise = core.normal(core.fold_in(keys, 1), image.shape[1:])
    noisy = image + c_noise[:, None, None, None] * noise
    return jnp.square(network.apply({"params": params}, noisy, c_noise, None, True) - image).mean()


def build(problem: Problem) -> Denoiser:
    options = {key: value for key, value in problem.model.items() if key != "network"}
    network = NETWORKS[problem.model["network"]](**options, out=problem.image_shape[2])
    adam = optimizers.Options(
        learning_rate=problem.optimizer["learning_rate"], arguments={"b1": problem.optimizer["b1"]}
    )
    optimizer = optimizers.make(adam, 1, problem.batch_size)
    layout = parallel.Options()
    mesh = parallel.make_mesh(layout)

    def init(seed):
        blank = jnp.zeros((1, *problem.image_shape)), jnp.zeros(1), None, True
        params = network.init(core.stream(seed, "init"), *blank)["params"]
        return core.init_state({"model": params}, {"model": optimizer})

    def step(state, raw, seed):
        batch = transforms.prepare(raw, core.stream(seed, "augment", state.step), DataOptions(), problem.levels, True)

        def mean_loss(params, part, key):
            return loss(network, params, part, key), {}

        key = core.stream(seed, "train", state.step)
        (value, _), gradients = core.value_and_grad(optimizer, mean_loss)(state.params["model"], batch, key)
        state, _ = core.update(optimizer, state, "model", gradients)
        return state.replace(step=state.step + 1), program.Packed(("loss",), value[None])

    like = parallel.abstract(jax.eval_shape(init, jnp.int32(0)), mesh, layout)
    return Denoiser(mesh, parallel.compile_init(init, like), parallel.compile_step(step, like, mesh, layout))
