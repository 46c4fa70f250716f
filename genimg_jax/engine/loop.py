"""The training loop: one for every family, for a single run and for several that are trained as one program.

`program.unstack` is the only difference between the two: it gives each run its own arrays. Each run has its own record,
and a run that fails stops no other.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
import optax
from tqdm import tqdm

from genimg_jax import core, progress
from genimg_jax.data import Source
from genimg_jax.engine import conditions, parallel, run, tasks
from genimg_jax.engine import program as programs
from genimg_jax.engine.config import TrainOptions
from genimg_jax.engine.program import Packed, Program
from genimg_jax.engine.record import RunRecord, active, isolate_failure
from genimg_jax.errors import NumericsError, Preempted

PATIENCE = 20  # consecutive steps without a finite gradient after which training fails
AHEAD = 2  # steps queued on the device: it is never idle, and a stop waits for at most these

Records = Sequence[RunRecord]


@dataclass
class Window:
    """The steps since the last line of metrics."""

    metrics: list[Packed] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def add(self, metrics: Packed) -> None:
        """Waits for an earlier step, so that the device is at most `AHEAD` steps behind."""
        self.metrics.append(metrics)
        jax.block_until_ready(self.metrics[-AHEAD - 1 : -AHEAD])


def run_steps(
    program: Program,
    records: Records,
    state: core.TrainState,
    step: int,
    source: Source,
    validation: Source | None,
    signals: run.Signals,
) -> core.TrainState:
    """Trains from `step` to `train.steps`. A run's failure is stored in its record; that of the last run is raised.

    Raises `Preempted` after a signal to stop, once every run is saved.
    """
    train = program.config.train
    batches = programs.train_batches(program, source, step)
    window = Window()

    def due(every: int) -> bool:
        return bool(every) and (step % every == 0 or step == train.steps)

    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(_bar(train, len(records), step))
        for i in active(records):
            stack.enter_context(records[i].logging(step))
        while step < train.steps:
            batch = parallel.put_batch(next(batches), program.mesh)
            state, metrics = program.step(state, batch, program.seed)
            window.add(metrics)
            step += 1
            bar.update(len(records) * train.batch_size)
            stopping = _should_stop(signals, due(train.log_every))
            saving = stopping or due(train.checkpoint_every)
            # A checkpoint also ends the window, so that an interrupted run logs the same lines as an uninterrupted one.
            if logging := saving or due(train.log_every):
                bar.set_postfix_str(_log_training(program, records, window, step), refresh=False)
            means = {}
            if validation is not None and due(train.evaluate_every):
                means = _log_validation(program, records, state, step, validation)
            if due(train.sample_every):
                _save_grids(program, records, state, step, validation, source.classes)
            if saving:
                _save_checkpoints(program, records, state, step, means)
            if logging:
                window = Window()
            if stopping and step < train.steps:
                for i in active(records):
                    records[i].wait()
                message = f"stopped and saved at step {step}; the same command goes on from there."
                raise Preempted(message, signals.received)
    return state


def _bar(train: TrainOptions, runs: int, step: int) -> tqdm:
    """Progress in images of all runs."""
    images = runs * train.batch_size
    return progress.bar("train", total=train.steps * images, initial=step * images, unit="image", unit_scale=True)


def _should_stop(signals: run.Signals, logged: bool) -> bool:
    """Whether to stop after this step, checked once per step. Several processes agree on it when they log."""
    return (jax.process_count() == 1 or logged) and parallel.any_process(signals.received is not None)


def _log_training(program: Program, records: Records, window: Window, step: int) -> str:
    """Logs the means over the window; returns the losses of the last run, for the progress bar."""
    train = program.config.train
    steps = [program.unstack(metrics) for metrics in jax.device_get(window.metrics)]
    rate = {"images_per_second": len(steps) * train.batch_size / (time.monotonic() - window.start)}
    for i in active(records):
        window_metrics = [metrics[i].unpack() for metrics in steps]
        means = _means(window_metrics)
        records[i].log("train", step, means | rate)
        with isolate_failure(records, i):
            _check_updated(window_metrics, records[i].skipped, step, train.steps)
    return " ".join(f"{name}={value:.4g}" for name, value in means.items() if name.startswith("loss"))


def _log_validation(
    program: Program, records: Records, state: core.TrainState, step: int, validation: Source
) -> dict[int, dict[str, float]]:
    """Logs each run's means over the validation images, and returns them by the run's index."""
    values = program.unstack(tasks.evaluate(program, core.weights(state), validation))
    means = {i: {n: float(v.mean(dtype=np.float64)) for n, v in values[i].items()} for i in active(records)}
    for i, run_means in means.items():
        records[i].log("evaluation", step, run_means)
    return means


def _save_checkpoints(
    program: Program, records: Records, state: core.TrainState, step: int, validation: dict[int, dict[str, float]]
) -> None:
    states = program.unstack(state)
    for i in active(records):
        with isolate_failure(records, i):
            _check_finite(states[i], step)
            records[i].save(states[i], validation.get(i))


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
    """Raises `NumericsError` for weights that are not finite or whose squares overflow, before they are saved."""
    for group, tree in state.params.items():
        if not np.isfinite(_norm(tree)):
            raise NumericsError(
                f"the parameters of {group} overflow at step {step}, which is not saved; earlier checkpoints are "
                "kept. Lower the learning rate, or set clip_norm."
            )


_norm = jax.jit(optax.tree.norm)


def _save_grids(
    program: Program,
    records: Records,
    state: core.TrainState,
    step: int,
    validation: Source | None,
    classes: Sequence[str],
) -> None:
    """Samples with the same keys at every step, for comparison over time; reconstructions if it cannot sample."""
    weights, count, captions = core.weights(state), program.config.train.samples, []
    if program.family.sample is not None:
        fields = set(program.family.conditions) - {"label"}
        if fields and validation is None:
            return
        if fields:  # samples below the held-out images whose conditions they have
            columns = tasks.COLUMNS
            pictures = tasks.beside_held_out(program, weights, validation, count // 2, program.seed)
            groups, rows = pictures.shape[-6:-4]
            index = np.minimum(np.arange(groups * columns), validation.size - 1)  # the last batch is padded
            if texts := conditions.captions(program, index, validation, classes):
                captions = np.full((groups, rows, columns), "", object)
                captions[:, 1] = np.reshape(texts, (groups, columns))
                captions = captions.ravel().tolist()
        else:
            columns = tasks.sample_columns(program, count)
            pictures = tasks.sample(program, weights, count, program.seed)
            captions = conditions.captions(program, np.arange(count), classes=classes)
    elif core.space_with(program.family, "encode") and validation is not None:
        columns = tasks.COLUMNS
        pictures = tasks.reconstruct(program, weights, validation, count // 2)
    else:
        return
    pictures = program.unstack(pictures)
    for i in active(records):
        records[i].save_grid(step, pictures[i].reshape(-1, *pictures[i].shape[-3:]), columns, captions)
