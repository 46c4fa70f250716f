"""Do translations between two domains of images show the same thing in the other domain's style?

    python experiments/translation.py --workdir runs/cyclegan_emoji runs/cyclegan_emoji_1

For runs of `cyclegan`, in both directions, and of `pix2pix`, all on the same data. Held-out images of both domains with
the same file name are partners, as in folders made by experiments/pair_folders.py. For each run, beside the source as
it is and a ridge regression between training partners in 16x16 pixels:

- PSNR to the partner, of the images and of their block means in 16x16 pixels, and of the cycle to the source: squared
  errors are averaged over images before the logarithm.
- retrieval@1: the share of translations whose partner is the nearest of the target domain's held-out images, in pixels.
- target style: the share that a classifier, trained on the training images of both domains, reads as the target domain.
- colours: the correlation of values with the source's over all pixels and channels; below 0 they are inverted.

Intervals are 95 %: Student's of mean squared errors, Wilson's of shares. Written: a picture a run and direction, with
rows of sources, translations, cycles and partners.
"""

import argparse
import pathlib
import sys

import jax
import numpy as np
from sklearn.linear_model import Ridge

from genimg_jax import core, files
from genimg_jax.data import Part, Source, open_source, transforms
from genimg_jax.engine import config_files, images, restore, runtime, tasks
from genimg_jax.engine import program as programs
from genimg_jax.errors import DataError, exit_code
from genimg_jax.evaluation import classifiers, suite
from genimg_jax.evaluation.classifiers import Classifier
from genimg_jax.evaluation.recipe import Examples, Recipe
from genimg_jax.metrics import intervals
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval

DOMAINS = {"image": "source", "source": "image"}  # the domain that each domain's images are translated from
SHOWN = 12  # the last ones, columns of a picture
SIDE = 16  # pixels, in which the regression translates
STYLE = Recipe(steps=3000, batch_size=64, turn=0.1)
HEAD = f"| translation | PSNR, dB | PSNR in {SIDE}x{SIDE}, dB | cycle PSNR, dB | retrieval@1 | target style | colours |"


