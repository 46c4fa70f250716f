"""Seconds that the seeds of a configuration take as one program, beside one after another and beside local workers.

    python experiments/benchmarks/vectorised.py --config configs/vae_digits.py configs/gan_digits.py --rounds 3

In turns, each in new directories, everything counted: starting processes, compiling, evaluation, pictures, checkpoints.
`commands` is one `genimg train` after another; the others are launchers of `genimg sweep`, of which `local 1` takes one
trial after another in a process that stays up. With fewer steps than the configuration's, evaluation, pictures and
checkpoints come more often, so that there are as many; lines of metrics come as often as they do.
"""

import argparse
import contextlib
import io
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files
from genimg_jax.sweeps import local, vectorised
from genimg_jax.sweeps.trials import Launcher, Trial

KEYS = ("evaluate_every", "checkpoint_every", "sample_every")


def trials(config: str, seeds: int, steps: int, workdir: pathlib.Path) -> list[Trial]:
    found = []
    for seed in range(seeds):
        values = config_files.load(config).to_dict()
        train = values["train"]
        if steps:
            train |= {key: max(1, train[key] * steps // train["steps"]) for key in KEYS} | {"steps": steps}
        values["seed"] = seed
        found.append(Trial(f"seed={seed}", {"seed": seed}, values, configs.digest(values), workdir / f"seed={seed}"))
    return found


def commands(config: str) -> Callable[[Sequence[Trial]], None]:
    def run(chosen: Sequence[Trial]) -> None:
        for trial in chosen:
            keys = ("steps", *KEYS)
            flags = [f"--config.train.{key}={trial.values['train'][key]}" for key in keys]
            command = [sys.executable, "-m", "genimg_jax", "train", "--config", config, "--workdir", str(trial.workdir)]
            command += [*flags, f"--config.seed={trial.values['seed']}"]
            subprocess.run(command, check=True, capture_output=True)

    return run


def launched(launcher: Launcher) -> Callable[[Sequence[Trial]], None]:
    def run(chosen: Sequence[Trial]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            failed = [outcome for outcome in launcher(chosen) if outcome.status != "done"]
        assert not failed, failed[0].message

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["configs/vae_digits.py", "configs/gan_digits.py"])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=0, help="0: the configuration's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["commands", "local 1", "local 2", "vectorised"])
    options = parser.parse_args()
    for config in options.config:
        ways = {
            "commands": commands(config),
            "local 1": launched(local.launcher(1)),
            "local 2": launched(local.launcher(2)),
            "vectorised": launched(vectorised.launcher()),
        }
        seconds: dict[str, list[float]] = {way: [] for way in options.ways}
        for number in range(options.rounds):
            order = options.ways[number % len(options.ways) :] + options.ways[: number % len(options.ways)]
            for way in order:
                with tempfile.TemporaryDirectory() as directory:
                    chosen = trials(config, options.seeds, options.steps, pathlib.Path(directory))
                    since = time.perf_counter()
                    ways[way](chosen)
                    seconds[way].append(time.perf_counter() - since)
                    print(f"{config} round {number} {way}: {seconds[way][-1]:.1f} s", flush=True)
        steps = chosen[0].values["train"]["steps"]
        print(f"{config}: {options.seeds} seeds of {steps} steps, median of {options.rounds} rounds")
        for way, found in seconds.items():
            line = f"  {way:10} {statistics.median(found):7.1f} s"
            if way != "vectorised" and "vectorised" in seconds:
                ratios = [slow / fast for slow, fast in zip(found, seconds["vectorised"], strict=True)]
                line += f", {statistics.median(ratios):.2f} times vectorised"
            print(line)


if __name__ == "__main__":
    main()
