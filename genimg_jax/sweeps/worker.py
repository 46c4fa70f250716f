"""A process that trains one cell after another: `python -m genimg_jax.sweeps.worker CORE,CORE...`.

It stays up between cells, since starting Python and JAX takes longer than many a cell. A line of JSON on its standard
input names a cell's configuration and run directory, a line on its standard output says how that ended; what training
prints goes to the cell's log. Where its standard input ends, whoever started it is gone: it saves and leaves.
"""

import contextlib
import json
import os
import pathlib
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, TextIO

from genimg_jax.engine import config as configs
from genimg_jax.engine import run, runtime
from genimg_jax.errors import ConfigError, Failure, NumericsError, Preempted, ResourceError
from genimg_jax.sweeps.cells import LOG, log_tail

LOCK_PATIENCE = 60.0  # seconds: a process that was told to leave the directory may still be saving


def main() -> None:
    cores = {int(core) for core in sys.argv[1].split(",")} if sys.argv[1:] else set()
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # before JAX counts its threads
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nothing else may speak to whoever started this
    jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, jobs), daemon=True).start()
    prepared = ""
    while (job := jobs.get()) is not None:
        workdir = pathlib.Path(job["workdir"])
        with _log(workdir):
            prepared = prepared or runtime.prepare(runtime.Options(**job["values"]["runtime"]))
            print(prepared)
            replies.write(json.dumps(train(job["values"], workdir)) + "\n")


def _listen(requests: TextIO, jobs: queue.SimpleQueue) -> None:
    for line in requests:
        jobs.put(json.loads(line))
    jobs.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _log(workdir: pathlib.Path) -> Iterator[None]:
    """Whatever this process writes, Python or not, goes to the log of the run."""
    run.prepare(workdir)
    kept = [os.dup(1), os.dup(2)]
    with (workdir / LOG).open("a") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        print(f"-- {run.now()}, process {os.getpid()}")
        yield
    finally:
        for stream, number, old in zip((sys.stdout, sys.stderr), (1, 2), kept, strict=True):
            stream.flush()
            os.dup2(old, number)
            os.close(old)


def train(values: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """How it ended. `again` is whether another attempt could end otherwise: the same bits stop being finite again."""
    from genimg_jax.engine import training

    since = time.monotonic()
    status, message, again = "done", "", True
    try:
        _wait_for(workdir)
        training.train(configs.resolve(values), values, workdir)
    except Preempted as failure:
        status, message = "preempted", str(failure)
    except Failure as failure:
        status, message = "failed", str(failure)
        again = not isinstance(failure, (ConfigError, NumericsError))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        status, message = "failed", log_tail(workdir)
    else:
        message = ""
    if message:
        print(message)
    return {"status": status, "seconds": time.monotonic() - since, "message": message, "again": again}


def _wait_for(workdir: pathlib.Path) -> None:
    until = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            with run.lock(workdir):
                return
        except ResourceError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main()
