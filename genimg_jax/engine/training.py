"""The trainer: one loop for every family, that the same command takes up again wherever it was cut."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from genimg_jax import core, progress
from genimg_jax.data import Source, open_source
from genimg_jax.engine import checkpoint, images, parallel, restored, run
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.engine.config import Config
from genimg_jax.engine.program import Program
from genimg_jax.errors import CheckpointError, ConfigError, DataError, NumericsError, Preempted

PATIENCE = 20  # consecutive steps without a finite gradient after which training gives up


def train(
    config: Config, values: Mapping[str, Any], workdir: pathlib.Path, force_resume: bool = False
) -> core.TrainState:
    """Trains to `train.steps`, from the run directory's last checkpoint where it has one, and returns the last state.

    `values` is the configuration as JSON, for the record. Raises a `Failure` of its kind for each thing that can go
    wrong; `Preempted` after SIGTERM or SIGINT, once the state is saved.
    """
    parallel.join(config.parallel)
    # Checkpoints are written together; of all other records, each further process keeps its own.
    records = workdir if jax.process_index() == 0 else workdir / f"process-{jax.process_index()}"
    run.prepare(records)
    with run.lock(records), run.Signals() as signals:
        source = open_source(config.data, config.data.train_split)
        held_out = open_source(config.data, config.data.evaluate_split) if config.train.evaluate_every else None
        program = restored.build(config, source.spec, source.stored_levels)
        _check_best(program)
        store = checkpoint.open_store(workdir, config.train.keep, config.train.best)
        try:
            state = _start(program, store, source, values, workdir, force_resume)
            if int(state.step) >= config.train.steps:
                print(f"{workdir} is trained: step {int(state.step)} of {config.train.steps}.")
            else:
                _write_manifest(program, source, state, values, records)
                state = _loop(program, store, state, source, held_out, values, records, signals)
        finally:
            checkpoint.close(store)  # waits for what is being written, whatever ended the run
    return state


def dry_run(config: Config) -> str:
    """Compiles the step and says what it needs, without training or writing anything."""
    if config.parallel.compile != "jit":
        raise ConfigError(f"a dry run of parallel.compile={config.parallel.compile!r} says nothing; set it to 'jit'.")
    source = open_source(config.data, config.data.train_split)
    program = restored.build(config, source.spec, source.stored_levels)
    batch = parallel.put_batch(next(programs.train_batches(program, source, 0)), program.mesh)
    memory = program.step.lower(program.like, batch, np.int32(0)).compile().memory_analysis()
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.like))
    return (
        f"{program.mesh.size} devices {dict(program.mesh.shape)}; state {state:,} bytes in all; a device needs "
        f"{memory.argument_size_in_bytes:,} bytes of arguments and {memory.temp_size_in_bytes:,} of temporaries"
    )


def _start(program, store, source, values, workdir, force_resume) -> core.TrainState:
    """Own run directory, else `resume`, else `init_from`, else scratch."""
    config = program.config
    step = checkpoint.last_step(store)
    if step is not None:
        _check_same(checkpoint.about(store, step)["config"], values, f"{workdir} step {step}", force_resume)
        _check_inputs(workdir, program, source, force_resume)
        print(f"resuming {workdir} from step {step}")
        return checkpoint.restore(store, step, program.like)
    if config.resume:
        other = checkpoint.open_store(pathlib.Path(config.resume), read_only=True)
        step = checkpoint.choose(other, "last")
        _check_inputs(pathlib.Path(config.resume), program, source, force_resume)
        _check_same(checkpoint.about(other, step)["config"], values, f"{config.resume} step {step}", force_resume)
        print(f"continuing {config.resume} from step {step}")
        return checkpoint.restore(other, step, program.like)
    state = program.init(config.seed)
    if config.init_from:
        other = checkpoint.open_store(pathlib.Path(config.init_from), read_only=True)
        state = _transfer(state, other, checkpoint.choose(other, "last"))
    return state


def _check_same(stored: Mapping[str, Any], given: Mapping[str, Any], where: str, force_resume: bool) -> None:
    found = configs.differences(stored, given)
    unsafe = [d for d in found if not d.safe]
    if unsafe and not force_resume:
        raise CheckpointError(
            f"the checkpoint {where} is of another configuration:\n{configs.table(unsafe)}\n"
            "Use another --workdir, or --force_resume to go on with the given values."
        )
    if found:
        print(f"changed since {where}:\n{configs.table(found)}")


def _check_inputs(workdir: pathlib.Path, program: Program, source: Source, force_resume: bool) -> None:
    if force_resume:
        return
    manifest = run.read_json(workdir, "manifest.json")
    restored.check_tokenizer(manifest, program, workdir)
    stored = manifest["dataset"]["fingerprint"]
    if stored != source.fingerprint:
        raise DataError(
            f"the training data changed since this run began: fingerprint {stored} then, {source.fingerprint} now. "
            "Restore it, use another --workdir, or --force_resume to go on."
        )


def _transfer(state: core.TrainState, store: checkpoint.Store, step: int) -> core.TrainState:
    """The parameters, and their averages, that another run has at the same path in the same shape."""
    theirs = checkpoint.restore_untyped(store, step)
    taken, missing = [], []

    def pick(path, mine):
        name = checkpoint.path_name(path)
        found = theirs.get(name)
        if found is not None and found.shape == mine.shape and found.dtype == mine.dtype:
            taken.append(name)
            return jax.device_put(found, mine.sharding)
        missing.append(name)
        return mine

    def average(path, mine):
        """Theirs where they kept one, else from their parameters: never an average of what was not loaded."""
        name = checkpoint.path_name(path)
        found = theirs.get(name.replace("params/", "ema/", 1), theirs.get(name))
        fits = found is not None and found.shape == mine.shape and found.dtype == mine.dtype
        # Not the parameter's own buffer: the step donates both.
        return jax.device_put(found, mine.sharding, may_alias=False) if fits else mine

    picked = jax.tree_util.tree_map_with_path(pick, state.replace(opt={}, ema={}, extra={}, frozen={}, step=None))
    averaged = jax.tree_util.tree_map_with_path(
        average, state.replace(params=state.ema, opt={}, ema={}, extra={}, frozen={}, step=None)
    )
    print(f"took {len(taken)} of {len(taken) + len(missing)} arrays from {store.directory} step {step}")
    for name in missing[:5]:
        print(f"  not there in this shape: {name}")
    if not taken:
        raise CheckpointError(f"init_from: no array of {store.directory} step {step} matches this model.")
    return state.replace(params=picked.params, ema=averaged.params)


def _write_manifest(program, source, state, values, workdir) -> None:
    """What the run depends on; a resumed run keeps the first manifest and adds what it continued with."""
    environment = run.environment()
    path = workdir / "manifest.json"
    if path.is_file():
        manifest = run.read_json(workdir, "manifest.json")
        manifest["resumed"] = [*manifest.get("resumed", []), {"step": int(state.step), **environment}]
    else:
        manifest = environment | {
            "config_digest": configs.digest(values),
            "dataset": {
                "fingerprint": source.fingerprint,
                "size": source.size,
                "spec": source.spec._asdict(),
                "stored_levels": source.stored_levels,
            },
            "tokenizer": program.tokenizer.record if program.tokenizer else None,
            "mesh": dict(program.mesh.shape),
            "parameters": {g: sum(x.size for x in jax.tree.leaves(t)) for g, t in state.params.items()},
        }
    run.write_json(path, manifest)
    run.write_json(workdir / "config.json", dict(values))


def _loop(program, store, state, source, held_out, values, workdir, signals) -> core.TrainState:
    train, seed = program.config.train, np.int32(program.config.seed)
    step, size = int(state.step), train.batch_size
    batches = programs.train_batches(program, source, step)
    log = run.MetricsLog(workdir, step)
    window: list[programs.Packed] = []
    skipped: dict[str, int] = {}
    alone = jax.process_count() == 1
    since = time.monotonic()
    bar = progress.bar("train", total=train.steps * size, initial=step * size, unit="image", unit_scale=True)
    with bar:
        if step == 0 and train.sample_every:
            _save_grid(program, state, held_out, workdir, 0)
        while step < train.steps:
            batch = parallel.put_batch(next(batches), program.mesh)
            state, metrics = program.step(state, batch, seed)
            window.append(metrics)
            step += 1
            bar.update(size)
            logged = step % train.log_every == 0
            # Asked once a step: a signal that comes later than here is for the next one.
            stopping = (alone or logged) and parallel.anywhere(signals.received is not None)
            due = stopping or step == train.steps or step % train.checkpoint_every == 0
            if due or logged:
                # A checkpoint ends the window too: an interrupted run then has the lines of an uninterrupted one.
                host = [metrics.unpack() for metrics in jax.device_get(window)]
                means = _means(host)
                images_per_second = len(window) * size / (time.monotonic() - since)
                log.write("train", step, step * size, means | {"images_per_second": images_per_second})
                bar.set_postfix_str(" ".join(f"{k}={v:.4g}" for k, v in means.items() if k.startswith("loss")), False)
                _check_updated(host, skipped, step, train.steps)
                window = []
            held_out_means = None
            if held_out is not None and (step % train.evaluate_every == 0 or step == train.steps):
                found = programs.evaluate(program, core.weights(state), held_out)
                held_out_means = {name: float(v.mean(dtype=np.float64)) for name, v in found.items()}
                log.write("evaluation", step, step * size, held_out_means)
            if train.sample_every and (step % train.sample_every == 0 or step == train.steps):
                _save_grid(program, state, held_out, workdir, step)
            if due:
                _check_finite(state, step)
                checkpoint.save(store, state, values, held_out_means)
            if not window:
                since = time.monotonic()
            if stopping and step < train.steps:
                checkpoint.wait(store)
                log.close()
                raise Preempted(f"stopped and saved at step {step}; the same command goes on from there.")
    log.close()
    return state


def _means(window: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([metrics[name] for metrics in window], dtype=np.float64)) for name in window[0]}


def _check_updated(window: list[dict[str, float]], skipped: dict[str, int], step: int, steps: int) -> None:
    """Counts in `skipped` each group's consecutive steps without an update, up to `step`. Raises `NumericsError`."""
    for metrics in window:
        for name in (n for n in metrics if n.startswith("skipped/")):
            skipped[name] = skipped.get(name, 0) + 1 if metrics[name] else 0
    for name, count in skipped.items():
        if count >= min(PATIENCE, steps):
            raise NumericsError(
                f"the gradient of {name.removeprefix('skipped/')} was not finite in the last {count} steps, from step "
                f"{step - count + 1} on; earlier checkpoints are kept. Lower the learning rate, or set clip_norm."
            )


