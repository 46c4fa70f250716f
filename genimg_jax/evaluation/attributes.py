"""Do scenes show the classes, captions and masks that were asked for? They are read from pixels and compared."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from genimg_jax import files
from genimg_jax.data import scene_layout, shapes
from genimg_jax.errors import DataError
from genimg_jax.evaluation import distances, scene_reader
from genimg_jax.evaluation.distances import Metrics
from genimg_jax.evaluation.image_sets import ImageSet
from genimg_jax.metrics import intervals
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval
from genimg_jax.metrics.specs import Measurement

COMPARED = ("kind", "colour", "relation")  # of every object

Scenes = Mapping[str, np.ndarray]
"""What `shapes.scenes` returns: `kind`, `colour`, `background` and `relation` are always there."""

_COLOUR, _KIND, _RELATION, _NUMBER, _KINDS = (
    f"(?:{'|'.join(words)})"
    for words in (shapes.COLOURS, shapes.KINDS, shapes.RELATIONS, shapes.NUMBERS, shapes.PLURALS)
)
_SMALL = f"{_RELATION} a small {_COLOUR} {_KIND}"
_CAPTION = re.compile(
    f"(?:a large {_COLOUR} {_KIND}(?: {_SMALL}(?: and {_SMALL})?)?|(?P<number>{_NUMBER}) small {_COLOUR} {_KINDS})"
    f" on a (?P<background>{_COLOUR}) background"
)


def parse(captions: Sequence[str]) -> dict[str, np.ndarray]:
    """The scenes that captions of `shapes.captions` describe, in arrays for N objects: as many as a caption has, and at
    least 2. What an object that is not there would have is -1.

    Raises `DataError` for any other sentence.
    """  # -> kind, colour i32[B, N]; background i32[B]; relation i32[B, N - 1], or i32[B] where N is 2
    colours, rows = list(shapes.COLOURS), []
    for number, caption in enumerate(captions):
        match = _CAPTION.fullmatch(caption)
        if match is None:
            example = shapes.captions(shapes.scenes(0, np.arange(1)))[0]
            raise DataError(f"{caption!r}, that of image {number}, is no caption of a scene, such as {example!r}.")
        objects = re.findall(f"({_COLOUR}) ({_KIND})", caption)
        if match["number"]:
            objects *= 2 + shapes.NUMBERS.index(match["number"])
        rows.append((objects, re.findall(_RELATION, caption), match["background"]))
    slots = max([2, *(len(objects) for objects, _, _ in rows)])
    kind, colour = np.full((2, len(rows), slots), -1, np.int32)
    relation = np.full((len(rows), slots - 1), -1, np.int32)
    for row, (objects, relations, _) in enumerate(rows):
        kind[row, : len(objects)] = [shapes.KINDS.index(name) for _, name in objects]
        colour[row, : len(objects)] = [colours.index(name) for name, _ in objects]
        relation[row, : len(relations)] = [shapes.RELATIONS.index(name) for name in relations]
    return {
        "kind": kind,
        "colour": colour,
        "background": np.array([colours.index(name) for _, _, name in rows], np.int32),
        "relation": relation[:, 0] if slots == 2 else relation,
    }


def checks(found: Scenes, wanted: Scenes) -> dict[str, np.ndarray]:
    """Which scenes are as asked for, attribute by attribute; those of a small object where it was asked for.

    `objects` is their number, `sizes` whether the first is large and the others small as the source draws them, and
    `caption` everything together. `third_kind`, `third_colour` and `third_relation` are those of a second small object.
    Where equal objects are asked for, `count` is their number; `count_kind` and `count_colour` tell whether all that
    are found have that kind and colour.
    """  # [B, ...] -> {name: bool[n]}
    counts = scene_layout.counted(wanted) > 0
    found, wanted = _by_object(found), _by_object(wanted)
    found = _matched(found, wanted)
    present, asked = (one["kind"] >= 0 for one in (found, wanted))
    right = {name: found[name] == wanted[name] for name in COMPARED}
    large = ~counts[:, None] & (np.arange(scene_reader.MOST) == 0)
    result = {
        "background": found["background"] == wanted["background"],
        "objects": present.sum(axis=1) == asked.sum(axis=1),
        "sizes": (((found["radius"] >= scene_reader.LARGE) == large) | ~present).all(axis=1) & present[:, 0],
        "large_kind": right["kind"][~counts, 0],
        "large_colour": right["colour"][~counts, 0],
    }
    for which, name, relation in (1, "small", "relation"), (2, "third", "third_relation"):
        rows = wanted["relation"][:, which] >= 0
        if which == 1 or rows.any():
            names = f"{name}_kind", f"{name}_colour", relation
            result |= {name: right[key][rows, which] for name, key in zip(names, COMPARED, strict=True)}
    if counts.any():
        same = {key: ((found[key] == wanted[key][:, :1]) | ~present).all(axis=1) for key in ("kind", "colour")}
        result |= {f"count_{key}": (one & present[:, 0])[counts] for key, one in same.items()}
        result["count"] = result["objects"][counts]
    seen = (right["kind"] & right["colour"] & right["relation"]) | ~asked
    result["caption"] = result["background"] & result["objects"] & result["sizes"] & seen.all(axis=1)
    return result


def _by_object(scene: Scenes) -> dict[str, np.ndarray]:
    """The scenes in arrays for as many objects as are read, with `relation` i32[B, N] that of each to the first."""
    scene = scene_layout.with_slots(scene, scene_reader.MOST)
    return {**scene, "relation": np.pad(scene["relation"], ((0, 0), (1, 0)), constant_values=-1)}


def _matched(found: Scenes, wanted: Scenes) -> dict[str, np.ndarray]:
    """The found scenes with their two small objects swapped where more is right so: captions name them in any order."""

    def right(at: int, asked: int) -> np.ndarray:  # -> i64[B]
        there = wanted["relation"][:, asked] >= 0
        return sum((found[name][:, at] == wanted[name][:, asked]) & there for name in COMPARED)

    swapped = right(1, 2) + right(2, 1) > right(1, 1) + right(2, 2)
    kept = np.arange(scene_reader.MOST)
    order = np.where(swapped[:, None], np.concatenate([[0, 2, 1], kept[3:]]), kept)
    return {**found, **{name: np.take_along_axis(found[name], order, 1) for name in (*COMPARED, "radius")}}


def overlap(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Intersection over union of each wanted object's pixels and those of the found object that fits it best, averaged
    over the objects of an image that has any."""
    # u8[B, S, S] x 2 -> f64[b]
    total, objects = np.zeros(len(wanted)), np.zeros(len(wanted))
    for which in range(1, wanted.max(initial=0) + 1):
        theirs = wanted == which
        best = np.zeros(len(wanted))
        for other in range(1, found.max(initial=0) + 1):
            ours = found == other
            shared, union = ((ours & theirs).sum(axis=(1, 2)), (ours | theirs).sum(axis=(1, 2)))
            best = np.maximum(best, shared / np.maximum(union, 1))
        total += best
        objects += theirs.any(axis=(1, 2))
    return total[objects > 0] / objects[objects > 0]


