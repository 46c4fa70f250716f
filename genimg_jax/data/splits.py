"""Splits and slices of them, in the syntax of TensorFlow Datasets, for every kind of source."""

import re
from collections.abc import Mapping

import numpy as np

from genimg_jax.errors import DataError

BOUNDARY = r"\s*(-?[\d_]+%?)?\s*"
PART = re.compile(rf"\s*([\w.\-/]+)\s*(?:\[{BOUNDARY}:{BOUNDARY}\])?\s*")


def select(split: str, available: Mapping[str, range]) -> np.ndarray:
    """The positions that a split names, such as `train`, `train[:90%]`, `train[-100:]` or `train[:10%]+test`.

    Percentages are rounded to the nearest example, as in TensorFlow Datasets. Negative boundaries count from the end.
    Raises DataError where the split does not exist, cannot be parsed, holds nothing, or reaches past the end.
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
