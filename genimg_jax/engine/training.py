"""The trainer: the same command starts a run and resumes an interrupted one."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core, directions, files
from genimg_jax.data import Part, Source, identity, text
from genimg_jax.engine import checkpoint, features, loop, parallel, restore, run, vmapped
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.engine.config import Config
from genimg_jax.engine.config_differences import differences, table
from genimg_jax.engine.old_configs import complete
from genimg_jax.engine.program import Program
from genimg_jax.engine.record import RunRecord, active, isolate_failure, run_record
from genimg_jax.engine.transfer import transfer
from genimg_jax.errors import CheckpointError, ConfigError, DataError, Failure
from genimg_jax.options import nearest


def train(
    config: Config, values: Mapping[str, Any], workdir: pathlib.Path, force_resume: bool = False
) -> core.TrainState:
    """Trains to `train.steps`, from the last checkpoint of the run directory if there is one; returns the last state.

    `values` is the configuration as JSON, for the record. Raises `Failure`, such as `Preempted` after SIGTERM or
    SIGINT, once the state is saved.
    """
    return _train(config, [run_record(values, workdir, config)], restore.build, force_resume)


def train_together(runs: Sequence[tuple[Mapping[str, Any], pathlib.Path]]) -> list[Failure | None]:
    """Trains several runs, pairs of a configuration as JSON and a directory, as one program; returns their failures.

    They must be equal in `vmapped.shared` and have reached the same step. Raises failures of all runs, such as
    `Preempted`.
    """
    config = configs.resolve(runs[0][0])
    records = [run_record(values, workdir, config) for values, workdir in runs]

    def build(config: Config, spec: core.Spec, stored_levels: int) -> Program:
        return vmapped.build([r.config for r in records], spec, stored_levels, restore.tokenizer(config, spec))

    try:
        _train(config, records, build, force_resume=False)
    except Failure:
        if active(records):
            raise
    return [r.failure for r in records]


def _train(
    config: Config, records: Sequence[RunRecord], build: Callable[..., Program], force_resume: bool
) -> core.TrainState:
    with contextlib.ExitStack() as locks, run.Signals() as signals, contextlib.ExitStack() as stores:
        for i, record in enumerate(records):
            with isolate_failure(records, i):
                locks.enter_context(record.locked())
        config = config._replace(data=restore.with_kept(config.data, records[0].folder, config.resume))
        source = features.open_source(config.data, Part.TRAIN)
        validated = config.train.evaluate_every and config.data.validation_split != "none"
        validation = features.open_source(config.data, Part.VALIDATION, source) if validated else None
        program = build(config, source.spec, source.stored_levels)
        _check_best(program)
        _check_classes(program, source)
        for i in active(records):
            with isolate_failure(records, i):
                stores.enter_context(records[i].checkpoints(config.train.keep, config.train.best))
        state, step, origins = _start(program, records, source, force_resume)
        if step < config.train.steps:
            environment, inputs = run.environment(), _inputs(program, source)
            for i in active(records):
                records[i].write_manifest(step, environment | origins[i], inputs | _companions(records, i))
                if source.vocabulary:
                    text.save(source.vocabulary, records[i].folder)
                if source.encoder:
                    files.write_json(records[i].folder / restore.FEATURES_FILE, source.encoder)
            return loop.run_steps(program, records, state, step, source, validation, signals)
        for i in active(records):
            print(f"{records[i].workdir} is trained: step {step} of {config.train.steps}.")
        return state


def dry_run(config: Config) -> str:
    """Compiles the step and reports the memory that it needs, without training or writing anything."""
    if config.parallel.compile != "jit":
        raise ConfigError(f"a dry run of parallel.compile={config.parallel.compile!r} says nothing; set it to 'jit'.")
    source = features.open_source(config.data, Part.TRAIN)
    program = restore.build(config, source.spec, source.stored_levels)
    batch = parallel.put_batch(next(programs.train_batches(program, source, 0)), program.mesh)
    memory = program.step.lower(program.abstract_state, batch, np.int32(0)).compile().memory_analysis()
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.abstract_state))
    return (
        f"{program.mesh.size} devices {dict(program.mesh.shape)}; state {state:,} bytes in all; a device needs "
        f"{memory.argument_size_in_bytes:,} bytes of arguments and {memory.temp_size_in_bytes:,} of temporaries"
    )


def _start(
    program: Program, records: Sequence[RunRecord], source: Source, force_resume: bool
) -> tuple[core.TrainState, int, dict[int, dict[str, Any]]]:
    """The state to continue from, its step, which must be the same for all runs, and by run the part of the manifest
    about `init_from`."""
    fresh = functools.cache(lambda: program.unstack(program.init(program.seed)))
    states: dict[int, core.TrainState] = {}
    origins: dict[int, dict[str, Any]] = {}
    for i in active(records):
        with isolate_failure(records, i):
            stored = _start_one(program, records[i], source, force_resume)
            states[i], origins[i] = (stored, {}) if stored else _initialized(program, fresh()[i])
    steps = {int(state.step) for state in states.values()}
    if len(steps) > 1:
        raise CheckpointError(f"runs at the steps {sorted(steps)} cannot go on as one program; train each by itself.")
    # A failed run keeps its row of the stacked arrays; its values are never used.
    stacked = program.stack([states[i] if i in states else fresh()[i] for i in range(len(records))])
    return stacked, steps.pop(), origins


def _start_one(program: Program, record: RunRecord, source: Source, force_resume: bool) -> core.TrainState | None:
    """The last state in the run's directory, else in that of `resume`; None if there is neither."""
    config, values, workdir = program.config, record.config, record.workdir
    step = checkpoint.last_step(record.store)
    if step is not None:
        _check_same(checkpoint.about(record.store, step)["config"], values, f"{workdir} step {step}", force_resume)
        _check_inputs(workdir, program, source, force_resume)
        print(f"resuming {workdir} from step {step}")
        return checkpoint.restore(record.store, step, program.abstract_state)
    if not config.resume:
        return None
    other = checkpoint.open_store(pathlib.Path(config.resume), read_only=True)
    step = checkpoint.choose(other, "last")
    _check_inputs(pathlib.Path(config.resume), program, source, force_resume)
    _check_same(checkpoint.about(other, step)["config"], values, f"{config.resume} step {step}", force_resume)
    print(f"continuing {config.resume} from step {step}")
    return checkpoint.restore(other, step, program.abstract_state)


