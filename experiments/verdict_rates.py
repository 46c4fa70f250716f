"""How often is the verdict of `genimg evaluate --suite full` wrong? Prints tables in Markdown.

    python experiments/verdict_rates.py
    python experiments/verdict_rates.py --trained runs/vae_0 ... --untrained runs/vae_6_steps ...

The first command plants failures in training images of scikit-learn's digits, in their 17 levels and binarised, all of
which should be found, and puts training images in place of a generator's, which should be healthy. The second judges
runs on digits: trained ones should be healthy, and those that were stopped early or diverged should not. All are
compared with the held-out images.
"""

import argparse
import functools
import pathlib
import sys

import numpy as np
from scipy import ndimage

from genimg_jax import data
from genimg_jax.data import Part, open_source
from genimg_jax.engine import config_files, restore, run, runtime, tasks
from genimg_jax.engine.config import EvaluateOptions
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import classifiers, image_sets, suite
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.collapse import HEALTHY, Verdict

OPTIONS = EvaluateOptions(features="pixels,classifier", classifier_tests=False)
DATA = {"grey": data.Options(source="digits"), "binarised": data.Options(source="digits", binarize="dynamic")}
# Makes no other images where all are black and white.
GREY_ONLY = ("thresholded at 0.2", "averages of two images")


