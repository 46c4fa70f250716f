"""Does a run that is killed, and started again by the same command, end as if it had never been killed?

Each trial trains in a run directory of its own, kills the process with SIGKILL, half of the times at a moment drawn
uniformly over the run and half of the times while a checkpoint is being written, and gives the same command again.
Every bit of the final state's arrays, and every line of metrics.jsonl but its timing, must be those of a run that was
left alone. Exits with 1 if any trial differs.

  python experiments/kill_and_resume.py --kills 20 --seed 0
"""

import argparse
import functools
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from genimg_jax.engine import reproduce

CONFIGS = ("configs/vae_digits.py:tiny", "configs/gan_digits.py:tiny")
EVERY = 3  # steps between checkpoints
OVERRIDES = {"checkpoint_every": EVERY, "evaluate_every": 6, "sample_every": 12, "log_every": 2}
DEADLINE = 600.0  # seconds that any single process may take


class Kill(NamedTuple):
    aim: str  # 'any moment' or 'a save'
    seconds: float  # after the start
    found: str  # what the run directory held: the last checkpoint, and the one being written


def command(config: str, workdir: pathlib.Path, steps: int, overrides: Sequence[str]) -> list[str]:
    train = [f"--config.train.{key}={value}" for key, value in {"steps": steps, **OVERRIDES}.items()]
    named = ["--config", config, "--workdir", str(workdir)]
    return [sys.executable, "-m", "genimg_jax", "train", *named, *train, *overrides]


def start(arguments: Sequence[str], workdir: pathlib.Path) -> subprocess.Popen:
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "output.txt").open("a") as output:
        return subprocess.Popen(arguments, stdout=output, stderr=output)


def finish(arguments: Sequence[str], workdir: pathlib.Path) -> float:
    """Runs to the end; returns the seconds it took."""
    since = time.monotonic()
    if start(arguments, workdir).wait(DEADLINE):
        raise SystemExit(f"training failed:\n{(workdir / 'output.txt').read_text()}")
    return time.monotonic() - since


def unfinished(workdir: pathlib.Path) -> list[str]:
    return sorted(p.name for p in (workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def kill_when(due: Callable[[float], bool], arguments: Sequence[str], workdir: pathlib.Path, aim: str) -> Kill | None:
    """Starts the run and kills it once `due(seconds)`; None where it ended first."""
    process, since = start(arguments, workdir), time.monotonic()
    while not due(time.monotonic() - since):
        if process.poll() is not None:
            return None
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    seconds = time.monotonic() - since
    if process.wait() != -signal.SIGKILL:
        return None
    whole = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]
    found = f"last {max(whole)}" if whole else "none yet"
    return Kill(aim, seconds, ", ".join([found, *unfinished(workdir)[:1]]))


def trial(
    make: Callable[[pathlib.Path], list[str]],
    workdir: pathlib.Path,
    steps: int,
    duration: float,
    saving: bool,
    rng: np.random.Generator,
) -> tuple[Kill, pathlib.Path]:
    """One run, killed once and completed by the same command, and where it is."""
    for attempt in range(100):
        place = workdir.with_name(f"{workdir.name}-{attempt}")
        arguments = make(place)
        if saving:
            least = EVERY * rng.integers(1, steps // EVERY)

            def due(_: float, place=place, least=least) -> bool:
                return any(int(name.partition(".")[0]) >= least for name in unfinished(place))

            killed = kill_when(due, arguments, place, "a save")
        else:
            moment = rng.uniform(0.0, duration)
            killed = kill_when(lambda seconds, moment=moment: seconds >= moment, arguments, place, "any moment")
        if killed is not None:
            finish(arguments, place)
            return killed, place
    raise SystemExit("the run was never caught: it ended before every kill")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="trials of each configuration")
    parser.add_argument("--config", nargs="+", default=CONFIGS, help="configuration files, with variants")
    parser.add_argument("--steps", type=int, default=60, help="of a run")
    parser.add_argument("--override", nargs="*", default=[], help="such as --config.parallel.devices=1")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    values = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # libraries' remarks about reading only
    different = 0
    for number, config in enumerate(values.config):
        with tempfile.TemporaryDirectory() as directory:
            root, rng = pathlib.Path(directory), np.random.default_rng([values.seed, number])
            alone = root / "alone"
            make = functools.partial(command, config, steps=values.steps, overrides=values.override)
            duration = finish(make(alone), alone)
            print(f"{config}: {duration:.1f} s alone")
            print(f"{'kill':>4}  {'aimed at':10} {'after':>7}  {'state':9} {'metrics':9}  checkpoints when killed")
            for kill in range(values.kills):
                killed, place = trial(make, root / f"killed-{kill}", values.steps, duration, kill % 2 == 1, rng)
                found = reproduce.compare(alone, place, values.steps)
                different += bool(found.arrays_differing or found.lines_differing)
                state, metrics = (
                    f"{len(names)} DIFFER" if names else "the same"
                    for names in (found.arrays_differing, found.lines_differing)
                )
                print(
                    f"{kill:4}  {killed.aim:10} {killed.seconds:6.2f}s  {state:9} {metrics:9}  {killed.found}",
                    flush=True,
                )
    print(f"{different} of {values.kills * len(values.config)} killed runs ended differently")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