def _initialized(program: Program, state: core.TrainState) -> tuple[core.TrainState, dict[str, Any]]:
    """A fresh state, with the parameters of the run `init_from` if there is one; and the manifest's part about them."""
    if not program.config.init_from:
        return state, {}
    other = checkpoint.open_store(pathlib.Path(program.config.init_from), read_only=True)
    frozen = {group: options.frozen for group, options in program.config.optimizer.items()}
    return transfer(jax.tree.map(jnp.asarray, state), other, checkpoint.choose(other, "last"), frozen)


def _check_same(stored: Mapping[str, Any], requested: Mapping[str, Any], where: str, force_resume: bool) -> None:
    changes = differences(complete(stored), requested)
    unsafe = [d for d in changes if not d.safe]
    if unsafe and not force_resume:
        raise CheckpointError(
            f"the checkpoint {where} is of another configuration:\n{table(unsafe)}\n"
            "Give the stored values, use another --workdir, or --force_resume to go on with the given ones."
        )
    if changes:
        print(f"changed since {where}:\n{table(changes)}")


def _check_inputs(workdir: pathlib.Path, program: Program, source: Source, force_resume: bool) -> None:
    if force_resume:
        return
    manifest = run.read_json(workdir, "manifest.json")
    restore.check_tokenizer(manifest, program, workdir)
    if changed := identity.change(manifest["dataset"], source):
        raise DataError(
            f"the training data changed since this run began: {changed}. Restore it, use another --workdir, or "
            "--force_resume to go on."
        )


def _companions(records: Sequence[RunRecord], i: int) -> dict[str, Any]:
    """The part of the manifest about the runs trained with run i: enough to train all of them again."""
    entries = {"trained_together": len(records)}
    if len(records) > 1:
        entries |= {"place": i, "companions": vmapped.differing([record.config for record in records])}
    return entries


def _inputs(program: Program, source: Source) -> dict[str, Any]:
    """The part of the manifest about the inputs of runs; the other part is their environment."""
    return {
        "dataset": identity.record(source),
        "tokenizer": program.tokenizer.record if program.tokenizer else None,
        "mesh": dict(program.mesh.shape),
        "parameters": {g: sum(x.size for x in jax.tree.leaves(t)) for g, t in program.abstract_state.params.items()},
    }


def _check_best(program: Program) -> None:
    """Raises `ConfigError` if evaluation never measures `train.best`, or neither direction of it is better."""
    train, split = program.config.train, program.config.data.validation_split
    if not train.best:
        return
    if not train.evaluate_every or split == "none":
        why = f"train.evaluate_every is {train.evaluate_every} and data.validation_split {split!r}"
        raise ConfigError(f"train.best is {train.best!r}, but nothing is measured: {why}.")
    measured = programs.held_out_metrics(program)
    if train.best not in measured:
        near, names = nearest(train.best, measured), ", ".join(measured)
        raise ConfigError(f"train.best is {train.best!r}, which evaluation does not measure{near} It measures {names}.")
    if not directions.of(train.best).better:
        ranked = ", ".join(name for name in measured if directions.of(name).better) or "nothing"
        raise ConfigError(
            f"train.best is {train.best!r}, of which neither higher nor lower is better; choose {ranked}. A new metric "
            "declares it in directions.py."
        )


def _check_classes(program: Program, source: Source) -> None:
    """Raises `DataError` if the family is conditioned on a class of which it never sees an image."""
    if "label" not in program.family.conditions or not source.class_counts:
        return
    unseen = [name for name, count in zip(source.classes, source.class_counts, strict=True) if not count]
    if unseen:
        raise DataError(
            f"the training split {source.split!r} holds no image of {len(unseen)} of "
            f"{len(source.classes)} classes, such as {unseen[0]!r}, which the model then cannot learn: give it "
            "images of each class (config.data.train_split, config.data.limit), or take the label out of "
            "config.model.conditions."
        )
