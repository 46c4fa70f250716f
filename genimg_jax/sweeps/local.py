"""Trials on this machine: a few long-lived worker processes, each with its own cores."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from genimg_jax.engine import runtime
from genimg_jax.errors import ConfigError
from genimg_jax.sweeps.trials import Launcher, Outcome, Trial, log_tail

ATTEMPTS = 2
WORKER = "genimg_jax.sweeps.worker"


def launcher(workers: int = 0) -> Launcher:
    """Trains trials in `workers` processes; 0: one per core, or one if an accelerator may be in use.

    The cores are divided evenly; a run's manifest records how many it had. A failed trial is tried once more in a new
    process, from its last checkpoint, unless it would fail in the same way. Workers share their compilation cache. A
    worker whose parent has ended saves its trial and exits.
    """
    return job_launcher(workers, lambda trials, _: [[trial] for trial in trials])


def job_launcher(workers: int, divide: Callable[[Sequence[Trial], int], list[list[Trial]]]) -> Launcher:
    """`divide(trials, workers)` returns jobs. The trials of a job are trained as one program."""
    if workers < 0:
        raise ConfigError(f"--workers is {workers}; it must be at least 0.")
    environment = dict(os.environ)  # a copy: evaluating a run in this process may change it

    def launch(trials: Sequence[Trial]) -> Iterator[Outcome]:
        jobs = divide(trials, workers or default_workers())
        shares = core_shares(min(workers or default_workers(), len(jobs) or 1))
        slots = [_Slot(share, environment) for share in shares]
        idle: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in slots:
            idle.put(slot)
        pool = ThreadPoolExecutor(len(slots))

        def train(job: Sequence[Trial]) -> list[Outcome]:
            slot = idle.get()
            try:
                return slot.train(job)
            finally:
                idle.put(slot)

        try:
            for future in as_completed([pool.submit(train, job) for job in jobs]):
                yield from future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            _stop(slots)

    return launch


def default_workers() -> int:
    return len(available_cores()) if runtime.cpu_only() else 1


def available_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def core_shares(workers: int) -> list[list[int]]:
    """The cores of each worker, divided as evenly as possible; with more workers than cores, workers share cores."""
    cores = available_cores()
    if workers >= len(cores):
        return [[cores[i % len(cores)]] for i in range(workers)]
    return [cores[len(cores) * i // workers : len(cores) * (i + 1) // workers] for i in range(workers)]


class _Slot:
    """A slot for one worker process, which is started for its first trial, and again if it has died."""

    def __init__(self, cores: Sequence[int], environment: Mapping[str, str]):
        self.cores, self.environment = cores, environment
        self.process: subprocess.Popen | None = None
        self.runtime: Mapping[str, Any] = {}
        self.stopping = False
        self.starting = threading.Lock()

    def train(self, job: Sequence[Trial]) -> list[Outcome]:
        """Trains a job. Trials of it that failed are tried again, each by itself."""
        spent = dict.fromkeys(range(len(job)), 0.0)
        replies: dict[int, dict[str, Any]] = {}
        attempts = [list(spent)]
        for _ in range(ATTEMPTS):
            for part in attempts:
                for i, reply in zip(part, self._attempt([job[i] for i in part]), strict=True):
                    replies[i] = reply
                    spent[i] += reply["seconds"]
            attempts = [[i] for i, reply in replies.items() if reply["status"] == "failed" and reply["again"]]
            if not attempts or self.stopping:
                break
            self.close()  # the next attempt gets a new process
        return [Outcome(trial, replies[i]["status"], spent[i], replies[i]["message"]) for i, trial in enumerate(job)]

    def _attempt(self, job: Sequence[Trial]) -> list[dict[str, Any]]:
        since = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has died, or is being stopped
            if self._start(job[0].values["runtime"]):
                request = [{"values": dict(trial.values), "workdir": str(trial.workdir)} for trial in job]
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
                if line := self.process.stdout.readline():
                    return json.loads(line)
        seconds = (time.monotonic() - since) / len(job)
        if self.stopping:
            message = "stopped; it goes on from its last checkpoint."
            return [{"status": "preempted", "seconds": seconds, "message": message, "again": False}] * len(job)
        message = f"{_end(self.process.wait())}\n{log_tail(job[0].workdir)}".rstrip()
        return [{"status": "failed", "seconds": seconds, "message": message, "again": True}] * len(job)

    def _start(self, wanted: Mapping[str, Any]) -> bool:
        """Whether there is a process whose runtime options are the trial's.

        They can be set only once, before JAX starts.
        """
        if self.process and (self.process.poll() is not None or self.runtime != wanted):
            self.close()
        with self.starting:
            if self.process is None and not self.stopping:
                command = [sys.executable, "-m", WORKER, ",".join(map(str, self.cores))]
                pipe = subprocess.PIPE
                # A new session: only this process receives Ctrl-C, and it stops the workers once.
                self.process = subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, text=True, env=self.environment, start_new_session=True
                )
                self.runtime = wanted
        return self.process is not None

    def stop(self) -> None:
        """Closes the input of the process, which then saves its trial and exits."""
        with self.starting:
            self.stopping = True
            self._end_input()

    def _end_input(self) -> None:
        if self.process:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def close(self) -> None:
        if self.process:
            self._end_input()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


def _stop(slots: Sequence[_Slot]) -> None:
    """Every worker saves and exits; if waiting for this is interrupted too, they are killed."""
    for slot in slots:
        slot.stop()
    processes = [slot.process for slot in slots if slot.process]
    try:
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.kill()


def _end(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the process was killed, as the system does with one that takes too much memory."
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}."
    return f"the process left with code {status}."
