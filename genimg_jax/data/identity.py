"""The identity of a source: for records of runs, for protocols, and for resumed runs."""

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from genimg_jax import progress
from genimg_jax.data import loading, text
from genimg_jax.data.types import Source

CHUNK = 256  # examples read at a time
CONTENTS: weakref.WeakKeyDictionary[Callable, dict[str, str]] = weakref.WeakKeyDictionary()  # by `read`, of streamed


def record(source: Source) -> dict[str, Any]:
    """The record of the training images in a run's manifest."""
    return {
        "fingerprint": source.fingerprint,
        "field_hashes": dict(source.field_hashes),
        "vocabulary": source.vocabulary and text.digest(source.vocabulary),
        "encoder": source.encoder and source.encoder["weights"],
        "in_memory": source.in_memory,
        "size": source.split_size,
        "trained_on": source.size,
        "split": source.split,
        "spec": source.spec._asdict(),
        "stored_levels": source.stored_levels,
        "classes": list(source.classes),
        "class_counts": source.class_counts,
        "held_out": list(source.held_out),
        "skipped": list(source.skipped),
    }


def change(recorded: Mapping[str, Any], source: Source) -> str:
    """The difference between a source and the recorded one; "" if there is none.

    A run with images in memory recorded the hash of their pixels; a source that is now streamed is read once to compare
    it. A run that streamed its images recorded their listing, which is the same in memory. Older records do not say
    which of the two they hold.
    """
    if renamed := other_classes(recorded, source):
        return renamed
    then = recorded["fingerprint"]
    if not recorded.get("in_memory", True) or then == source.listing:
        return "" if then == source.listing else f"fingerprint {then} then, {source.listing} now"
    now = contents(source)
    if then != now["image"]:
        return f"fingerprint {then} then, {now['image']} now"
    fields = recorded.get("field_hashes", {}).items()
    return "; ".join(f"{name} {then} then, {now.get(name)} now" for name, then in fields if then != now.get(name))


def other_classes(recorded: Mapping[str, Any], source: Source) -> str:
    """The difference between the classes of a source and the recorded ones, if any; "" if there is none."""
    then, now = recorded.get("classes", list(source.classes)), list(source.classes)
    if then == now:
        return ""
    place = next(i for i in range(max(len(then), len(now))) if then[i : i + 1] != now[i : i + 1])
    was, is_ = (repr(names[place]) if place < len(names) else "none" for names in (then, now))
    return f"class {place} was {was} of {len(then)} when the run began and is {is_} of {len(now)} now"


def other_fields(names: Iterable[str], trained: Mapping[str, Any], source: Source) -> str:
    """Why the fields `names` of a source cannot replace the `trained` ones, each a `core.Field`; "" if they can."""
    for name in names:
        current, wanted = source.spec.fields.get(name), trained[name]
        if current is None or current.shape != wanted.shape or current.size > wanted.size:
            return f"{name} was {wanted} when the run began and is {current or 'not in data.fields'} now"
    return ""


def content(source: Source) -> str:
    """The fingerprint of the pixels and labels. A streamed source is read for it."""
    return contents(source)["image"]


def contents(source: Source) -> dict[str, str]:
    """The hash of pixels and labels as "image", and the hash of each field by its name."""
    if source.in_memory:
        return {"image": source.fingerprint, **source.field_hashes}
    if source.read not in CONTENTS:
        CONTENTS[source.read] = hashes(source.spec.image_shape, _streamed(source))
    return CONTENTS[source.read] | {name: content(domain) for name, domain in source.domains.items()}


def hashes(image_shape: tuple[int, ...], chunks: Iterable[Mapping[str, np.ndarray]]) -> dict[str, str]:
    """SHA-256 (16 hexadecimal digits) of pixels and then labels as "image", and of each field by its name, over all
    rows, which may come in parts of any size."""
    digests, labels = {"image": hashlib.sha256(repr(image_shape).encode())}, []
    for rows in chunks:
        for name, array in rows.items():
            if name == "label":
                labels.append(array)
                continue
            if name not in digests:
                digests[name] = hashlib.sha256(repr((array.dtype.str, array.shape[1:])).encode())
            digests[name].update(np.ascontiguousarray(array))
    for array in labels:
        digests["image"].update(array)
    return {name: digest.hexdigest()[:16] for name, digest in digests.items()}


def _streamed(source: Source) -> Iterator[dict[str, np.ndarray]]:
    source = source._replace(domains={})
    with progress.bar("hashing", total=source.size, unit="image", leave=False) as bar:
        for batch in loading.evaluation_batches(source, min(CHUNK, source.size)):
            valid = batch.pop("valid")
            yield {name: array[valid] for name, array in batch.items() if name != "index"}
            bar.update(int(valid.sum()))
