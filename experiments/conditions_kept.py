"""How much samples keep of the held-out images whose conditions they are given, such as features of these images.

    python experiments/conditions_kept.py --workdir runs/features_flow_digits

Each held-out image gives its condition to one sample. Of `shapes`, the attributes are read from pixels; of other
labelled data, the class by the classifier of that data. `images` is what is read right in the images themselves. For
`samples, shuffled` each is given the condition of another image, and `images, shuffled` is what these other images
themselves have in common with the first: chance. Intervals are Wilson's, of 95 %.
"""

import argparse
import pathlib
import sys

import numpy as np

from genimg_jax.data import Part, Source, loading, open_source, transforms
from genimg_jax.engine import config_files, features, images, restore, runtime, tasks
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import attributes, classifiers, suite
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval


def read_right(made: np.ndarray, test: Source, train: Source, scenes: bool) -> dict[str, Interval | None]:
    """The share of images that agree with those of `test` in their places."""  # f32[N, H, W, C] in [-1, 1]
    index = np.arange(test.size)
    if scenes:
        return attributes.prompt_accuracy(images.to_uint8(made), captions=test.captions(index))
    found = classifiers.predict(classifiers.classifier(train, test, suite.cache()), made)
    return {"class": proportion((found == test.read(index)["label"]).sum(), test.size)}


def percent(share: Interval | None) -> str:
    return f"{share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}]" if share else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    values = config_files.of_run(options.workdir)
    runtime.prepare(runtime.Options())
    run = restore.open_run(options.workdir, values, options.checkpoint)
    read = run.program.config.data
    test, train = features.open_source(read, Part.EVALUATE), open_source(read, Part.TRAIN)
    rows = loading.rows(test, np.arange(test.size))
    told = {name: np.asarray(transforms.field(rows[name])) for name in run.program.family.conditions}
    other = np.random.default_rng(options.seed).permutation(test.size)
    real = 2 * rows["image"].astype(np.float32) / (test.stored_levels - 1) - 1
    made = {}
    for ending, order in {"": np.arange(test.size), ", shuffled": other}.items():
        given = {field: array[order] for field, array in told.items()}
        made[f"images{ending}"] = real[order]
        made[f"samples{ending}"] = tasks.sample(run.program, run.weights, test.size, options.seed, given)
    print(f"{options.workdir}, step {run.step}, given {', '.join(told)} of {test.size} images of {test.split}\n")
    found = {name: read_right(each, test, train, read.source == "shapes") for name, each in made.items()}
    print(f"| what | {' | '.join(found)} |\n{'| --- ' * (1 + len(found))}|")
    for what in found["images"]:
        print(f"| {what} | {' | '.join(percent(intervals[what]) for intervals in found.values())} |")


if __name__ == "__main__":
    sys.exit(exit_code(main))
