"""Classes of images, numbered alike in every source, and random subsets that keep their shares."""

import re
from collections.abc import Sequence

import numpy as np

MOST = 2**16  # numbers of classes are below it
SUBSET_SEED = 0x5AB5E7  # `data.limit` draws with it, whatever the seed of a run


def numbered(names: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The distinct class names in their order, and the class index of each image.

    Numbers within names sort by value ('2' before '10'), so that of the classes '0' to '11', class '10' is number 10.
    """  # str[N] or i[N] -> i32[N]
    distinct, inverse = np.unique(names, return_inverse=True)
    order = sorted(range(len(distinct)), key=lambda i: _natural(str(distinct[i])))
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    return tuple(str(distinct[i]) for i in order), place[inverse]


def as_stored(labels: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The class arrays of an archive: `label` alone if the names of classes are numbers, otherwise class indices and
    the list of names, `classes`."""  # i32[N] -> {name: [N] or [classes]}
    if all(name.isdecimal() and name == str(int(name)) and int(name) < MOST for name in names):
        return {"label": np.array(names, np.int32)[labels]}
    return {"label": labels, "classes": np.array(names)}


def _natural(name: str) -> tuple[list, str]:
    parts = re.split(r"(\d+)", name)  # text and digits alternate, so that text is compared with text
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def subset(count: int, labels: np.ndarray) -> np.ndarray:
    """The indices of a random subset of `count` of N images, in ascending order; the seed never changes.

    If `count` is at least the number of classes, each class has an image. The other images are in proportion to class
    sizes (Webster's apportionment: shares are rounded to the nearest). A smaller subset is part of each larger one.
    """  # i32[N] -> i64[count]
    rng = np.random.default_rng(SUBSET_SEED)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, at random within each
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, sizes)
    turn = np.where(rank == 0, 0, (rank + 0.5) / np.repeat(sizes, sizes))
    first = np.lexsort((rng.permutation(len(labels)), turn))  # ties at random
    return np.sort(order[first[:count]])
