"""Runs of the tiny configurations through the command line, in this process: what the tests of whole runs share."""

import os
import pathlib

import jax
import numpy as np

from genimg_jax.__main__ import main
from genimg_jax.engine import checkpoint, run

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


def name_of(config: str) -> str:
    return f"{ROOT / 'configs' / config}.py:tiny"


def train(workdir: pathlib.Path, *flags: str, config: str = "vae_digits", devices: int = 1) -> int:
    named = ["--config", name_of(config), "--workdir", str(workdir), f"--config.parallel.devices={devices}"]
    return main(["train", *named, *flags])


def steps(workdir: pathlib.Path) -> list[int]:
    """The checkpoints there are, as files tell."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


def state(workdir: pathlib.Path, step: int | None = None) -> dict[str, np.ndarray]:
    """{path: array} of a checkpoint, the last one unless told."""
    store = checkpoint.open_store(workdir, read_only=True)
    found = checkpoint.restore_untyped(store, checkpoint.last_step(store) if step is None else step)
    checkpoint.close(store)
    return jax.device_get(found)


def assert_same_state(one: pathlib.Path, two: pathlib.Path) -> None:
    one, two = state(one), state(two)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], name)


def losses(workdir: pathlib.Path, split: str = "train") -> dict[int, float]:
    return {line["step"]: line["loss"] for line in run.read_metrics(workdir) if line["split"] == split}


def environment() -> dict[str, str]:
    """For further processes: one device."""
    return {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}


def change(values: dict, key: str, value) -> dict:
    """Sets one value of a configuration in place by its flat key, or takes it out where `value` is None."""
    *sections, last = key.split(".")
    at = values
    for name in sections:
        at = at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return values
