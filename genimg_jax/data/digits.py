"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 in 17 levels, with nothing to download."""

import functools

import numpy as np

from genimg_jax.data.types import Options, Stored

TRAIN = 1500  # the last 297 are by other writers


def open_digits(options: Options) -> Stored:
    """Values 0 to 16 as they are, or stretched to 0 to 255 where they are to be resized."""
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    digits = load_digits()
    images = digits.images
    levels, labels = 17, digits.target.astype(np.int32)
    if options.size not in (0, images.shape[1]):  # resizing interpolates between levels
        images, levels = np.rint(images * (255 / 16)), 256
    return Stored(
        splits={"train": range(TRAIN), "test": range(TRAIN, len(images))},
        read=functools.partial(_read, images.astype(np.uint8)[..., None], labels),
        classes=tuple(map(str, digits.target_names)),
        names=lambda positions: [f"digits {position}" for position in positions],
        listing="scikit-learn digits",
        labels=labels,
        levels=levels,
    )


def _read(images: np.ndarray, labels: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
    # i64[B] -> u8[B, 8, 8, 1], i32[B]
    return {"image": images[positions], "label": labels[positions]}
