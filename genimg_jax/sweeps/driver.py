"""Runs the missing trials of a sweep, evaluates them, and reports the status of every trial."""

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
from genimg_jax.sweeps import live, plan, scores, trials
from genimg_jax.sweeps.plan import Sweep
from genimg_jax.sweeps.trials import Launcher, Outcome, Trial


class State(NamedTuple):
    """The status of a trial, from files."""

    trial: Trial
    status: str  # done, running, failed, stopped or waiting
    step: int
    seconds: float  # of its training so far, as recorded
    estimate: float | None  # seconds of training left; None if unknown
    evaluated: bool
    message: str  # of a failed trial


def states(sweep: Sweep) -> list[State]:
    """The state of every trial. Reads only files; may be called while the sweep runs."""
    recorded = plan.outcomes(sweep.workdir)
    done = {trial.digest: trials.trained(trial) for trial in sweep.trials}
    rates = _rates(sweep, recorded, done)
    return [_state(sweep, trial, recorded.get(trial.digest, []), done[trial.digest], rates) for trial in sweep.trials]


def _state(sweep: Sweep, trial: Trial, recorded: Sequence[Mapping], done: bool, rates: Mapping[str, float]) -> State:
    steps = trial.values["train"]["steps"]
    step = steps if done else live.last_step(trial)
    last = recorded[-1] if recorded else {}
    if done:
        status = "done"
    elif _is_locked(trial, last.get("ended", "")):
        status = "running"
    elif last.get("status") == "failed":
        status = "failed"
    else:
        status = "stopped" if step else "waiting"
    rate = rates.get(sweep.configurations[trial.digest], rates.get(""))
    return State(
        trial,
        status,
        step,
        sum(line["seconds"] for line in recorded),
        None if rate is None else rate * (steps - step) * trial.values["train"]["batch_size"],
        scores.evaluated(trial, sweep.measure),
        last.get("message", "") if status == "failed" else "",
    )


def _rates(sweep: Sweep, recorded: Mapping[str, Sequence[Mapping]], done: Mapping[str, bool]) -> dict[str, float]:
    """Seconds per image of the finished trials, by configuration, and of all of them under ""."""
    spent: dict[str, list[float]] = {}
    for trial in (c for c in sweep.trials if done[c.digest] and c.digest in recorded):
        images = trial.values["train"]["steps"] * trial.values["train"]["batch_size"]
        seconds = sum(line["seconds"] for line in recorded[trial.digest])
        for name in (sweep.configurations[trial.digest], ""):
            spent.setdefault(name, []).append(seconds / images)
    return {name: sum(values) / len(values) for name, values in spent.items()}


def _is_locked(trial: Trial, ended: str) -> bool:
    """Whether a process trains in the run directory, according to its lock; `ended` is when the last training ended."""
    path = trial.workdir / "lock"
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


def select(sweep: Sweep, only: str = "") -> list[Trial]:
    """The trial named `only`, else the trials whose names match it as a pattern with `*` and `?`; "": all trials."""
    named = [trial for trial in sweep.trials if trial.name == only]
    pattern = only.replace("[", "[[]")  # brackets are part of names: slices of splits, lists
    selected = named or [trial for trial in sweep.trials if not only or fnmatch.fnmatchcase(trial.name, pattern)]
    if not selected:
        names = [trial.name for trial in sweep.trials]
        raise ConfigError(f"--only {only} is none of the {len(names)} trials{nearest(only, names)}")
    return selected


def run_trials(sweep: Sweep, chosen: Sequence[Trial], launcher: Launcher, most: int = 0) -> list[Outcome]:
    """Trains the chosen trials that are not trained yet, at most `most` (0: all), and evaluates all chosen trials.

    Returns the outcomes of the trained ones. Raises `Preempted` if the sweep was stopped, and `ConfigError` if an
    evaluation does not measure the experiment's metrics. Running trials save themselves before either is raised. A
    failed trial raises nothing.
    """
    missing = [trial for trial in chosen if not trials.trained(trial)]
    missing = missing[:most] if most else missing
    finished: list[Outcome] = []
    with (
        _stoppable(),
        live.progress_bars(missing),
        contextlib.closing(launcher(missing)) as outcomes,
    ):
        for outcome in outcomes:
            plan.record(sweep.workdir, outcome)
            finished.append(outcome)
            live.say(_sentence(outcome, len(finished), len(missing)))
            if outcome.status == "done":
                _evaluate(sweep, outcome.trial)
        for trial in (c for c in chosen if trials.trained(c)):
            _evaluate(sweep, trial)
    if any(outcome.status == "preempted" for outcome in finished):
        raise Preempted("some trials were stopped and saved themselves; the same command goes on from there.")
    return finished


def _evaluate(sweep: Sweep, trial: Trial) -> None:
    if not scores.evaluated(trial, sweep.measure):
        try:
            scores.evaluate(trial, sweep.measure)
        except Preempted:
            raise
        except Exception as error:
            kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
            live.say(f"{trial.name} could not be evaluated: {kind}{error}")
    scores.check_measured(sweep.measure, scores.evaluation(trial, sweep.measure))


def _sentence(outcome: Outcome, number: int, count: int) -> str:
    line = f"[{number}/{count}] {outcome.trial.name} {outcome.status}, {outcome.seconds:.1f} s"
    if outcome.status != "failed":
        return line
    message = "\n".join(f"    {text}" for text in outcome.message.splitlines())
    return f"{line}; its log: {outcome.trial.workdir / trials.LOG}\n{message}"


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Within it, SIGTERM and SIGINT raise `Preempted`; launchers then end the processes that they started."""

    def stop(number: int, frame: Any) -> None:
        for s in before:
            signal.signal(s, signal.default_int_handler)  # a second signal ends the process at once
        raise Preempted(f"{signal.Signals(number).name}: what was running is saved; the same command goes on.")

    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def locked(sweep: Sweep) -> contextlib.AbstractContextManager:
    """Creates the sweep's directory if needed, and locks it for this process."""
    run.prepare(sweep.workdir)
    return run.lock(sweep.workdir)