def prompt_accuracy(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    captions: Sequence[str] | None = None,
    masks: np.ndarray | None = None,
) -> dict[str, Interval | None]:  # u8[B, S, S, 3], i32[B], u8[B, S, S]
    """The share of generated images with each attribute that is asked of them: by labels the kind of the first object,
    as `class`; by captions those of `checks`; and the mean `mask_overlap` with masks that they were to fill, in which
    objects are numbered from 1. None where it is asked of no image.

    Raises `DataError` as `scene_reader.read` and `parse` do, and for labels, captions or masks that do not fit the
    images.
    """
    for name, asked, axes in (("labels", labels, 1), ("captions", captions, 1), ("masks", masks, 3)):
        if asked is not None and np.shape(asked) != images.shape[:axes]:
            raise DataError(f"{name} of {list(np.shape(asked))} do not fit images of {list(images.shape[:axes])}.")
    most = scene_reader.MOST - 1
    if masks is not None and masks.max(initial=0) > most:
        raise DataError(f"masks number the objects of a scene from 1 to at most {most}; found {masks.max()}.")
    found, right = scene_reader.read(images), {}
    if labels is not None:
        right["class"] = found["kind"][:, 0] == labels
    if captions is not None:
        right |= checks(found, parse(captions))
    results = {name: proportion(one.sum(), len(one)) if len(one) else None for name, one in right.items()}
    if masks is not None:
        scores = overlap(found["mask"], masks)
        results["mask_overlap"] = intervals.mean(scores) if len(scores) > 1 else None
    return results


def measure(generated: ImageSet, reference: ImageSet, seed: int) -> Metrics:
    """`prompt_accuracy` by what is asked of the images, each attribute as `prompt_accuracy/NAME`; skipped, with the
    reason, where it cannot be read."""
    asked = {"labels": generated.labels, "captions": generated.captions, "masks": generated.masks}
    asked = {name: one for name, one in asked.items() if one is not None}
    if not asked:
        return Metrics({}, {}, {"prompt_accuracy": generated.unlabelled})
    if generated.levels != 256:
        return Metrics(
            {}, {}, {"prompt_accuracy": f"scenes are read in 256 levels, and the data has {generated.levels}"}
        )
    try:
        results = prompt_accuracy(generated.images[:], **asked)
    except DataError as error:
        return Metrics({}, {}, {"prompt_accuracy": str(error).removesuffix(".")})
    protocol = {name: files.digest_arrays({name: np.asarray(one)}) for name, one in asked.items()}
    protocol |= {"objects": "connected components", "level": 0.95}
    found, skipped = {}, {}
    for name, interval in results.items():
        if interval is None:
            skipped[f"prompt_accuracy/{name}"] = "it is asked of no image, or of one alone"
            continue
        spec = distances.spec(f"prompt_accuracy/{name}", None, generated, reference, seed, protocol)
        found[spec.metric] = Measurement(interval.estimate, spec, interval.low, interval.high)
    return Metrics(found, {}, skipped)
