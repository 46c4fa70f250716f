"""Do scenes show the classes, captions and masks that were asked for? They are read back from pixels and compared.

A pixel of a scene is the background or a blend of it with one object's colour, for objects never touch. The share of
that colour is the object's coverage, to the rounding of 8 bits: its sum tells the object's size, its mean the centre,
and the kind is the one whose drawing explains it best. Any other image is read as the scene that is nearest to it.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.ndimage

from genimg_jax import files, progress
from genimg_jax.data import shapes
from genimg_jax.errors import DataError
from genimg_jax.evaluation import distances
from genimg_jax.evaluation.distances import Metrics
from genimg_jax.evaluation.image_sets import ImageSet
from genimg_jax.metrics import intervals
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval
from genimg_jax.metrics.specs import Measurement

PALETTE = np.array(list(shapes.COLOURS.values()), np.float32)
AREAS = np.array([math.pi, 2, 27**0.5 / 4, 1.92, 0.75 * math.pi], np.float32)  # of KINDS, in a circle of radius 1
LARGE = 0.17  # radii of small objects are at most 0.14, of large ones at least 0.2
FAINT = 0.2  # of a pixel: less, and not beside more, is no object's edge but a background that is a little off
LEAST = 0.006  # of the image's pixels that an object covers: half of the smallest one's
ANGLES = np.linspace(-math.pi / 6, math.pi / 6, 9)  # no object is turned by more
TURNED = [shapes.KINDS.index(kind) for kind in ("square", "triangle", "cross")]  # what an angle matters to
FINE = np.linspace(-math.pi / 48, math.pi / 48, 5)
SCALES = np.linspace(0.94, 1.06, 7)  # around the radius that the area tells, as if corners were drawn sharp
LEAST_SIDE = 16  # in 8x8 pixels a third of the small objects' kinds are misread
CHUNK = 64  # images at a time

Scenes = Mapping[str, np.ndarray]
"""What `shapes.scenes` returns: `kind` and `colour` i32[B, 2], `background` and `relation` i32[B] are always there."""


def read(images: np.ndarray) -> dict[str, np.ndarray]:
    """The scenes that images show, as `shapes.scenes` describes them, with `mask` u8[B, S, S] as in its annotations.

    `residual` f32[B] is the root mean square difference, in levels of 255, between an image and the drawing of what
    was read: at most a few levels for a scene. The second object's colour is -1 where there is none; where there is no
    object at all, so is the first's, and both kinds. Raises `DataError` for images that are not square and coloured, or
    so small that the small object's kind cannot be told.
    """  # u8[B, S, S, 3] -> {name: [B, ...]}
    square = images.ndim == 4 and images.shape[1] == images.shape[2] >= LEAST_SIDE
    if images.dtype != np.uint8 or not square or images.shape[3] != 3:
        raise DataError(
            f"scenes are square u8 images of 3 channels, from {LEAST_SIDE}x{LEAST_SIDE} on; found {images.dtype} of "
            f"shape {images.shape}."
        )
    parts = []
    with progress.bar("scenes", total=len(images), unit="image", leave=False) as bar:
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK]
            parts.append(_read(part))
            bar.update(len(part))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read(images: np.ndarray) -> dict[str, np.ndarray]:
    count, side = images.shape[:2]
    pixels = images.reshape(count, -1, 3).astype(np.float32)
    background, colour, share = _coverages(pixels)
    share = share.reshape(count, 2, side, side)
    share = np.where(scipy.ndimage.maximum_filter(share >= FAINT, (1, 1, 3, 3)), share, 0)
    area = share.mean(axis=(2, 3))
    colour = np.where(area >= LEAST, colour, -1)
    share = share * (colour >= 0)[:, :, None, None]
    objects = [_objects(share[:, which], colour[:, which] >= 0) for which in (0, 1)]
    scene = {name: np.stack([one[name] for one in objects], axis=1) for name in objects[0]}
    scene["colour"] = colour
    # The larger one comes first.
    order = np.argsort(np.where(scene["kind"] >= 0, -scene["radius"], 1), axis=1, kind="stable")
    scene = {name: np.take_along_axis(x, order.reshape(count, 2, *(1,) * (x.ndim - 2)), 1) for name, x in scene.items()}
    share = np.take_along_axis(share, order[:, :, None, None], 1)
    scene["background"] = background
    x, y = (scene["centre"][:, 1] - scene["centre"][:, 0]).T
    turn = np.rint(np.arctan2(-y, x) / (math.pi / 2)).astype(np.int32) % 4
    scene["relation"] = np.where((scene["kind"] >= 0).all(axis=1), turn, -1).astype(np.int32)
    difference = shapes.draw(scene, side).astype(np.float32) - images
    scene["residual"] = np.sqrt(np.mean(np.square(difference), axis=(1, 2, 3)))
    scene["mask"] = np.where(share.max(axis=1) > 0.5, 1 + share.argmax(axis=1), 0).astype(np.uint8)
    return scene


def _coverages(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The background, the two colours that cover most, and how much of each pixel they cover."""
    # f32[B, P, 3] -> i32[B], i32[B, 2], f32[B, 2, P]
    rows = np.arange(len(pixels))
    nearest = np.square(pixels[:, :, None] - PALETTE).sum(axis=3).argmin(axis=2)
    backgrounds = range(shapes.OBJECT_COLOURS, len(PALETTE))
    background = shapes.OBJECT_COLOURS + np.stack([(nearest == b).sum(axis=1) for b in backgrounds]).argmax(axis=0)
    offset = pixels - PALETTE[background][:, None]  # [B, P, 3]
    direction = PALETTE[: shapes.OBJECT_COLOURS] - PALETTE[background][:, None]  # [B, colours, 3]
    share = np.einsum("bpc,bkc->bkp", offset, direction) / np.square(direction).sum(axis=2)[:, :, None]
    share = np.clip(share, 0, 1)
    error = np.square(offset[:, None] - share[..., None] * direction[:, :, None]).sum(axis=3)
    covered = np.where((error == error.min(axis=1, keepdims=True)) & (share >= FAINT), share, 0).sum(axis=2)
    colour = np.argsort(-covered, axis=1, kind="stable")[:, :2]
    share, error = (x[rows[:, None], colour] for x in (share, error))
    # A second colour that is not there would take its share of the first one's edges.
    absent = covered[rows, colour[:, 1]] < LEAST * pixels.shape[1]
    error[absent, 1] = np.inf
    share = np.where(np.arange(2)[:, None] == error.argmin(axis=1)[:, None], share, 0)
    return background.astype(np.int32), colour.astype(np.int32), share.astype(np.float32)