def _check_finite(state: core.TrainState, step: int) -> None:
    """Raises `NumericsError` rather than let weights be saved that are not finite."""
    for group, tree in state.params.items():
        if not np.isfinite(_norm(tree)):
            raise NumericsError(
                f"the parameters of {group} are not finite at step {step}, which is not saved; earlier checkpoints are "
                "kept. Lower the learning rate, or set clip_norm."
            )


_norm = jax.jit(optax.tree.norm)


def _check_best(program: Program) -> None:
    """Raises `ConfigError` where `train.best` is never measured, before anything is trained for it."""
    train = program.config.train
    measured = programs.held_out_metrics(program) if train.evaluate_every else []
    if train.best and train.best not in measured:
        found = ", ".join(measured) or "nothing, with train.evaluate_every at 0"
        raise ConfigError(f"train.best is {train.best!r}, but evaluation measures {found}.")


def _save_grid(
    program: Program, state: core.TrainState, held_out: Source | None, workdir: pathlib.Path, step: int
) -> None:
    """The same keys at every step, so that grids can be compared over time; of what cannot sample, reconstructions."""
    weights, count, columns = core.weights(state), program.config.train.samples, None
    if program.family.sample is not None:
        pictures = programs.sample(program, weights, count, program.config.seed)
    elif program.family.decode is not None and held_out is not None:
        columns = programs.COLUMNS
        pictures = programs.reconstruct(program, weights, held_out, count // 2)
    else:
        return
    images.save_png(workdir / "samples" / f"{step}.png", images.grid(pictures, columns))
