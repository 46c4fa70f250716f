"""How close to the data a model comes for the time that its sampler takes: diffusion, flow, or masked generation.

    python experiments/sampling_tradeoff.py --workdir runs/diffusion_mnist --samples 1000 \\
        --solvers euler heun dpm_solver ancestral --steps 4 8 16 32 --out experiments/results
    python experiments/sampling_tradeoff.py --workdir runs/masked_mnist --solvers random confidence --steps 8 16 32

Of masked generation the solver is the order in which values are unmasked.
Every solver with every number of steps draws the same images (one key an image) from one checkpoint; their Frechet
distance to the held-out images, corrected for its bias and with a 95 % interval, is in the features of the project's
classifier, and rates are of a second pass, compiled before. Written: a table (Markdown), the figures (JSON) and the
plot (PNG).
Heun's method evaluates the network twice a step but the last; evaluations of two networks, as guidance needs them,
count twice.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np
from absl import logging

from genimg_jax.data import Part, open_source
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, restore, runtime, tasks
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import classes, distances, image_sets, suite
from genimg_jax.metrics import intervals


def evaluations(model, solver: str, steps: int) -> int:
    """Of the network, for one image."""
    once = 2 * steps - 1 if solver in ("heun", "stochastic") else steps
    return once * (1 if getattr(model, "guidance", 1.0) == 1.0 else 2)


def measure(workdir: pathlib.Path, changed: dict, samples: int, judge) -> dict[str, float]:
    """Rate and distance of a run's samples with some of its sampling options changed."""
    values = config_files.of_run(workdir)
    values["model"] = {**values["model"], **changed}
    opened = restore.open_run(workdir, values, "best")
    options = opened.program.config.evaluate
    tasks.sample(opened.program, opened.weights, min(options.batch_size, samples), options.seed)
    start = time.perf_counter()
    made = tasks.sample(opened.program, opened.weights, samples, options.seed)
    seconds = time.perf_counter() - start
    distance = judge(made)
    return {
        "images_per_second": samples / seconds,
        "frechet": distance.estimate,
        "low": distance.low,
        "high": distance.high,
    }


def judge_of(workdir: pathlib.Path):
    """(images f32[N, H, W, C]) -> the interval of their Frechet distance from the held-out images of the run's data."""
    config = configs.resolve(config_files.of_run(workdir))
    source = open_source(config.data, Part.EVALUATE)
    train = open_source(config.data, Part.TRAIN)
    classifier = classes.classifier_of(train, source, config.evaluate, suite.cache())
    held_out = image_sets.of_source(source, config.data, config.data.evaluate_split)
    theirs = distances.extract(classifier.features, held_out)

    def judge(made: np.ndarray) -> intervals.Interval:
        generated = image_sets.of_generated(made, held_out, config.data, "generated", config.evaluate.seed)
        ours = distances.extract(classifier.features, generated)
        return intervals.frechet_interval(ours, theirs, distances.BLOCKS, config.evaluate.seed)

    return judge


def plot(rows: list[dict], title: str, path: pathlib.Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    first, second = figure.subplots(1, 2, sharey=True)
    for solver in dict.fromkeys(row["solver"] for row in rows):
        own = [row for row in rows if row["solver"] == solver]
        distance = [row["frechet"] for row in own]
        bars = {"yerr": [[row["frechet"] - row["low"] for row in own], [row["high"] - row["frechet"] for row in own]]}
        first.errorbar([row["evaluations"] for row in own], distance, **bars, marker="o", label=solver)
        second.errorbar([row["images_per_second"] for row in own], distance, **bars, marker="o")
        for row in own:
            second.annotate(row["steps"], (row["images_per_second"], row["frechet"]), fontsize=7)
    first.set(xscale="log", yscale="log", xlabel="evaluations of a network an image", ylabel="Frechet distance")
    second.set(xscale="log", xlabel="images a second (figures: steps)")
    for axes in (first, second):
        axes.xaxis.set_major_locator(LogLocator(2, numticks=20))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    first.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--solvers", nargs="+", default=["euler", "heun", "dpm_solver", "ancestral"])
    parser.add_argument("--steps", nargs="+", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--guidance", type=float, help="the run's own if not given")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    options = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # libraries' remarks about reading only
    config = configs.resolve(config_files.of_run(options.workdir))
    print(runtime.prepare(config.runtime))
    guided = {} if options.guidance is None else {"guidance": options.guidance}
    judge, rows = judge_of(options.workdir), []
    print(f"{options.samples} images, {jax.devices()}\n")
    print("| solver | steps | evaluations | images/s | Frechet distance, corrected |\n| --- | --- | --- | --- | --- |")
    for solver in options.solvers:
        for steps in options.steps:
            changed = {"solver" if hasattr(config.model, "solver") else "order": solver, "steps": steps, **guided}
            found = measure(options.workdir, changed, options.samples, judge)
            model = argparse.Namespace(**{**vars(config.model), **guided})
            rows.append({"solver": solver, "steps": steps, "evaluations": evaluations(model, solver, steps), **found})
            print(
                f"| {solver} | {steps} | {rows[-1]['evaluations']} | {found['images_per_second']:.1f} "
                f"| {found['frechet']:.2f} [{found['low']:.2f}, {found['high']:.2f}] |",
                flush=True,
            )
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"sampling_{options.workdir.name}"
    (options.out / f"{name}.json").write_text(json.dumps({"samples": options.samples, "rows": rows}, indent=2) + "\n")
    plot(rows, f"{options.workdir.name}, {options.samples} images", options.out / f"{name}.png")


if __name__ == "__main__":
    sys.exit(exit_code(main))
