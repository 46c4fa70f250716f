"""A run, opened for use: its configuration and program with the weights of one of its checkpoints. Writes nothing."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from genimg_jax import core
from genimg_jax.engine import checkpoint, run
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.engine.program import Program
from genimg_jax.errors import CheckpointError


class Restored(NamedTuple):
    program: Program
    weights: core.Weights
    step: int
    dataset: Mapping[str, Any]  # as the manifest has it


def open_run(workdir: pathlib.Path, values: Mapping[str, Any], which: str, averaged: bool = True) -> Restored:
    """The checkpoint `which` ('best', 'last' or a step) of a run, under the configuration `values`.

    `values` may differ from the run's own only where that changes nothing that was trained.
    """
    config = configs.resolve(values)
    found = [d for d in configs.differences(run.read_json(workdir, "config.json"), values) if not d.safe]
    changed = [d for d in found if not d.key.startswith("data.")]
    if changed:
        raise CheckpointError(f"{workdir} was trained with another configuration:\n{configs.table(changed)}")
    dataset = run.read_json(workdir, "manifest.json")["dataset"]
    spec = core.Spec(**dataset["spec"])
    spec = spec._replace(image_shape=tuple(spec.image_shape))
    program = programs.build(config, spec, dataset["stored_levels"])
    store = checkpoint.open_store(workdir, config.train.keep, config.train.best, read_only=True)
    step = checkpoint.choose(store, which)
    state = checkpoint.restore(store, step, program.like)
    return Restored(program, core.weights(state, averaged), step, dataset)
