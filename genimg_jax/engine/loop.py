"""The training loop: one for every family, and for one run as for several that are one program.

`program.apart` is all that tells the two from each other: it gives each run what is its own. Every run has records of
its own, and a failure of its own, which stops no other.
"""

import contextlib
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax

from genimg_jax import core, progress
from genimg_jax.data import Source
from genimg_jax.engine import checkpoint, images, parallel, run, tasks
from genimg_jax.engine import program as programs
from genimg_jax.engine.program import Program
from genimg_jax.errors import Failure, NumericsError, Preempted

PATIENCE = 20  # consecutive steps without a finite gradient after which training gives up
AHEAD = 2  # steps given to the device before their turn: it is never idle, and a stop waits for no more than these


@dataclass
class Records:
    """Where a run is written, and why it was given up, if it was."""

    values: Mapping[str, Any]  # its configuration, as JSON
    workdir: pathlib.Path
    files: pathlib.Path  # what is written besides checkpoints: the workdir, but in further processes one of their own
    store: checkpoint.Store | None = None  # once it is open
    failure: Failure | None = None
    skipped: dict[str, int] = field(default_factory=dict)  # by metric: consecutive steps without an update


def living(records: Sequence[Records]) -> list[int]:
    """The runs that have not failed."""
    return [i for i, record in enumerate(records) if record.failure is None]


@contextlib.contextmanager
def alone(records: Sequence[Records], i: int) -> Iterator[None]:
    """A failure in it is run i's alone; it is raised where no other run is left to go on with."""
    try:
        yield
    except Failure as failure:
        records[i].failure = failure
        if not living(records):
            raise


def run_steps(
    program: Program,
    records: Sequence[Records],
    state: core.TrainState,
    step: int,
    source: Source,
    validation: Source | None,
    signals: run.Signals,
) -> core.TrainState:
    """Trains from `step` on to `train.steps`; why a run failed is left in its records, and the last failure is raised.

    Raises `Preempted` when it was asked to stop, once every run is saved.
    """
    train = program.config.train
    size, count = train.batch_size, len(records)
    batches = programs.train_batches(program, source, step)
    window: list[programs.Packed] = []
    one_process = jax.process_count() == 1
    since = time.monotonic()
    every = size * count
    bar = progress.bar("train", total=train.steps * every, initial=step * every, unit="image", unit_scale=True)
    with contextlib.ExitStack() as open_logs, bar:
        logs = {i: run.MetricsLog(records[i].files, step) for i in living(records)}
        for log in logs.values():
            open_logs.callback(log.close)
        if step == 0 and train.sample_every:
            _save_grids(program, state, validation, records, 0)
        while step < train.steps:
            batch = parallel.put_batch(next(batches), program.mesh)
            state, metrics = program.step(state, batch, program.seed)
            window.append(metrics)
            jax.block_until_ready(window[-AHEAD - 1 : -AHEAD])
            step += 1
            bar.update(every)
            logged = step % train.log_every == 0
            # Asked once a step: a signal that comes later than here is for the next one.
            stopping = (one_process or logged) and parallel.anywhere(signals.received is not None)
            due = stopping or step == train.steps or step % train.checkpoint_every == 0
            if due or logged:
                # A checkpoint ends the window too: an interrupted run then has the lines of an uninterrupted one.
                host = [program.apart(metrics) for metrics in jax.device_get(window)]
                rate = {"images_per_second": len(window) * size / (time.monotonic() - since)}
                for i in living(records):
                    own = [metrics[i].unpack() for metrics in host]
                    means = _means(own)
                    logs[i].write("train", step, step * size, means | rate)
                    with alone(records, i):
                        _check_updated(own, records[i].skipped, step, train.steps)
                shown = " ".join(f"{k}={v:.4g}" for k, v in means.items() if k.startswith("loss"))
                bar.set_postfix_str(shown, False)
                window = []
            validation_means: list[dict[str, float] | None] = [None] * count
            if validation is not None and (step % train.evaluate_every == 0 or step == train.steps):
                found = program.apart(tasks.evaluate(program, core.weights(state), validation))
                validation_means = [{n: float(v.mean(dtype=np.float64)) for n, v in own.items()} for own in found]
                for i in living(records):
                    logs[i].write("evaluation", step, step * size, validation_means[i])
            if train.sample_every and (step % train.sample_every == 0 or step == train.steps):
                _save_grids(program, state, validation, records, step)
            if due:
                states = program.apart(state)
                for i in living(records):
                    with alone(records, i):
                        _check_finite(states[i], step)
                        checkpoint.save(records[i].store, states[i], records[i].values, validation_means[i])
            if not window:
                since = time.monotonic()
            if stopping and step < train.steps:
                for i in living(records):
                    checkpoint.wait(records[i].store)
                message = f"stopped and saved at step {step}; the same command goes on from there."
                raise Preempted(message, signals.received)
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
    """Raises `NumericsError` rather than let weights be saved that are lost: not finite, or too large to be squared."""
    for group, tree in state.params.items():
        if not np.isfinite(_norm(tree)):
            raise NumericsError(
                f"the parameters of {group} overflow at step {step}, which is not saved; earlier checkpoints are "
                "kept. Lower the learning rate, or set clip_norm."
            )


_norm = jax.jit(optax.tree.norm)


def _save_grids(
    program: Program, state: core.TrainState, validation: Source | None, records: Sequence[Records], step: int
) -> None:
    """The same keys at every step, so that grids can be compared over time; of what cannot sample, reconstructions."""
    weights, count = core.weights(state), program.config.train.samples
    if program.family.sample is not None:
        columns = tasks.sample_columns(program, count)
        pictures = tasks.sample(program, weights, count, program.seed)
    elif program.family.decode is not None and validation is not None:
        columns = tasks.COLUMNS
        pictures = tasks.reconstruct(program, weights, validation, count // 2)
    else:
        return
    pictures = program.apart(pictures)
    for i in living(records):
        images.save_png(records[i].files / "samples" / f"{step}.png", images.grid(pictures[i], columns))
