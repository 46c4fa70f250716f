"""Whether a run, done once more, gives the same bits, and what was not the same before it began."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from genimg_jax.engine import checkpoint, run
from genimg_jax.engine.config import Config, flatten
from genimg_jax.errors import CheckpointError

TIMINGS = ("images_per_second",)
# Of a manifest: which run it was, and not what it depended on.
VOLATILE_KEYS = ("command", "started", "resumed", "config_digest", "tokenizer.workdir", "place", "companions")


class Comparison(NamedTuple):
    arrays: int
    arrays_differing: list[str]
    lines: int
    lines_differing: list[str]


def take_cores(manifest: Mapping[str, Any]) -> None:
    """Leaves this process as many cores as the run had, where it has more: sums may be split over them otherwise."""
    if hasattr(os, "sched_setaffinity") and manifest.get("cores"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: manifest["cores"]])


def check_finished(workdir: pathlib.Path, config: Config) -> int:
    """The run's last step. Raises `CheckpointError` where it stopped before the end."""
    store = checkpoint.open_store(workdir, config.train.keep, config.train.best, read_only=True)
    step = checkpoint.choose(store, "last")
    if step != config.train.steps:
        raise CheckpointError(
            f"{workdir} stopped at step {step} of {config.train.steps}; finish it with genimg train, then reproduce it."
        )
    return step


def environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two manifests do not share, by flat key; what one of them does not have is None."""
    one, two = flatten(then), flatten(now)
    keys = [key for key in {**one, **two} if not key.startswith(VOLATILE_KEYS)]
    return {key: (one.get(key), two.get(key)) for key in keys if one.get(key) != two.get(key)}


def compare(original: pathlib.Path, again: pathlib.Path, step: int) -> Comparison:
    """Every bit of a step's state, and every logged line without its timings. NaN is what it is.

    Arrays that the original's version called otherwise are compared under today's names."""
    one, two = _arrays(original, step), _arrays(again, step)
    names = {checkpoint.place(name, one): name for name in two}
    one = {names.get(name, name): array for name, array in one.items()}
    arrays = [name for name in {**one, **two} if not _same(one.get(name), two.get(name))]
    first, second = _lines(original), _lines(again)
    lines = [
        f"{split} at step {at}"
        for split, at in {**first, **second}
        if first.get((split, at)) != second.get((split, at))
    ]
    return Comparison(len({**one, **two}), arrays, len({**first, **second}), lines)


def _arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    store = checkpoint.open_store(workdir, read_only=True)
    found = {name: np.asarray(array) for name, array in checkpoint.restore_untyped(store, step).items()}
    checkpoint.close(store)
    return found


def _same(one: np.ndarray | None, two: np.ndarray | None) -> bool:
    if one is None or two is None:
        return False
    return (one.shape, one.dtype) == (two.shape, two.dtype) and one.tobytes() == two.tobytes()


def _lines(workdir: pathlib.Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (line["split"], line["step"]): {k: v for k, v in line.items() if k not in TIMINGS}
        for line in run.read_metrics(workdir)
    }
