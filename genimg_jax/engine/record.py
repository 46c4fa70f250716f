"""What a training run writes: its configuration, manifest, metrics, samples and checkpoints."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from genimg_jax import core, files
from genimg_jax.engine import checkpoint, images, parallel, run
from genimg_jax.engine import config as configs
from genimg_jax.engine.config import Config
from genimg_jax.errors import Failure


@dataclass
class RunRecord:
    """One run's directory and, if the run failed, why."""

    config: Mapping[str, Any]  # as JSON
    workdir: pathlib.Path
    folder: pathlib.Path  # of all files but checkpoints: the workdir, or in further processes a folder inside it
    store: checkpoint.Store | None = None  # inside `checkpoints`
    metrics: run.MetricsLog | None = None  # inside `logging`
    failure: Failure | None = None
    skipped: dict[str, int] = field(default_factory=dict)  # by metric: consecutive steps without an update

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and holds it for this process. Raises `ResourceError`."""
        run.prepare(self.folder)
        with run.lock(self.folder):
            yield

    @contextlib.contextmanager
    def checkpoints(self, keep: int, best: str) -> Iterator[None]:
        """Opens the checkpoints; at the end, waits for those that are being written, whatever ends the run."""
        self.store = checkpoint.open_store(self.workdir, keep, best)
        try:
            yield
        finally:
            checkpoint.close(self.store)

    @contextlib.contextmanager
    def logging(self, step: int) -> Iterator[None]:
        """Opens the metrics after `step`."""
        self.metrics = run.MetricsLog(self.folder, step)
        try:
            yield
        finally:
            self.metrics.close()

    def log(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Adds one line of metrics."""
        self.metrics.write(split, step, step * self.config["train"]["batch_size"], values)

    def save_grid(
        self, step: int, pictures: np.ndarray, columns: int | None, captions: Sequence[str]
    ) -> None:  # f32[N, H, W, C] in [-1, 1]
        grid = images.grid(pictures, columns, captions=captions)
        images.save_png(self.folder / "samples" / f"{step}.png", grid)

    def save(self, state: core.TrainState, validation: Mapping[str, float] | None) -> None:
        """Starts to write a checkpoint, ranked by the means on the validation images, if they were measured."""
        checkpoint.save(self.store, state, self.config, validation)

    def wait(self) -> None:
        """Until every checkpoint is on disk."""
        checkpoint.wait(self.store)

    def write_manifest(self, step: int, environment: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Writes the configuration and the manifest: `environment` and `inputs` are what the run depends on. A resumed
        run keeps its first manifest and adds the environment that it continues in."""
        path = self.folder / "manifest.json"
        if path.is_file():
            manifest = run.read_json(self.folder, "manifest.json")
            manifest["resumed"] = [*manifest.get("resumed", []), {"step": step, **environment}]
        else:
            manifest = {**environment, "config_digest": configs.digest(self.config), **inputs}
        files.write_json(path, manifest)
        files.write_json(self.folder / "config.json", dict(self.config))


def run_record(values: Mapping[str, Any], workdir: pathlib.Path, config: Config) -> RunRecord:
    """The record of a run with the configuration `config`, which is `values` as JSON."""
    parallel.init_distributed(config.parallel)
    # Processes write checkpoints together; of all other files, each further process keeps its own.
    folder = workdir if jax.process_index() == 0 else workdir / f"process-{jax.process_index()}"
    return RunRecord(configs.located(values), workdir, folder)


def active(records: Sequence[RunRecord]) -> list[int]:
    """The places of the runs that have not failed."""
    return [i for i, record in enumerate(records) if record.failure is None]


@contextlib.contextmanager
def isolate_failure(records: Sequence[RunRecord], i: int) -> Iterator[None]:
    """Records a failure in the block as run i's alone, and raises it if no other run is left."""
    try:
        yield
    except Failure as failure:
        records[i].failure = failure
        if not active(records):
            raise