def tiles_shuffled(x: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:  # [N, H, W, C] -> [N, H, W, C]
    count, height, width, channels = x.shape
    tiles = x.reshape(count, height // size, size, width // size, size, channels).swapaxes(2, 3)
    shuffled = rng.permuted(np.arange(tiles[0, ..., 0, 0, 0].size)[None].repeat(count, 0), axis=1)
    flat = tiles.reshape(count, -1, size, size, channels)
    flat = flat[np.arange(count)[:, None], shuffled]
    return flat.reshape(tiles.shape).swapaxes(2, 3).reshape(x.shape)


def planted(images: np.ndarray, labels: np.ndarray, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`count` images of every failure, f32[count, H, W, C] in [0, 1], from real ones of square sides that 4 divides."""
    rng = np.random.default_rng(seed)
    x = images[rng.permutation(len(images))[:count]]
    again = np.arange(count)

    def noisy(x: np.ndarray, std: float) -> np.ndarray:
        return x + std * rng.normal(size=x.shape)

    def of_classes(number: int) -> np.ndarray:
        return images[rng.choice(np.flatnonzero(np.isin(labels, rng.permutation(10)[:number])), count)]

    def blurred(std: float) -> np.ndarray:
        return ndimage.gaussian_filter(x, (0, std, std, 0))

    rows, columns = np.indices(x.shape[1:3])[..., None]
    speckles = rng.random(x.shape)
    shifts = rng.integers(-2, 3, (count, 2))
    independent = np.stack([rng.permutation(pixel) for pixel in x.reshape(count, -1).T], axis=1).reshape(x.shape)
    return {
        "uniform noise": rng.random(x.shape),
        "independent pixels": independent,
        "all grey": np.full(x.shape, 0.5),
        "all black": np.zeros(x.shape),
        "the mean image": np.broadcast_to(images.mean(axis=0), x.shape),
        "the mean image with noise": noisy(np.broadcast_to(images.mean(axis=0), x.shape), 0.1),
        "one image": x[0 * again],
        "one image with noise": noisy(x[0 * again], 0.1),
        "copies of 5 images": x[again % 5],
        "copies of 20 images": x[again % 20],
        "copies of 5 images with noise": noisy(x[again % 5], 0.1),
        "copies of 15 images with noise": noisy(x[again % 15], 0.1),
        "one class": of_classes(1),
        "three classes": of_classes(3),
        "blurred": blurred(1.0),
        "blurred much": blurred(2.0),
        "inverted": 1 - x,
        "half the contrast": 0.5 * x,
        "grey veil": 0.25 + 0.5 * x,
        "brightened": x + 0.4,
        "shifted by two pixels": np.roll(x, 2, axis=2),
        "shifted at random": np.stack([np.roll(one, shift, (0, 1)) for one, shift in zip(x, shifts, strict=True)]),
        "rotated by 90 degrees": np.rot90(x, axes=(1, 2)),
        "upside down and mirrored": x.swapaxes(1, 2),
        "quarters shuffled": tiles_shuffled(x, x.shape[1] // 2, rng),
        "small tiles shuffled": tiles_shuffled(x, x.shape[1] // 4, rng),
        "pixels shuffled": tiles_shuffled(x, 1, rng),
        "checkerboard added": x + 0.5 * ((rows + columns) % 2),
        "every other row black": x * (rows % 2),
        "salt and pepper on 20 %": np.where(speckles < 0.1, 0, np.where(speckles > 0.9, 1, x)),
        "Gaussian noise of 0.4": noisy(x, 0.4),
        "half black": x * (rows < x.shape[1] // 2),
        "dilated": ndimage.grey_dilation(x, (1, 2, 2, 1)),
        "eroded": ndimage.grey_erosion(x, (1, 2, 2, 1)),
        "half the size": np.pad(x[:, ::2, ::2], [(0, 0), *[(x.shape[1] // 4,) * 2] * 2, (0, 0)]),
        "thresholded at 0.2": (x > 0.2) * 1.0,
        "averages of two images": (x + x[::-1]) / 2,
        "not a number in one of five": np.where((again % 5 == 0)[:, None, None, None], np.nan, x),
    }


def perfect(images: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = images[rng.permutation(len(images))[:count]]
    return {
        f"training images, draw {seed}": x,
        f"training images with noise of 0.03, draw {seed}": x + 0.03 * rng.normal(size=x.shape),
    }


@functools.cache
def comparison(binarize: str) -> suite.Comparison:
    read = data.Options(source="digits", binarize=binarize)
    source = open_source(read, Part.EVALUATE)
    reference = image_sets.of_source(source, read, source.split)
    return suite.prepare(OPTIONS, read, reference, None, classifiers.shipped("digits"), source.size)


def judged(made: np.ndarray, read: data.Options, history=(), model=None) -> Verdict:  # f32[N, H, W, C] in [-1, 1]
    compared = comparison(read.binarize)
    generated = image_sets.of_generated(made, compared.reference, read, "planted", 0)
    return suite.measure(compared, generated, history, model).verdict


def of_run(workdir: pathlib.Path) -> tuple[str, Verdict]:
    """The run in a few words, and its verdict."""
    opened = restore.open_run(workdir, config_files.of_run(workdir), "last")
    config = opened.program.config
    made = tasks.sample(opened.program, opened.weights, len(comparison(config.data.binarize).reference.images), 0)
    about = f"{workdir.name} ({config.family}, {opened.step} steps, seed {config.seed})"
    return about, judged(made, config.data, run.read_metrics(workdir), vars(config.model))


def cells(verdict: Verdict) -> str:
    found = {finding.name: finding.value for finding in verdict.findings}
    scores = [found.get(f"{name}/{features}", np.nan) for features in ("pixels", "classifier") for name in SCORES]
    worst = verdict.findings[0]
    return f"{verdict.status} | {' | '.join(f'{x:.2f}' for x in scores)} | {worst.name}"


SCORES = ("precision", "coverage", "distance")
HEADER = (
    f"| set | status | {' | '.join(f'{s}, {f}' for f in ('pixels', 'classifier') for s in SCORES)} | worst finding |"
)


def table(title: str, rows: dict[str, Verdict], healthy: bool) -> list[str]:
    """A Markdown table of sets that are all healthy, or all not, and how many verdicts are wrong."""
    if not rows:
        return []
    wrong = sum((verdict.status == HEALTHY) != healthy for verdict in rows.values())
    rate = proportion(wrong, len(rows))
    heading = f"\n## {title}: {wrong} of {len(rows)} wrong, {rate.estimate:.1%} [{rate.low:.1%}, {rate.high:.1%}]\n"
    return [heading, HEADER, "| --- " * 9 + "|", *(f"| {name} | {cells(verdict)} |" for name, verdict in rows.items())]


def of_images() -> list[str]:
    failures, perfect_ones = {}, {}
    source = open_source(DATA["grey"], Part.TRAIN)
    rows = source.read(np.arange(source.size))
    real = rows["image"] / np.float32(source.stored_levels - 1)
    for kind, read in DATA.items():
        count = len(comparison(read.binarize).reference.images)
        for name, made in planted(real, rows["label"], count).items():
            if kind == "grey" or name not in GREY_ONLY:
                failures[f"{name}, {kind}"] = judged(2 * made - 1, read)
        for seed in range(5):
            for name, made in perfect(real, count, seed).items():
                perfect_ones[f"{name}, {kind}"] = judged(2 * made - 1, read)
    return table("Planted failures", failures, False) + table("Training images as a generator", perfect_ones, True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", nargs="*", type=pathlib.Path, default=[], help="runs that should be healthy")
    parser.add_argument("--untrained", nargs="*", type=pathlib.Path, default=[], help="stopped early, or diverged")
    options = parser.parse_args()
    print(runtime.prepare(runtime.Options(cpu_tuning=False)), file=sys.stderr)
    lines = table("Trained", dict(map(of_run, options.trained)), True)
    lines += table("Untrained or diverged", dict(map(of_run, options.untrained)), False)
    print("\n".join(lines or of_images()))


if __name__ == "__main__":
    sys.exit(exit_code(main))
