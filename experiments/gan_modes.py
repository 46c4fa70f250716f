"""Has a GAN collapsed? The classes its samples are read as, and how far apart they lie, beside real images.

    python experiments/gan_modes.py runs/gan_mnist_0 runs/gan_mnist_1 runs/gan_mnist_2

The reader is a 5-nearest-neighbour classifier on 50 principal components of 20,000 training images; its accuracy on
held-out images is printed. Spread is the mean distance to the nearest other image of the set, over that of as many
real images: a collapsed generator has less than real data, and its histogram misses classes.
"""

import argparse
import pathlib
import sys

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline

from genimg_jax.data import Part, open_source
from genimg_jax.engine import config_files, images, restore, tasks
from genimg_jax.errors import exit_code


def flat(pictures: np.ndarray) -> np.ndarray:  # [N, H, W, C] -> [N, H * W * C]
    return pictures.reshape(len(pictures), -1).astype(np.float32) / 255


def spread(pictures: np.ndarray) -> float:
    """Mean distance of an image to the nearest other one."""  # [N, D] -> []
    distances, _ = NearestNeighbors(n_neighbors=2).fit(pictures).kneighbors(pictures)
    return float(distances[:, 1].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=1000, help="samples of each run")
    options = parser.parse_args()
    opened = [restore.open_run(r, config_files.of_run(r), "last") for r in options.runs]
    data = opened[0].program.config.data
    train, held_out = (open_source(data, part) for part in (Part.TRAIN, Part.EVALUATE))
    known = train.read(np.arange(min(train.size, 20_000)))
    real = held_out.read(np.arange(options.count))
    reader = make_pipeline(PCA(50, random_state=0), KNeighborsClassifier(5)).fit(flat(known["image"]), known["label"])
    print(
        f"reader's accuracy on {options.count} held-out images: {reader.score(flat(real['image']), real['label']):.3f}"
    )
    classes = len(np.unique(known["label"]))
    rows = [("real images", flat(real["image"]))]
    for name, restored_run in zip(options.runs, opened, strict=True):
        made = tasks.sample(restored_run.program, restored_run.weights, options.count, 0)
        rows.append((f"{name} step {restored_run.step}", flat(images.to_uint8(made))))
    print("| images | " + " | ".join(map(str, range(classes))) + " | spread |\n" + "| --- " * (classes + 2) + "|")
    for name, pictures in rows:
        counts = np.bincount(reader.predict(pictures), minlength=classes)
        print(f"| {name} | " + " | ".join(map(str, counts)) + f" | {spread(pictures) / spread(rows[0][1]):.2f} |")


if __name__ == "__main__":
    sys.exit(exit_code(main))
