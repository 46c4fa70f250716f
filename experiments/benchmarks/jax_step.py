"""A problem's training step in this project: what `genimg train` compiles, from bytes to new parameters."""

import itertools
from collections.abc import Callable

import numpy as np
from problems import Problem, batches

from genimg_jax.engine import runtime


def make(problem: Problem, variant: str) -> tuple[Callable[[int], float], dict]:
    """A function that takes so many steps and returns the last loss, and what it ran on.

    `variant` is 'tuned' (the problem's runtime options), 'plain' (XLA's defaults), or 'tuned-n' for n host devices.
    """
    name, _, devices = variant.partition("-")
    options = runtime.Options(**problem.runtime) if name == "tuned" else runtime.Options(cpu_tuning=False)
    if devices:
        options = runtime.Options(cpu_tuning=True, host_devices=int(devices))
    applied = runtime.prepare(options)

    import jax  # after the runtime's settings

    from genimg_jax.engine import parallel

    built = program_of(problem)
    state = built.init(np.int32(0))
    indices = np.arange(problem.batch_size, dtype=np.int32)
    data, names = itertools.cycle(batches(problem)), ("image", "source")[: problem.domains]

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            batch = {"index": indices, **{name: next(data) for name in names}}
            state, metrics = built.step(state, parallel.put_batch(batch, built.mesh), np.int32(0))
        jax.block_until_ready(state)
        found = jax.device_get(metrics).unpack()
        return next(value for name, value in found.items() if name.startswith("loss"))

    return run, {
        "version": f"jax {jax.__version__}",
        "settings": applied.removeprefix("runtime: "),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
    }


def program_of(problem: Problem):
    """The problem's family as `genimg train` compiles it."""
    from genimg_jax import core, families
    from genimg_jax.engine import config, program

    groups = families.load(problem.family).GROUPS
    adam = {"learning_rate": problem.optimizer["learning_rate"], "arguments": {"b1": problem.optimizer["b1"]}}
    experiment = config.experiment(
        problem.family,
        model=problem.model,
        optimizer=adam if len(groups) == 1 else dict.fromkeys(groups, adam),
        train={"batch_size": problem.batch_size},
        evaluate={"batch_size": problem.batch_size},
    )
    fields = {"source": core.Field(problem.image_shape, paired=False)} if problem.domains == 2 else {}
    spec = core.Spec(problem.image_shape, 0, problem.levels, fields)
    return program.build(config.resolve(experiment), spec, problem.levels)
