"""Prompt accuracy: scenes are read from pixels and compared with the requested classes, captions and masks."""

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
    """The scenes that captions of `shapes.captions` describe, in arrays for N objects: the most of any caption, and at
    least 2. Entries of absent objects are -1.

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


def checks(actual: Scenes, wanted: Scenes) -> dict[str, np.ndarray]:
    """Whether each scene has each requested attribute. Those of a small object are checked where one is requested.

    `objects` is their number, `sizes` whether the first is large and the others small as the source draws them, and
    `caption` everything together. `third_kind`, `third_colour` and `third_relation` are those of a second small object.
    Where equal objects are requested, `count` is their number; `count_kind` and `count_colour` say whether all objects
    that are present have that kind and colour.
    """  # [B, ...] -> {name: bool[n]}
    counts = scene_layout.counted(wanted) > 0
    actual, wanted = _by_object(actual), _by_object(wanted)
    actual = _matched(actual, wanted)
    present, requested = (scene["kind"] >= 0 for scene in (actual, wanted))
    right = {name: actual[name] == wanted[name] for name in COMPARED}
    large = ~counts[:, None] & (np.arange(scene_reader.MOST) == 0)
    result = {
        "background": actual["background"] == wanted["background"],
        "objects": present.sum(axis=1) == requested.sum(axis=1),
        "sizes": (((actual["radius"] >= scene_reader.LARGE) == large) | ~present).all(axis=1) & present[:, 0],
        "large_kind": right["kind"][~counts, 0],
        "large_colour": right["colour"][~counts, 0],
    }
    for which, name, relation in (1, "small", "relation"), (2, "third", "third_relation"):
        rows = wanted["relation"][:, which] >= 0
        if which == 1 or rows.any():
            names = f"{name}_kind", f"{name}_colour", relation
            result |= {name: right[key][rows, which] for name, key in zip(names, COMPARED, strict=True)}
    if counts.any():
        same = {key: ((actual[key] == wanted[key][:, :1]) | ~present).all(axis=1) for key in ("kind", "colour")}
        result |= {f"count_{key}": (equal & present[:, 0])[counts] for key, equal in same.items()}
        result["count"] = result["objects"][counts]
    correct = (right["kind"] & right["colour"] & right["relation"]) | ~requested
    result["caption"] = result["background"] & result["objects"] & result["sizes"] & correct.all(axis=1)
    return result


def _by_object(scene: Scenes) -> dict[str, np.ndarray]:
    """The scenes in arrays for as many objects as are read, with `relation` i32[B, N] that of each to the first."""
    scene = scene_layout.with_slots(scene, scene_reader.MOST)
    return {**scene, "relation": np.pad(scene["relation"], ((0, 0), (1, 0)), constant_values=-1)}


def _matched(actual: Scenes, wanted: Scenes) -> dict[str, np.ndarray]:
    """The actual scenes, with their two small objects swapped where more attributes are then right: captions name them
    in any order."""

    def right(at: int, requested: int) -> np.ndarray:  # -> i64[B]
        present = wanted["relation"][:, requested] >= 0
        return sum((actual[name][:, at] == wanted[name][:, requested]) & present for name in COMPARED)

    swapped = right(1, 2) + right(2, 1) > right(1, 1) + right(2, 2)
    slots = np.arange(scene_reader.MOST)
    order = np.where(swapped[:, None], np.concatenate([[0, 2, 1], slots[3:]]), slots)
    return {**actual, **{name: np.take_along_axis(actual[name], order, 1) for name in (*COMPARED, "radius")}}


def overlap(actual: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Intersection over union of each wanted object's pixels and those of the actual object that fits best, averaged
    over the objects of an image that has any."""
    # u8[B, S, S] x 2 -> f64[b]
    total, objects = np.zeros(len(wanted)), np.zeros(len(wanted))
    for which in range(1, wanted.max(initial=0) + 1):
        theirs = wanted == which
        best = np.zeros(len(wanted))
        for index in range(1, actual.max(initial=0) + 1):
            ours = actual == index
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
    """The share of generated images that have each requested attribute: `class`, the kind of the first object, by
    labels; those of `checks` by captions; and the mean `mask_overlap` with masks that objects should fill, in which
    they are numbered from 1. None for an attribute that no image was requested to have.

    Raises `DataError` as `scene_reader.read` and `parse` do, and for labels, captions or masks that do not fit the
    images.
    """
    for name, values, axes in (("labels", labels, 1), ("captions", captions, 1), ("masks", masks, 3)):
        if values is not None and np.shape(values) != images.shape[:axes]:
            raise DataError(f"{name} of {list(np.shape(values))} do not fit images of {list(images.shape[:axes])}.")
    most = scene_reader.MOST - 1
    if masks is not None and masks.max(initial=0) > most:
        raise DataError(f"masks number the objects of a scene from 1 to at most {most}; found {masks.max()}.")
    scenes, right = scene_reader.read(images), {}
    if labels is not None:
        right["class"] = scenes["kind"][:, 0] == labels
    if captions is not None:
        right |= checks(scenes, parse(captions))
    results = {
        name: proportion(correct.sum(), len(correct)) if len(correct) else None for name, correct in right.items()
    }
    if masks is not None:
        scores = overlap(scenes["mask"], masks)
        results["mask_overlap"] = intervals.mean(scores) if len(scores) > 1 else None
    return results


def measure(generated: ImageSet, reference: ImageSet, seed: int) -> Metrics:
    """`prompt_accuracy` by the labels, captions and masks of the images, each attribute as `prompt_accuracy/NAME`.
    Skipped, with the reason, where it cannot be read."""
    requests = {"labels": generated.labels, "captions": generated.captions, "masks": generated.masks}
    requests = {name: values for name, values in requests.items() if values is not None}
    if not requests:
        return Metrics({}, {}, {"prompt_accuracy": generated.unlabelled})
    if generated.levels != 256:
        return Metrics(
            {}, {}, {"prompt_accuracy": f"scenes are read in 256 levels, and the data has {generated.levels}"}
        )
    try:
        results = prompt_accuracy(generated.images[:], **requests)
    except DataError as error:
        return Metrics({}, {}, {"prompt_accuracy": str(error).removesuffix(".")})
    protocol = {name: files.digest_arrays({name: np.asarray(values)}) for name, values in requests.items()}
    protocol |= {"objects": "connected components", "level": 0.95}
    measured, skipped = {}, {}
    for name, interval in results.items():
        if interval is None:
            skipped[f"prompt_accuracy/{name}"] = "it is asked of no image, or of one alone"
            continue
        spec = distances.spec(f"prompt_accuracy/{name}", None, generated, reference, seed, protocol)
        measured[spec.metric] = Measurement(interval.estimate, spec, interval.low, interval.high)
    return Metrics(measured, {}, skipped)
