"""Are encoder and generator of a run inverses of each other, and does it draw every class? For any family that decodes
codes of a known prior and encodes images, such as `bigan`.

    python experiments/bigan.py --workdir runs/bigan_mnist

Three measures: R^2 of z, as the encoder reads it back from G(z), the mean over dimensions; PSNR of G(E(x)) over all
images x of the split; the share of each class among the images G(z), as the classifier of the data reads them.
Intervals are 95 %: Student's over codes and over images, and Wilson's of shares.
"""

import argparse
import pathlib
import sys

import jax
import numpy as np

from genimg_jax import core
from genimg_jax.data import Part, open_source
from genimg_jax.engine import config_files, features, restore, runtime, tasks
from genimg_jax.engine import program as programs
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import classifiers, suite
from genimg_jax.metrics import intervals
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval


def there_and_back(
    family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """z, G(z) and E(G(z))."""  # -> [B, Z], [B, H, W, C], [B, Z]
    space = core.space_with(family, "encode", "prior")
    codes = space.prior(weights, core.per_example_keys(key, batch["index"]), batch)
    image = space.decode(weights, codes, batch)
    recovered = space.encode(weights, {**batch, "image": image}, key)
    return codes.reshape(len(codes), -1), image, recovered.reshape(len(codes), -1)


def r_squared(codes: np.ndarray, recovered: np.ndarray) -> Interval:
    """The mean over dimensions of 1 - squared error / variance, as a mean over codes."""  # [N, Z], [N, Z]
    return intervals.mean(1 - (np.square(codes - recovered) / codes.var(axis=0)).mean(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=2000, help="codes that are drawn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runtime.prepare(runtime.Options())
    run = restore.open_run(options.workdir, config_files.of_run(options.workdir), options.checkpoint)
    data = run.program.config.data
    test, train = features.open_source(data, options.split), open_source(data, Part.TRAIN)
    batches = tasks.condition_batches(run.program, options.count, source=test)
    codes, image, recovered = programs.run(
        run.program, there_and_back, run.weights, batches, options.count, options.seed
    )
    psnr = intervals.mean(tasks.evaluate(run.program, run.weights, test)["psnr"])
    classes = classifiers.predict(classifiers.classifier(train, test, suite.cache()), image)
    counts = np.bincount(classes, minlength=len(test.classes))
    squared = r_squared(codes, recovered)
    print(f"{options.workdir}, step {run.step}, {options.count} codes of seed {options.seed}, {test.size} images\n")
    print("| what | value | interval |\n| --- | --- | --- |")
    print(f"| R^2 of z from E(G(z)), mean of {codes.shape[1]} | {squared.estimate:.3f} | {ends(squared, '.3f')} |")
    print(f"| PSNR of G(E(x)), dB | {psnr.estimate:.2f} | {ends(psnr, '.2f')} |")
    print(f"| classes drawn | {np.count_nonzero(counts)} of {len(counts)} | |")
    for name, count in zip(test.classes, counts, strict=True):
        share = proportion(count, options.count)
        print(f"| share of class {name} | {share.estimate:.1%} | {ends(share, '.1%')} |")


def ends(interval: Interval, form: str) -> str:
    return f"[{interval.low:{form}}, {interval.high:{form}}]"


if __name__ == "__main__":
    sys.exit(exit_code(main))
