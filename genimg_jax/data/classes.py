"""Classes of images, numbered alike in every source, and random subsets that keep their shares."""

import re
from collections.abc import Sequence

import numpy as np

MOST = 2**16  # numbers of classes are below it
SUBSET_SEED = 0x5AB5E7  # `data.limit` draws with it, whatever the seed of a run


def numbered(names: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The distinct class names in their order, and the place of each image's class among them.

    Numbers within names sort by value ('2' before '10'), so that of the classes '0' to '11', class '10' is number 10.
    """  # str[N] or i[N] -> i32[N]
    distinct, inverse = np.unique(names, return_inverse=True)
    order = sorted(range(len(distinct)), key=lambda i: _natural(str(distinct[i])))
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    return tuple(str(distinct[i]) for i in order), place[inverse]


def as_stored(labels: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays by which an archive says of which class images are: the numbers that classes are called by, or their
    places beside the list of names."""  # i32[N] -> {name: [N] or [classes]}
    if all(name.isdecimal() and name == str(int(name)) and int(name) < MOST for name in names):
        return {"label": np.array(names, np.int32)[labels]}
    return {"label": labels, "classes": np.array(names)}


def _natural(name: str) -> tuple[list, str]:
    parts = re.split(r"(\d+)", name)  # text and digits in turn, so that like meets like
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def subset(count: int, labels: np.ndarray) -> np.ndarray:
    """Which `count` of N images to keep, in ascending order: drawn at random, by a seed that never changes.

    Where `count` reaches the number of classes, each has an image. What is left follows their shares (the apportionment
    of Webster: shares of images are rounded to the nearest). A smaller subset is part of each larger one.
    """  # i32[N] -> i64[count]
    rng = np.random.default_rng(SUBSET_SEED)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, at random within each
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, sizes)
    turn = np.where(rank == 0, 0, (rank + 0.5) / np.repeat(sizes, sizes))
    first = np.lexsort((rng.permutation(len(labels)), turn))  # ties at random
    return np.sort(order[first[:count]])