def _objects(share: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """Kind, centre, radius and angle of the object that covers these shares of pixels."""
    # f32[B, S, S], bool[B] -> {name: [B, ...]}
    at = (np.arange(share.shape[1], dtype=np.float32) + 0.5) / share.shape[1]
    # Where there is no object, anything that can be drawn will do.
    total = np.where(present, share.sum(axis=(1, 2)), 1)
    centre = np.stack([(share.sum(axis=1) * at).sum(axis=1), (share.sum(axis=2) * at).sum(axis=1)], 1) / total[:, None]
    area = np.where(present, share.mean(axis=(1, 2)), 0.1)
    coarse = [(kind, angle) for kind in range(len(AREAS)) for angle in (ANGLES if kind in TURNED else [0.0])]
    kinds, angles = (np.broadcast_to(np.array(x), (len(share), len(coarse))) for x in zip(*coarse, strict=True))
    kind, radius, angle = _best(share, centre, kinds, np.sqrt(area[:, None] / AREAS[kinds]), angles)
    turns, scales = (x.ravel() for x in np.meshgrid(FINE, SCALES))
    kinds = np.broadcast_to(kind[:, None], (len(share), len(turns)))
    kind, radius, angle = _best(share, centre, kinds, radius[:, None] * scales, angle[:, None] + turns)
    return {
        "kind": np.where(present, kind, -1).astype(np.int32),
        "centre": centre.astype(np.float32),
        "radius": radius.astype(np.float32),
        "angle": angle.astype(np.float32),
    }


def _best(share: np.ndarray, centre: np.ndarray, kind: np.ndarray, radius: np.ndarray, angle: np.ndarray):
    """Of N candidates an image, the one that drawn covers the most similar pixels."""
    # f32[B, S, S], f32[B, 2], [B, N] x 3 -> [B] x 3
    images, candidates = kind.shape

    def flat(x: np.ndarray) -> np.ndarray:  # [B, N, ...] -> [B N, 1, ...]
        return x.reshape(images * candidates, 1, *x.shape[2:]).astype(np.float32)

    scene = {"kind": flat(kind), "radius": flat(radius), "angle": flat(angle)}
    scene["centre"] = flat(np.repeat(centre[:, None], candidates, axis=1))
    drawn = shapes.coverage(scene, 0, share.shape[1]).reshape(images, candidates, *share.shape[1:])
    chosen = np.square(drawn - share[:, None]).sum(axis=(2, 3)).argmin(axis=1)
    return tuple(x[np.arange(images), chosen] for x in (kind, radius, angle))


# ------------------------------------------------------------------------------------- what was asked for, and found

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

    Raises `DataError` as `read` and `parse` do, and for labels, captions or masks that do not fit the images.
    """
    for name, asked, axes in (("labels", labels, 1), ("captions", captions, 1), ("masks", masks, 3)):
        if asked is not None and np.shape(asked) != images.shape[:axes]:
            raise DataError(f"{name} of {list(np.shape(asked))} do not fit images of {list(images.shape[:axes])}.")
    if masks is not None and masks.max(initial=0) > 2:
        raise DataError(f"masks hold 1 for the large object and 2 for the small one; found {masks.max()}.")
    found, right = read(images), {}
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
