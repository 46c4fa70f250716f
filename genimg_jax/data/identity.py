"""What identifies a source: in records of runs, in protocols, and when a run is resumed."""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from genimg_jax import progress
from genimg_jax.data import loading
from genimg_jax.data.types import Source

CHUNK = 256  # examples read at a time


def record(source: Source) -> dict[str, Any]:
    """What a run's manifest says of the images that it is trained on."""
    return {
        "fingerprint": source.fingerprint,
        "in_memory": source.in_memory,
        "size": source.split_size,
        "trained_on": source.size,
        "split": source.split,
        "spec": source.spec._asdict(),
        "stored_levels": source.stored_levels,
        "classes": list(source.classes),
        "class_counts": source.class_counts,
        "skipped": list(source.skipped),
    }


def change(recorded: Mapping[str, Any], source: Source) -> str:
    """How a source differs from the recorded one; "" where it is the same.

    A run that began with its images in memory recorded the hash of their pixels, for which a source that is now
    streamed is read once; one that streamed them recorded their listing, which is the same in memory. Older records do
    not say which of the two they hold.
    """
    if renamed := other_classes(recorded, source):
        return renamed
    then = recorded["fingerprint"]
    listed = not recorded.get("in_memory", True) or then == source.listing
    now = source.listing if listed else content(source)
    return "" if then == now else f"fingerprint {then} then, {now} now"


def other_classes(recorded: Mapping[str, Any], source: Source) -> str:
    """How the classes of a source differ from the recorded ones, which older records lack; "" where they do not."""
    then, now = recorded.get("classes", list(source.classes)), list(source.classes)
    if then == now:
        return ""
    place = next(i for i in range(max(len(then), len(now))) if then[i : i + 1] != now[i : i + 1])
    was, is_ = (repr(names[place]) if place < len(names) else "none" for names in (then, now))
    return f"class {place} was {was} of {len(then)} when the run began and is {is_} of {len(now)} now"


def content(source: Source) -> str:
    """The fingerprint of the pixels and labels, whether or not they are in memory: a streamed source is read for it."""
    return source.fingerprint if source.in_memory else _streamed_content(source)


@functools.lru_cache(maxsize=4)
def _streamed_content(source: Source) -> str:
    digest = hashlib.sha256(repr(source.spec.image_shape).encode())
    labels = []
    with progress.bar("hashing", total=source.size, unit="image", leave=False) as bar:
        for batch in loading.evaluation_batches(source, min(CHUNK, source.size)):
            digest.update(np.ascontiguousarray(batch["image"][batch["valid"]]))
            labels.append(batch["label"][batch["valid"]] if source.classes else np.zeros(0, np.int32))
            bar.update(int(batch["valid"].sum()))
    digest.update(np.concatenate(labels))
    return digest.hexdigest()[:16]
