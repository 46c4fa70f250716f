"""Do scenes show the classes, captions and masks that were asked for? They are read from pixels and compared."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from genimg_jax import files
from genimg_jax.data import shapes
from genimg_jax.errors import DataError
from genimg_jax.evaluation import distances, scene_reader
from genimg_jax.evaluation.distances import Metrics
from genimg_jax.evaluation.image_sets import ImageSet
from genimg_jax.metrics import intervals
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval
from genimg_jax.metrics.specs import Measurement

LARGE = 0.17  # radii of small objects are at most 0.14, of large ones at least 0.2

Scenes = Mapping[str, np.ndarray]
"""What `shapes.scenes` returns: `kind` and `colour` i32[B, 2], `background` and `relation` i32[B] are always there."""

_ANY = {"kind": "|".join(shapes.KINDS), "colour": "|".join(shapes.COLOURS), "relation": "|".join(shapes.RELATIONS)}
_CAPTION = re.compile(
    "a large ({colour}) ({kind})(?: ({relation}) a small ({colour}) ({kind}))? on a ({colour}) background".format(
        **_ANY
    )
)


def parse(captions: Sequence[str]) -> dict[str, np.ndarray]:
    """The scenes that captions of `shapes.captions` describe; -1 for what a second object would have.

    Raises `DataError` for any other sentence.
    """  # -> kind, colour i32[B, 2]; background, relation i32[B]
    colours, rows = list(shapes.COLOURS), []
    for number, caption in enumerate(captions):
        match = _CAPTION.fullmatch(caption)
        if match is None:
            example = shapes.captions(shapes.scenes(0, np.arange(1)))[0]
            raise DataError(f"{caption!r}, that of image {number}, is no caption of a scene, such as {example!r}.")
        colour, kind, relation, second_colour, second_kind, background = match.groups()
        second = (-1, -1, -1) if relation is None else (
            colours.index(second_colour), shapes.KINDS.index(second_kind), shapes.RELATIONS.index(relation)
        )  # fmt: skip
        rows.append(
            (
                shapes.KINDS.index(kind),
                second[1],
                colours.index(colour),
                second[0],
                colours.index(background),
                second[2],
            )
        )
    table = np.array(rows, np.int32).reshape(-1, 6)
    return {"kind": table[:, :2], "colour": table[:, 2:4], "background": table[:, 4], "relation": table[:, 5]}


def checks(found: Scenes, wanted: Scenes) -> dict[str, np.ndarray]:
    """Which scenes are as asked for, attribute by attribute; those of the small object where one was asked for.

    `objects` is their number, `sizes` whether the first is large and a second small as the source draws them, and
    `caption` everything together.
    """  # [B, ...] -> {name: bool[n]}
    present, asked = (one["kind"] >= 0 for one in (found, wanted))
    right = {name: found[name] == wanted[name] for name in ("kind", "colour", "background", "relation")}
    large = np.array([True, False])
    result = {
        "background": right["background"],
        "objects": (present == asked).all(axis=1),
        "sizes": (((found["radius"] >= LARGE) == large) | ~present).all(axis=1) & present[:, 0],
        "large_kind": right["kind"][:, 0],
        "large_colour": right["colour"][:, 0],
        "small_kind": right["kind"][asked[:, 1], 1],
        "small_colour": right["colour"][asked[:, 1], 1],
        "relation": right["relation"][asked[:, 1]],
    }
    seen = (right["kind"] & right["colour"]) | ~asked
    all_seen = seen.all(axis=1) & (right["relation"] | ~asked[:, 1])
    result["caption"] = result["background"] & result["objects"] & result["sizes"] & all_seen
    return result


def overlap(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Intersection over union of each wanted object's pixels, averaged over the objects of an image that has any."""
    # u8[B, S, S] x 2 -> f64[b]
    total, objects = np.zeros(len(wanted)), np.zeros(len(wanted))
    for which in (1, 2):
        ours, theirs = found == which, wanted == which
        union = (ours | theirs).sum(axis=(1, 2))
        there = theirs.any(axis=(1, 2))
        total += np.where(there, (ours & theirs).sum(axis=(1, 2)) / np.maximum(union, 1), 0)
        objects += there
    return total[objects > 0] / objects[objects > 0]


def prompt_accuracy(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    captions: Sequence[str] | None = None,
    masks: np.ndarray | None = None,
) -> dict[str, Interval | None]:  # u8[B, S, S, 3], i32[B], u8[B, S, S]
    """The share of generated images with each attribute that is asked of them: by labels the kind of the large object,
    as `class`; by captions those of `checks`; and the mean `mask_overlap` with masks that they were to fill, in which 1
    is the large object and 2 the small one. None where it is asked of no image.

    Raises `DataError` as `scene_reader.read` and `parse` do, and for labels, captions or masks that do not fit the
    images.
    """
    for name, asked, axes in (("labels", labels, 1), ("captions", captions, 1), ("masks", masks, 3)):
        if asked is not None and np.shape(asked) != images.shape[:axes]:
            raise DataError(f"{name} of {list(np.shape(asked))} do not fit images of {list(images.shape[:axes])}.")
    if masks is not None and masks.max(initial=0) > 2:
        raise DataError(f"masks hold 1 for the large object and 2 for the small one; found {masks.max()}.")
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
    found, skipped = {}, {}
    for name, interval in results.items():
        if interval is None:
            skipped[f"prompt_accuracy/{name}"] = "it is asked of no image, or of one alone"
            continue
        spec = distances.spec(f"prompt_accuracy/{name}", None, generated, reference, seed, {**protocol, "level": 0.95})
        found[spec.metric] = Measurement(interval.estimate, spec, interval.low, interval.high)
    return Metrics(found, {}, skipped)
