"""Do samples show what their captions say, also in combinations that were never trained on, and what does guidance add?

    python experiments/text_to_image.py --workdir runs/text_flow_shapes --samples 2000 --guidance 1 1.5 2 3 5

Of a run on the data `shapes` with `shapes.holdout`: samples given the captions of the ordinary test split and of the
split of combinations left out of training, read back from their pixels, each attribute with its 95 % interval (Wilson).
The run's own guidance, which was not chosen on these splits, is marked. Written: a table (Markdown), the figures
(JSON), a plot of guidance (PNG) and a grid of samples a split (PNG).
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import numpy as np
from absl import logging

from genimg_jax.data import open_source, text
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, images, restore, runtime, tasks
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import attributes

SPLITS = ("test", "holdout")


def measure(workdir: pathlib.Path, guidance: float | None, split: str, count: int, out: pathlib.Path) -> dict:
    """The rate of each attribute of `count` samples, as [estimate, low, high], and images a second."""
    values = config_files.of_run(workdir)
    if guidance is not None:
        values["model"] = {**values["model"], "guidance": guidance}
    opened = restore.open_run(workdir, values, "best")
    config = opened.program.config
    source = open_source(text.with_vocabulary(dataclasses.replace(config.data, fields=("tokens",)), workdir), split)
    count = min(count, source.size)
    start = time.perf_counter()
    drawn = tasks.sample(opened.program, opened.weights, count, config.evaluate.seed, source=source)
    seconds = time.perf_counter() - start
    drawn = images.to_uint8(drawn)
    images.save_png(out / f"{workdir.name}_{split}.png", images.grid(drawn[:64]))
    found = attributes.prompt_accuracy(drawn, captions=source.captions(np.arange(count)))
    rates = {name: [i.estimate, i.low, i.high] for name, i in found.items() if i is not None}
    own = guidance is None or guidance == config_files.of_run(workdir)["model"].get("guidance")
    return {
        "split": split,
        "guidance": guidance,
        "own": own,
        "samples": count,
        "seconds_an_image": seconds / count,
        "rates": rates,
    }


def table(rows: list[dict]) -> str:
    names = list(rows[0]["rates"])
    lines = ["| split | guidance | samples | " + " | ".join(names) + " |", "| --- " * (3 + len(names)) + "|"]
    for row in rows:
        shown = "none" if row["guidance"] is None else f"{row['guidance']:g}{' (default)' * row['own']}"
        cells = [f"{100 * e:.1f} [{100 * low:.1f}, {100 * high:.1f}]" for e, low, high in row["rates"].values()]
        lines.append(f"| {row['split']} | {shown} | {row['samples']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], title: str, path: pathlib.Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    for split in SPLITS:
        own = [row for row in rows if row["split"] == split]
        rate, low, high = np.array([row["rates"]["caption"] for row in own]).T
        axes.errorbar([row["guidance"] for row in own], rate, [rate - low, high - rate], marker="o", label=split)
    axes.set(xlabel="guidance weight", ylabel="share of samples that show their caption", title=title)
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--guidance", nargs="+", type=float, default=[None], help="weights; the run's own if not given")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    options = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # libraries' remarks about reading only
    print(runtime.prepare(configs.resolve(config_files.of_run(options.workdir)).runtime))
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for guidance in options.guidance:
        for split in SPLITS:
            rows.append(measure(options.workdir, guidance, split, options.samples, options.out))
            rate, low, high = rows[-1]["rates"]["caption"]
            print(f"{split}, guidance {guidance}: caption {rate:.4f} [{low:.4f}, {high:.4f}]", flush=True)
    name = f"text_{options.workdir.name}"
    (options.out / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(table(rows))
    if len(options.guidance) > 1:
        plot(rows, options.workdir.name, options.out / f"{name}.png")
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
