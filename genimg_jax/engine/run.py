"""A run directory: its lock, manifest and metrics; and the signals that stop a run."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from genimg_jax import files
from genimg_jax.errors import ConfigError, ResourceError

PACKAGES = (
    "genimg_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "ml-collections",
    "numpy",
)


def prepare(workdir: pathlib.Path) -> None:
    """Creates the directory. Raises `ResourceError` if it cannot be created or written to."""
    files.check_writable(workdir, "choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Locks the directory for this process; the system releases the lock when the process ends.

    Raises `ResourceError` naming the process that holds it.
    """
    with (workdir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ResourceError(
                f"{workdir} is in use by {holder}; wait for it, or choose another --workdir."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now()}\n")
        file.flush()
        yield


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Signals:
    """SIGTERM, SIGINT and SIGUSR2 make the loop save and stop. A second SIGTERM or SIGINT ends the process at once;
    SIGUSR2, a cluster's warning, may come several times."""

    def __init__(self):
        self.received: signal.Signals | None = None

    def __enter__(self):
        self.previous = {s: signal.signal(s, self._receive) for s in STOPPING}
        return self

    def _receive(self, number, frame):
        self.received = signal.Signals(number)
        for s in self.previous:
            signal.signal(s, signal.SIG_IGN if s == signal.SIGUSR2 else signal.SIG_DFL)
        # Not print, which fails if the signal interrupts another print.
        os.write(2, f"\n{self.received.name}: saving after this step; once more to leave at once\n".encode())

    def __exit__(self, *_):
        for s, handler in self.previous.items():
            signal.signal(s, handler)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_json(workdir: pathlib.Path, name: str) -> Any:
    """The content of a JSON file. Raises `ConfigError` if `workdir` is no run directory, or the file is damaged."""
    path = workdir / name
    if not path.is_file():
        raise ConfigError(f"{workdir} is no run directory: it has no {name}; make one with genimg train --workdir ...")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); restore it, or start anew in another --workdir.") from error


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """The code, packages and machine that results depend on. Initialises JAX's devices."""
    import jax

    def git(*arguments: str) -> str | None:
        root = pathlib.Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    try:
        commit, difference = git("rev-parse", "HEAD"), git("diff", "HEAD")
    except OSError:  # no git
        commit = difference = None
    return {
        "command": shlex.join(["genimg", *sys.argv[1:]]),
        "started": now(),
        "git": {
            "commit": commit.strip() if commit else None,
            "dirty": bool(difference),
            "diff_hash": files.digest(difference) if difference else None,
        },
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES},
        "devices": [str(d.device_kind) for d in jax.devices()],
        "processes": jax.process_count(),
        "cores": cores(),
        "machine": platform.machine(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str | None:
    """None if it is not installed, such as this package when it runs from a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class MetricsLog:
    """metrics.jsonl and TensorBoard events, from `step` on: later lines of an interrupted run are dropped."""

    def __init__(self, workdir: pathlib.Path, step: int):
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        files.write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = path.open("a", buffering=1)
        self.events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, split: str, step: int, images: int, values: Mapping[str, float]) -> None:
        """Writes one line. JSON has no infinities and no NaN: they are written as strings."""
        json_values = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        self.file.write(json.dumps({"step": step, "images": images, "split": split, **json_values}) + "\n")
        for name, value in values.items():
            self.events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        self.file.close()
        self.events.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return files.read_json_lines(workdir / "metrics.jsonl")
