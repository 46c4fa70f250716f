"""Several runs as one program under `vmap`: their configurations differ in seeds and float options alone.

Each run has its own random streams and order of the data, so that it is identical to a separate run up to rounding: a
batched product may sum in another order.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core, families
from genimg_jax.data import Part
from genimg_jax.engine import config as configs
from genimg_jax.engine import features, optimizers, parallel
from genimg_jax.engine import program as programs
from genimg_jax.engine.config import Config
from genimg_jax.engine.program import Program, Stage


def traceable(values: Mapping[str, Any]) -> dict[str, bool]:
    """{flat key: whether it is structural} of the values that may differ, for a configuration as JSON.

    These are the seed, and every float option of the model and the optimisers that is not marked static. Values of a
    structural option may differ only if none is 0.
    """
    module = families.load(values["family"])
    groups = [""] if len(module.GROUPS) == 1 else [f"{group}." for group in module.GROUPS]
    kinds = {"model.": module.Options} | {f"optimizer.{group}": optimizers.Options for group in groups}
    keys = {"seed": False}
    for prefix, kind in kinds.items():
        for field in dataclasses.fields(kind):
            if field.type in (float, "float") and not field.metadata.get("static"):
                keys[prefix + field.name] = field.metadata.get("structural", False)
    return keys


def shared(values: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration that runs of one program must have in common: without the values that may differ.

    For a structural option, it says whether the value is 0.
    """
    flat = configs.flatten(values)
    for key, structural in traceable(values).items():
        value = flat.pop(key)
        if structural:
            flat[key] = "on" if value else 0.0
    return flat


def why_not_vmappable(values: Mapping[str, Any]) -> str:
    """Why a configuration cannot share a program with any other; "" if it can."""
    options = values["parallel"]
    if options["compile"] != "jit":
        return f"parallel.compile is {options['compile']!r}"
    if options["fsdp"] > 1:
        return "parallel.fsdp splits each run over devices"
    return "parallel.distributed trains over several processes" if options["distributed"] else ""


def has_convolutions(values: Mapping[str, Any]) -> bool:
    """Whether a configuration over pixels has kernels of convolutions. Opens the data, for the images' shape."""
    config = configs.resolve(values)
    if config.tokenizer.workdir:
        return False
    source = features.open_source(config.data, Part.TRAIN)
    init = programs.functions(config, source.spec, source.stored_levels, None).init
    return any(x.ndim == 4 for x in jax.tree.leaves(jax.eval_shape(init, jnp.int32(0)).params))


def build(
    runs: Sequence[Mapping[str, Any]], spec: core.Spec, stored_levels: int, tokenizer: Stage | None = None
) -> Program:
    """The program of R configurations as JSON, which are equal in `shared`.

    Every device trains the same number of runs: if R is not a multiple of the devices, the last run is repeated.
    """
    config, count = configs.resolve(runs[0]), len(runs)
    uncompiled = programs.functions(config, spec, stored_levels, tokenizer)
    mesh = parallel.make_run_mesh(config.parallel, count)
    runs = [*runs, *[runs[-1]] * (-count % mesh.size)]
    stacking = parallel.batch_sharding(mesh)
    # The weights of a first stage are the same for every run: they are never stacked.
    frozen = jax.device_put(tokenizer.weights if tokenizer else {}, parallel.replicated(mesh))
    options = jax.device_put(_differing(runs), stacking)
    single = dataclasses.replace(config.parallel, devices=1)
    single_mesh = parallel.make_mesh(single)
    abstract_state = parallel.abstract(jax.eval_shape(uncompiled.init, jnp.int32(0)), single_mesh, single)
    if tokenizer:
        abstract_state = abstract_state.replace(frozen_params=parallel.put(tokenizer.weights, single_mesh, single))

    def functions(run_options: Mapping[str, jax.Array]) -> programs.Functions:
        return programs.functions(_replaced(config, run_options), spec, stored_levels, tokenizer)

    def step(state, batch, seed, frozen, run_options):
        state, metrics = functions(run_options).step(state.replace(frozen_params=frozen), batch, seed)
        return state.replace(frozen_params={}), metrics

    def apply(task, weights, batch, seed, frozen, run_options):
        return functions(run_options).apply(task, weights._replace(frozen_params=frozen), batch, seed)

    start = parallel.compile_runs(lambda seed, run_options: functions(run_options).init(seed), mesh, (0, 0))
    advance = parallel.compile_runs(step, mesh, (0, 0, 0, None, 0), donate=True)

    def next_state(state, batch, seed):
        state, metrics = advance(state.replace(frozen_params={}), batch, seed, frozen, options)
        return state.replace(frozen_params=frozen), metrics

    @functools.cache
    def compiled(task: programs.Task) -> Callable:
        return parallel.compile_runs(functools.partial(apply, task), mesh, (0, None, 0, None, 0))

    return Program(
        config=config,
        spec=spec,
        family=uncompiled.family,
        mesh=mesh,
        tokenizer=tokenizer,
        seed=jax.device_put(np.int32([values["seed"] for values in runs]), stacking),
        unstack=lambda tree: _unstacked(tree, count),
        stack=lambda states: _stacked(states, len(runs), stacking).replace(frozen_params=frozen),
        abstract_state=abstract_state,
        init=lambda seed: start(seed, options).replace(frozen_params=frozen),
        step=next_state,
        apply=lambda task, weights, batch, seed: compiled(task)(
            weights._replace(frozen_params={}), batch, seed, frozen, options
        ),
    )


def _unstacked(tree: core.Tree, count: int) -> list[core.Tree]:
    """The arrays of each run, on the host, without `frozen_params`."""
    host = jax.device_get(tree.replace(frozen_params={}) if isinstance(tree, core.TrainState) else tree)
    return [jax.tree.map(lambda x, i=i: x[i], host) for i in range(count)]


def _stacked(states: Sequence[core.TrainState], places: int, stacking: jax.sharding.Sharding) -> core.TrainState:
    """The states of single runs, stacked; the last is repeated to fill the `places`."""
    rows = [jax.device_get(state.replace(frozen_params={})) for state in states]
    stacked = jax.tree.map(lambda *x: np.stack(x), *rows, *[rows[-1]] * (places - len(rows)))
    return jax.device_put(stacked, stacking)


def _differing(runs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """{flat key: f32[R]} of the options whose values differ; the others stay constants."""
    per_run = differing(runs)
    return {key: np.float32([values[key] for values in per_run]) for key in per_run[0] if key != "seed"}


def differing(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each run of one program, the values of the flat keys in which the runs differ."""
    flat = [configs.flatten(values) for values in runs]
    keys = [key for key in traceable(runs[0]) if len({values[key] for values in flat}) > 1]
    return [{key: values[key] for key in keys} for values in flat]


def _replaced(config: Config, options: Mapping[str, jax.Array]) -> Config:
    """The configuration with traced values for some flat keys, such as `model.beta`."""
    for key, value in options.items():
        section, *group, name = key.split(".")
        if section == "model":
            config = config._replace(model=dataclasses.replace(config.model, **{name: value}))
        else:
            owner = group[0] if group else next(iter(config.optimizer))
            changed = dataclasses.replace(config.optimizer[owner], **{name: value})
            config = config._replace(optimizer={**config.optimizer, owner: changed})
    return config
