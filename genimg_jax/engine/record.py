"""The files of a training run: its configuration, manifest, metrics, samples and checkpoints."""

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
    """One run's directory and, if the run failed, its failure."""

    config: Mapping[str, Any]  # as JSON
    workdir: pathlib.Path
    folder: pathlib.Path  # of all files except checkpoints: the workdir, or for further processes a folder inside it
    store: checkpoint.Store | None = None  # inside `checkpoints`
    metrics: run.MetricsLog | None = None  # inside `logging`
    failure: Failure | None = None
    skipped: dict[str, int] = field(default_factory=dict)  # by metric: consecutive steps without an update

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directory and locks it for this process. Raises `ResourceError`."""
        run.prepare(self.folder)
        with run.lock(self.folder):
            yield

    @contextlib.contextmanager
    def checkpoints(self, keep: int, best: str) -> Iterator[None]:
        """Opens the checkpoints; at the end, also after an error, waits until they are written."""
        self.store = checkpoint.open_store(self.workdir, keep, best)
        try:
            yield
        finally:
            checkpoint.close(self.store)

    @contextlib.contextmanager
    def logging(self, step: int) -> Iterator[None]:
        """Opens the metrics log, from `step` on."""
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
        """Starts writing a checkpoint, ranked by the means on the validation images, if there are any."""
        checkpoint.save(self.store, state, self.config, validation)

    def wait(self) -> None:
        """Waits until every checkpoint is on disk."""
        checkpoint.wait(self.store)

    def write_manifest(self, step: int, environment: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Writes the configuration and the manifest: the run depends on `environment` and `inputs`. A resumed run
        keeps its first manifest and adds its new environment."""
        path = self.folder / "manifest.json"
        if path.is_file():
            manifest = run.read_json(self.folder, "manifest.json")
            manifest["resumed"] = [*manifest.get("resumed", []), {"step": step, **environment}]
        else:
            manifest = {**environment, "config_digest": configs.digest(self.config), **inputs}
        files.write_json(path, manifest)
        files.write_json(self.folder / "config.json", dict(self.config))


def run_record(values: Mapping[str, Any], workdir: pathlib.Path, config: Config) -> RunRecord:
    """The record of a run; `values` is the configuration `config` as JSON."""
    parallel.init_distributed(config.parallel)
    # All processes write the checkpoints together; each further process has its own copy of all other files.
    folder = workdir if jax.process_index() == 0 else workdir / f"process-{jax.process_index()}"
    return RunRecord(configs.located(values), workdir, folder)


def active(records: Sequence[RunRecord]) -> list[int]:
    """The indices of the runs that have not failed."""
    return [i for i, record in enumerate(records) if record.failure is None]


@contextlib.contextmanager
def isolate_failure(records: Sequence[RunRecord], i: int) -> Iterator[None]:
    """Stores a failure in the block in the record of run i, and raises it if no other run is left."""
    try:
        yield
    except Failure as failure:
        records[i].failure = failure
        if not active(records):
            raise
