"""Trials on a Slurm cluster, through submitit: an array job with one trial per task.

SIGUSR2 warns a task that its time is nearly up or that it will be preempted: it saves itself, is requeued, and later
resumes. At SIGTERM it saves itself and exits: Slurm itself requeues preempted tasks, but not cancelled ones. All nodes
must share the sweep's directory.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genimg_jax.errors import ConfigError
from genimg_jax.sweeps import worker
from genimg_jax.sweeps.trials import Launcher, Outcome, Trial, log_tail

EVERY = 2.0  # seconds between queries of the queue
PATIENCE = 120.0  # seconds for cancelled tasks to save themselves
DEFAULTS = {"job_name": "genimg", "time": 24 * 60}  # minutes


class Task:
    """A task of the array. submitit pickles it: only a configuration and a path."""

    def __init__(self, trial: Trial):
        self.job = {"values": dict(trial.values), "workdir": str(trial.workdir.absolute())}

    def __call__(self) -> dict[str, Any]:
        [reply] = worker.do([self.job])
        if reply["signal"] == signal.SIGUSR2:
            os.kill(os.getpid(), signal.SIGUSR2)  # it is saved: now submitit's handler requeues the task
            time.sleep(PATIENCE)
        return reply

    def checkpoint(self):
        """What the requeued task runs: the same task, which resumes from its run directory."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def launcher(workers: int = 0, parameters: Mapping[str, Any] | None = None) -> Launcher:
    """Trains `workers` trials at a time; 0: as many as the cluster runs.

    `parameters` are those of submitit's `SlurmExecutor`, such as {"partition": "gpu", "time": 600, "gpus_per_node": 1},
    with time in minutes. Raises `ConfigError` without Slurm or submitit, and for unknown parameters.
    """
    if not shutil.which("sbatch"):
        raise ConfigError("--launcher slurm needs Slurm, and there is no sbatch here; use local or vectorised.")
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("--launcher slurm needs submitit; pip install 'genimg_jax[slurm]'.") from error

    def launch(trials: Sequence[Trial]) -> Iterator[Outcome]:
        if not trials:
            return
        # A task may be requeued any number of times.
        executor = submitit.SlurmExecutor(trials[0].workdir.absolute().parents[1] / "slurm", max_num_timeout=10**6)
        try:
            executor.update_parameters(**DEFAULTS, **({"array_parallelism": workers} if workers else {}))
            executor.update_parameters(**(parameters or {}))
            jobs = executor.submit_array([Task(trial) for trial in trials])
        except (ValueError, submitit.core.utils.FailedJobError) as error:
            raise ConfigError(f"Slurm does not take these jobs: {' '.join(str(error).split())}") from error
        waiting = dict(zip((job.job_id for job in jobs), zip(jobs, trials, strict=True), strict=True))
        print(f"Slurm job {jobs[0].job_id.partition('_')[0]}: {len(trials)} trials")
        try:
            while waiting:
                time.sleep(EVERY)
                queued = _queued(waiting)  # before reading results: a task that ends in between has a result
                for number in list(waiting):
                    job, trial = waiting[number]
                    if job.paths.result_pickle.exists():
                        del waiting[number]
                        yield _outcome(job, trial)
                    elif number not in queued:
                        del waiting[number]
                        yield Outcome(trial, "failed", 0.0, f"Slurm ended task {number}.\n{log_tail(trial.workdir)}")
        finally:
            _cancel(waiting)

    return launch


def _outcome(job: Any, trial: Trial) -> Outcome:
    """The outcome of training; if the task itself failed, such as for a missing module, the end of its traceback."""
    error = job.exception()
    if error is not None:
        return Outcome(trial, "failed", 0.0, "\n".join(str(error).splitlines()[-8:]))
    reply = job.result()
    return Outcome(trial, reply["status"], reply["seconds"], reply["message"])


def _queued(numbers: Sequence[str]) -> set[str]:
    """The tasks that Slurm still has: pending, running, or ending. All of them if it does not answer."""
    arrays = ",".join(sorted({number.partition("_")[0] for number in numbers}))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={arrays}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "Invalid job id" not in done.stderr:
        return set(numbers)
    return set(done.stdout.split())


def _cancel(numbers: Mapping[str, Any]) -> None:
    """Cancels unfinished tasks, which then save themselves, and waits for them."""
    if not numbers:
        return
    subprocess.run(["scancel", *numbers], check=False)
    until = time.monotonic() + PATIENCE
    with contextlib.suppress(KeyboardInterrupt):
        while _queued(list(numbers)) & set(numbers) and time.monotonic() < until:
            time.sleep(EVERY / 4)
