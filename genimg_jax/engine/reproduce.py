"""Comparison of a run with its reproduction, bit by bit, and of the environments of both."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from genimg_jax.engine import checkpoint, run
from genimg_jax.engine.config import Config, flatten
from genimg_jax.errors import CheckpointError

TIMINGS = ("images_per_second",)
# Keys of a manifest that identify the run, but on which its results do not depend.
VOLATILE_KEYS = ("command", "started", "resumed", "config_digest", "tokenizer.workdir", "place", "companions")


class Comparison(NamedTuple):
    arrays: int
    arrays_differing: list[str]
    lines: int
    lines_differing: list[str]


def take_cores(manifest: Mapping[str, Any]) -> None:
    """Limits this process to as many cores as the run had: sums may be split over cores."""
    if hasattr(os, "sched_setaffinity") and manifest.get("cores"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: manifest["cores"]])


def check_finished(workdir: pathlib.Path, config: Config) -> int:
    """The run's last step. Raises `CheckpointError` if it stopped before the end."""
    store = checkpoint.open_store(workdir, config.train.keep, config.train.best, read_only=True)
    step = checkpoint.choose(store, "last")
    if step != config.train.steps:
        raise CheckpointError(
            f"{workdir} stopped at step {step} of {config.train.steps}; finish it with genimg train, then reproduce it."
        )
    return step


def environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The differences of two manifests, by flat key; None for a value that one of them lacks."""
    then, now = flatten(then), flatten(now)
    keys = [key for key in {**then, **now} if not key.startswith(VOLATILE_KEYS)]
    return {key: (then.get(key), now.get(key)) for key in keys if then.get(key) != now.get(key)}


def compare(original: pathlib.Path, again: pathlib.Path, step: int) -> Comparison:
    """Compares every bit of a step's state, and every logged line without its timings. NaN equals NaN.

    Arrays that the original's version named differently are compared under their current names."""
    before, after = _arrays(original, step), _arrays(again, step)
    names = {checkpoint.place(name, before): name for name in after}
    before = {names.get(name, name): array for name, array in before.items()}
    arrays = [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]
    first, second = _lines(original), _lines(again)
    lines = [
        f"{split} at step {at}"
        for split, at in {**first, **second}
        if first.get((split, at)) != second.get((split, at))
    ]
    return Comparison(len({**before, **after}), arrays, len({**first, **second}), lines)


def _arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    store = checkpoint.open_store(workdir, read_only=True)
    arrays = {name: np.asarray(array) for name, array in checkpoint.restore_untyped(store, step).items()}
    checkpoint.close(store)
    return arrays


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return False
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


def _lines(workdir: pathlib.Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (line["split"], line["step"]): {k: v for k, v in line.items() if k not in TIMINGS}
        for line in run.read_metrics(workdir)
    }
