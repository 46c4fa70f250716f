"""What choosing a checkpoint does to its figure on the test images: chosen on validation, or on test, minus the last.

    python experiments/selection.py --workdir runs/selection --configs vae_digits made_digits --seeds 5

A figure that is chosen on the images that it is reported on is too good. The difference between the last two columns
is that optimism.
"""

import argparse
import concurrent.futures
import functools
import json
import pathlib
import subprocess
import sys

import numpy as np

from genimg_jax.metrics import intervals

METRIC = "negative_log_likelihood"


def genimg(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "genimg_jax", *arguments], check=True, stdout=subprocess.DEVNULL)


def figures(workdir: pathlib.Path, ending: str = "") -> dict[int, float]:
    """The metric at each checkpoint, as `genimg evaluate --all-checkpoints` wrote it."""
    paths = [p for p in (workdir / "evaluation").glob(f"*{ending}.json") if p.stem.removesuffix(ending).isdecimal()]
    reports = [json.loads(path.read_text()) for path in paths]
    return {report["step"]: report["metrics"][METRIC]["value"] for report in reports}


def differences(workdir: pathlib.Path) -> tuple[float, float, int]:
    """On the test images, minus the last checkpoint's figure: that chosen on validation, that chosen on test; and how
    many there were."""
    test, validation = figures(workdir), figures(workdir, "-validation")
    last = test[max(test)]
    return test[min(validation, key=validation.get)] - last, min(test.values()) - last, len(test)


def trained(config: str, every: int, seed: int, workdir: pathlib.Path) -> tuple[float, float, int]:
    """`differences` of one seed, once it is trained and all of its checkpoints are evaluated on both splits."""
    often = [f"--config.train.{key}_every={every}" for key in ("checkpoint", "evaluate")]
    more = ["--config.train.keep=1000", "--config.train.sample_every=0", f"--config.seed={seed}"]
    genimg("train", "--config", f"configs/{config}.py", "--workdir", str(workdir), *often, *more)
    for flags in ([], ["--validation"]):
        genimg("evaluate", "--workdir", str(workdir), "--all-checkpoints", *flags)
    return differences(workdir)


def cell(values: list[float]) -> str:
    found = intervals.mean(np.array(values))
    return f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--configs", nargs="+", default=["vae_digits", "made_digits"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--workers", type=int, default=1, help="seeds that are trained at a time")
    options = parser.parse_args()
    print("| config | seeds | checkpoints | chosen on validation, minus last | chosen on test, minus last |")
    print("| --- | --- | --- | --- | --- |")
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        for config in options.configs:
            seeds = range(options.seeds)
            workdirs = [options.workdir / f"{config}-{seed}" for seed in seeds]
            found = pool.map(functools.partial(trained, config, options.every), seeds, workdirs)
            ours, theirs, counts = zip(*found, strict=True)
            print(f"| `{config}` | {options.seeds} | {counts[0]} | {cell(ours)} | {cell(theirs)} |", flush=True)


if __name__ == "__main__":
    main()
