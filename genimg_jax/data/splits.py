"""Splits and their slices, in the syntax of TensorFlow Datasets, and the three parts of a run, for every source.

A run trains on one part, selects its best checkpoint and options on a second, and reports metrics on a third. Metrics
of the third part then have no selection bias.
"""

import contextlib
import enum
import itertools
import re
from collections.abc import Mapping

import numpy as np

from genimg_jax.data.types import Options
from genimg_jax.errors import DataError

BOUNDARY = r"\s*(-?[\d_]+%?)?\s*"
PART = re.compile(rf"\s*([\w.\-/]+)\s*(?:\[{BOUNDARY}:{BOUNDARY}\])?\s*")

SHUFFLE = 0x5B117  # separates the choice of the validation split from other uses of the generator
LARGEST = 5000  # images of an automatic validation split


class Part(enum.StrEnum):
    """The three parts; each value is the option with its split."""

    TRAIN = "train_split"
    VALIDATION = "validation_split"
    EVALUATE = "evaluate_split"


def part(
    options: Options, chosen: Part, available: Mapping[str, range], labels: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """The positions of a part, and its name in reports: the split, and the parts with which it shares examples.

    A `validation_split` of 'auto' is a tenth of `train_split`, at most `LARGEST` examples, chosen by a fixed
    permutation and excluded from training. With `labels` i32[positions], it never has all images of a class. Raises
    DataError if two parts share examples and `allow_overlap` is False, or if `chosen` is a validation split of 'none'.
    """  # -> i64[N]
    train, validation = select(options.train_split, available), np.empty(0, np.int64)
    if options.validation_split == "auto":
        order = np.random.default_rng([SHUFFLE, len(train)]).permutation(len(train))
        validates = np.zeros(len(train), bool)
        validates[order[: min(-(-len(train) // 10), LARGEST, len(train) - 1)]] = True
        if labels is not None:
            validates &= np.isin(labels[train], labels[train[~validates]])
        train, validation = train[~validates], train[validates]
    elif options.validation_split != "none":
        with _required_if(chosen == Part.VALIDATION):
            validation = select(options.validation_split, available)
    parts = {Part.TRAIN: train, Part.VALIDATION: validation}
    with _required_if(chosen == Part.EVALUATE):
        parts[Part.EVALUATE] = select(options.evaluate_split, available)
    if not len(parts[chosen]):
        raise DataError(f"data.{chosen} is {getattr(options, chosen)!r}, which leaves no images; name a split.")
    shared = {
        (a, b): f"{_named(options, a)} and {_named(options, b)} share {count} images"
        for a, b in itertools.combinations(parts, 2)
        if (count := len(np.intersect1d(parts[a], parts[b])))
    }
    if shared and not options.allow_overlap:
        raise DataError(
            f"{'; '.join(shared.values())}: figures on them would be too good. Name disjoint splits, such as "
            "train[:90%] and train[90%:], or set data.allow_overlap=True, which every report then states."
        )
    stated = [sentence for pair, sentence in shared.items() if chosen in pair]
    name = title(options, chosen)
    return parts[chosen], f"{name} ({'; '.join(stated)})" if stated else name


def _required_if(condition: bool) -> contextlib.AbstractContextManager:
    """Ignores a missing split unless the condition holds: a source without it can still be trained on."""
    return contextlib.nullcontext() if condition else contextlib.suppress(DataError)


def title(options: Options, part: Part) -> str:
    """The name of a part's split in reports."""
    name = getattr(options, part)
    return f"a slice of {options.train_split}" if part == Part.VALIDATION and name == "auto" else name


def _named(options: Options, part: Part) -> str:
    return f"data.{part} {getattr(options, part)!r}"


def select(split: str, available: Mapping[str, range]) -> np.ndarray:
    """The positions that a split names, such as `train`, `train[:90%]`, `train[-100:]` or `train[:10%]+test`.

    Percentages are rounded to the nearest example, as in TensorFlow Datasets. Negative boundaries count from the end.
    Raises DataError if the split does not exist, cannot be parsed, is empty, or reaches past the end.
    """  # -> i64[N]
    return np.concatenate([_part(part, split, available) for part in split.split("+")])


def _part(part: str, split: str, available: Mapping[str, range]) -> np.ndarray:  # -> i64[N]
    match = PART.fullmatch(part)
    if match is None:
        raise DataError(
            f"Split '{split}' cannot be read: write it as train, train[:90%], train[100:200] or train+test."
        )
    name, start, stop = match.groups()
    if name not in available:
        raise DataError(f"There is no split '{name}': this source has {', '.join(sorted(available)) or 'none'}.")
    whole = available[name]
    first = _boundary(start, 0, len(whole), split)
    last = _boundary(stop, len(whole), len(whole), split)
    if first >= last:
        raise DataError(f"Split '{split}' holds no examples: '{name}' has {len(whole)}.")
    return np.arange(whole.start + first, whole.start + last)


def _boundary(text: str | None, default: int, count: int, split: str) -> int:
    if text is None:
        return default
    if text.endswith("%"):
        percent = int(text[:-1])
        boundary = round(abs(percent) * count / 100.0)
        boundary = boundary if percent >= 0 else count - boundary
    else:
        boundary = int(text)
        boundary = boundary if boundary >= 0 else count + boundary
    if not 0 <= boundary <= count:
        raise DataError(f"Split '{split}' reaches past the end: there are {count} examples.")
    return boundary
