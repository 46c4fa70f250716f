"""Do samples show what their captions say, also in combinations that were never trained on, and what does guidance add?

    python experiments/text_to_image.py --workdir runs/text_flow_shapes --samples 2000 --vary guidance 1 1.5 2 3 5
    python experiments/text_to_image.py --workdir runs/dalle --splits validation --vary temperature 0.5 0.7 1

Of a run on the data `shapes` with `shapes.holdout`: samples given the captions of the ordinary test split and of the
split of combinations left out of training, read back from their pixels, each attribute with its 95 % interval (Wilson).
What is varied is an option of the model that sampling reads. The run's own value, which was not chosen on these splits,
is marked; choose another on the validation split. Written: a table (Markdown), the figures (JSON), a plot of what is
varied (PNG) and a grid of samples a split (PNG).
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import numpy as np
from absl import logging

from genimg_jax.data import Part, open_source, text
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, images, restore, runtime, tasks
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import attributes

Value = float | None


def measure(workdir: pathlib.Path, name: str, value: Value, split: str, count: int, best_of: int, out: pathlib.Path):
    """The rate of each attribute of `count` samples, as [estimate, low, high], and seconds an image. `value` is that of
    the model's option `name`; None is the run's own."""
    values = config_files.of_run(workdir)
    own = values["model"].get(name)
    if value is not None:
        values["model"] = {**values["model"], name: value}
    opened = restore.open_run(workdir, values, "best")
    config = opened.program.config
    data = text.with_vocabulary(dataclasses.replace(config.data, fields=("tokens",)), workdir)
    source = open_source(data, Part.VALIDATION if split == "validation" else split)
    count = min(count, source.size)
    start = time.perf_counter()
    drawn = tasks.sample(opened.program, opened.weights, count, config.evaluate.seed, None, source, best_of)
    seconds = time.perf_counter() - start
    drawn = images.to_uint8(drawn)
    images.save_png(out / f"{workdir.name}_{split}.png", images.grid(drawn[:64]))
    found = attributes.prompt_accuracy(drawn, captions=source.captions(np.arange(count)))
    return {
        "split": split,
        name: own if value is None else value,
        "own": value in (None, own),
        "best_of": best_of,
        "samples": count,
        "seconds_an_image": seconds / count,
        "rates": {name: [i.estimate, i.low, i.high] for name, i in found.items() if i is not None},
    }


def table(rows: list[dict], name: str) -> str:
    names = list(rows[0]["rates"])
    lines = [f"| split | {name} | samples | " + " | ".join(names) + " |", "| --- " * (3 + len(names)) + "|"]
    for row in rows:
        cells = [f"{100 * e:.1f} [{100 * low:.1f}, {100 * high:.1f}]" for e, low, high in row["rates"].values()]
        lines.append(
            f"| {row['split']} | {row[name]}{' (own)' * row['own']} | {row['samples']} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], name: str, title: str, path: pathlib.Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    for split in dict.fromkeys(row["split"] for row in rows):
        shown = [row for row in rows if row["split"] == split]
        rate, low, high = np.array([row["rates"]["caption"] for row in shown]).T
        axes.errorbar([row[name] for row in shown], rate, [rate - low, high - rate], marker="o", label=split)
    axes.set(xlabel=name, ylabel="share of samples that show their caption", title=title)
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--splits", nargs="+", default=["test", "holdout"], help="also: validation")
    parser.add_argument("--vary", nargs="+", default=["guidance"], help="an option of the model, and values of it")
    parser.add_argument("--best_of", type=int, default=1, help="samples of which the likeliest is kept")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    options = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # libraries' remarks about reading only
    print(runtime.prepare(configs.resolve(config_files.of_run(options.workdir)).runtime))
    options.out.mkdir(parents=True, exist_ok=True)
    name, *values = options.vary
    rows = []
    for value in map(float, values) if values else [None]:
        for split in options.splits:
            rows.append(measure(options.workdir, name, value, split, options.samples, options.best_of, options.out))
            rate, low, high = rows[-1]["rates"]["caption"]
            print(f"{split}, {name} {rows[-1][name]}: caption {rate:.4f} [{low:.4f}, {high:.4f}]", flush=True)
    path = options.out / f"text_{options.workdir.name}"
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(rows, name))
    if len(values) > 1:
        plot(rows, name, options.workdir.name, path.with_suffix(".png"))
    print(f"\n{table(rows, name)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
