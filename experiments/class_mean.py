"""The smallest family: the mean image of each class, with noise. README, "Adding a family", explains it.

    python experiments/class_mean.py train --config experiments/class_mean.py --workdir runs/class_mean
    python experiments/class_mean.py sample --workdir runs/class_mean

runs any command with it, as if it were a module of `genimg_jax/families`, had a line in its registry and a file in
`configs`.
"""

import dataclasses
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.engine.config import SIX_STEPS, experiment
from genimg_jax.options import bounded, names

GROUPS = ("model",)  # the groups of parameters, each with an optimiser of its own


@dataclasses.dataclass(frozen=True)
class Options:
    noise: float = bounded(0.1, 0.0)  # standard deviation of samples around the mean of their class
    conditions: tuple[str, ...] = names()  # fields of the data that it is told; only `label` is of use here


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with one parameter group, `model`: f32[classes, H, W, C]."""
    fields = core.fields_of(options.conditions, spec)

    def mean(params, batch):  # -> f32[B, H, W, C]
        label = batch["label"] if fields else jnp.zeros(len(batch["index"]), jnp.int32)
        return params["mean"][label]

    def errors(params, batch):  # -> f32[B]
        return ((mean(params, batch) - batch["image"]) ** 2).sum((1, 2, 3))

    def init(key, batch):
        shape = (spec.num_classes if fields else 1, *spec.image_shape)
        return core.init_state({"model": {"mean": 0.1 * jax.random.normal(key, shape)}}, optimizers)

    def train_step(state, batch, key):
        def loss(params, part, key):
            value = errors(params, part).mean()
            return value, {"loss": value}

        state, metrics = core.train_group(optimizers["model"], state, "model", loss, batch, key)
        return state.replace(step=state.step + 1), metrics

    def evaluate(weights, batch, key):
        return {"loss": errors(weights.params["model"], batch)}

    def sample(weights, keys, batch):
        noise = options.noise * core.normal(keys, spec.image_shape)  # each image's from its own key
        return jnp.clip(mean(weights.params["model"], {"index": keys, **batch}) + noise, -1, 1)

    return core.Family(init, train_step, evaluate, objective=("loss",), sample=sample, conditions=options.conditions)


def get_config(variant: str = ""):
    return experiment(
        "class_mean",
        model={"conditions": ("label",)},
        data={"source": "digits"},
        optimizer={"learning_rate": 1e-2},
        train={"steps": 500, "batch_size": 64, "log_every": 50, "evaluate_every": 250, "checkpoint_every": 250},
        variants={"tiny": SIX_STEPS},
        variant=variant,
    )


if __name__ == "__main__":
    from genimg_jax import families
    from genimg_jax.__main__ import main

    families.REGISTRY += ("class_mean",)
    sys.modules["genimg_jax.families.class_mean"] = sys.modules[__name__]
    sys.exit(main(sys.argv[1:]))
