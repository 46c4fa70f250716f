"""Runs what is missing of a sweep, evaluates it, and says how every cell stands."""

import contextlib
import fnmatch
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from genimg_jax.engine import run
from genimg_jax.errors import ConfigError, Failure, Preempted
from genimg_jax.options import nearest
from genimg_jax.sweeps import cells, live, plan, scores
from genimg_jax.sweeps.cells import Cell, Launcher, Outcome
from genimg_jax.sweeps.plan import Sweep


class State(NamedTuple):
    """How a cell stands, as files tell."""

    cell: Cell
    status: str  # done, running, failed, stopped or waiting
    step: int
    seconds: float  # spent on its training so far, as recorded
    estimate: float | None  # seconds that the rest will take; None where nothing tells
    evaluated: bool
    message: str  # of one that failed


def states(sweep: Sweep) -> list[State]:
    """The state of every cell. Reads files alone, and may be asked while the sweep runs."""
    recorded = plan.outcomes(sweep.workdir)
    done = {cell.digest: cells.trained(cell) for cell in sweep.cells}
    rates = _rates(sweep, recorded, done)
    return [_state(sweep, cell, recorded.get(cell.digest, []), done[cell.digest], rates) for cell in sweep.cells]


def _state(sweep: Sweep, cell: Cell, recorded: Sequence[Mapping], done: bool, rates: Mapping[str, float]) -> State:
    steps = cell.values["train"]["steps"]
    step = steps if done else live.last_step(cell)
    last = recorded[-1] if recorded else {}
    if done:
        status = "done"
    elif _held(cell, last.get("ended", "")):
        status = "running"
    elif last.get("status") == "failed":
        status = "failed"
    else:
        status = "stopped" if step else "waiting"
    rate = rates.get(sweep.settings[cell.digest], rates.get(""))
    return State(
        cell,
        status,
        step,
        sum(line["seconds"] for line in recorded),
        None if rate is None else rate * (steps - step) * cell.values["train"]["batch_size"],
        scores.evaluated(cell, sweep.measure),
        last.get("message", "") if status == "failed" else "",
    )


def _rates(sweep: Sweep, recorded: Mapping[str, Sequence[Mapping]], done: Mapping[str, bool]) -> dict[str, float]:
    """Seconds an image of the finished cells, by setting, and under "" of them all."""
    spent: dict[str, list[float]] = {}
    for cell in (c for c in sweep.cells if done[c.digest] and c.digest in recorded):
        images = cell.values["train"]["steps"] * cell.values["train"]["batch_size"]
        seconds = sum(line["seconds"] for line in recorded[cell.digest])
        for name in (sweep.settings[cell.digest], ""):
            spent.setdefault(name, []).append(seconds / images)
    return {name: sum(values) / len(values) for name, values in spent.items()}


def _held(cell: Cell, ended: str) -> bool:
    """Whether a training has the run directory, as its lock says; `ended` is when the last one did."""
    path = cell.workdir / "lock"
    words = path.read_text().split() if path.is_file() else []  # process PID on HOST since TIME
    if len(words) != 6 or words[5] < ended:
        return False
    if words[3] != socket.gethostname():
        return True
    try:
        os.kill(int(words[1]), 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return words[5] != ended


def select(sweep: Sweep, only: str = "") -> list[Cell]:
    """The cell called `only`, else those whose names match it as file names match `*` and `?`; "": all of them."""
    named = [cell for cell in sweep.cells if cell.name == only]
    pattern = only.replace("[", "[[]")  # of a split's slice, or a list
    found = named or [cell for cell in sweep.cells if not only or fnmatch.fnmatchcase(cell.name, pattern)]
    if not found:
        names = [cell.name for cell in sweep.cells]
        raise ConfigError(f"--only {only} is none of the {len(names)} cells{nearest(only, names)}")
    return found


def run_cells(sweep: Sweep, chosen: Sequence[Cell], launcher: Launcher, most: int = 0) -> list[Outcome]:
    """Trains those of the chosen cells that are not trained yet, at most `most` of them unless 0, and evaluates all.

    Returns the outcomes of what was trained. Raises `Preempted` where the sweep was asked to stop, and `ConfigError`
    where a first evaluation shows that the experiment's metrics are not measured, once every cell that was running has
    saved itself; a cell that fails raises nothing.
    """
    missing = [cell for cell in chosen if not cells.trained(cell)]
    missing = missing[:most] if most else missing
    found: list[Outcome] = []
    with (
        _stoppable(),
        live.shown(missing),
        contextlib.closing(launcher(missing)) as outcomes,
    ):
        for outcome in outcomes:
            plan.record(sweep.workdir, outcome)
            found.append(outcome)
            live.say(_sentence(outcome, len(found), len(missing)))
            if outcome.status == "done":
                _evaluate(sweep, outcome.cell)
        for cell in (c for c in chosen if cells.trained(c)):
            _evaluate(sweep, cell)
    if any(outcome.status == "preempted" for outcome in found):
        raise Preempted("some cells were stopped and saved themselves; the same command goes on from there.")
    return found


def _evaluate(sweep: Sweep, cell: Cell) -> None:
    if not scores.evaluated(cell, sweep.measure):
        try:
            scores.evaluate(cell, sweep.measure)
        except Preempted:
            raise
        except Exception as error:
            kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
            live.say(f"{cell.name} could not be evaluated: {kind}{error}")
    scores.check_measured(sweep.measure, scores.evaluation(cell, sweep.measure))


def _sentence(outcome: Outcome, number: int, count: int) -> str:
    line = f"[{number}/{count}] {outcome.cell.name} {outcome.status}, {outcome.seconds:.1f} s"
    if outcome.status != "failed":
        return line
    shown = "\n".join(f"    {text}" for text in outcome.message.splitlines())
    return f"{line}; its log: {outcome.cell.workdir / cells.LOG}\n{shown}"


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGINT end what is in it as `Preempted`; launchers let go of what they started on the way."""

    def stop(number: int, frame: Any) -> None:
        for s in before:
            signal.signal(s, signal.default_int_handler)  # once more: at once
        raise Preempted(f"{signal.Signals(number).name}: what was running is saved; the same command goes on.")

    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def locked(sweep: Sweep) -> contextlib.AbstractContextManager:
    """The sweep's directory, made if need be and held for this process."""
    run.prepare(sweep.workdir)
    return run.lock(sweep.workdir)
