"""A worker process that trains one job after another: `python -m genimg_jax.sweeps.worker CORE,CORE...`.

A job is a trial, or several that are trained as one program. The process stays alive between jobs, since starting
Python and JAX takes longer than many trials. A line of JSON on its standard input gives the configuration and run
directory of each trial of a job, and a line on its standard output the outcome of each. The output of training goes to
the log of the first trial; the other logs refer to it. When its standard input ends, its parent has ended: it saves and
exits.
"""

import contextlib
import functools
import json
import os
import pathlib
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from genimg_jax.engine import config as configs
from genimg_jax.engine import run, runtime
from genimg_jax.errors import ConfigError, Failure, NumericsError, Preempted, ResourceError
from genimg_jax.sweeps.trials import LOG, log_tail

Run = tuple[dict[str, Any], pathlib.Path]  # a configuration, as JSON, and its directory
LOCK_PATIENCE = 60.0  # seconds: a stopped process may still be saving in the directory


def main() -> None:
    cores = {int(core) for core in sys.argv[1].split(",")} if sys.argv[1:] else set()
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # before JAX counts its threads
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # only replies may go to the parent
    jobs: queue.SimpleQueue[list[dict[str, Any]] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, jobs), daemon=True).start()
    while (job := jobs.get()) is not None:
        replies.write(json.dumps(do(job)) + "\n")


def _listen(requests: TextIO, jobs: queue.SimpleQueue) -> None:
    for line in requests:
        jobs.put(json.loads(line))
    jobs.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


def do(job: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Trains the trials of a job, each {"values": configuration, "workdir": directory}; returns `train`'s replies."""
    runs = [(dict(trial["values"]), pathlib.Path(trial["workdir"])) for trial in job]
    sys.argv[1:] = ["sweep"]  # the command that manifests record
    (values, first), *others = runs
    for _, workdir in others:
        with _log(workdir):
            print(f"trained as one program with {first}; what it prints is in that one's log")
    with _log(first):
        print(_prepare(json.dumps(values["runtime"])))
        return train(runs)


@functools.cache
def _prepare(options: str) -> str:
    return runtime.prepare(runtime.Options(**json.loads(options)))


@contextlib.contextmanager
def _log(workdir: pathlib.Path) -> Iterator[None]:
    """Redirects all output of this process, from Python or not, to the log of the run."""
    run.prepare(workdir)
    saved = [os.dup(1), os.dup(2)]
    with (workdir / LOG).open("a") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        print(f"-- {run.now()}, process {os.getpid()}")
        yield
    finally:
        for stream, number, old in zip((sys.stdout, sys.stderr), (1, 2), saved, strict=True):
            stream.flush()
            os.dup2(old, number)
            os.close(old)


def train(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A reply for each run. `again`: whether another attempt may succeed; numbers that stop being finite do so again.
    `signal` is the one that stopped the run."""
    since, ends = time.monotonic(), {}
    for part in _parts(runs):
        stopped = next((end for end in ends.values() if isinstance(end, Preempted)), None)
        ends |= dict(zip(part, [stopped] * len(part) if stopped else _end([runs[i] for i in part]), strict=True))
    seconds = (time.monotonic() - since) / len(runs)
    return [_reply(ends[i], seconds) for i in range(len(runs))]


def _parts(runs: Sequence[Run]) -> list[list[int]]:
    """Groups of runs at the same step, which one program needs; those that were interrupted earliest come first."""
    from genimg_jax.engine import checkpoint

    by_step: dict[int, list[int]] = {}
    for i, (_, workdir) in enumerate(runs):
        several = len(runs) > 1 and (workdir / "checkpoints").is_dir()
        step = several and checkpoint.last_step(checkpoint.open_store(workdir, read_only=True))
        by_step.setdefault(step or 0, []).append(i)
    return [by_step[step] for step in sorted(by_step)]


def _end(runs: Sequence[Run]) -> list[Failure | str | None]:
    """For each run, None if it was trained, a `Failure`, or the end of the log for an unexpected error."""
    from genimg_jax.engine import training

    try:
        for _, workdir in runs:
            _wait_for(workdir)
        if len(runs) > 1:
            return training.train_together(runs)
        values, workdir = runs[0]
        training.train(configs.resolve(values), values, workdir)
    except Failure as failure:
        return [failure] * len(runs)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        return [log_tail(runs[0][1])] * len(runs)
    return [None]


def _reply(end: Failure | str | None, seconds: float) -> dict[str, Any]:
    status = "done" if end is None else "preempted" if isinstance(end, Preempted) else "failed"
    if isinstance(end, Failure):
        print(end)
    again = not isinstance(end, (ConfigError, NumericsError))
    received = end.signal if isinstance(end, Preempted) else None
    return {"status": status, "seconds": seconds, "message": str(end or ""), "again": again, "signal": received}


def _wait_for(workdir: pathlib.Path) -> None:
    run.prepare(workdir)
    until = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            with run.lock(workdir):
                return
        except ResourceError:
            if time.monotonic() > until:
                return  # training will raise an error that names the process
            time.sleep(0.2)


if __name__ == "__main__":
    main()