def translate(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> core.Tree:
    """Translations into each domain and, where the family encodes images, these translated back."""
    # -> {domain: (translation,) or (translation, cycle)}, [B, H, W, C] each
    forward, space = tasks.sample_task(family, weights, batch, key), core.space_with(family, "encode")
    if space is None:
        return {"image": (forward,)}
    back = space.encode(weights, batch, key)
    cycle = space.encode(weights, {**batch, "image": forward}, key)
    return {"image": (forward, cycle), "source": (back, space.decode(weights, back, batch))}


def partners(source: Source) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The images of both domains that have partners, in the same order, and the index of each in its own domain."""
    # -> {domain: u8[N, H, W, C]}, {domain: i64[N]}
    index = np.arange(source.size)
    if not source.domains:
        rows = source.read(index)
        return {name: rows[name] for name in DOMAINS}, dict.fromkeys(DOMAINS, index)
    both = {"image": source, "source": source.domains["source"]}
    names = [[pathlib.Path(name).name for name in each.names(np.arange(each.size))] for each in both.values()]
    _, *places = np.intersect1d(*names, return_indices=True)
    if not len(places[0]) or places[1].max() >= source.size:
        raise DataError("the images need partners of the same file names; make folders by experiments/pair_folders.py.")
    index = dict(zip(DOMAINS, places, strict=True))
    return {name: each.read(index[name])["image"] for name, each in both.items()}, index


def style_classifier(train: dict[str, np.ndarray]) -> Classifier:
    """A classifier of domains, class i the i-th of DOMAINS. Trained at its first use, and cached."""
    arrays = {
        "image": np.concatenate([train[name] for name in DOMAINS]),
        "label": np.repeat(np.arange(2, dtype=np.int32), [len(train[name]) for name in DOMAINS]),
    }
    path = suite.cache() / f"style-{files.digest_arrays(arrays)}-{STYLE.digest()}.safetensors"
    if path.exists():
        return classifiers.opened(path, "cached")
    shape = arrays["image"].shape
    examples = Examples(
        lambda index: {name: x[index] for name, x in arrays.items()}, len(arrays["label"]), 256, shape[1:], 2
    )
    return classifiers.train_and_keep(path, examples, STYLE, {"name": "of both domains"})


def shrunk(pixels: np.ndarray) -> np.ndarray:  # [N, H, W, C] -> [N, SIDE, SIDE, C]
    count, height, width, channels = pixels.shape
    return pixels.reshape(count, SIDE, height // SIDE, SIDE, width // SIDE, channels).mean((2, 4))


def regression(source: np.ndarray, target: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Translations of held-out images by a linear regression between training partners, in SIDE x SIDE pixels."""
    # [N, H, W, C], [N, H, W, C], [M, H, W, C] -> [M, H, W, C]
    known, wanted, asked = (shrunk(x).reshape(len(x), -1) for x in (source, target, held_out))
    translated = Ridge(100.0).fit(known, wanted).predict(asked).reshape(-1, SIDE, SIDE, target.shape[3])
    return translated.clip(-1, 1).repeat(target.shape[1] // SIDE, 1).repeat(target.shape[2] // SIDE, 2)


def psnr(first: np.ndarray, second: np.ndarray) -> Interval:  # [N, H, W, C] x 2 in [-1, 1]
    """In dB, of the mean squared error over all images."""
    error = intervals.mean(np.square(first - second).mean(axis=(1, 2, 3), dtype=np.float64))
    best, low, high = (10 * np.log10(4 / max(x, 1e-12)) for x in (error.estimate, error.high, error.low))
    return error._replace(estimate=best, low=low, high=high)


def retrieval(translations: np.ndarray, targets: np.ndarray) -> Interval:  # [N, H, W, C] x 2
    """The share of translations to which no target is nearer than that of the same index."""
    ours, theirs = (x.reshape(len(x), -1).astype(np.float64) for x in (translations, targets))
    distance = np.square(theirs).sum(axis=1) - 2 * ours @ theirs.T  # without what all targets have in common
    return proportion((np.diag(distance) <= distance.min(axis=1) + 1e-6).sum(), len(ours))  # some targets are equal


def correlation(source: np.ndarray, translations: np.ndarray) -> float:  # [N, H, W, C] x 2
    return float(np.corrcoef(source.ravel(), translations.ravel())[0, 1])


def row(name: str, source: np.ndarray, target: np.ndarray, made: tuple[np.ndarray, ...], in_style: np.ndarray) -> str:
    """A row of the table: of translations, and their cycles if there are any. `in_style` is bool[N]."""
    found = psnr(made[0], target), psnr(shrunk(made[0]), shrunk(target)), *[psnr(cycle, source) for cycle in made[1:]]
    cells = [f"{x.estimate:.2f} [{x.low:.2f}, {x.high:.2f}]" for x in found] + ["-"] * (2 - len(made))
    shares = retrieval(made[0], target), proportion(in_style.sum(), len(in_style))
    cells += [f"{x.estimate:.1%} [{x.low:.1%}, {x.high:.1%}]" for x in shares]
    return f"| {name} | {' | '.join(cells)} | {correlation(source, made[0]):.2f} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    runtime.prepare(runtime.Options())
    runs = {path: restore.open_run(path, config_files.of_run(path), options.checkpoint) for path in options.workdir}
    data = runs[options.workdir[0]].program.config.data
    test = open_source(data, Part.EVALUATE)
    pixels, index = partners(test)
    known, _ = partners(open_source(data, Part.TRAIN))
    classifier = style_classifier(known)
    known, held_out = ({name: np.asarray(transforms.field(x)) for name, x in each.items()} for each in (known, pixels))
    read = {name: classifiers.predict(classifier, x) for name, x in held_out.items()}
    right = sum((labels == style).sum() for style, labels in enumerate(read.values()))
    share = proportion(right, sum(map(len, read.values())))
    print(f"{len(pixels['image'])} partners of {test.split}; the classifier reads {share.estimate:.1%} "
          f"[{share.low:.1%}, {share.high:.1%}] of their styles right")  # fmt: skip
    made = {}
    for path, run in runs.items():
        batches = programs.held_out(run.program, test)
        made[path] = programs.run(run.program, translate, run.weights, batches, test.size, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    for style, (name, other) in enumerate(DOMAINS.items()):
        source, target = held_out[other], held_out[name]
        rows = {"the source as it is": (source,), "ridge": (regression(known[other], known[name], source),)}
        for path, run in runs.items():
            if name in made[path]:
                ours = tuple(x[index[other]] for x in made[path][name])
                rows[f"{path.name}, step {run.step}"] = ours
                sheet = images.grid(np.concatenate([x[-SHOWN:] for x in (source, *ours, target)]), SHOWN)
                images.save_png(options.out / f"translation_{path.name}_to_{name}.png", sheet)
        if len(rows) == 2:  # no run translates in this direction
            continue
        print(f"\nfrom `{other}` to `{name}`\n\n{HEAD}\n{'| --- ' * 7}|")
        for what, each in rows.items():
            print(row(what, source, target, each, classifiers.predict(classifier, each[0]) == style), flush=True)
        inverted = [correlation(source, x) < 0 for x, *_ in list(rows.values())[2:]]
        print(f"\ncolours are inverted in {sum(inverted)} of {len(inverted)} runs")


if __name__ == "__main__":
    sys.exit(exit_code(main))
